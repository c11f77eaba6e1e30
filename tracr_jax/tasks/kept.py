"""The files of a user's task, kept with its run, so that the run stays what it was whatever becomes of them.

Kept are the task's file, what it imports from its own folder, or, as a file of a package does, from a folder
above it, and the data files whose names stand in these files ("words.txt", or "data" and "words.txt") and that lie
in their folder or in the current one. Like the task's file itself the copy is code: it is imported where items or
labels are needed, and where a text is longer than the compiled program's table; never to open a run.
"""

import ast
import contextlib
import importlib.util
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from tracr_jax.files import new_folder

FOLDER = "task"
_LARGEST = 32 << 20  # bytes of a data file that is kept
_LONGEST = 200  # characters of a text that may be a file's name


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


def own_files(path: Path, *, tell: Callable[[str], None] = lambda _: None) -> dict[str, bytes]:
    """A task's file, and its own modules and data, by their paths from the folder that is imported from.

    A file that is no Python any more counts by itself. `tell` receives a line for data that are too large.
    """
    root, found, todo = path.resolve().parent, {}, [(path.resolve(), path.name)]
    while todo:
        file, name = todo.pop()
        if name in found:
            continue
        if file.stat().st_size > _LARGEST:
            tell(f"{file} is not kept with the run: it has more than {_LARGEST >> 20} MiB")
            continue
        found[name] = file.read_bytes()
        if file.suffix != ".py":
            continue
        names = _file_names(found[name])
        above = PurePosixPath(name).parent
        for folder, at in ((Path.cwd(), PurePosixPath()), (root, PurePosixPath()), (file.parent, above)):
            data = _named_in(folder, names)
            todo += [(f, (at / f.relative_to(folder).as_posix()).as_posix()) for f in data]
        for top in _imported(found[name]):
            home = _home(top, root)
            if home is None:
                continue
            files = [home / f"{top}.py"] if (home / f"{top}.py").is_file() else sorted((home / top).rglob("*.py"))
            todo += [(f, f.relative_to(home).as_posix()) for f in files]
    return found


def _file_names(source: bytes) -> list[str]:
    """The texts in a Python file that may be names of files, or parts of them."""
    try:
        constants = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant)]
    except (SyntaxError, ValueError):
        return []
    texts = dict.fromkeys(
        c for c in constants if isinstance(c, str) and 0 < len(c) <= _LONGEST and c.isprintable()
    )
    return [t for t in texts if not Path(t).is_absolute() and not {"..", "."} & {*t.split("/")}]


def _named_in(folder: Path, names: list[str]) -> list[Path]:
    """The data files of a folder that these names make, with those of its folders that they name too."""
    places, found = [folder], []
    for place in places:  # grows
        for at in (place / name for name in names):
            with contextlib.suppress(OSError):  # a text that no file can be called, or a folder that is closed
                if at.is_dir() and at not in places:
                    places.append(at)
                elif at.is_file() and at.suffix not in (".py", ".pyc"):
                    found.append(at)
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
        files = own_files(path, tell=warnings.warn)
        with new_folder(folder / FOLDER) as out:
            for name, content in files.items():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                (out / name).write_bytes(content)


def changed(spec: str, folder: Path | None) -> list[str]:
    """Which of a task's files, imports and data are not what `folder` keeps; none if the task's file is gone."""
    path = file_of(spec)
    if path is None or folder is None or not (folder / FOLDER).is_dir() or not path.is_file():
        return []
    copies = [p for p in (folder / FOLDER).rglob("*") if p.is_file() and "__pycache__" not in p.parts]
    kept = {p.relative_to(folder / FOLDER).as_posix(): p.read_bytes() for p in copies}
    now = own_files(path)
    other = [n for n, content in kept.items() if now.get(n) != content]
    # Data may be missing from the copy: folders of the previous version keep none.
    other += [n for n in now if n not in kept and n.endswith(".py")]
    return sorted(other, key=lambda n: n != path.name)


def own_spec(spec: str, folder: Path | None) -> str:
    """The task's name, of the kept copy where the file has changed or is gone."""
    copy, path = copy_of(spec, folder), file_of(spec)
    if copy is None or path is None or (path.is_file() and not changed(spec, folder)):
        return spec
    return f"{copy}{_colon_name(spec)}"


def copy_of(spec: str, folder: Path | None) -> Path | None:
    """The task's file as a folder keeps it; where there is one, what `own_spec` names is what was injected."""
    path = file_of(spec)
    copy = folder / FOLDER / path.name if path and folder else None
    return copy if copy and copy.is_file() else None
