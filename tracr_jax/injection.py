"""The main job, `tracr-jax inject`: build, train, measure, and write the results into the run folder."""

import contextlib
import dataclasses
import time
from pathlib import Path

import jax
from jax.experimental import multihost_utils

from tracr_jax.config import RunConfig
from tracr_jax.config_file import read_config
from tracr_jax.errors import UserError
from tracr_jax.files import write_json
from tracr_jax.interpret.examples import first_examples
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lock import only_writer
from tracr_jax.measure.answers import score_once
from tracr_jax.measure.interference import evaluate_programs
from tracr_jax.presets import preset
from tracr_jax.progress import Say, showing
from tracr_jax.runs.build import Setup, as_begun, build
from tracr_jax.runs.folder import (
    UNTOUCHED,
    about,
    check_folder,
    default_folder,
    located,
    newest_program,
    peak_memory,
    steps_before,
    write_beginning,
)
from tracr_jax.runs.frozen import keep_frozen
from tracr_jax.runs.model import Injected, tell_changed, untouched
from tracr_jax.runs.onto import open_earlier
from tracr_jax.runs.original import check_original, keep_original
from tracr_jax.runs.program import check_same_task
from tracr_jax.runs.program_files import load_program
from tracr_jax.runs.record import keep_record
from tracr_jax.runs.restore import finished_steps
from tracr_jax.runs.training import train
from tracr_jax.tasks.again import check_again
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.kept import file_of, own_spec
from tracr_jax.tasks.registry import BUILT_IN, get_task, preset_name
from tracr_jax.train.mesh import check_rows, make_mesh
from tracr_jax.train.metrics import MetricWriter


def inject(
    task: Task | str | None = None,
    *,
    lm: LoadedLM | str | None = None,
    config: RunConfig | None = None,
    onto: str | Path | Injected | None = None,
    folder: str | Path | None = None,
    resume: bool = False,
    writers: tuple[MetricWriter, ...] = (),
    progress: bool = True,
    say: Say = lambda _: None,
) -> Injected:
    """Inject `task` into `lm`, evaluate, and leave a run folder (see `tracr_jax.runs.folder`).

    Args:
      task: a task object, a built-in name, or "path/to/file.py:NAME"; default the configuration's, else "dyck".
      lm: a loaded model, or a name for `load_lm`; default the model that the run of `onto` began with, else the
        configuration's, else "tiny".
      config: everything else; default `preset()` of this task and model. A task or a model given above replaces
        the configuration's.
      onto: a finished run (its folder, or what this function or `open` returned), whose model receives this
        program as well, while the losses of its earlier programs are kept, see `tracr_jax.runs.record`; default
        `config.onto`.
      folder: the run folder; default runs/TASK-LM-METHOD-seedN, with onto runs/…-onto-RUN.
      resume: continue from the newest checkpoint of the folder, bit for bit.
      writers: further places for metrics, beside metrics.jsonl.
      progress: draw a progress bar.
      say: receives one line before each stage.

    Returns:
      The trained model with its programs, and its evaluation.

    Raises:
      UserError: before anything is written if the parts do not fit together; later if training diverges.
    """
    if isinstance(onto, Injected) and onto.folder is None:
        raise UserError("onto: a model that lies in no folder; a run goes on from the folder of a finished one")
    before = str(onto.folder if isinstance(onto, Injected) else onto or (config.onto if config else ""))
    if lm is None:
        lm = read_config(before).lm if before else config.lm if config else "tiny"
    if task is None:
        task = config.task if config else "dyck"
    names = {
        "task": task if isinstance(task, str) else task.name,
        "lm": lm if isinstance(lm, str) else lm.name,
    }
    if config is None:
        config = preset(task=preset_name(task), lm=names["lm"])
        config = config if isinstance(lm, str) else dataclasses.replace(config, dtype=lm.model.dtype)
    config = dataclasses.replace(config, **names, onto=before)
    config = located(config)
    folder = Path(folder) if folder else default_folder(config)
    task = config.task if isinstance(task, str) else task
    return _run(
        config, task=task, lm=lm, onto=onto, folder=folder, resume=resume, writers=writers,
        progress=progress, say=say,
    )  # fmt: skip


def resume(
    folder: str | Path,
    *,
    task: Task | str | None = None,
    lm: LoadedLM | None = None,
    mesh: str | None = None,
    steps: int | None = None,
    writers: tuple[MetricWriter, ...] = (),
    progress: bool = True,
    say: Say = lambda _: None,
) -> Injected:
    """Continue the run of a folder from its newest checkpoint, bit for bit, with the options it started with.

    With `steps` it trains longer, a finished run as well: what changes over a run (the rate, the weight of the
    language) is from here on as in a run of so many steps. run.json says where that began.

    Args:
      folder: the run folder.
      task: the task object or its name, if the run was started with an object that cannot be found by name.
      lm: the original model, if it is already loaded or cannot be found by name.
      mesh: devices to continue on, if other than those the run started on, see `RunConfig.mesh`.
      steps: in all, if more than the run was made for.
      writers: further places for metrics, beside metrics.jsonl.
      progress: draw a progress bar.
      say: receives one line before each stage.

    Returns:
      The trained model with its programs, and its evaluation.

    Raises:
      UserError: the folder holds no run, its task or model is not available, or it has more steps.
    """
    config = located(read_config(folder))
    if mesh is not None:
        config = dataclasses.replace(config, mesh=mesh)
    if steps is not None:
        if steps <= config.steps:
            raise UserError(f"{folder}: is a run of {config.steps} steps; give more, or leave out --steps")
        config = dataclasses.replace(config, steps=steps)
    if task is None and config.task not in BUILT_IN and file_of(config.task) is None:
        raise UserError(
            f"{folder}: began with the task object {config.task!r}, which has no file: give it, as "
            "tracr_jax.resume(folder, task=…) or tracr-jax resume RUN --task path/to/file.py:NAME"
        )
    if isinstance(task, str):
        task = get_task(task, as_coded=config.fidelity.as_coded)
    return _run(
        config, task=config.task if task is None else task, lm=lm or config.lm, onto=None, folder=Path(folder),
        resume=True, longer=steps is not None, writers=writers, progress=progress, say=say,
    )  # fmt: skip


