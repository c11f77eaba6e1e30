"""A run read back from its folder: for decoding, interpretation, export and another measurement."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tracr_jax.config import read_config
from tracr_jax.errors import UserError
from tracr_jax.lm.load import LoadedLM
from tracr_jax.measure.answers import evaluate
from tracr_jax.measure.interference import extend_history
from tracr_jax.runs.build import Setup, build
from tracr_jax.runs.record import read_record, restore
from tracr_jax.tasks.base import Task
from tracr_jax.train.step import TrainParams

Say = Callable[[str], None]


class OpenedRun(NamedTuple):
    """A run read from its folder; unpacks as (setup, params), and serves wherever a `Run` does."""

    setup: Setup
    params: TrainParams


def open_run(
    folder: str | Path, *, task: Task | None = None, lm: LoadedLM | None = None, program: str | None = None
) -> OpenedRun:
    """Rebuild a run from its folder: its parts, and the trained parameters of the newest checkpoint.

    Args:
      folder: a run folder.
      task: the task object, where it was not given by name.
      lm: the original model, where it was not given by name.
      program: of a model with several programs, the name of the one to open with its adapter and its tokenizer;
        by default the run's own, the newest.

    Raises:
      UserError: no run folder, no checkpoint, or no program of that name.
    """
    folder = Path(folder)
    config, record = read_config(folder), read_record(folder)
    if record is None:
        setup = build(config, task=task or config.task, lm=lm or config.lm)
        if program not in (None, setup.task.name):
            raise UserError(f"{folder} holds no program {program!r}, only {setup.task.name}")
        params = restore(folder, setup.lm, directions=[setup.teacher.width])
        return OpenedRun(setup, TrainParams(params.lm, params.adapters[0]))
    names = [p.task for p in record.programs]
    if program not in (None, *names):
        raise UserError(f"{folder} holds no program {program!r}; its programs: {', '.join(names)}")
    at = names.index(program or names[-1])
    config = config if at == len(names) - 1 else record.programs[at].config
    setup = build(config, task=task or config.task, lm=lm or config.lm)
    params = restore(folder, setup.lm, directions=[p.directions for p in record.programs])
    return OpenedRun(setup, TrainParams(params.lm, params.adapters[at]))


def measure_again(folder: str | Path, *, items: int | None, progress: Say = lambda _: None) -> dict[str, Any]:
    """The content of a finished run's evaluation.json, measured on `items` items of each set (None: all)."""
    setup, params = open_run(folder)
    evaluation = evaluate(setup, params, items=items, progress=progress)
    record = read_record(folder)
    if record:
        earlier = [open_run(folder, lm=setup.lm, program=p.task) for p in record.programs[:-1]]
        evaluation["programs"] = extend_history(
            record.history,
            setup,
            evaluation,
            run=folder,
            earlier=earlier,
            items=lambda _: items,
            progress=progress,
        )
    return evaluation
