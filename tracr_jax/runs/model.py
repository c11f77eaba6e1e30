"""A language model that holds programs: what `inject` returns, and what `open` reads from a run or an export.

Reading needs neither the task's own code nor the original model, its retention text or a proof: the folder holds
the compiled program, the tokenizer and program.json. Whatever needs more raises an error that says what.
"""

import dataclasses
import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from tracr_jax.config import RunConfig
from tracr_jax.config_file import read_config, read_format
from tracr_jax.data.retention import held_out_windows, retention_text
from tracr_jax.errors import UserError
from tracr_jax.files import numbered, read_json, reading
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.graft import Grafted, alone
from tracr_jax.lm.load import LoadedLM, load_lm, read_model, scanned
from tracr_jax.lm.lora import merged
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.runs.adapters import read_adapter
from tracr_jax.runs.build import Setup, build_program
from tracr_jax.runs.folder import MODEL, PROGRAMS
from tracr_jax.runs.graft import grafted, read_map
from tracr_jax.runs.original import check_dtype, check_original
from tracr_jax.runs.program import Program, check_same_task
from tracr_jax.runs.program_files import FILE, load_program, read_program
from tracr_jax.runs.record import read_record
from tracr_jax.runs.restore import params_digest, restore
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.kept import changed, file_of
from tracr_jax.tasks.registry import get_task
from tracr_jax.train.mesh import own_device
from tracr_jax.train.step import TrainParams
from tracr_jax.types import Adapter, Params


@dataclass(frozen=True, eq=False)
class Injected:
    """A language model that holds programs."""

    model: LanguageModel
    params: Params
    """Of the trained model; of a run with --train lora with its pairs, see `tracr_jax.lm.lora`, of a graft with
    what stands beside the model, see `tracr_jax.lm.graft`."""
    programs: tuple[Program, ...]
    """Each with its adapter, the newest last; one is the usual case."""
    folder: Path | None = None
    """Where it was read from or written to."""
    evaluation: Mapping[str, Any] | None = None
    """The content of evaluation.json, of a run that is finished and measured."""
    base: LoadedLM | None = None
    """The original model, where it is loaded already; see `original`."""
    windows: Int[np.ndarray, "W U"] | None = None
    """The held-out windows, where they are made already; see `valid_text`."""
    newest: bool = True
    """Whether the last of `programs` is the one that was injected last; low-rank pairs are those of that one."""

    @property
    def program(self) -> Program:
        """The newest program: the run's own."""
        return self.programs[-1]

    @property
    def setup(self) -> Program:
        """The newest program, by the name that it had before; until 0.2."""
        warnings.warn("run.setup is run.program now", DeprecationWarning, stacklevel=2)
        return self.program

    @property
    def adapter(self) -> Adapter:
        """The newest program's adapter.

        Raises:
          UserError: an export of a run without alignment has none, nor has a graft.
        """
        if self.program.grafted:
            raise UserError(
                f"{self.folder}: a graft, whose variables are in the program beside the model: there is none in "
                "the model's states to read or to exchange"
            )
        if self.program.adapter is None:
            raise UserError(f"{self.folder}: a run without alignment, its adapter was not trained")
        return self.program.adapter

    @property
    def trained_adapter(self) -> Adapter:
        """`adapter` of a run that trained it: that of a fine-tuned baseline's folder is as it was drawn.

        Raises:
          UserError: the run did not.
        """
        adapter = self.adapter
        if not self.program.aligned:
            raise UserError(
                f"{self.folder}: a run without alignment (fine-tuning), its adapter was not trained to read "
                "variables; fit one to its export: "
                f"tracr-jax inject {self.program.config.task} --lm EXPORT --train adapter"
            )
        return adapter

    @property
    def measured(self) -> Mapping[str, Any] | None:
        """`evaluation`, where it is of these weights and not of those that were replaced."""
        said = (self.evaluation or {}).get("weights")
        return self.evaluation if said is None or said == self.digest else None

    @functools.cached_property
    def digest(self) -> str:
        """Of all that was trained, and of what it stands beside: the same for the same numbers."""
        adapters = tuple(a for p in self.programs if (a := p.trainable) is not None)
        return params_digest(TrainParams(self.params, adapters))

    @property
    def tokenizer(self) -> Tokenizer:
        """The newest program's tokenizer."""
        return self.program.tokenizer

    @property
    def lm(self) -> LoadedLM:
        """The trained model, as `load_lm` gives models: the newest program's tokenizer, named by its folder.

        Low-rank pairs are merged into the kernels.

        Raises:
          UserError: of a graft the model is the original one.
        """
        if self.program.grafted:
            raise UserError(f"{self.folder}: a graft, whose model is the original one, `run.original`")
        folder = str(self.folder or f"trained {self.program.config.lm}")
        return LoadedLM(self.model, merged(self.params), self.tokenizer, folder, folder)

    @functools.cached_property
    def original(self) -> LoadedLM:
        """The model before any program was injected, loaded by its name where that was not done yet.

        Raises:
          UserError: it is not at hand, or is another than the run began with.
        """
        if self.base is not None:
            return committed(self.base)
        config = self.program.config
        lm = load_lm(config.lm, dtype=config.dtype, seed=self.programs[0].config.seed)
        if lm.model != alone(self.model):
            raise UserError(f"{config.lm}: is not the model that {self.folder} began with: its shape is another")
        if self.folder is not None:
            check_original(self.folder, lm)
        return committed(lm)

    @functools.cached_property
    def valid_text(self) -> Int[np.ndarray, "W U"]:
        """Held-out windows of the retention text, in the newest program's tokens.

        Raises:
          UserError: the text is not at hand.
        """
        if self.windows is not None:
            return self.windows
        return held_out_windows(retention_text(self.program.config.data, self.tokenizer)[1])

    def of(self, name: str) -> "Injected":
        """The same model with one of its programs alone.

        Raises:
          UserError: it holds no program of that name.
        """
        found = [p for p in self.programs if p.name == name]
        if not found:
            known = ", ".join(p.name for p in self.programs)
            raise UserError(f"{self.folder} holds no program {name!r}; its programs: {known}")
        # Evaluation and held-out windows are the newest program's.
        newest = found[0] is self.program
        own = (self.evaluation, self.base, self.windows) if newest else (None, self.base, None)
        return Injected(self.model, self.params, (found[0],), self.folder, *own, self.newest and newest)


