"""The built-in tasks by their parameters: with the usual ones the same items as ever, impossible ones refused."""

import hashlib

import pytest

from tracr_jax.errors import UserError
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum

# Of the first 100 items of each set, and of 400 of each kind of training's. Results in experiments/ are of these.
ITEMS = {
    Dyck: {
        "test": (4000, "db0d8769dfeaf815"),
        "valid": (400, "6e41b3386ce973a7"),
        "near_miss": (2000, "2af7295852a7e0a0"),
        "near_miss_balanced": (4000, "bc19ccf6b9c18687"),
        "order_miss_balanced": (4000, "15781c7c451aa537"),
        "length_ood": (4000, "fe2ba37cf9a4c017"),
        "almost_balanced": (4000, "8cbd20e2c407914a"),
        "almost_balanced_even": (4000, "5a8aa0936b558b1a"),
        "ood_new_token": (4000, "9a8bdaf4c5ff6fd7"),
        "deep_one_type": (400, "9bb1ccccf371b634"),
        "long_runs": (400, "64c56ffc5dae2851"),
        "other_question": (400, "2094e71a13fd2ecf"),
        "spaced": (400, "904f0cfcbee3ddda"),
        "length_ood_as_coded": (4000, "89a7bf6ef4fd67c3"),
        "train_item": "784fefd7a68e61f3",
        "free_item": "917c29e068c738cf",
        "varied_item": "1174129355c422ce",
        "longest_items": "9edfe67443ff579d",
    },
    IntSum: {
        "test": (4000, "59bfbb1943514d6f"),
        "valid": (400, "98458765b39a0b91"),
        "length_ood": (4000, "766893fb33580045"),
        "cascading_overflow": (4500, "5a3f79775816eff3"),
        "cascading_overflow_unseen": (2744, "e61adca930c54639"),
        "decimals": (4000, "92671bdb5970be7d"),
        "larger_operands": (200, "8cc26251456f512c"),
        "length_ood_as_coded": (4000, "d055c05b5cea0fab"),
        "train_item": "9fa865bed523e94d",
        "free_item": "201439355f927564",
        "longest_items": "bb0a8022a22c41af",
    },
    Count: {
        "test": (4000, "c8b3965f3939f26e"),
        "valid": (400, "b9a482a1009d7d7e"),
        "x_only": (40, "625f34e4c81a4dc3"),
        "replace_y": (4000, "1b8818bd188bfdb4"),
        "length_ood": (4000, "bfd3df69997fd6a8"),
        "length_ood_as_coded": (4000, "c6ec8d74a4173325"),
        "train_item": "83a0506405dfa756",
        "free_item": "fb2baf60818aff06",
        "varied_item": "c533355ef22d5440",
        "longest_items": "c3d69c16657f8317",
    },
}


def digest(items):
    return hashlib.sha256(repr([(i.prompt, i.label) for i in items]).encode()).hexdigest()[:16]


@pytest.mark.parametrize("kind", ITEMS)
def test_items_at_the_usual_parameters_are_those_that_results_were_measured_on(kind):
    task = kind(as_coded_sets=True)
    for name, told in ITEMS[kind].items():
        if isinstance(told, tuple):
            chosen = task.eval_sets()[name]
            found = (chosen.size, digest(chosen.item(i) for i in range(min(100, chosen.size))))
        elif name == "longest_items":
            found = digest(task.longest_items())
        else:
            found = digest(getattr(task, name)(i, seed=s) for s in (0, 1) for i in range(200))
        assert found == told, name


