"""A file whose task is another one each time it is imported is refused before anything is trained on it."""

import pytest

from tests.helpers.task_files import task_of
from tracr_jax.errors import UserError
from tracr_jax.runs.check import check
from tracr_jax.tasks.again import check_again
from tracr_jax.tasks.registry import get_task

OTHERS = {
    "random numbers": "import random\nT = {v: random.random() < 0.5 for v in VOCAB}",
    "the order of a set": "T = {v: i < 4 for i, v in enumerate(VOCAB)}",
}
PROGRAM = "VOCAB = set('abcdefgh')\n{}\ndef make_x():\n    return rasp.Map(lambda x: T[x], rasp.tokens)\n"
SAME = PROGRAM.format("print('hello')\nT = {v: v < 'e' for v in VOCAB}")


@pytest.mark.parametrize("kind", OTHERS)
def test_another_program_at_each_import_is_refused(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    task_of(tmp_path, "mine", PROGRAM.format(OTHERS[kind]))
    with pytest.raises(
        UserError, match=r"mine.py: imported a second time it is another one \(of .*, then of "
    ) as e:
        check("mine.py")
    assert "\n" not in str(e.value)


def test_one_that_cannot_be_imported_again_is_refused(tmp_path):
    once = "from pathlib import Path\nPath(__file__).with_suffix('.lock').touch(exist_ok=False)\n"
    task = task_of(tmp_path, "mine", once + SAME)
    with pytest.raises(UserError, match=r"imported a second time, in a new process, it fails \(.*File exists"):
        check_again(f"{tmp_path}/mine.py", task)


def test_the_same_program_passes_whatever_it_prints_and_built_in_tasks_are_not_asked(tmp_path, monkeypatch):
    check_again(f"{tmp_path}/mine.py", task_of(tmp_path, "mine", SAME))
    monkeypatch.setattr("subprocess.run", None)
    check_again("dyck", get_task("dyck"))
