"""The zoo: each program says what its truth in Python says, and is what is compiled."""

import itertools

import pytest

from tests.tasks.programs_test import matched_by_deletion
from tracr_jax.tasks.registry import get_task
from tracr_jax.tasks.zoo import ZOO
from tracr_jax.teacher.compile import compile_program
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.verify import random_inputs, verify

_STRINGS = 150


def strings(task):
    """Short ones in order of length, then random ones of every length that is trained."""
    every = itertools.chain.from_iterable(
        itertools.product(task.letters, repeat=n) for n in range(task.min_length, task.max_length + 1)
    )
    return [*itertools.islice(every, _STRINGS), *((c,) * task.max_length for c in task.letters)]


@pytest.mark.parametrize("name", ZOO)
def test_the_program_says_what_the_truth_says(name):
    task = ZOO[name]
    answers = set()
    for letters in strings(task):
        truth = task.truth(list(letters))
        truth = tuple(truth) if task.answer == "sequence" else truth
        answer = task._answer(letters)
        assert answer == truth, letters
        assert type(answer) is type(truth)
        answers.add(answer)
    assert len(answers) > 1


@pytest.mark.parametrize("name", ZOO)
def test_the_network_is_the_program(name):
    task = ZOO[name]
    length = task.max_length + 4
    teacher = compile_program(
        lambda: task.program(max_seq_len=length),
        vocab=task.vocab(),
        max_seq_len=length,
        mlp_exactness=task.mlp_exactness(length),
    )
    asked = [[*s[: length - 3], "other", "?", s[0]] for s in strings(task)[::15]]
    oracle = Oracle(task.program(max_seq_len=length))
    report = verify(teacher, oracle, inputs=[*asked, *random_inputs(teacher, range(1, length + 1))])
    assert report.ok, str(report)
    assert report.compared > 1000


@pytest.mark.parametrize("name", ZOO)
def test_no_variable_is_held_twice(name):
    """Of two expressions of a name the one is the other: a network as wide as it need be."""
    task = ZOO[name]
    names = [label.rpartition("_")[0] for label in Oracle(task.program(max_seq_len=8)).names]
    shared = [n for n in ("asked", "string", "is_letter", "length", "rank", "step") if names.count(n) > 1]
    assert not shared


@pytest.mark.parametrize("name", ["sort", "nested", "first_position"])
def test_items_and_sets(name):
    task = get_task(name)
    assert task is ZOO[name]
    sets = task.eval_sets()
    assert sets["test"].size >= 50
    for one in sets.values():
        for i in range(0, one.size, 23):
            item = one.item(i)
            assert not (one.name != "longer" and task.in_training(item.prompt))
            letters = task._letters(item.prompt)
            assert item.label == task._label(task._answer(letters))
    for i in range(20):
        assert task.in_training(task.train_item(i, seed=0).prompt)


def letters_and_labels(task, name):
    chosen = task.eval_sets()[name]
    items = [chosen.item(i) for i in range(chosen.size)]
    return [(task._letters(i.prompt), i.label) for i in items]


def test_brackets_that_cross_are_among_the_items_of_nested():
    """A quarter of "no" at least is balanced in each kind: who looks at the kinds apart is wrong there."""
    task = ZOO["nested"]
    trained = [task.train_item(i, seed=0) for i in range(400)]
    groups = {name: letters_and_labels(task, name) for name in task.eval_sets()}
    groups["train"] = [(task._letters(i.prompt), i.label) for i in trained]
    for name, items in groups.items():
        no = [letters for letters, label in items if label == "no"]
        crossing = [x for x in no if matched_by_deletion("".join(x), ("()", "[]"))]
        assert len(crossing) >= 0.25 * len(no), name
        rule = task.baselines()["types_apart"]
        right = sum(rule(task._prompt(x)) == label for x, label in items)
        assert right == len(items) - len(crossing), name


@pytest.mark.parametrize("name", ["dyck1", "nested"])
def test_longer_balanced_strings_have_every_length(name):
    task = ZOO[name]
    yes = [len(letters) for letters, label in letters_and_labels(task, "longer") if label == "yes"]
    lengths = range(task.max_length + 2 - task.max_length % 2, 2 * task.max_length + 1, 2)
    assert set(yes) == set(lengths)
    assert max(map(yes.count, lengths)) <= 3 * len(yes) / len(lengths)
    assert len(yes) >= 90


def test_what_ends_and_counts_tell_stands_beside_the_brackets():
    task = ZOO["dyck1"]
    for name, rule, low, high in (
        ("longer", "first_and_last", 0.6, 0.9),
        ("longer", "counts_ignoring_order", 0.6, 0.9),
        ("longer", "ends_and_parity", 0.6, 0.9),
        ("test", "ends_and_parity", 0.7, 0.95),
    ):
        items, says = letters_and_labels(task, name), task.baselines()[rule]
        assert low < sum(says(task._prompt(x)) == label for x, label in items) / len(items) < high, (name, rule)
    assert task.baselines()["first_and_last"](task._prompt("(())")) == "yes"
    assert task.baselines()["first_and_last"](task._prompt("())")) == "no"
