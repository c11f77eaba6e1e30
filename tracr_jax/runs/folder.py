"""A run folder: its name, whether it may be written, and its files before the first step.

config.json       the configuration
run.json          command, versions, machine, times
original.json     model and data it began with
model/            config.json of the language model, and what is not trained of it, see `tracr_jax.runs.frozen`
programs/0 …      one folder for each program, the newest last, see `tracr_jax.runs.program_files`
checkpoints/      trained parameters
metrics.jsonl     every step's numbers
untouched.json    answers of the untouched model, until the run is evaluated
evaluation.json   accuracies and retention
examples.json     a few prompts, read token by token
"""

import dataclasses
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from tracr_jax import __version__
from tracr_jax.config import RunConfig
from tracr_jax.config_file import RUN_FORMAT, read_config, read_format, to_dict
from tracr_jax.errors import UserError
from tracr_jax.files import numbered, read_json, write_json
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lock import NAME
from tracr_jax.names import BUNDLED, RANDOM, SMOLLM2
from tracr_jax.presets import preset
from tracr_jax.runs.program import Program
from tracr_jax.runs.program_files import FILE, save_program
from tracr_jax.tasks.kept import file_of
from tracr_jax.tasks.kept import located as located_task
from tracr_jax.tasks.registry import as_file

MODEL, PROGRAMS = "model", "programs"
UNTOUCHED = "untouched.json"
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


def write_beginning(folder: Path, config: RunConfig, model: LanguageModel, programs: Sequence[Program]) -> None:
    """What reading the run takes beside its checkpoints: config.json, the model's shape, and its programs.

    The newest program is the first of them: see `newest_program`.
    """
    write_json(folder / "config.json", to_dict(config) | {"format": RUN_FORMAT})
    write_json(folder / MODEL / "config.json", model.config.to_hf())
    for i, program in reversed(list(enumerate(programs))):
        save_program(folder / PROGRAMS / str(i), program, width=model.width)


def newest_program(folder: Path) -> Path | None:
    """The folder of a run's own program; None where it was stopped before it was written."""
    numbers = [n for n in numbered(folder / PROGRAMS) if (folder / PROGRAMS / str(n) / FILE).exists()]
    return folder / PROGRAMS / str(numbers[-1]) if numbers else None


def located(config: RunConfig) -> RunConfig:
    """The same configuration, from every directory: what names a file or a folder here names its whole path."""

    def whole(name: str) -> str:
        return str(Path(name).resolve()) if Path(name).exists() else name

    def model(name: str) -> str:
        random, name = (RANDOM if name.startswith(RANDOM) else ""), name.removeprefix(RANDOM)
        return random + (name if name in (BUNDLED, SMOLLM2) else whole(name))

    text = config.data.text
    return dataclasses.replace(
        config,
        task=located_task(as_file(config.task)),
        lm=model(config.lm),
        onto=config.onto and whole(config.onto),
        data=config.data if text == "bundled" else dataclasses.replace(config.data, text=whole(text)),
    )


def default_folder(config: RunConfig) -> Path:
    """runs/TASK-LM-METHOD-seedN, TASK of a file FILE-NAME; with -onto-RUN, if any.

    METHOD is followed by what is trained where the method's preset trains something else; a graft names only that.
    """
    method = config.losses.alignment if config.losses.alignment != "none" else "finetune"
    part = config.train.replace(":", "")
    if config.part.kind == "graft":
        method = part
    elif config.train != preset(method, task=config.task, lm=config.lm).train:
        method += f"-{part}"
    onto = f"-onto-{Path(config.onto).name}" if config.onto else ""
    name = f"{_label(config.task, config.lm)}-{method}-seed{config.seed}{onto}"
    return Path("runs") / name.lower()


def sweep_folder(task: str, lm: str) -> Path:
    """runs/sweep-TASK-LM, of a sweep over methods."""
    return Path("runs") / f"sweep-{_label(task, lm)}".lower()


def _label(task: str, lm: str) -> str:
    task = as_file(task)
    file = file_of(task)
    task = task if file is None else "-".join([file.stem, *task.split(".py:")[1:]])
    random = "random-" if lm.startswith(RANDOM) else ""
    return f"{task}-{random}{Path(lm.removeprefix(RANDOM)).name}"


def check_folder(folder: Path, config: RunConfig, *, resume: bool, longer: bool = False) -> None:
    """Refuse to mix two runs in one folder, or one that cannot be written; `longer`: the run gets more steps."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder that is not there yet")
    there = (folder / "config.json").exists()
    if not resume:
        if there:
            held = read_config(folder).task
            what = "a run" if held == config.task else f"a run of {held}"
            raise UserError(
                f"{folder} already holds {what}: tracr-jax resume {folder} continues it, --folder names another"
            )
        if folder.exists() and any(map(_is_of_others, folder.iterdir())):
            raise UserError(f"{folder} is not empty and holds no run: choose another --folder")
        _check_writable(folder)
        return
    if not there:
        raise UserError(f"{folder}: nothing to resume, there is no config.json; leave out --resume")
    _check_writable(folder)
    saved = located(read_config(folder))
    if read_format(folder) < RUN_FORMAT:
        raise UserError(
            f"{folder}: a run of format {read_format(folder)}, which this version reads but does not "
            "continue; begin again in another --folder, or finish it with the version that began it"
        )
    changed = [
        f"{name} {a!r} -> {b!r}"
        for name, a, b in _differences(to_dict(saved), to_dict(config))
        if a != b
        and name != "mesh"  # a run may go on over other devices
        and not (name == "steps" and longer)
    ]
    if changed:
        raise UserError(f"{folder}: the run was started with other options ({'; '.join(changed)}); give the same")


def _check_writable(folder: Path) -> None:
    """By trying: permissions alone do not say whether a file system is read-only."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as e:
        raise UserError(f"{folder}: cannot be written ({e.strerror or e}); choose another --folder") from e


def _is_of_others(path: Path) -> bool:
    """Not what a run leaves that was killed before it wrote its first file."""
    return not (path.name.startswith(".") and (path.name == NAME or path.name.endswith(".tmp")))


def _differences(a: dict, b: dict, prefix: str = ""):
    for key in a:
        if isinstance(a[key], dict):
            yield from _differences(a[key], b[key], f"{prefix}{key}.")
        else:
            yield prefix + key, a[key], b[key]


def steps_before(folder: Path) -> list[dict[str, int]]:
    """Of a run that was made longer: for how many steps it was made before, and until which it was that run."""
    path = folder / "run.json"
    return list(read_json(path).get("steps_before", ())) if path.exists() else []


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
        # None: JAX's default, of float32 products bfloat16 operands on a TPU.
        "matmul_precision": getattr(jax.config, "jax_default_matmul_precision"),  # noqa: B009 - pyright knows no flags
        "machine": platform.platform(),
    }


def peak_memory() -> dict[str, float]:
    """Of this process so far."""
    # ru_maxrss is in KiB on Linux and in bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak_host_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30}
