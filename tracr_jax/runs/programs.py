"""Several programs in one model: a run that goes on from another run's weights with a further program.

`tracr-jax inject count --onto RUN` starts from RUN's trained model, holds an adapter for every program injected so
far, and adds the earlier programs' losses, alignment and answer, to the new one's in each step. θ₀ of the
retention loss stays the original model. The chain may have any length. Ours: the paper injects one program.

Each program keeps the losses and batches of the run that injected it, seed included (its items go on where they
stopped), and its own tokenizer: the model's, without the merges that its task refuses. One tokenizer for all,
without the merges that any task refuses, would change the tokens of programs that are already trained, and with
them their bridge, their teacher's table and what the rows of the interference matrix compare. Ids mean the same in
all of them, so the model is one; but a prompt is to be encoded as its own program's, as decoding and evaluation of
`open_run(RUN, program=…)` do. The run's tokenizer, also of its retention text and its export, is the newest
program's.

programs.json in the run folder says which programs and weights a run began with: nothing but --resume needs the
earlier run's folder again.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.config import RunConfig, from_dict, read_config
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, reading, write_json
from tracr_jax.lm.load import LoadedLM
from tracr_jax.measure.interference import first_history
from tracr_jax.runs.build import Setup, build
from tracr_jax.tasks.base import Task
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.step import Frozen, LossFn, Metrics, ProgramsParams, TrainParams
from tracr_jax.types import Adapter, Batch

FILE = "programs.json"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Program:
    """One of several programs of a model."""

    task: str
    """Name of the task."""
    config: RunConfig
    """Of the run that injected it."""
    directions: int
    """D, rows of its adapter."""
    steps: int
    """Steps in which it was trained before this run."""


@dataclass(frozen=True)
class Record:
    """The content of programs.json: what a run began with."""

    run: str
    """Folder of the earlier run."""
    steps: int
    """Steps of the earlier run."""
    weights: str
    """Digest of its model and adapters."""
    programs: tuple[Program, ...]
    """In the order of injection, the run's own last."""
    history: dict[str, Any]
    """The earlier rows of the interference matrix, see `tracr_jax.measure.interference`."""


@dataclass(frozen=True)
class Earlier:
    """What a run goes on from: the programs that its model holds, and their trained parameters."""

    record: Record
    setups: tuple[Setup, ...]
    params: ProgramsParams

    def batches(self, of: Callable[[Setup], Callable[[int], Batch]], newest: Setup) -> Callable[[int], Any]:
        """Step -> one batch for each program, the newest last; `of` gives a program's batches by step."""
        parts = [(of(s), p.steps) for s, p in zip((*self.setups, newest), self.record.programs, strict=True)]
        return lambda step: tuple(batch_at(first + step) for batch_at, first in parts)


def open_earlier(setup: Setup, *, tasks: Sequence[Task] = (), say: Say = lambda _: None) -> Earlier:
    """Open the run that `setup.config.onto` names, whose model is to hold the program of `setup` as well.

    Args:
      setup: the new run.
      tasks: earlier tasks that have no name to find them by.
      say: receives one line before each slow part.

    Raises:
      UserError: it is no finished run of this model, or it already holds a program of that name.
    """
    folder, name = Path(setup.config.onto), setup.task.name
    if jax.process_count() > 1:
        raise UserError(f"--onto {folder}: a run onto another needs one process, there are {jax.process_count()}")
    own, evaluated = read_config(folder), folder / "evaluation.json"
    _check_model(own, setup.lm, folder)
    if not evaluated.exists():
        raise UserError(
            f"{evaluated}: no such file; finish that run with --resume, or: tracr-jax evaluate {folder}"
        )
    evaluation, before = read_json(evaluated), read_record(folder)
    known = [(p.config, p.steps + own.steps) for p in before.programs[:-1]] if before else []
    known.append((own, own.steps))
    given = {t.name: t for t in tasks}
    say(f"opening {folder}")
    setups = tuple(build(c, task=given.get(c.task, c.task), lm=setup.lm, say=say) for c, _ in known)
    names = [s.task.name for s in setups]
    if name in names:
        raise UserError(
            f"{folder} already holds {name} (its programs: {', '.join(names)}); inject another one onto it, or "
            f"leave out --onto to inject {name} into the original model"
        )
    with reading(evaluated, f"measure again: tracr-jax evaluate {folder}"):
        history = evaluation.get("programs") or first_history(setups[0], evaluation, run=str(folder))
    params = restore(folder, setup.lm, directions=[s.teacher.width for s in setups], finished=own.steps)
    programs = [
        Program(s.task.name, c, s.teacher.width, steps) for s, (c, steps) in zip(setups, known, strict=True)
    ]
    record = Record(
        run=str(folder),
        steps=own.steps,
        weights=_digest(params),
        programs=(*programs, Program(name, setup.config, setup.teacher.width, 0)),
        history=history,
    )
    return Earlier(record, setups, params)