def committed(lm: LoadedLM) -> LoadedLM:
    """The same model, committed to a device as a trained one is: else what reads both is compiled for each."""
    here = own_device()

    def commit(x: Any) -> Any:
        return x if getattr(x, "committed", False) else jax.device_put(x, here)

    return dataclasses.replace(lm, params=jax.tree.map(commit, lm.params))


def untouched(setup: Setup, *, folder: Path | None = None) -> Injected:
    """The original model with a program that nothing was trained for yet."""
    lm = committed(setup.lm)
    model = grafted(lm.model, setup.program)
    return Injected(model, lm.params, (setup.program,), folder, base=lm, windows=setup.valid_text)


def open(
    path: str | os.PathLike,
    *,
    program: str | None = None,
    task: Task | str | Sequence[Task] | None = None,
    lm: LoadedLM | None = None,
    finished: bool = False,
) -> Injected:
    """Read a model with its programs from a run folder or from an export.

    Args:
      path: the folder.
      program: of a model with several programs, the one to read alone; by default all, of which the newest counts.
      task: the task's own code, or its name, for items and labels; built-in tasks are found without.
      lm: the original model, where it is loaded already.
      finished: refuse a run whose newest checkpoint is not that of its last step; by default a warning says so.

    Raises:
      UserError: neither a run nor an export, no checkpoint, a damaged file, or no program of that name.
    """
    folder = Path(path)
    if lm is not None:
        lm = scanned(lm)
        check_original(folder, lm)
    found = (
        _open_export(folder, lm) if (folder / FILE).exists() else _open_run(folder, task, lm, finished=finished)
    )
    if lm is not None:
        check_dtype(lm, found.program.config.dtype)
    if isinstance(task, str):
        task = get_task(task, as_coded=found.program.config.fidelity.as_coded)
    for one in () if task is None else task if isinstance(task, Sequence) else (task,):
        check_same_task(found.of(one.name).program, one)  # or the task is none of them
        programs = tuple(dataclasses.replace(p, given=one) if p.name == one.name else p for p in found.programs)
        found = dataclasses.replace(found, programs=programs)
    return found if program is None else found.of(program)


