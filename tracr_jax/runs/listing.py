"""The built-in tasks or those of a folder, each with its network's size and an example: `tracr-jax tasks`."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.lm.load import LoadedLM, load_lm
from tracr_jax.names import BUNDLED
from tracr_jax.presets import preset
from tracr_jax.progress import Say
from tracr_jax.runs.task_bridge import make_task_bridge
from tracr_jax.tasks.base import Item
from tracr_jax.tasks.registry import BUILT_IN, get_task, program_files


@dataclass(frozen=True)
class Listed:
    """One task."""

    name: str
    layers: int
    """Of the compiled program; a language model needs a few blocks more, see `tracr_jax.runs.fits`."""
    width: int
    """Directions D of the compiled program."""
    positions: int
    """Tokens of the longest training item."""
    example: Item


@dataclass(frozen=True)
class Refused:
    """A file of which no task can be made."""

    name: str
    reason: str


def list_tasks(lm: str = BUNDLED, *, say: Say = lambda _: None) -> Iterator[Listed]:
    """Every task, compiled for a language model's tokenizer; a second or so for one that was never compiled.

    Args:
      lm: a name for `load_lm`; its weights are not read.
      say: receives one line before each task is compiled.
    """
    model = load_lm(lm, weights=False)
    for name in BUILT_IN:
        yield _listed(name, model, lm=lm, say=say)


def list_folder(folder: str | Path, lm: str = BUNDLED, *, say: Say = lambda _: None) -> Iterator[Listed | Refused]:
    """The task of each Python file below a folder, or why there is none.

    Raises:
      UserError: no such folder, or no Python file in it.
    """
    files = program_files(Path(folder))
    if not files:
        is_file = Path(folder).is_file()
        why = f"a file; see it by tracr-jax check {folder}" if is_file else "no such folder"
        raise UserError(f"tasks {folder}: {'no Python file in it' if Path(folder).is_dir() else why}")
    model = load_lm(lm, weights=False)
    for path in files:
        say(f"{path}")
        try:
            yield _listed(str(path), model, lm=lm, say=say)
        except UserError as e:
            yield Refused(str(path), str(e).removeprefix(f"task {path}:").lstrip())


def _listed(name: str, model: LoadedLM, *, lm: str, say: Say) -> Listed:
    task = get_task(name)
    teacher = make_task_bridge(preset(task=name, lm=lm), task=task, lm=model, say=say).teacher
    return Listed(name, teacher.num_layers, teacher.width, teacher.max_seq_len, task.train_item(0, seed=0))
