"""Tasks by name and by file; every mistake is one line."""

import pytest

from tracr_jax.errors import UserError
from tracr_jax.tasks import registry
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.tasks.registry import _REQUIRED, get_task


def test_built_in():
    assert get_task("dyck") == Dyck()
    assert get_task("int_sum") == IntSum()
    assert get_task("count") == Count()
    assert get_task("int_sum", as_coded=True) == IntSum(
        as_coded_equals=True, as_coded_exactness=True, as_coded_sets=True
    )


def test_required_is_the_whole_protocol():
    methods = {n for n in vars(Task) if not n.startswith("_")}
    assert set(_REQUIRED) == methods | set(Task.__annotations__)


def test_users_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "import dataclasses\nfrom tracr_jax.tasks.dyck import Dyck\n"
        "@dataclasses.dataclass(frozen=True)\nclass Mine(Dyck):\n    extra: int = 1\n    name = 'mine'\n"
        "TASK = Mine(pairs=('()',))\n"
    )
    task = get_task(f"{path}:TASK")
    assert task.name == "mine"
    assert task.vocab() == {"(", ")", " ", "compute"}


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("TASK = 3", "TASK", "int lacks name, result, marker, program"),
        ("x = 3", "TASK", "has no 'TASK'"),
        ("def broken(:", "TASK", "cannot be imported .SyntaxError"),
        ("import not_there_at_all", "TASK", "cannot be imported .ModuleNotFoundError"),
        ("from tracr_jax.tasks.dyck import Dyck as TASK", "TASK", "is a class; name an instance"),
    ],
)
def test_mistakes_in_a_users_file(tmp_path, content, name, message):
    path = tmp_path / "mine.py"
    path.write_text(content)
    with pytest.raises(UserError, match=message) as e:
        get_task(f"{path}:{name}")
    assert "\n" not in str(e.value)


def test_unknown_name():
    with pytest.raises(UserError, match=r"neither one of dyck, int_sum, count, .*, nested nor of the form"):
        get_task("dick")
    with pytest.raises(UserError, match="no such file"):
        get_task("nowhere.py:TASK")


def test_what_a_task_must_have_is_what_its_protocol_says():
    names = {n for n in dir(Task) if not n.startswith("_")} | set(Task.__annotations__)
    assert set(registry._REQUIRED) == names
    assert len(registry._REQUIRED) == len(names) == 15
