"""Tasks of files that hold a RASP program, written for a test."""

from pathlib import Path

from tracr_jax.tasks.from_file import FileTask
from tracr_jax.tasks.registry import get_task

HEAD = "from tracr.rasp import rasp\n"


def task_of(folder: Path, name: str, source: str) -> FileTask:
    """The task of a file `name`.py that is written into `folder`."""
    (folder / f"{name}.py").write_text(HEAD + source)
    return read(folder / f"{name}.py")


def read(path: Path | str) -> FileTask:
    """The task of the file's program."""
    task = get_task(str(path))
    assert isinstance(task, FileTask)
    return task