def _built(config: RunConfig, *, task: Task | str, lm: LoadedLM | str, kept: Path | None, say: Say) -> Setup:
    """The parts of a run; `kept`: where the program is that it began with."""
    setup = build(config, task=task, lm=lm, say=say)
    if kept:
        began = load_program(kept)
        check_same_task(began, setup.program.task)
        return as_begun(setup, began.reserved)
    if isinstance(task, str):
        check_again(task, setup.program.task)
    return setup


def _check_weights(onto: Injected, kept: str) -> None:
    if onto.digest != kept:
        raise UserError(
            f"onto: its weights ({onto.digest[:12]}) are not those of its folder {onto.folder} ({kept[:12]}), "
            "from which a run goes on; give the folder"
        )


def _run(
    config: RunConfig,
    *,
    task: Task | str,
    lm: LoadedLM | str,
    onto: str | Path | Injected | None,
    folder: Path,
    resume: bool,
    longer: bool = False,
    writers: tuple[MetricWriter, ...],
    progress: bool,
    say: Say,
) -> Injected:
    mesh = make_mesh(config.mesh)
    check_rows(mesh, config.data, parts=config.accumulate)
    first = jax.process_index() == 0  # of several processes one writes and speaks
    if not first:
        writers, progress, say = (), False, lambda _: None
    before = steps_before(folder) if resume else []
    check_folder(folder, config, resume=resume, longer=longer)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("folder checked")  # before the first process writes into it
    started = time.time()
    kept = newest_program(folder) if resume else None
    if resume and isinstance(task, str):
        tell_changed(config, kept)
        task = own_spec(task, kept)
    with showing(progress):  # a task may search for its items
        setup = _built(config, task=task, lm=lm, kept=kept, say=say)
    if resume:
        check_original(folder, setup.lm, data=setup.batches.digest)  # in every process, before anything is written
    setups, lm_params, record = (setup,), None, None
    if config.onto:
        tasks = [p.given for p in onto.programs if p.given] if isinstance(onto, Injected) else []
        setups, lm_params, record = open_earlier(setup, tasks=tasks, say=say)
        if isinstance(onto, Injected) and len(onto.programs) == len(setups) - 1:
            _check_weights(onto, record.weights)
        for s in setups:
            check_rows(mesh, s.config.data, parts=config.accumulate)
            dataclasses.replace(s.config, accumulate=config.accumulate)  # its rows are cut as often: or refused
    programs = tuple(s.program for s in setups)
    before_training = untouched(setup, folder=folder)
    untouched_file = folder / UNTOUCHED
    with only_writer(folder) if first else contextlib.nullcontext():
        if first:
            check_folder(folder, config, resume=resume, longer=longer)  # again, now that nobody else can fill it
            if longer:
                before += [{"steps": read_config(folder).steps, "until": finished_steps(folder)}]
                (folder / "evaluation.json").unlink(missing_ok=True)  # of a model that goes on
            if record:
                record = keep_record(folder, record)
            write_beginning(folder, config, setup.lm.model, programs)
            keep_original(folder, setup.lm, data=setup.batches.digest)
            keep_frozen(folder, config, setup.lm, lm_params)
            told = {"steps_before": before} if before else {}
            write_json(folder / "run.json", about(started) | setup.proof.record() | told)
        trained = train(
            setups, folder, mesh=mesh, started=started, lm_params=lm_params, resume=resume,
            meanwhile=lambda: score_once(
                before_training, untouched_file, items=config.eval_items, write=first, say=say
            ),
            writers=writers, progress=progress, say=say,
        )  # fmt: skip
        evaluated = time.time()
        held = tuple(p.trained(a) for p, a in zip(programs, trained.params.adapters, strict=True))
        run = dataclasses.replace(before_training, params=trained.params.lm, programs=held)
        # Each process evaluates for itself: the others would only wait for the one that writes.
        with showing(progress):
            evaluation = evaluate_programs(run, original=trained.before, record=record, say=say)
        if first:
            write_json(folder / "evaluation.json", evaluation)
            if run.program.aligned:
                write_json(folder / "examples.json", first_examples(run, evaluation))
            ended = told | {"times": trained.times | {"evaluation_s": time.time() - evaluated}} | peak_memory()
            write_json(folder / "run.json", about(started) | setup.proof.record() | ended)
            untouched_file.unlink(missing_ok=True)  # evaluation.json holds it
        return dataclasses.replace(run, evaluation=evaluation)
