"""The main job: inject a program into a language model and leave a run folder. Library form of `tracr-jax inject`.

A run folder holds config.json, run.json (command, versions, machine, times), metrics.jsonl, checkpoints/,
teacher/ and evaluation.json. Later stages read these files only.
"""

import contextlib
import dataclasses
import platform
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from tracr_jax import __version__
from tracr_jax import config as C
from tracr_jax.errors import UserError
from tracr_jax.files import write_json
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lock import NAME, only_writer
from tracr_jax.measure.answers import ModelScores, evaluate, score_original
from tracr_jax.measure.interference import extend_history
from tracr_jax.presets import preset
from tracr_jax.runs.build import Setup, build
from tracr_jax.runs.model import OpenedRun
from tracr_jax.runs.programs import Earlier, keep_record, make_programs_loss_fn, open_earlier
from tracr_jax.tasks.base import Task
from tracr_jax.teacher import save_teacher
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.loop import fit
from tracr_jax.train.mesh import (
    check_rows,
    gather,
    keep_rows,
    make_mesh,
    param_shardings,
    put,
    sharded_batches,
    spread_state,
    whole,
)
from tracr_jax.train.metrics import JsonLines, MetricWriter, Several
from tracr_jax.train.step import (
    Frozen,
    LossFn,
    ProgramsParams,
    TrainParams,
    TrainState,
    init_adapter,
    init_state,
    make_loss_fn,
    make_optimizer,
    make_step,
)
from tracr_jax.types import Batch

