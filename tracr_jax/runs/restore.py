"""The weights of a run, from its newest checkpoint and what was not trained."""

import contextlib
import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.graft import Grafted
from tracr_jax.runs.frozen import read_frozen
from tracr_jax.runs.program import Program
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.mesh import own_device
from tracr_jax.train.step import TrainParams
from tracr_jax.train.trainable import in_stacks, split, whole
from tracr_jax.types import Adapter, Codes


def finished_steps(folder: Path) -> int:
    """Training steps in the newest checkpoint of a run; 0 where there is none.

    Raises:
      UserError: the checkpoints cannot be read.
    """
    where = folder / "checkpoints"
    if not where.is_dir():
        return 0
    with contextlib.closing(Checkpoints(where, read_only=True)) as checkpoints:
        return checkpoints.latest() or 0


def restore(
    folder: Path,
    model: LanguageModel,
    *,
    programs: Sequence[Program],
    steps: int,
    finished: bool = False,
    old: bool = False,
) -> TrainParams:
    """Model and adapters of a run's newest checkpoint.

    Args:
      folder: the run folder.
      model: for the shapes of its parameters.
      programs: in the order of injection, for the shapes of their adapters.
      steps: of the whole run.
      finished: refuse a checkpoint after fewer steps; by default a warning says so.
      old: of a previous version, which held the adapter of a single program by itself.

    Raises:
      UserError: there is no such checkpoint.
    """
    here = jax.sharding.SingleDeviceSharding(own_device())

    def shape(*size: int) -> Any:
        return jax.ShapeDtypeStruct(size, jnp.float32, sharding=here)

    part, key = programs[-1].part, jax.random.key(0)
    theta = jax.eval_shape(lambda: split(part, in_stacks(part, model.init(key)), key=key))[0]
    theta = jax.tree.map(lambda x: shape(*x.shape), theta)

    def adapter(program: Program) -> Adapter | Codes:
        if program.reserved is None:
            d = program.teacher.width
            return Adapter(shape(d, model.width), shape(d))
        codes = jax.eval_shape(program.reserved.init, np.zeros((model.width, program.reserved.total)))
        return jax.tree.map(lambda x: shape(*x.shape), codes)

    adapters = tuple(map(adapter, programs))
    checkpoints = Checkpoints(Path(folder) / "checkpoints", read_only=True)
    try:
        latest = checkpoints.latest()
        if (latest or steps) != steps:
            said = f"{folder}: {latest} of {steps} steps are done; finish it: tracr-jax resume {folder}"
            if finished:
                raise UserError(said)
            warnings.warn(said, stacklevel=4)
        if old and len(adapters) == 1:
            found = checkpoints.restore_params({"lm": theta, "adapter": adapters[0]})
            return TrainParams(found["lm"], (found["adapter"],))
        found = checkpoints.restore_params(TrainParams(theta, adapters))
        if part.kind == "all":
            return found
        frozen = read_frozen(folder, model)
        frozen = model.start(frozen) if isinstance(model, Grafted) else frozen
        frozen = split(part, in_stacks(part, frozen), key=key)[1]
        return found._replace(lm=whole(part, found.lm, frozen))
    finally:
        checkpoints.close()


def params_digest(params: TrainParams) -> str:
    """SHA-256 of every number."""
    h = hashlib.sha256()
    for x in jax.tree.leaves(params):
        h.update(np.asarray(x).tobytes())
    return h.hexdigest()
