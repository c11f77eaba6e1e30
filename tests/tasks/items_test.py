"""Items and sets: labels against brute force, splits that never overlap, what each set promises, the baselines."""

import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tasks.programs_test import matched_by_deletion
from tracr_jax.errors import UserError
from tracr_jax.tasks.brackets import balanced_brackets, bracket_runs, exchange_two, is_matched, replace_one
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.tasks.registry import get_task
from tracr_jax.tasks.split import rng, split_of

TASKS = [Dyck(), IntSum(), Count()]
IDS = [t.name for t in TASKS]
PAIRS = ("()", "{}", "[]")
ORIGINAL_SETS = {
    "dyck": {"length_ood", "almost_balanced", "ood_new_token"},
    "int_sum": {"length_ood", "cascading_overflow", "decimals"},
    "count": {"length_ood", "x_only", "replace_y"},
}


def true_label(task, prompt):
    """The answer from the prompt's text alone, by other means than the task's."""
    if task.name == "dyck":
        text = "".join(re.findall(r"[][(){}<>]", prompt))
        return "yes" if matched_by_deletion(text, (*PAIRS, "<>")) else "no"
    if task.name == "int_sum":
        a, b = re.fullmatch(r"([\d.]+) \+ ([\d.]+) =", prompt).groups()
        return f"{float(a) + float(b):.2f}" if "." in a else f"{int(a) + int(b)}"
    words = re.fullmatch(r"What is the number of 'X' in this text\? (.*)\nAnswer:", prompt)[1]
    return str(len(re.findall(r"\bx\b", words)))


def first(chosen, n=60):
    return [chosen.item(i) for i in range(min(n, chosen.size))]


@pytest.mark.parametrize("task", TASKS, ids=IDS)
@settings(deadline=None, max_examples=50)
@given(index=st.integers(0, 10**9), seed=st.integers(0, 2**32 - 1))
def test_items_are_labelled_right_and_stay_out_of_the_test_split(task, index, seed):
    for item in (task.train_item(index, seed=seed), task.free_item(index, seed=seed)):
        assert item.label == true_label(task, item.prompt)
        assert split_of(item.prompt) == "train"
    assert task.train_item(index, seed=seed) == task.train_item(index, seed=seed)
    assert task.in_training(task.train_item(index, seed=seed).prompt)


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_every_set_is_labelled_right_distinct_and_pure(task):
    again = type(task)(**{**vars(task), "as_coded_sets": True}).eval_sets()  # a fresh cache, more sets
    sets = task.eval_sets()
    assert list(sets)[:2] == ["test", "valid"]
    assert set(sets) >= ORIGINAL_SETS[task.name]
    for name, chosen in sets.items():
        items = first(chosen)
        assert chosen.name == name
        assert all(i.label == true_label(task, i.prompt) for i in items), name
        assert len({i.prompt for i in items}) == len(items), name
        # Asked for out of order, the items are the same.
        assert [again[name].item(i) for i in reversed(range(len(items)))][::-1] == items, name


@pytest.mark.parametrize("task", TASKS, ids=IDS)
def test_training_and_evaluation_do_not_meet(task):
    for name, chosen in task.eval_sets().items():
        overlap = [task.in_training(i.prompt) for i in first(chosen, 200)]
        if name == "cascading_overflow":  # the original's; docs/differences.md C22 measured 44 % in the grid
            assert 0.3 < sum(overlap) / len(overlap) < 0.5
        else:
            assert not any(overlap), name
    sets = task.eval_sets()
    assert not {i.prompt for i in first(sets["test"], 300)} & {i.prompt for i in first(sets["valid"], 300)}


def test_training_labels_are_balanced_as_in_the_original():
    labels = [TASKS[0].train_item(i, seed=3).label for i in range(600)]
    assert 0.44 < labels.count("yes") / 600 < 0.56  # 49.8 % overall
    counts = [int(TASKS[2].train_item(i, seed=3).label) for i in range(300)]
    assert min(counts) < 5
    assert max(counts) > 20


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), half=st.integers(3, 45))
def test_bracket_strings_are_what_they_are_called(seed, half):
    r = rng(seed)
    text = balanced_brackets(r, 2 * half, PAIRS)
    assert len(text) == 2 * half
    assert matched_by_deletion(text, PAIRS)
    near = replace_one(r, text, PAIRS)
    assert sum(a != b for a, b in zip(near, text, strict=True)) == 1
    assert not matched_by_deletion(near, PAIRS)
    swapped = exchange_two(r, text, PAIRS)
    assert sorted(swapped) == sorted(text)
    assert not matched_by_deletion(swapped, PAIRS)


@settings(deadline=None, max_examples=100)
@given(st.text("()[]{}", max_size=12))
def test_matching_agrees_with_deletion(text):
    assert is_matched(text, PAIRS) == matched_by_deletion(text, PAIRS)


def body(item):
    return item.prompt.split("? ")[1].removesuffix("\nAnswer:")


