"""From a name to a task: the built-in ones, or an object in the user's own file. Source: docs/method.md §7."""

import contextlib
import difflib
import importlib.util
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.contract import check_contract, place
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.found import find_program, is_program
from tracr_jax.tasks.from_file import make_task
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.tasks.kept import import_folders
from tracr_jax.tasks.mistakes import mistakes_said_later
from tracr_jax.tasks.zoo import ZOO

_PAPER = {"dyck": Dyck, "int_sum": IntSum, "count": Count}
BUILT_IN = (*_PAPER, *ZOO)
"""Names of the tasks that the package brings."""

# Everything the rest of the package reads of a task, see base.py: its attributes and its methods.
_REQUIRED = (*Task.__annotations__, *(n for n, f in vars(Task).items() if inspect.isfunction(f) and n[0] != "_"))


def get_task(spec: str, *, as_coded: bool = False, contract: bool = True) -> Task:
    """The task called `spec`: "dyck", "int_sum", "count", one of the zoo, or "path/to/file.py:NAME".

    Args:
      spec: name, or file and the name of an object in it, or a folder that holds one file.
      as_coded: with every `as_coded…` switch of the original's task on; others have none.
      contract: ask a file's task for what its methods give, which draws its sets; not needed of a copy that was
        asked before it was kept.

    Raises:
      UserError: no such task, file or object, or the object lacks attributes of a task.
    """
    if spec in _PAPER:
        return as_coded_task(spec) if as_coded else _PAPER[spec]()
    if spec in ZOO:
        return ZOO[spec]  # pyright: ignore[reportReturnType] - frozen, and so no less a task
    spec = as_file(spec)
    path, colon, name = spec.rpartition(":") if not spec.endswith(".py") else (spec, ":", "")
    if not colon or not path.endswith(".py"):
        near = difflib.get_close_matches(spec, BUILT_IN, n=1)
        raise UserError(
            f"task {spec!r}: neither one of {', '.join(BUILT_IN)} nor of the form path/to/file.py:NAME"
            + (f"; did you mean {near[0]}?" if near else "")
        )
    found, name = _load(Path(path), name)
    return check_task(found, f"{path}:{name}", contract=contract)


def called(task: object) -> str:
    """A task object in messages: by its own name, where it has one, else by its class."""
    name = getattr(task, "name", "")
    return name if isinstance(name, str) and name else type(task).__name__


def preset_name(task: Task | str) -> str:
    """The name by which `tracr_jax.presets.preset` knows a task; another for an object that only shares a name.

    An object is a built-in one where it is of its class (or for the zoo, of its program), whatever its parameters.
    """
    if isinstance(task, str):
        return task
    own = f"object {task.name}"
    if task.name in _PAPER:
        return task.name if isinstance(task, _PAPER[task.name]) else own
    if task.name in ZOO:
        return task.name if getattr(task, "build", None) is ZOO[task.name].build else own
    return task.name


def as_file(spec: str) -> str:
    """The same name of a task, where it is that of a folder, by the one file in it.

    Raises:
      UserError: the folder holds none, or several.
    """
    built_in = spec in _PAPER or spec in ZOO
    return str(_only_file(Path(spec))) if not built_in and Path(spec).is_dir() else spec


def as_coded_task(name: str) -> Task:
    """A built-in task exactly as the original codes it."""
    if name == "dyck":
        return Dyck(as_coded_exactness=True, as_coded_split=True, as_coded_sets=True)
    if name == "int_sum":
        return IntSum(as_coded_equals=True, as_coded_exactness=True, as_coded_sets=True)
    return Count(numbers=120, as_coded_merges=True, as_coded_exactness=True, as_coded_sets=True)


def check_task(task: object, spec: str, *, contract: bool = True) -> Task:
    """The same object, or a UserError that lists what it lacks; `contract`: see `get_task`."""
    missing = _missing(task)
    if missing:
        hint = (
            "; make an instance of the class"
            if isinstance(task, type)
            else "; tracr_jax.SampledTask has defaults for most, tracr_jax.StringTask needs a program and letters"
        )
        raise UserError(f"task {spec}: {type(task).__name__} lacks {', '.join(missing)}{hint}")
    if isinstance(task, type):
        raise UserError(f"task {spec}: is a class; name an instance of it, as TASK = {task.__name__}()")
    if mistake := getattr(task, "mistake", ""):
        raise UserError(mistake)
    if contract:
        check_contract(task, spec)  # pyright: ignore[reportArgumentType]
    return task  # type: ignore[return-value]


