"""A task made of a program alone: its labels are the program's, its sets are balanced and apart from training."""

import pytest
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks.registry import check_task
from tracr_jax.tasks.split import split_of
from tracr_jax.tasks.strings import StringTask


def odd_number_of_a():
    count = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "a"))
    return rasp.Map(lambda n: n % 2 == 1, count)


TASK = StringTask("odd", odd_number_of_a, letters=("a", "b"), max_length=6)


def letters_of(item):
    return item.prompt.removeprefix("What is the text ").removesuffix("\nAnswer:").split(" ")


def test_labels_are_what_the_program_says():
    for index in range(40):
        item = TASK.free_item(index, seed=1)
        assert item.label == ("yes" if letters_of(item).count("a") % 2 else "no")
        assert TASK.teacher_label(item) == (item.label == "yes",)
        assert 2 <= len(letters_of(item)) <= 6


def test_both_answers_in_turn_and_no_test_prompt_in_training():
    items = [TASK.train_item(i, seed=3) for i in range(20)]
    assert [i.label for i in items] == ["yes", "no"] * 10
    assert all(split_of(i.prompt) == "train" for i in items)
    assert items == [TASK.train_item(i, seed=3) for i in range(20)]


def test_sets():
    task = StringTask("odd", odd_number_of_a, letters=("a", "b"), max_length=12)
    test, longer = (task.eval_sets()[n] for n in ("test", "longer"))
    for s, split in ((test, {"test"}), (longer, {"train", "test", "valid"})):
        items = [s.item(i) for i in range(20)]
        assert [i.label for i in items] == ["yes", "no"] * 10
        assert len({i.prompt for i in items}) == 20
        assert {split_of(i.prompt) for i in items} <= split
    assert all(13 <= len(letters_of(longer.item(i))) <= 24 for i in range(20))
    assert {len(letters_of(i)) for i in task.longest_items()} == {12}


def test_is_a_task_and_refuses_what_is_none():
    assert check_task(TASK, "odd") is TASK
    with pytest.raises(UserError, match="two letters or more"):
        StringTask("odd", odd_number_of_a, letters=("a",))
    with pytest.raises(UserError, match="got 2, 4 and 3"):
        StringTask("odd", odd_number_of_a, letters=("a", "b"), min_length=4, max_length=3)