def test_dyck_sets_hold_what_they_promise():
    sets = Dyck(as_coded_sets=True).eval_sets()
    items = {n: first(s, 200) for n, s in sets.items()}
    assert {i.label for i in items["near_miss"]} == {"no"}
    assert {i.label for i in items["almost_balanced"]} == {"no"}
    assert all(len(body(i)) % 2 == 1 for i in items["almost_balanced"])
    for name in ("near_miss_balanced", "order_miss_balanced", "almost_balanced_even"):
        assert sum(i.label == "yes" for i in items[name]) == 100, name
        assert all(len(body(i)) % 2 == 0 for i in items[name]), name
    for name in ("near_miss", "near_miss_balanced", "order_miss_balanced"):
        assert all(12 <= len(body(i)) <= 30 for i in items[name]), name
    assert all(31 <= len(body(i)) <= 90 for i in items["length_ood"])
    assert any(len(body(i)) <= 30 for i in items["length_ood_as_coded"])
    assert any("<" in body(i) for i in items["ood_new_token"])
    for name in ("deep_one_type", "long_runs", "other_question", "spaced"):
        assert sum(i.label == "yes" for i in items[name]) == 100, name
        brackets = ["".join(c for c in i.prompt if c in "()[]{}") for i in items[name]]
        assert all(
            matched_by_deletion(b, PAIRS) == (i.label == "yes") for b, i in zip(brackets, items[name], strict=True)
        )
        assert not any(Dyck().in_training(i.prompt) for i in items[name])
        assert max(map(len, brackets)) <= 30
    balanced = [body(i) for i in items["deep_one_type"] if i.label == "yes"]
    assert all(len(set(b)) == 2 for b in balanced)
    assert all(max(b[: k + 1].count(b[0]) - b[: k + 1].count(b[-1]) for k in range(len(b))) >= 8 for b in balanced)
    runs = [body(i) for i in items["long_runs"] if i.label == "yes"]
    assert all(len(list(run)) >= 2 for b in runs for _, run in itertools.groupby(b))
    assert {len(b) for b in runs} <= set(range(14, 23, 2))
    drawn = {len(bracket_runs(rng(1, i), PAIRS)) for i in range(2000)}
    assert (min(drawn), max(drawn)) == (14, 22)
    assert all(body(i)[1::2] == " " * (len(body(i)) // 2) for i in items["spaced"])
    assert not any("Are parenthesis" in i.prompt for i in items["other_question"])


def test_a_smaller_dyck_has_unusual_items_too():
    task = Dyck(pairs=("()", "[]"), min_length=4, max_length=10)
    for name in ("deep_one_type", "long_runs", "spaced"):
        chosen = task.eval_sets()[name]
        assert {i.label for i in first(chosen, 40)} == {"yes", "no"}, name


def test_dyck_baselines_show_what_a_set_is_worth():
    sets = Dyck().eval_sets()

    def score(name, baseline):
        f = Dyck().baselines()[baseline]
        items = first(sets[name], 200)
        return sum(f(i.prompt) == i.label for i in items) / len(items)

    assert score("almost_balanced", "even_length") == 1.0  # docs/differences.md C23
    assert score("near_miss_balanced", "even_length") == 0.5
    assert score("near_miss_balanced", "always_no") == 0.5
    assert score("order_miss_balanced", "counts_ignoring_order") == 0.5
    assert score("near_miss_balanced", "counts_ignoring_order") == 1.0
    for name in ("deep_one_type", "long_runs", "other_question", "spaced"):
        assert score(name, "counts_ignoring_order") == score(name, "even_length") == 0.5, name
    assert 0.68 < score("test", "even_length") < 0.82  # docs/differences.md C23: 75 %


def test_int_sum_sets_hold_what_they_promise():
    task = IntSum(as_coded_sets=True)
    sets = task.eval_sets()

    def operands(name):
        return [tuple(float(x) for x in i.prompt.removesuffix(" =").split(" + ")) for i in first(sets[name], 200)]

    assert all(1000 <= x < 4500 for pair in operands("length_ood") for x in pair)
    assert any(min(pair) < 1000 for pair in operands("length_ood_as_coded"))  # docs/differences.md C21: 39 %
    assert sets["cascading_overflow"].size == 4500
    assert all(sum(pair) % 100 == 0 for pair in operands("cascading_overflow_unseen"))
    assert all(450 <= x < 500 for pair in operands("larger_operands") for x in pair)
    assert all(i.prompt.count(".") == 2 for i in first(sets["decimals"]))
    unseen = {i.prompt for n in ("cascading_overflow_unseen", "larger_operands") for i in first(sets[n], 5000)}
    assert not unseen & {task.free_item(i, seed=1).prompt for i in range(500)}


def test_count_sets_hold_what_they_promise():
    sets = Count().eval_sets()
    only = first(sets["x_only"])
    assert sorted(int(i.label) for i in only) == list(range(1, 41))
    for test, other in zip(first(sets["test"]), first(sets["replace_y"]), strict=True):
        assert other.prompt == test.prompt.replace("y", "z")
        assert other.label == test.label
    assert all(41 <= len(body(i).split()) <= 120 for i in first(sets["length_ood"]))
    assert all("y" in body(Count().train_item(i, seed=0)).split() for i in range(100))


def test_as_coded_split_lets_test_items_into_training():
    task = Dyck(as_coded_split=True)
    assert {split_of(task.train_item(i, seed=0).prompt) for i in range(200)} == {"train", "valid", "test"}
    assert not Dyck().in_training(task.eval_sets()["test"].item(0).prompt)
    assert task.in_training(task.eval_sets()["test"].item(0).prompt)


def test_as_coded_exactness():
    for name, value in (("dyck", 100), ("int_sum", 100), ("count", 10_000)):
        assert get_task(name, as_coded=True).mlp_exactness(120) == value
        assert get_task(name).mlp_exactness(120) == 29_040  # 2 T (T + 1), docs/teacher.md §3a


def test_a_set_that_cannot_be_filled_says_so():
    with pytest.raises(UserError, match=r"test: only .* distinct items found, 2000 promised"):
        Dyck(pairs=("()",), min_length=1, max_length=4).eval_sets()["test"].item(3999)


def test_sums_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="sums up to 1198 do not fit 3 digits"):
        IntSum(limit=600)