def _check_model(own: RunConfig, lm: LoadedLM, folder: Path) -> None:
    if own.lm != lm.name and Path(own.lm).resolve() != Path(lm.name).resolve():
        raise UserError(
            f"{folder} began with the model {own.lm}, this run with {lm.name}: give --lm {own.lm}, or another "
            "--onto"
        )


def _digest(params: ProgramsParams) -> str:
    """SHA-256 of every number."""
    h = hashlib.sha256()
    for x in jax.tree.leaves(params):
        h.update(np.asarray(x).tobytes())
    return h.hexdigest()


def restore(
    folder: Path, lm: LoadedLM, *, directions: Sequence[int], finished: int | None = None
) -> ProgramsParams:
    """Model and adapters of a run's newest checkpoint, be it of one program or of several.

    Args:
      folder: the run folder.
      lm: the original model, for shapes.
      directions: D of each program, in the order of injection.
      finished: refuse a checkpoint after another number of steps.

    Raises:
      UserError: there is no such checkpoint.
    """
    checkpoints = Checkpoints(Path(folder) / "checkpoints", read_only=True)
    try:
        latest = checkpoints.latest()
        if finished not in (None, latest):
            raise UserError(f"{folder}: {latest or 0} of {finished} steps are done; finish that run with --resume")
        shapes = [((d, lm.model.width), (d,)) for d in directions]
        adapters = [Adapter(*map(jnp.zeros, s)) for s in shapes]
        theta = jax.tree.map(jnp.asarray, lm.params)
        if len(adapters) > 1:
            return checkpoints.restore_params(ProgramsParams(theta, tuple(adapters)))
        one = checkpoints.restore_params(TrainParams(theta, adapters[0]))
        return ProgramsParams(one.lm, (one.adapter,))
    finally:
        checkpoints.close()


def read_record(folder: str | Path) -> Record | None:
    """programs.json of a run folder; None for a run with one program.

    Raises:
      UserError: it is damaged, or missing where config.json names an earlier run.
    """
    path = Path(folder) / FILE
    if not path.exists() and not read_config(folder).onto:
        return None
    with reading(path, "begin again in another --folder"):
        value = read_json(path)
        programs = tuple(
            Program(**{**p, "config": from_dict(p["config"]), "directions": int(p["directions"])})
            for p in value["programs"]
        )
        record = Record(**{**value, "programs": programs})
        if len(programs) < 2 or not isinstance(record.history, dict):
            raise UserError(f"damaged, {len(programs)} programs")
        return record


def keep_record(folder: Path, record: Record) -> Record:
    """Write programs.json; where a resumed run has one, check that it began with the same and return that.

    Raises:
      UserError: the earlier run has changed since.
    """
    if (folder / FILE).exists():
        saved = read_record(folder)
        assert saved is not None
        check_unchanged(folder, saved, record)
        return saved
    write_json(folder / FILE, dataclasses.asdict(record))
    return record


def check_unchanged(folder: Path, saved: Record, now: Record) -> None:
    """A run goes on only from the weights and programs that it began with."""
    what = ""
    if (saved.steps, saved.weights) != (now.steps, now.weights):
        then, here = (f"{r.weights[:12]} after {r.steps} steps" for r in (saved, now))
        what = f"its weights were {then}, they are {here}"
    elif saved.programs[:-1] != now.programs[:-1]:
        what = "its programs or their options are others"
    if what:
        raise UserError(
            f"{now.run} has changed since {folder} began: {what}; begin again in another --folder, or put it back"
        )


def make_programs_loss_fn(losses: Sequence[LossFn], *, names: Sequence[str]) -> LossFn:
    """The sum of several programs' losses on one model, (params, frozen, batches, …) as for one of them.

    Args:
      losses: of `tracr_jax.train.step.make_loss_fn`, in the order of injection; the earlier have no retention.
      names: of the programs.

    Returns:
      A function of `ProgramsParams`, of frozen parameters with a tuple of teachers, and of a tuple of batches. Its
      terms are those of the newest program; the others' have "NAME." in front; "loss" is the sum.
    """

    def loss_fn(
        params: ProgramsParams,
        frozen: Frozen,
        batches: Sequence[Batch],
        progress: jax.typing.ArrayLike = 0.0,
        step: jax.typing.ArrayLike = 0,
    ) -> tuple[jax.Array, Metrics]:
        parts, all_terms = [], {}
        for i, (loss, name) in enumerate(zip(losses, names, strict=True)):
            own = TrainParams(params.lm, params.adapters[i])
            part, terms = loss(own, Frozen(frozen.lm, frozen.teacher[i]), batches[i], progress, step)
            parts.append(part)
            newest = i == len(losses) - 1
            all_terms |= terms if newest else {f"{name}.{key}": value for key, value in terms.items()}
        total = sum(parts[1:], start=parts[0])
        return total, all_terms | {"loss": total}

    return loss_fn