def opened(run: Injected | str | os.PathLike) -> Injected:
    """What `inject` or `open` returned, or the same from its folder."""
    return run if isinstance(run, Injected) else open(run)


def _open_run(
    folder: Path, task: Task | str | Sequence[Task] | None, lm: LoadedLM | None, *, finished: bool
) -> Injected:
    config, record = read_config(folder), read_record(folder)
    configs = [p.config for p in record.programs] if record else [config]
    old = read_format(folder) == 0
    if old:  # of a previous version run folders held their programs: made again, with the task's own code
        lm = lm or load_lm(config.lm, dtype=config.dtype)
        programs = [build_program(c, task=_task_of(c, task), lm=lm) for c in configs]
        model = lm.model
    else:
        model = read_model(folder / MODEL, dtype=config.dtype)
        programs = [load_program(folder / PROGRAMS / str(i)) for i in range(len(configs))]
        for program in programs:
            tell_changed(program.config, program.kept)
    model = grafted(model, programs[-1])
    params = restore(folder, model, programs=programs, steps=config.steps, finished=finished, old=old)
    trained = [p.trained(a) for p, a in zip(programs, params.adapters, strict=True)]
    run = Injected(model, params.lm, tuple(trained), folder, base=lm)
    if numbered(folder / "checkpoints")[-1:] == [config.steps]:  # of another step it was said
        run = dataclasses.replace(run, evaluation=_measured(run, folder / "evaluation.json"))
    return run


def _measured(run: Injected, path: Path) -> Mapping[str, Any] | None:
    """What evaluation.json holds, if it is there; weights that are not those which it is of are refused."""
    if not path.exists():
        return None
    with reading(path, "delete it: tracr-jax evaluate makes it again"):
        evaluation = read_json(path)
        measured = evaluation.get("weights")
    if measured and measured != run.digest:  # earlier versions did not say
        raise UserError(
            f"{run.folder}: the weights ({run.digest[:12]}) are not those that {path.name} was measured of "
            f"({measured[:12]}): a file of the checkpoint is damaged, or was exchanged; if you know why, delete "
            f"{path.name}"
        )
    return evaluation


def tell_changed(config: RunConfig, kept: Path | None) -> None:
    """Warn, in one line, where a task's file, or what it reads, is not what it was."""
    path = file_of(config.task)
    if path and (names := changed(config.task, kept)):
        warnings.warn(
            f"{path.parent / names[0]} has changed since this run began; the run goes by its own copy in {kept}",
            stacklevel=3,
        )


def _task_of(config: RunConfig, task: Task | str | Sequence[Task] | None) -> Task:
    if task is None or isinstance(task, str):
        return get_task(task or config.task, as_coded=config.fidelity.as_coded)
    found = next((t for t in task if t.name == config.task), None) if isinstance(task, Sequence) else task
    return found or get_task(config.task, as_coded=config.fidelity.as_coded)


def _open_export(folder: Path, lm: LoadedLM | None) -> Injected:
    content, _ = read_program(folder)
    program = load_program(folder)
    trained = load_lm(str(folder), dtype=program.config.dtype)
    if program.aligned:
        if content["width"] != trained.model.width:
            raise UserError(
                f"{folder}: {FILE} is of a model of width {content['width']}, the model beside it has "
                f"{trained.model.width}; export the run again"
            )
        sizes = {"directions": program.teacher.width, "width": trained.model.width}
        program = program.trained(read_adapter(folder, **sizes, reserved=program.reserved))
    model, params = grafted(trained.model, program), trained.params
    if isinstance(model, Grafted):
        params = read_map(folder, model, params)
    run = Injected(model, params, (program,), folder, base=lm)
    return dataclasses.replace(run, evaluation=_measured(run, folder / "evaluation.json"))
