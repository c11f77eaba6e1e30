"""From a name to a task: the built-in three, or an object in the user's own file. Source: docs/method.md §7."""

import importlib.util
import sys
from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.contract import check_contract, place
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum

_BUILT_IN = {"dyck": Dyck, "int_sum": IntSum, "count": Count}

# Everything the rest of the package reads of a task, see base.py.
_REQUIRED = (
    "name", "result", "marker", "program", "vocab", "mlp_exactness", "token_map", "keep_merge", "train_item",
    "free_item", "in_training", "eval_sets", "longest_items", "teacher_label", "baselines",
)  # fmt: skip


def get_task(spec: str, *, as_coded: bool = False) -> Task:
    """The task called `spec`: "dyck", "int_sum", "count", or "path/to/file.py:NAME".

    Args:
      spec: name, or file and the name of an object in it.
      as_coded: with every `as_coded…` switch of the built-in task on; a user's task has none.

    Raises:
      UserError: no such task, file or object, or the object lacks attributes of a task.
    """
    if spec in _BUILT_IN:
        return as_coded_task(spec) if as_coded else _BUILT_IN[spec]()
    path, colon, name = spec.rpartition(":")
    if not colon or not path.endswith(".py"):
        raise UserError(
            f"task {spec!r}: neither one of {', '.join(_BUILT_IN)} nor of the form path/to/file.py:NAME"
        )
    return check_task(_load(Path(path), name), spec)


def as_coded_task(name: str) -> Task:
    """A built-in task exactly as the original codes it."""
    if name == "dyck":
        return Dyck(as_coded_exactness=True, as_coded_split=True, as_coded_sets=True)
    if name == "int_sum":
        return IntSum(as_coded_equals=True, as_coded_exactness=True, as_coded_sets=True)
    return Count(numbers=120, as_coded_merges=True, as_coded_exactness=True, as_coded_sets=True)


def check_task(task: object, spec: str) -> Task:
    """The same object, or a UserError that lists what it lacks."""
    missing = [a for a in _REQUIRED if getattr(task, a, None) is None]
    if missing:
        hint = "; make an instance of the class" if isinstance(task, type) else "; see tracr_jax/tasks/base.py"
        raise UserError(f"task {spec}: {type(task).__name__} lacks {', '.join(missing)}{hint}")
    if isinstance(task, type):
        raise UserError(f"task {spec}: is a class; name an instance of it, as TASK = {task.__name__}()")
    check_contract(task, spec)  # pyright: ignore[reportArgumentType]
    return task  # type: ignore[return-value]


def _load(path: Path, name: str) -> object:
    if not path.is_file():
        raise UserError(f"task {path}:{name}: no such file")
    module_name = f"_tracr_jax_task_{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None  # a .py file always has a loader
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as e:
        raise UserError(f"task {path}: cannot be imported ({type(e).__name__}: {e}{place(e)})") from e
    if not hasattr(module, name):
        raise UserError(f"task {path}: has no {name!r}; it is the name after the colon")
    return getattr(module, name)