REFUSED = {
    "lengths of dyck": (
        lambda: Dyck(min_length=12, max_length=10),
        "dyck: needs 1 <= min_length <= max_length, got 12",
    ),
    "a pair of one sign": (lambda: Dyck(pairs=("((",)), "dyck: pairs must be of different brackets"),
    "no pairs": (lambda: Dyck(pairs=()), "dyck: pairs must be of different brackets"),
    "varied items of few brackets": (
        lambda: Dyck(max_length=5).varied_item(0, seed=0),
        "dyck: varied items need a max_length of 6 or more, got 5",
    ),
    "few numbers": (lambda: IntSum(digits=2, limit=10), "int_sum: needs a limit of 15 or more"),
    "many digits": (lambda: IntSum(digits=7), "and 1 to 6 digits; got limit=450 and digits=7"),
    "words of count": (lambda: Count(min_words=9, max_words=8), "count: needs 1 <= min_words <= max_words, got 9"),
    "a count of more digits": (lambda: Count(digits=1), "count: 1 digits write no number above 40 words"),
    "few digits": (lambda: Count(numbers=5), "numbers must be 10 or more, got 5"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_impossible_parameters_are_refused(kind):
    make, line = REFUSED[kind]
    with pytest.raises(UserError, match=line) as refused:
        make()
    assert "\n" not in str(refused.value)


def first(chosen, n=40):
    return [chosen.item(i) for i in range(min(n, chosen.size))]


@pytest.mark.parametrize(
    "task",
    [
        Dyck(max_length=11), Dyck(max_length=100), Dyck(min_length=20),
        Count(max_words=130), Count(max_words=60), Count(digits=2, max_words=14),
        IntSum(digits=4, limit=4500), IntSum(digits=4), IntSum(digits=2, limit=50), IntSum(digits=2, limit=15),
    ],
    ids=str,
)  # fmt: skip
def test_other_parameters_have_every_set_apart_from_training(task):
    for i in range(40):
        assert task.in_training(task.free_item(i, seed=0).prompt)
        assert task.in_training(task.train_item(i, seed=0).prompt)
    sets = task.eval_sets()
    for name, chosen in sets.items():
        items = first(chosen)
        assert items
        assert name == "cascading_overflow" or not any(task.in_training(i.prompt) for i in items), name
        assert name in ("decimals", "length_ood", "cascading_overflow_unseen") or all(
            len(task.teacher_label(i)) for i in items
        )


def test_what_a_set_is_follows_from_the_parameters():
    def operands(task, name):
        return [[int(x) for x in i.prompt.removesuffix(" =").split(" + ")] for i in first(task.eval_sets()[name])]

    four, two = IntSum(digits=4, limit=4500), IntSum(digits=2, limit=50)
    assert all(10_000 <= x < 45_000 for pair in operands(four, "length_ood") for x in pair)
    assert all(
        sum(pair) % 1000 == 0 and sum(pair) < 10_000 for pair in operands(four, "cascading_overflow_unseen")
    )
    assert all(sum(pair) < 100 for pair in operands(two, "cascading_overflow_unseen"))
    assert "in this order" in IntSum().eval_sets()["larger_operands"].note
    assert "in this order" in IntSum().eval_sets()["cascading_overflow_unseen"].note
    assert "60 items" in Count(max_words=60).eval_sets()["x_only"].note
    assert all(int(i.label) < 100 for i in first(Count(digits=2).eval_sets()["length_ood"]))
    assert all(
        len(i.prompt) >= len(Dyck().item("").prompt) + 20
        for i in first(Dyck(min_length=20).eval_sets()["near_miss"])
    )


def test_dyck_has_a_set_with_a_new_type_whose_known_types_decide():
    task = Dyck()
    rules, items = task.baselines(), first(task.eval_sets()["order_miss_new_token"], 200)
    brackets = ["".join(c for c in i.prompt if c in "()[]{}<>") for i in items]
    assert all("<" in b or ">" in b for b in brackets)
    assert [i.label for i in items].count("yes") == 100
    for rule in ("always_no", "even_length", "counts_ignoring_order"):
        assert sum(rules[rule](i.prompt) == i.label for i in items) == 100, rule
    known = [task.item("".join(c for c in b if c not in "<>")).label for b in brackets]
    assert known == [i.label for i in items]  # what the program, which knows no <>, says as well
    assert "leaving every <> out answers" in task.eval_sets()["ood_new_token"].note


def test_first_and_last_bracket_are_a_baseline():
    rule = Dyck().baselines()["first_and_last"]
    for text, says in (("(])", "no"), ("(]()", "yes"), ("([)(", "no"), ("){})", "no"), ("<>", "yes")):
        assert rule(Dyck().item(text).prompt) == says, text


def test_a_program_that_knows_the_new_type_has_no_set_of_it():
    assert {n for n in Dyck().eval_sets() if n.endswith("_new_token")} == {"ood_new_token", "order_miss_new_token"}
    assert not any(n.endswith("_new_token") for n in Dyck(pairs=("()", "{}", "<>")).eval_sets())
