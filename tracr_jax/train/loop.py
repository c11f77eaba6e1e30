"""The loop around the step: dispatch, log one step behind, checkpoint, stop where a number is not finite.

The host prepares the next batch and writes the previous step's numbers while the device computes, so the
device never waits for them.
"""

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint.multihost import reached_preemption

from tracr_jax.errors import TrainingDivergedError
from tracr_jax.progress import Say, report, showing
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.interrupt import InterruptedRunError, requests_to_stop
from tracr_jax.train.metrics import MetricWriter
from tracr_jax.train.step import Batches, Frozen, TrainState

# In the order in which they are dropped where there is little room, the last one first.
_SHOWN = {
    "loss": "loss {:.3g}",
    "retention_per_token": "retain {:.2g} nats/token",
    "supervised": "answer {:.3g}",
    "alignment": "align {:.3g}",
}


def fit(
    step_fn: Callable[[TrainState, Frozen, Batches], tuple[TrainState, dict[str, jax.Array]]],
    state: TrainState,
    frozen: Frozen,
    batch_at: Callable[[int], Batches],
    *,
    steps: int,
    writer: MetricWriter,
    checkpoints: Checkpoints | None = None,
    checkpoint_every: int = 100,
    log_every: int = 1,
    summed_tokens: int = 1,
    progress: bool = True,
    say: Say = lambda _: None,
) -> TrainState:
    """Run the jitted `step_fn` until `steps` steps are done, starting from state.step.

    Args:
      step_fn: jitted (state, frozen, batches) -> (state, terms); may donate its state.
      state: where to start; its `step` counts finished steps.
      frozen: θ₀ and φ.
      batch_at: the batches of a step, one for each program; a pure function of its index, so that a resumed run
        sees the same ones.
      steps: total number of steps.
      writer: receives the terms of every `log_every`-th step, and "seconds" per step.
      checkpoints: where to save; None saves nothing.
      checkpoint_every: steps between checkpoints; the last step is always saved.
      log_every: steps between written lines; every step is checked for finiteness.
      summed_tokens: over how many tokens the term "retention" is a sum; per token it is written and shown as
        "retention_per_token", nats.
      progress: draw a progress bar.
      say: without a bar, receives a line about every ten seconds.

    Returns:
      The final state, everything saved.

    Raises:
      TrainingDivergedError: a loss or gradient norm is not finite. Nothing of that step is saved.
      InterruptedRunError: Ctrl-C or SIGTERM, once; the step under way was finished, and is saved if there are
        checkpoints.
    """
    first = int(state.step)
    settle = _Settle(
        steps, writer=writer, checkpoints=checkpoints, log_every=log_every, summed_tokens=summed_tokens,
        say=None if progress else say,
    )  # fmt: skip
    # Several processes have JAX's handler of SIGTERM, see `preempted`, which must stay.
    listening = requests_to_stop() if jax.process_count() == 1 else contextlib.nullcontext()
    with showing(progress, keep=True), ThreadPoolExecutor(1) as host, listening as asked:
        report("training", first, steps)
        pending = None
        upcoming = host.submit(batch_at, first) if first < steps else None
        for number in range(first, steps):
            assert upcoming is not None
            batch = upcoming.result()
            if number + 1 < steps:
                upcoming = host.submit(batch_at, number + 1)
            state, terms = step_fn(state, frozen, batch)
            if checkpoints and number == first:
                _all_finite(state)  # compiled here: once the run is under way, nothing is
            if pending:
                settle(*pending)
            pending = (number, terms)
            stop = asked() if asked else preempted(number + 1)
            due = (number + 1) % checkpoint_every == 0 or number + 1 == steps or stop
            if checkpoints and due:
                settle(*pending)  # a checkpoint is only written of a step whose numbers are finite
                pending = None
                if not _all_finite(state):
                    _stop("parameters", number, checkpoints)
                checkpoints.save(state)
            if stop:
                if checkpoints:
                    checkpoints.wait()
                raise InterruptedRunError(number + 1, saved=checkpoints is not None)
        if pending:
            settle(*pending)
    if checkpoints:
        checkpoints.wait()
    return state


def preempted(steps: int) -> bool:
    """Whether to stop after so many steps because one of several processes received SIGTERM.

    Of several processes one alone would stop and the others wait for it: JAX hears the signal in any of them and
    agrees on a step that none has passed. It must be asked before the first step, too: a notice that comes before
    any was asked is for step 1, which a resumed run has passed.
    """
    return reached_preemption(steps)


@dataclass
class _Settle:
    """Waits for a step that was dispatched earlier; checks, writes and shows its numbers."""

    steps: int
    _: KW_ONLY
    writer: MetricWriter
    checkpoints: Checkpoints | None
    log_every: int
    summed_tokens: int
    say: Say | None  # None: a progress bar shows the numbers

    def __post_init__(self):
        self._clock = _Clock()

    def __call__(self, number: int, terms: dict[str, Any]) -> None:
        values = {k: np.asarray(v) for k, v in jax.device_get(terms).items()}
        _check_finite(values, number, self.checkpoints)
        values["seconds"] = np.asarray(self._clock.lap())
        if "retention" in values:
            values["retention_per_token"] = values["retention"] / self.summed_tokens
        last = number + 1 == self.steps
        if number % self.log_every == 0 or last:
            self.writer.write(number, values)
            self.writer.flush()
        shown = [text.format(values[k]) for k, text in _SHOWN.items() if k in values] + [self._clock.rate]
        report("training", number + 1, self.steps, shown)
        if self.say and (self._clock.due() or last):
            self.say(f"step {number + 1}/{self.steps}  {'  '.join(shown)}")


def _check_finite(values, number, checkpoints):
    bad = [k for k, v in values.items() if not np.all(np.isfinite(v))]
    if bad:
        _stop(", ".join(bad), number, checkpoints)


@jax.jit
def _all_finite(state: TrainState) -> jax.Array:
    """A finite loss may still have led to parameters that are not."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(state)]))


def _stop(what: str, number: int, checkpoints: Checkpoints | None) -> NoReturn:
    kept = None
    if checkpoints:
        checkpoints.wait()
        kept = checkpoints.latest()
    where = (
        f"the checkpoint after {kept} steps is kept in {checkpoints.folder}"
        if kept and checkpoints
        else ("there is no earlier checkpoint")
    )
    raise TrainingDivergedError(f"step {number}: {what} not finite; stopped, {where}; try a smaller learning rate")


class _Clock:
    """Seconds between settled steps; the first includes compilation and is left out of the median."""

    def __init__(self):
        self._last, self._laps = time.perf_counter(), []
        self._told = self._last

    def lap(self) -> float:
        now = time.perf_counter()
        self._laps.append(now - self._last)
        self._last = now
        return self._laps[-1]

    def due(self) -> bool:
        """Whether ten seconds have passed since this last was true."""
        if self._last - self._told < 10.0:
            return False
        self._told = self._last
        return True

    @property
    def rate(self) -> str:
        """Median seconds per step of the last twenty."""
        recent = self._laps[1:][-20:]
        return f"{np.median(recent):.2f} s/step" if recent else "(first step, with compilation)"
