"""The files of a user's task, kept with its run, so that the run stays what it was whatever becomes of them.

Kept are the task's file and what it imports from its own folder, or, as a file of a package does, from a folder
above it; data files that it reads are not. Like the task's
file itself the copy is code: it is imported where items or labels are needed, and where a text is longer than the
compiled program's table; never to open a run.
"""

import ast
import importlib.util
import shutil
import sys
from pathlib import Path

from tracr_jax.files import new_folder

FOLDER = "task"


def file_of(spec: str) -> Path | None:
    """The file that "path/to/file.py:NAME" names; None for a built-in task, or the name of an object."""
    path = spec if spec.endswith(".py") else spec.rpartition(":")[0]
    return Path(path) if path.endswith(".py") else None


def located(spec: str) -> str:
    """The same task, from every directory."""
    path = file_of(spec)
    return spec if path is None else f"{path.resolve()}{_colon_name(spec)}"


def _colon_name(spec: str) -> str:
    return "" if spec.endswith(".py") else f":{spec.rpartition(':')[2]}"


def own_files(path: Path) -> dict[str, bytes]:
    """A task's file, and its own modules that it imports, by their paths from the folder that is imported from.

    A file that is no Python any more counts by itself.
    """
    root, found, todo = path.resolve().parent, {}, [(path.resolve(), path.name)]
    while todo:
        file, name = todo.pop()
        if name in found:
            continue
        found[name] = file.read_bytes()
        for top in _imported(found[name]):
            home = _home(top, root)
            if home is None:
                continue
            files = [home / f"{top}.py"] if (home / f"{top}.py").is_file() else sorted((home / top).rglob("*.py"))
            todo += [(f, f.relative_to(home).as_posix()) for f in files]
    return found


def import_folders(path: Path) -> list[Path]:
    """The folders that a task's file imports from: its own, and those above it that hold what it names."""
    root = path.resolve().parent
    homes = {home for top in _imported(path.read_bytes()) if (home := _home(top, root))}
    return [root, *sorted(homes - {root})]


def _home(top: str, folder: Path) -> Path | None:
    """The folder, or the nearest above it, that holds a module which is not installed; None for one that is."""
    if top == "tracr_jax":
        return None
    if (folder / f"{top}.py").is_file() or (folder / top / "__init__.py").is_file():
        return folder
    if top in sys.stdlib_module_names or _installed(top):
        return None
    above = (p for p in (folder, *folder.parents) if (p / f"{top}.py").is_file() or any((p / top).glob("**/*.py")))
    return next(above, None)


def _installed(top: str) -> bool:
    """Whether a module would come from where packages are installed, and not from the directory of the shell."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    return any("site-packages" in p or "dist-packages" in p for p in places)


def _imported(source: bytes) -> list[str]:
    """The first parts of the names of all modules that a file imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.append(node.module)
    return list(dict.fromkeys(name.partition(".")[0] for name in names))


def keep_files(spec: str, folder: Path, *, kept: Path | None = None) -> None:
    """Put a task's files into `folder`, once; `kept` is a folder that has them already.

    Raises:
      UserError: they cannot be written.
    """
    path = file_of(spec)
    if path is None or (folder / FOLDER).exists():
        return
    if kept and (kept / FOLDER).is_dir():
        with new_folder(folder / FOLDER) as out:
            shutil.copytree(kept / FOLDER, out, dirs_exist_ok=True)
    elif path.is_file():
        files = own_files(path)
        with new_folder(folder / FOLDER) as out:
            for name, content in files.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(content)


def has_changed(spec: str, folder: Path | None) -> bool:
    """Whether the task's file is there and is no longer, with its imports, what `folder` keeps of it."""
    path = file_of(spec)
    if path is None or folder is None or not (folder / FOLDER).is_dir() or not path.is_file():
        return False
    copies = [p for p in (folder / FOLDER).rglob("*.py") if "__pycache__" not in p.parts]
    kept = {p.relative_to(folder / FOLDER).as_posix(): p.read_bytes() for p in copies}
    return own_files(path) != kept


def own_spec(spec: str, folder: Path | None) -> str:
    """The task's name, of the kept copy where the file has changed or is gone."""
    path = file_of(spec)
    if path is None or folder is None:
        return spec
    copy = folder / FOLDER / path.name
    if not copy.is_file() or (path.is_file() and not has_changed(spec, folder)):
        return spec
    return f"{copy}{_colon_name(spec)}"
