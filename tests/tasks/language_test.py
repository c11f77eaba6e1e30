"""Rare answers: the search that finds strings which have them, and the tasks that are made of these."""

import dataclasses

import pytest
from tracr.rasp import rasp

from tests.helpers.rasp_parts import width
from tracr_jax.errors import UserError
from tracr_jax.tasks import language
from tracr_jax.tasks.strings import StringTask
from tracr_jax.teacher.oracle import Oracle


def all_a():
    other = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key in ("b", "c", "d")))
    return rasp.Map(lambda n: n == 0, other)


def nested():
    """Properly nested round brackets."""
    opens = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "("))
    closes = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == ")"))
    depth = rasp.SequenceMap(lambda a, b: a - b, opens, closes)
    under = rasp.SelectorWidth(rasp.Select(depth, rasp.tokens, lambda key, query: key < 0))
    x = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key in ("x", "y", "z")))
    wrong = rasp.SequenceMap(lambda u, x: u + x, under, x)
    return rasp.SequenceMap(lambda u, d: u == 0 and d == 0, wrong, depth)


@pytest.mark.parametrize(("low", "high"), [(2, 8), (9, 16)])
@pytest.mark.parametrize("program", [nested, all_a, lambda: rasp.Map(lambda n: n > 99, width("x"))])
def test_the_search_finds_the_same_strings_whether_it_asks_one_by_one_or_together(monkeypatch, program, low, high):
    letters = ("(", ")", "x") if program is nested else ("a", "b", "x")

    def found(together):
        monkeypatch.setattr(language, "_TOGETHER", together)
        oracle = Oracle(program())
        asked = []

        def answers(strings):
            asked.append(len(strings))
            prompts = [[*s, "?"] for s in strings]
            return [value for (value,) in language.written(oracle, prompts, [1] * len(strings), letters=letters)]

        return language.explore(answers, letters, low=low, high=high, budget=300), max(asked)

    one, at_once = found(1), found(40)
    assert (one[1], at_once[1]) == (1, 40)
    assert one[0] == at_once[0]
    assert [*one[0].found.values()] == [*at_once[0].found.values()]  # in the same order


def test_an_answer_at_a_threshold_that_chance_never_meets_is_found():
    letters = tuple("abcdefghijklmnopqrst")
    task = StringTask("many", lambda: rasp.Map(lambda n: n >= 25, width("a")), letters=letters, max_length=40)
    assert len(task._language.found[True]) > 20
    assert {task.train_item(i, seed=0).label for i in range(8)} == {"yes", "no"}


def test_a_rare_answer_is_found_by_changing_what_was_found():
    task = StringTask("nested", nested, letters=("(", ")", "x", "y", "z"), max_length=8)
    assert not task._language.common(True)
    assert len(task._language.found[True]) >= 15
    sets = task.eval_sets()
    for name in ("test", "longer"):
        labels = [sets[name].item(i).label for i in range(sets[name].size)]
        assert labels.count("yes") >= 3
    assert "Only" in sets["test"].note
    test = {sets["test"].item(i).prompt for i in range(sets["test"].size)}
    items = [task.train_item(i, seed=0) for i in range(200)]
    assert [i.label for i in items] == ["yes", "no"] * 100
    assert not test & {i.prompt for i in items}
    assert not any(task.in_training(p) for p in test)


def two_b_among_a():
    others = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key in ("c", "d")))
    return rasp.SequenceMap(lambda b, n: b == 2 and n == 0, width("b"), others)


def test_what_no_search_finds_is_said_or_generated():
    task = StringTask("two_b", two_b_among_a, letters=("a", "b", "c", "d"), min_length=11, max_length=14)
    with pytest.raises(UserError, match=r"says 'no' of all .* give generate="):
        task.train_item(0, seed=0)
    made = dataclasses.replace(
        task, generate=lambda r: [*r.permutation(["a"] * int(r.integers(9, 13)) + ["b"] * 2)]
    )
    assert {made.train_item(i, seed=0).label for i in range(4)} == {"yes", "no"}
    assert made.train_item(0, seed=0).label == "yes"


def all_a_of(generate):
    return StringTask(
        "all_a", all_a, letters=("a", "b", "c", "d"), min_length=6, max_length=12, generate=generate, set_size=60
    )


def labels(task, name):
    chosen = task.eval_sets()[name]
    return [chosen.item(i).label for i in range(chosen.size)]


def a_with_b(r, low, high):
    """All a, or one b among them."""
    out = ["a"] * int(r.integers(low, high + 1))
    if r.integers(2):
        out[int(r.integers(len(out)))] = "b"
    return out


def test_a_generator_of_trainings_lengths_leaves_longer_strings_to_the_search():
    task = all_a_of(lambda r: a_with_b(r, 6, 12))
    assert labels(task, "longer").count("yes") > 3
    assert "No item" not in task.eval_sets()["longer"].note


def test_a_generator_that_takes_lengths_makes_the_longer_strings_too():
    asked = set()

    def generate(r, low, high):
        asked.add((low, high))
        return a_with_b(r, low, high)

    task = all_a_of(generate)
    assert labels(task, "longer").count("yes") == 12  # all there are, of 13 to 24 letters
    assert asked == {(6, 12), (13, 24)}
    with pytest.raises(UserError, match=r"strings of 20 to 20 letters, none of 6 to 12; make strings"):
        all_a_of(lambda r, low, high: ["a"] * 20).train_item(0, seed=0)


def test_what_a_generator_makes_of_the_usual_answer_is_half_of_its_items():
    task = all_a_of(a_with_b)
    chosen = task.eval_sets()["longer"]
    no = [task._letters(i.prompt) for i in map(chosen.item, range(chosen.size)) if i.label == "no"]
    assert 0.4 <= sum(len(x) - x.count("a") == 1 for x in no) / len(no) <= 0.6
    trained = [task._letters(task.train_item(i, seed=0).prompt) for i in range(1, 200, 2)]
    assert 0.35 < sum(len(x) - x.count("a") == 1 for x in trained) / 100 < 0.65
    assert all(task.in_training(task._prompt(x)) for x in trained)


def test_a_sets_note_names_the_answers_that_are_missing():
    task = StringTask("two_b", two_b_among_a, letters=("a", "b", "c", "d"), min_length=11, max_length=14,
                      generate=lambda r: [*r.permutation(["a"] * 9 + ["b"] * 2)])  # fmt: skip
    notes = {name: one.note for name, one in task.eval_sets().items()}
    missing = {name for name in notes if "yes" not in labels(task, name)}
    assert missing == {name for name, note in notes.items() if "No item has the answer 'yes'." in note}
    assert missing


@pytest.mark.parametrize(
    ("generate", "said"),
    [
        (lambda r: ["a"] * int(r.integers(20, 23)), r"1000 strings of 20 to 22 letters, none of min_length=11"),
        (lambda r: ["a"] * 10 + ["e"], r"'e' is none of the task's letters"),
        (lambda r: [][0], r"must give a list of letters, and failed \(IndexError"),
    ],
)
def test_a_generator_whose_strings_cannot_be_used_is_refused(generate, said):
    task = StringTask(
        "two_b", two_b_among_a, letters=("a", "b", "c", "d"), min_length=11, max_length=14, generate=generate
    )
    with pytest.raises(UserError, match=said):
        task.train_item(0, seed=0)
