"""A stranger's `StringTask`: what is said of answers that are none, failing functions, questions and easy sets."""

import dataclasses
import re

import numpy as np
import pytest
from tracr.rasp import rasp

from tests.helpers.rasp_parts import width
from tracr_jax import injection
from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError
from tracr_jax.presets import preset
from tracr_jax.runs.build import build
from tracr_jax.runs.check import check
from tracr_jax.runs.task_bridge import told_of_test
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.registry import BUILT_IN, get_task, preset_name
from tracr_jax.tasks.strings import StringTask

RARE = """from tracr.rasp import rasp
VOCAB='abcdefghij'
def prev(x,k):
    s=rasp.Select(rasp.indices,rasp.indices,lambda a,b,k=k: a==max(b-k,0))
    return rasp.Aggregate(s,x)
def make_abc():
    p=prev(rasp.tokens,1); q=prev(rasp.tokens,2)
    two=rasp.SequenceMap(lambda x,y: x=='b' and y=='a', p, q)
    return rasp.SequenceMap(lambda t,b: t=='c' and b, rasp.tokens, two).named('abc')
"""


def _two():
    return rasp.Map(lambda n: n >= 2, width("a"))


def _odd():
    return rasp.Map(lambda n: n % 2 == 1, width("a"))


def _often():
    """2 where nearly all letters are "a", which random strings hardly show."""
    return rasp.Map(lambda n: 2 if n >= 9 else int(n % 2), width("a"))


def test_a_value_that_is_no_yes_or_no_is_refused_wherever_it_occurs():
    task = StringTask("rare", _often, letters=("a", "b"))
    assert task.item("aaa").label == "yes"
    with pytest.raises(UserError, match=r"of '(a ){9}a' the program's value is 2, neither True nor False"):
        task.item("a" * 10)
    with pytest.raises(UserError, match="the program's value is 2, neither True nor False"):
        task.eval_sets()


@pytest.mark.parametrize("said", ["no", None, 2])
def test_a_truth_that_is_no_yes_or_no_is_refused(said):
    task = StringTask("t", _two, letters=("a", "b"), truth=lambda x: said)
    with pytest.raises(UserError, match=rf"task t: of '[ab ]+' truth\(\) gave {said!r}, neither True nor False"):
        task.eval_sets()


def test_a_truth_of_numpy_or_of_numbers_is_one():
    task = StringTask("t", _two, letters=("a", "b"), truth=lambda x: np.bool_(x.count("a") > 1))
    assert task.eval_sets()["test"].size
    task = StringTask("t", _two, letters=("a", "b"), truth=lambda x: int(x.count("a") > 1))
    assert task.eval_sets()["test"].size


def test_a_function_that_fails_is_one_line_however_the_sets_are_asked_for():
    task = StringTask("t", lambda: rasp.Map(lambda x: {"a": 1, "b": 0}[x], rasp.tokens), letters=("a", "b"))
    with pytest.raises(UserError, match=r"^task t: a function of the program fails \(KeyError: '\?'\)"):
        task.eval_sets()
    with pytest.raises(UserError, match=r"^task t: "):
        check(task)


@pytest.mark.parametrize("question", ['How many "a" are in', "Zxqa wqb is it even"])
def test_a_letter_within_a_word_of_the_question_is_named(question):
    task = StringTask("t", _odd, letters=("a", "b"), question=question)
    with pytest.raises(UserError, match=r"^bridge: t: the question's token 'a' is read as a letter"):
        check(task)


def test_a_test_set_that_is_right_without_the_program_is_said(tmp_path):
    (tmp_path / "rare.py").write_text(RARE)
    task = get_task(f"{tmp_path}/rare.py")
    line = told_of_test(task, RunConfig())
    assert re.search(r"^rare: .* is right in (19\d|200) of 200 test items without the program, ", line)
    assert "\n" not in line
    assert told_of_test(get_task("dyck"), RunConfig()) == ""
    assert told_of_test(StringTask("odd", _odd, letters=("a", "b"), max_length=8), RunConfig()) == ""


def test_a_test_set_of_few_items_is_said(tmp_path):
    task = StringTask("odd", _odd, letters=("a", "b"), max_length=4)
    items = task.eval_sets()["test"].size
    assert told_of_test(task, RunConfig()).startswith(f"odd: the test set has {items} items, of which all right ")


@pytest.mark.parametrize("name", ["dyck", "count", "int_sum", "sort"])
def test_an_object_with_a_built_in_tasks_name_has_the_preset_of_any_program(name):
    task = StringTask(name, _odd, letters=("a", "b"), max_length=4)
    assert preset_name(task) not in BUILT_IN
    assert preset_name(get_task(name)) == preset_name(name) == name
    config = dataclasses.replace(preset(task=preset_name(task)), task=name)
    assert config == dataclasses.replace(preset(task="any_other"), task=name)


def test_parameters_leave_a_built_in_task_its_preset():
    assert preset_name(Dyck(max_length=12)) == "dyck"
    assert preset_name(dataclasses.replace(get_task("sort"), max_length=4)) == "sort"


def test_a_task_object_called_dyck_is_checked_and_injected_as_what_it_is(monkeypatch):
    task = StringTask("dyck", _odd, letters=("a", "b"), max_length=4)
    assert check(task).needed
    begun = []
    monkeypatch.setattr(injection, "_run", lambda config, **_: begun.append(config))
    injection.inject(task)
    assert begun[0].task == "dyck"
    assert begun[0].losses == preset(task="any_other").losses


def test_messages_about_an_object_have_its_name_and_not_its_class():
    task = StringTask("mine", lambda: rasp.Map(lambda x: {"a": 1, "b": 0}[x], rasp.tokens), letters=("a", "b"))
    for ask in (check, lambda task: build(RunConfig(), task=task, lm="tiny")):
        with pytest.raises(UserError, match=r"^task mine: "):
            ask(task)
    with pytest.raises(UserError, match=r"^task Nothing: Nothing lacks name"):
        check(type("Nothing", (), {})())


@pytest.mark.parametrize(
    ("vocab", "said"),
    [("[True, 1, 'a']", "has True and 1"), ("['a', 1, 'b', 1.0]", "has 1 and 1.0")],
)
def test_values_that_are_equal_are_refused(tmp_path, vocab, said):
    path = tmp_path / "mine.py"
    path.write_text(
        f"from tracr.rasp import rasp\nVOCAB = {vocab}\n"
        "def make_it():\n    return rasp.Map(lambda x: x == 'a', rasp.tokens)\n"
    )
    with pytest.raises(UserError, match=rf"{said}, which are equal and so one value to the program; give one"):
        get_task(str(path))