def program_files(folder: Path) -> list[Path]:
    """The Python files below a folder that may hold a program: none that is hidden, private or a test."""
    hidden = (".", "_", "test_", "conftest.py")
    found = [p for p in folder.rglob("*.py") if not p.name.endswith("_test.py")]
    return sorted(p for p in found if not any(x.startswith(hidden) for x in p.relative_to(folder).parts))


def _only_file(folder: Path) -> Path:
    files = program_files(folder)
    if not files:
        raise UserError(f"task {folder}: a folder without Python files; give one of `tracr-jax tasks`, or a file")
    if len(files) > 1:
        some = ", ".join(str(p.relative_to(folder)) for p in files[:3]) + (", …" if len(files) > 3 else "")
        raise UserError(
            f"task {folder}: holds {len(files)} files ({some}); give one of them. tracr-jax tasks {folder} says "
            "what is in each"
        )
    return files[0]


_BESIDE: set[str] = set()  # names of modules that task files have imported from their own folders


def _is_beside(name: str, folders: Sequence[str]) -> bool:
    """Whether a module lies in one of the folders, and not in an environment within it."""
    path = Path(getattr(sys.modules[name], "__file__", None) or "/")
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return not installed and any(path.resolve().is_relative_to(folder) for folder in folders)


def _is_anothers(name: str, folders: Sequence[str]) -> bool:
    """Whether a module lies beside another file, and these folders have one of its name."""
    here = any((Path(f) / f"{_top(name)}.py").exists() or (Path(f) / _top(name)).is_dir() for f in folders)
    return here and not _is_beside(name, folders)


def _top(name: str) -> str:
    return name.partition(".")[0]


def _load(path: Path, name: str) -> tuple[object, str]:
    """The object called `name` in a file, and its name; without a name, the one task that the file holds."""
    if not path.is_file():
        raise UserError(f"task {path}:{name}: no such file" if name else f"task {path}: no such file")
    module_name = f"_tracr_jax_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[module_name] = module
    folders = [str(folder) for folder in import_folders(path)]
    for name_ in [n for n in _BESIDE if n in sys.modules and _is_anothers(n, folders)]:
        del sys.modules[name_]
    before = set(sys.modules)
    sys.path[:0] = folders  # the file may import what lies beside it
    try:
        with mistakes_said_later():
            try:
                spec.loader.exec_module(module)
            except FileNotFoundError as e:
                if not _lies_beside(e.filename, path):
                    raise
                # Data that lie beside the file, asked for from another directory.
                with contextlib.chdir(path.resolve().parent):
                    spec.loader.exec_module(module)
    except UserError as e:
        raise UserError(f"task {path}: {e}{place(e)}") from e
    except (Exception, SystemExit) as e:
        alone = isinstance(e, ImportError) and "relative import" in str(e)
        hint = (
            "; the file is imported by itself and has no package: write from NAME import, without the dot" * alone
        )
        raise UserError(f"task {path}: cannot be imported ({type(e).__name__}: {e}{place(e)}){hint}") from e
    finally:
        _BESIDE.update(n for n in set(sys.modules) - before if _is_beside(n, folders) and _top(n) not in before)
        for folder in folders:
            if folder in sys.path:
                sys.path.remove(folder)
    tasks = [n for n, o in vars(module).items() if not isinstance(o, type) and not _missing(o)]
    if tasks and not name:
        if len(tasks) > 1:
            raise UserError(f"task {path}: holds {', '.join(tasks)}; choose one as {path}:NAME")
        name = tasks[0]
    if tasks and not hasattr(module, name):
        raise UserError(f"task {path}: has no {name!r}, only {', '.join(tasks)}; it is the name after the colon")
    if not name or is_program(getattr(module, name, None)):
        found, called = find_program(module, name, path=str(path))
        return make_task(found, name=name or path.stem), called
    if not hasattr(module, name):
        raise UserError(f"task {path}: has no {name!r}; it is the name after the colon")
    return getattr(module, name), name


def _lies_beside(name: object, path: Path) -> bool:
    return isinstance(name, str) and not Path(name).is_absolute() and (path.resolve().parent / name).exists()


def _missing(task: object) -> list[str]:
    # An attribute that computes something may fail: check_contract says how.
    return [a for a in _REQUIRED if not hasattr(type(task), a) and getattr(task, a, None) is None]
