"""Continuing from a finished run: its programs, which are trained further, and its weights.

See `tracr_jax.runs.record`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from tracr_jax.config import RunConfig
from tracr_jax.config_file import read_config, read_format
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, reading
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lm.lora import merged
from tracr_jax.names import RANDOM
from tracr_jax.progress import Say
from tracr_jax.runs.build import Setup, as_begun, build
from tracr_jax.runs.folder import PROGRAMS
from tracr_jax.runs.original import check_original
from tracr_jax.runs.program_files import FILE, load_program
from tracr_jax.runs.record import Entry, Record, first_history, read_record
from tracr_jax.runs.restore import params_digest, restore
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.kept import own_spec
from tracr_jax.train.reserved import directions
from tracr_jax.types import Adapter, Codes, Params


def open_earlier(
    setup: Setup, *, tasks: Sequence[Task] = (), say: Say = lambda _: None
) -> tuple[tuple[Setup, ...], Params, Record]:
    """Open the run that `RunConfig.onto` of `setup` names, whose model is to hold the program of `setup` as well.

    Args:
      setup: the new run.
      tasks: earlier tasks that cannot be found by name.
      say: receives one line before each slow part.

    Returns:
      (the programs of the model, the new one last; the trained model; the record of what the new run starts from).

    Raises:
      UserError: it is no finished run of this model, or it already holds a program of that name.
    """
    folder, name = Path(setup.config.onto), setup.program.name
    if jax.process_count() > 1:
        raise UserError(f"--onto {folder}: a run onto another needs one process, there are {jax.process_count()}")
    own, evaluated = read_config(folder), folder / "evaluation.json"
    _check_model(own, setup, folder)
    check_original(folder, setup.lm)
    if not evaluated.exists():
        raise UserError(
            f"{evaluated}: no such file; tracr-jax resume {folder} finishes that run, tracr-jax evaluate {folder} "
            "measures it"
        )
    evaluation, before = read_json(evaluated), read_record(folder)
    known = [(p.config, p.steps + own.steps) for p in before.programs[:-1]] if before else []
    known.append((own, own.steps))
    given = {t.name: t for t in tasks}
    say(f"opening {folder}")
    held = [
        _held(c, folder / PROGRAMS / str(i), task=given.get(c.task), done=steps, lm=setup.lm, say=say)
        for i, (c, steps) in enumerate(known)
    ]
    names = [s.program.name for s in held]
    if name in names:
        raise UserError(
            f"{folder} already holds {name} (its programs: {', '.join(names)}); inject another one onto it, or "
            f"leave out --onto to inject {name} into the original model"
        )
    with reading(evaluated, f"measure again: tracr-jax evaluate {folder}"):
        history = evaluation.get("programs") or first_history(
            evaluation, task=names[0], config=known[0][0], run=str(folder)
        )
    old = read_format(folder) == 0
    programs = [s.program for s in held]
    params = restore(folder, setup.lm.model, programs=programs, steps=own.steps, finished=True, old=old)
    entries = [Entry(s.program.name, s.config, s.program.teacher.width, s.done) for s in (*held, setup)]
    record = Record(
        run=str(folder), steps=own.steps, weights=params_digest(params), programs=tuple(entries), history=history
    )
    trained = (
        dataclasses.replace(s, program=s.program.trained(a)) for s, a in zip(held, params.adapters, strict=True)
    )
    return (*trained, _beside(setup, params.adapters)), merged(params.lm), record


def _held(config: RunConfig, kept: Path, *, task: Task | None, done: int, lm: LoadedLM, say: Say) -> Setup:
    """A program of the model, with the run's own copy of the task's code."""
    setup = build(config, task=task or own_spec(config.task, kept), lm=lm, say=say)
    if (kept / FILE).exists():  # earlier versions kept none
        setup = as_begun(setup, load_program(kept).reserved)
    return dataclasses.replace(setup, program=dataclasses.replace(setup.program, kept=kept), done=done)


def _beside(setup: Setup, adapters: Sequence[Adapter | Codes]) -> Setup:
    """The new program, on directions that no earlier program has reserved."""
    reserved, taken = setup.program.reserved, [np.asarray(a.basis) for a in adapters if isinstance(a, Codes)]
    if reserved is None or not taken:
        return setup
    beside, width = np.concatenate(taken, axis=1), setup.lm.model.width
    basis = directions(setup.config.seed, width=width, count=reserved.total, beside=beside)
    return dataclasses.replace(setup, program=setup.program.trained(reserved.init(basis)))


def _check_model(own: RunConfig, setup: Setup, folder: Path) -> None:
    lm, seed = setup.lm, setup.config.seed
    if own.part.kind == "graft":
        raise UserError(f"{folder}: a graft, whose program is not in the model's weights; begin without --onto")
    if lm.name.startswith(RANDOM) and own.seed != seed:
        raise UserError(
            f"{folder} began with the untrained weights of seed {own.seed}, this run has {seed}: give it"
        )
    if own.lm != lm.name and Path(own.lm).resolve() != Path(lm.name).resolve():
        raise UserError(
            f"{folder} began with the model {own.lm}, this run with {lm.name}: give --lm {own.lm}, or another "
            "--onto"
        )
