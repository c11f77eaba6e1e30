"""Training a run in its folder, from the newest checkpoint to the last step.

The caller opens the folder and writes what it holds before and after; here are the steps, metrics.jsonl and
checkpoints/.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
from jax.sharding import Mesh

from tracr_jax.config import summed_tokens
from tracr_jax.progress import Say, showing
from tracr_jax.runs.build import Setup, make_batch_at, make_parts
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.loop import fit, preempted
from tracr_jax.train.mesh import gather
from tracr_jax.train.metrics import JsonLines, MetricWriter, Several, read_lines, spent
from tracr_jax.train.step import Frozen, TrainParams, TrainState
from tracr_jax.train.trainable import whole
from tracr_jax.types import Params

T = TypeVar("T")


@dataclass(frozen=True)
class Trained(Generic[T]):
    """The result of training."""

    params: TrainParams  # on this host, those of the model that were not trained among them
    before: T  # what `meanwhile` returned
    # Seconds: "setup_s", "before_s" (compiling and `meanwhile`), "training_s" (of all steps, resumed or not).
    times: dict[str, float]


def train(
    setups: Sequence[Setup],
    folder: Path,
    *,
    mesh: Mesh,
    meanwhile: Callable[[], T],
    started: float,
    lm_params: Params | None = None,
    resume: bool = False,
    writers: Sequence[MetricWriter] = (),
    progress: bool = True,
    say: Say = lambda _: None,
) -> Trained[T]:
    """Train the programs of a run together until the newest one's `RunConfig.steps`.

    Args:
      setups: of each program, the newest last: the run's own.
      folder: the run folder.
      mesh: the devices.
      meanwhile: called while the step compiles, which occupies one core only.
      started: when the command began, in seconds since 1970.
      lm_params: initial parameters of the model, if not the original model's.
      resume: continue from the newest checkpoint of the folder, where there is one.
      writers: further places for metrics; of several processes the first writes metrics.jsonl.
      progress: draw a progress bar.
      say: receives one line before each stage.

    Raises:
      UserError: a checkpoint cannot be read or written, or training diverges.
      InterruptedRunError: Ctrl-C or SIGTERM; the step under way was finished and saved.
    """
    config = setups[-1].config
    state, frozen, step = make_parts(setups, mesh=mesh, lm_params=lm_params)
    batch_at = make_batch_at(setups, mesh=mesh)
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        if resume and checkpoints.latest() is not None:
            state = checkpoints.restore(state)
            say(f"resumed after {int(state.step)} of {config.steps} steps")
        begun, first = time.time(), int(state.step)
        metrics = folder / "metrics.jsonl"
        earlier = spent([line for line in read_lines(metrics) if line["step"] < first])  # before it was resumed
        if jax.process_count() > 1:
            preempted(first)  # compilation takes minutes, in which the notice may come
        with showing(progress):
            if first < config.steps:
                say("compiling the training step; meanwhile the untouched model answers")
                step, before = _compile(step, state, frozen, batch_at(first), meanwhile=meanwhile)
            else:  # resumed when all was trained
                before = meanwhile()
        if jax.process_index() == 0:
            writers = (JsonLines(metrics, keep_below=first), *writers)
        trained = time.time()
        with contextlib.closing(Several(writers)) as writer:
            state = fit(
                step,
                state,
                frozen,
                batch_at,
                steps=config.steps,
                writer=writer,
                checkpoints=checkpoints,
                checkpoint_every=config.checkpoint_every,
                log_every=config.log_every,
                summed_tokens=summed_tokens(config),
                progress=progress,
                say=say,
            )
    training = earlier + time.time() - trained
    times = {"setup_s": begun - started, "before_s": trained - begun, "training_s": training}
    params, base = gather(state.params, mesh), gather(frozen.base, mesh)
    return Trained(params._replace(lm=whole(setups[-1].program.part, params.lm, base)), before, times)


def _compile(
    step: Any, state: TrainState, frozen: Frozen, batches: Any, *, meanwhile: Callable[[], T]
) -> tuple[Callable, T]:
    """(the compiled step, what `meanwhile` returned)."""
    lowered = step.lower(state, frozen, batches)
    if jax.default_backend() == "gpu":  # XLA times kernels while it compiles: the device must be idle
        compiled = lowered.compile()
        return compiled, meanwhile()
    with ThreadPoolExecutor(1) as compiler:
        compiled = compiler.submit(lowered.compile)
        found = meanwhile()
        return compiled.result(), found