Say = Callable[[str], None]
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "tracr-pypi",
    "transformers",
    "tokenizers",
    "numpy",
)


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its parts and what was trained."""

    folder: Path
    setup: Setup
    params: TrainParams
    evaluation: dict[str, Any]
    earlier: tuple[OpenedRun, ...] = ()
    """The programs that the model held before (`onto`), each with the model as it is now and its adapter."""


def inject(
    task: Task | str = "dyck",
    *,
    lm: LoadedLM | str | None = None,
    config: C.RunConfig | None = None,
    onto: "str | Path | Run | None" = None,
    folder: str | Path | None = None,
    resume: bool = False,
    writers: tuple[MetricWriter, ...] = (),
    progress: bool = True,
    say: Say = lambda _: None,
) -> Run:
    """Inject `task` into `lm`, evaluate, and leave a run folder.

    Args:
      task: a task object, a built-in name, or "path/to/file.py:NAME".
      lm: a loaded model, or a name for `load_lm`; default "tiny", or the model that the run of `onto` began with.
      config: everything else; its `task` and `lm` are replaced by the arguments above.
      onto: a finished run (its folder, or what this function returned), whose model gets this program too while
        the losses of those it holds stay on, see `tracr_jax.runs.programs`; default `config.onto`.
      folder: the run folder; default runs/TASK-LM-METHOD-seedN, with onto runs/…-onto-RUN.
      resume: continue from the newest checkpoint of the folder, bit for bit.
      writers: further places for metrics, beside metrics.jsonl.
      progress: draw a progress bar.
      say: receives one line before each stage.

    Raises:
      UserError: before anything is written where the parts do not fit together; later where training diverges.
    """
    before = str(onto.folder if isinstance(onto, Run) else onto or (config.onto if config else ""))
    if lm is None:
        lm = C.read_config(before).lm if before else "tiny"
    names = {
        "task": task if isinstance(task, str) else task.name,
        "lm": lm if isinstance(lm, str) else lm.name,
    }
    config = dataclasses.replace(config or preset(task=names["task"], lm=names["lm"]), **names, onto=before)
    folder = Path(folder) if folder else default_folder(config)
    mesh = _mesh(config)
    first = jax.process_index() == 0  # of several processes one writes and speaks
    if not first:
        writers, progress, say = (), False, lambda _: None
    check_folder(folder, config, resume=resume)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("folder checked")  # before the first process writes into it
    started = time.time()
    setup = build(config, task=task, lm=lm, say=say)
    earlier = None
    if config.onto:
        tasks = [r.setup.task for r in (*onto.earlier, onto)] if isinstance(onto, Run) else []
        earlier = open_earlier(setup, tasks=tasks, say=say)
        if mesh:
            for s in earlier.setups:
                check_rows(mesh, s.config.data)
    with only_writer(folder) if first else contextlib.nullcontext():
        if first:
            check_folder(folder, config, resume=resume)  # again, now that nobody else can fill it
            if earlier:
                earlier = dataclasses.replace(earlier, record=keep_record(folder, earlier.record))
            write_json(folder / "config.json", C.to_dict(config))
            save_teacher(setup.teacher, folder / "teacher" / "teacher.npz")
            write_json(folder / "run.json", about(started) | setup.proof.record())

        state, frozen, step = make_parts(setup, mesh, earlier=earlier)
        batch_at = make_batch_at(setup, mesh, earlier=earlier)
        checkpoints = Checkpoints(folder / "checkpoints")
        try:
            if resume and checkpoints.latest() is not None:
                state = checkpoints.restore(state)
                say(f"resumed after {int(state.step)} of {config.steps} steps")
            begun = time.time()
            step, original = _compile_and_score(setup, step, state, frozen, batch_at, say=say)
            if first:
                writers = (JsonLines(folder / "metrics.jsonl", keep_below=int(state.step)), *writers)
            writer = Several(writers)
            trained = time.time()
            try:
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
                    progress=progress,
                    say=say,
                )
            finally:
                writer.close()
        finally:
            checkpoints.close()
        times = {"setup_s": begun - started, "before_s": trained - begun, "training_s": time.time() - trained}
        evaluated = time.time()
        params = gather(state.params, mesh) if mesh else state.params
        others: tuple[OpenedRun, ...] = ()
        if isinstance(params, ProgramsParams):
            assert earlier
            *held, params = [TrainParams(params.lm, adapter) for adapter in params.adapters]
            others = tuple(map(OpenedRun, earlier.setups, held))
        # Each process evaluates for itself: the others would only wait for the one that writes.
        evaluation = evaluate(setup, params, items=config.eval_items, original=original, progress=say)
        if earlier:
            evaluation["programs"] = extend_history(
                earlier.record.history,
                setup,
                evaluation,
                run=folder,
                earlier=others,
                items=lambda s: s.config.eval_items,
                progress=say,
            )
        times["evaluation_s"] = time.time() - evaluated
        if first:
            write_json(folder / "evaluation.json", evaluation)
            write_json(
                folder / "run.json", about(started) | setup.proof.record() | {"times": times} | _peak_memory()
            )
        return Run(folder, setup, params, evaluation, others)


def _mesh(config: C.RunConfig) -> Mesh | None:
    if not config.mesh:
        if jax.process_count() > 1:
            raise UserError(
                f"{jax.process_count()} processes with {jax.device_count()} devices, but no mesh: add e.g. "
                f"--mesh data={jax.device_count()}"
            )
        return None
    mesh = make_mesh(config.mesh)
    check_rows(mesh, config.data)
    return mesh


def make_parts(
    setup: Setup, mesh: Mesh | None = None, *, earlier: Earlier | None = None
) -> tuple[TrainState, Frozen, Callable]:
    """(initial state, frozen parameters, jitted step) of a run, on one device or over a mesh.

    The step donates its state and takes the batches of `make_batch_at`.
    """
    config = setup.config
    key = jax.random.key(config.seed)
    adapter = init_adapter(key, width=setup.lm.model.width, directions=setup.teacher.width)
    optimizer = make_optimizer(config.optim, steps=config.steps)
    lm, phi = setup.lm.params, setup.phi
    if mesh is None:
        lm = jax.tree.map(jax.numpy.asarray, lm)
        params = TrainParams(setup.lm.params, adapter)
    else:
        lm = put(lm, param_shardings(mesh, lm))
        params = TrainParams(lm, put(adapter, param_shardings(mesh, adapter)))
    if earlier:
        phi = (*(s.phi for s in earlier.setups), phi)
        params = ProgramsParams(earlier.params.lm, (*earlier.params.adapters, adapter))
        if mesh:
            params = put(params, param_shardings(mesh, params))
    if mesh is None:
        state = init_state(params, optimizer)
        step = make_step(_loss_fn(setup, earlier), optimizer, steps=config.steps)
        return state, Frozen(lm, phi), jax.jit(step, donate_argnums=0)
    state, places = spread_state(mesh, params, optimizer)
    step = make_step(_loss_fn(setup, earlier, keep_rows=keep_rows(mesh)), optimizer, steps=config.steps)
    step = jax.jit(step, donate_argnums=0, out_shardings=(places, whole(mesh)))
    return state, Frozen(lm, put(phi, whole(mesh))), step


def _loss_fn(setup: Setup, earlier: Earlier | None, **where: Any) -> LossFn:
    """The loss of a run; of the programs that the model held before, all but the retention is added."""

    def one(s: Setup, losses: C.LossConfig) -> LossFn:
        return make_loss_fn(s.lm.model, s.residuals, config=losses, shape=s.shape, layout=s.layout, **where)

    own = one(setup, setup.config.losses)
    if not earlier:
        return own
    # The language is kept once, with the newest run's text, tokenizer and weight.
    others = [one(s, dataclasses.replace(s.config.losses, retention_weight=0.0)) for s in earlier.setups]
    return make_programs_loss_fn([*others, own], names=[p.task for p in earlier.record.programs])


def _compile_and_score(
    setup: Setup, step: Any, state: TrainState, frozen: Frozen, batch_at: Callable[[int], Any], *, say: Say
) -> tuple[Callable, ModelScores]:
    """(the compiled step, what the untouched model answers): the compiler takes one core, the others score."""
    first, items = int(state.step), setup.config.eval_items
    if first >= setup.config.steps:  # resumed when all was trained
        return step, score_original(setup, items=items, progress=say)
    say("compiling the training step; meanwhile the untouched model answers")
    lowered = step.lower(state, frozen, batch_at(first))
    with ThreadPoolExecutor(1) as compiler:
        compiled = compiler.submit(lowered.compile)
        original = score_original(setup, items=items, progress=say)
        return compiled.result(), original


def make_batch_at(
    setup: Setup, mesh: Mesh | None = None, *, earlier: Earlier | None = None
) -> Callable[[int], Any]:
    """Step -> its batch, spread over a mesh where there is one; of several programs a tuple, the newest last."""

    def of(s: Setup) -> Callable[[int], Batch]:
        return sharded_batches(s.batches, mesh, s.config.data) if mesh else s.batches.batch_at

    return earlier.batches(of, setup) if earlier else of(setup)


def default_folder(config: C.RunConfig) -> Path:
    """runs/TASK-LM-METHOD-seedN, from the last part of each name; with -onto-RUN where it goes on from a run."""
    method = config.losses.alignment if config.losses.alignment != "none" else "finetune"
    task = config.task.split(":")[-1] if ":" in config.task else config.task
    onto = f"-onto-{Path(config.onto).name}" if config.onto else ""
    return Path("runs") / f"{task}-{Path(config.lm).name}-{method}-seed{config.seed}{onto}".lower()


def check_folder(folder: Path, config: C.RunConfig, *, resume: bool) -> None:
    """Refuse to mix two runs in one folder."""
    there = (folder / "config.json").exists()
    if not resume:
        if there:
            raise UserError(f"{folder} already holds a run: add --resume to continue it, or --folder for another")
        if folder.exists() and any(map(_is_of_others, folder.iterdir())):
            raise UserError(f"{folder} is not empty and holds no run: choose another --folder")
        return
    if not there:
        raise UserError(f"{folder}: nothing to resume, there is no config.json; leave out --resume")
    saved = C.read_config(folder)
    changed = [
        f"{name} {a!r} -> {b!r}"
        for name, a, b in _differences(C.to_dict(saved), C.to_dict(config))
        if a != b and name != "mesh"  # a run may go on over other devices
    ]
    if changed:
        raise UserError(f"{folder}: the run was started with other options ({'; '.join(changed)}); give the same")


def _is_of_others(path: Path) -> bool:
    """Not what a run leaves that was killed before it wrote its first file."""
    return not (path.name.startswith(".") and (path.name == NAME or path.name.endswith(".tmp")))


def _differences(a: dict, b: dict, prefix: str = ""):
    for key in a:
        if isinstance(a[key], dict):
            yield from _differences(a[key], b[key], f"{prefix}{key}.")
        else:
            yield prefix + key, a[key], b[key]


def about(started: float) -> dict[str, Any]:
    """Command, versions, device and machine of a command that began at `started` (seconds since 1970)."""
    device = jax.devices()[0]
    return {
        "tracr_jax": __version__,
        "command": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in _PACKAGES},
        "device": f"{jax.device_count()} x {device.device_kind}",
        "machine": platform.platform(),
    }


def _peak_memory() -> dict[str, float]:
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
