"""Checkpoints of a run: the trained parameters and the optimiser's state, by orbax; never φ or θ₀.

Parameters and optimiser state are separate items, so that evaluation reads a third of the bytes. Orbax
writes beside and renames: a checkpoint that is listed is whole.
"""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tracr_jax.errors import UserError, describe
from tracr_jax.files import numbered, reading
from tracr_jax.train.step import TrainState

# What fails in orbax's threads is said by it several times, with tracebacks, and then raised.
_SAID_AGAIN = re.compile(r"_SignalingThread\.run\(\) raised|Save Finalize thread|Failed to run .* Commit")
logging.getLogger("absl").addFilter(lambda record: not _SAID_AGAIN.search(record.getMessage()))


def _silence_closed_loops() -> None:
    """Where reading or writing fails, tensorstore still calls orbax's closed event loop; the failure is raised."""
    before = sys.unraisablehook
    if getattr(before, "of_checkpoints", False):
        return

    def hook(found: Any) -> None:
        if not (isinstance(found.exc_value, RuntimeError) and str(found.exc_value) == "Event loop is closed"):
            before(found)

    hook.of_checkpoints = True  # pyright: ignore[reportFunctionMemberAccess]
    sys.unraisablehook = hook


class Checkpoints:
    """The folder RUN/checkpoints; keeps the newest two."""

    def __init__(self, folder: Path, *, keep: int = 2, read_only: bool = False):
        self.folder = Path(folder).absolute()
        _silence_closed_loops()
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=not read_only,
            read_only=read_only,
            # Else orbax warns that it sets this itself.
            save_interval_steps=0 if read_only else 1,
            # Left behind by a killed run; a half-written checkpoint never has a final name.
            cleanup_tmp_directories=not read_only,
        )
        if read_only and not self.folder.is_dir():
            raise UserError(f"{self.folder}: no checkpoints here; is this the folder of a run?")
        with self._reading(), _without_warning("Given directory is read only="):  # said where that is wanted
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def latest(self) -> int | None:
        """Number of finished steps in the newest checkpoint, or None."""
        with self._reading():
            return self._manager.latest_step()

    def save(self, state: TrainState) -> None:
        """Write the state of its `step` in the background; what fails there, the next call raises.

        Raises:
          UserError: it cannot be written; the checkpoints before it are intact.
        """
        with self._writing():
            self._manager.save(
                int(state.step),
                args=ocp.args.Composite(
                    params=ocp.args.StandardSave(state.params),  # pyright: ignore[reportCallIssue]
                    optimizer=ocp.args.StandardSave(state.opt_state),  # pyright: ignore[reportCallIssue]
                ),
            )

    def restore(self, like: TrainState, *, step: int | None = None) -> TrainState:
        """The state after `step` steps (default: the newest), with the shapes and shardings of `like`."""
        step = self._step(step)
        with self._reading(step):
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    params=ocp.args.StandardRestore(_abstract(like.params)),  # pyright: ignore[reportCallIssue]
                    optimizer=ocp.args.StandardRestore(_abstract(like.opt_state)),  # pyright: ignore[reportCallIssue]
                ),
            )
        # Not asarray: over several processes the counter lies on devices of all of them.
        count = jax.make_array_from_callback((), like.step.sharding, lambda _: np.int32(step))
        return TrainState(count, saved["params"], saved["optimizer"])

    def restore_params(self, like: Any, *, step: int | None = None) -> Any:
        """Only the parameters, for evaluation; `like` is a tree of arrays, or of their shapes with a sharding."""
        step = self._step(step)
        with self._reading(step):
            saved = self._manager.restore(
                step,
                args=ocp.args.Composite(params=ocp.args.StandardRestore(_abstract(like))),  # pyright: ignore[reportCallIssue]
            )
        return saved["params"]

    def _step(self, step):
        step = self.latest() if step is None else step
        if step is None:
            raise UserError(
                f"{self.folder}: no finished checkpoint; tracr-jax resume {self.folder.parent} begins "
                "with its first step"
            )
        return step

    def wait(self) -> None:
        """Return when everything is on disk."""
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Finish writing and end orbax's threads."""
        with self._writing():
            self._manager.close()

    def _reading(self, step: int | None = None) -> contextlib.AbstractContextManager[None]:
        """Damage of a checkpoint is one line that says which one, and which ones remain."""
        if step is None:
            return reading(self.folder)
        others = [n for n in numbered(self.folder) if n != step]
        advice = f"delete it to go on from the one after {others[-1]} steps" if others else "start the run again"
        return reading(self.folder / str(step), advice)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Orbax and what it writes with raise many kinds of errors where there is no room."""
        try:
            yield
        except Exception as e:
            kept = numbered(self.folder)
            reason = "No space left on device" if "No space left" in str(e) else describe(e, most=300)
            raise UserError(
                f"{self.folder}: a checkpoint cannot be written ({reason}); "
                + (f"the one after {kept[-1]} steps is intact" if kept else "there is no earlier one")
                + ": make room, then tracr-jax resume goes on"
            ) from e


@contextlib.contextmanager
def _without_warning(beginning: str) -> Iterator[None]:
    """Keep one message of orbax from the log; all others pass."""
    logger = logging.getLogger("absl")

    def passes(record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(beginning)

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)


def _abstract(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree)
