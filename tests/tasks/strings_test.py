"""A task made of a program alone: its labels are the program's, its sets are balanced and apart from training."""

import functools
import itertools
import re

import pytest
from tracr.rasp import rasp

from tests.helpers.rasp_parts import width
from tests.helpers.tasks_tokenizers import filtered
from tracr_jax.data.bridge import make_bridge
from tracr_jax.data.samples import sample_of
from tracr_jax.errors import UserError
from tracr_jax.runs.check import check as dry_run
from tracr_jax.runs.task_bridge import proved_items
from tracr_jax.tasks.base import Item, TokenMap
from tracr_jax.tasks.registry import check_task, get_task
from tracr_jax.tasks.sampled import SampledTask
from tracr_jax.tasks.split import split_of
from tracr_jax.tasks.strings import StringTask
from tracr_jax.teacher import compile_program


def odd_number_of_a():
    count = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "a"))
    return rasp.Map(lambda n: n % 2 == 1, count)


TASK = StringTask("odd", odd_number_of_a, letters=("a", "b"), max_length=6)
SMALL = StringTask("odd", odd_number_of_a, letters=("a", "b"), max_length=4)


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


def test_a_sequence_has_a_baseline_that_knows_its_length_alone():
    """Ones are the likeliest answer of each length here: without it 0 % would stand as trivial."""
    task, rules = get_task("double_histogram"), get_task("double_histogram").baselines()
    assert set(rules) == {"copied", "of_length"}
    items = sample_of(task.eval_sets()["test"], None)
    right = [rules["of_length"](i.prompt) == i.label for i in items]
    assert 0.15 < sum(right) / len(right) < 0.4
    says = {rules["of_length"](i.prompt) for i in items}
    assert len(says) == len({len(i.prompt) for i in items})
    longer = sample_of(task.eval_sets()["longer"], None)
    assert sum(rules["of_length"](i.prompt) == i.label for i in longer) > 0.2 * len(longer)


def test_yes_or_no_has_baselines_of_length_and_of_the_ends():
    rules = TASK.baselines()
    assert list(rules) == ["always_no", "of_length", "ends_and_parity"]
    assert {rules["of_length"](TASK._prompt("ab" * k)) for k in range(1, 7)} <= {"yes", "no"}
    assert rules["of_length"](TASK._prompt("a")) == ""
    assert {rules["ends_and_parity"](TASK._prompt(x)) for x in ("aa", "ab", "ba", "bb")} <= {"yes", "no"}
    own = StringTask("odd", odd_number_of_a, letters=("a", "b"), rules={"an_a": lambda x: "a" in x})
    assert [own.baselines()["an_a"](own._prompt(x)) for x in ("ab", "bb")] == ["yes", "no"]
    with pytest.raises(UserError, match="rules must be a dictionary of functions, got 3"):
        StringTask("odd", odd_number_of_a, letters=("a", "b"), rules=3)


def test_is_a_task_and_refuses_what_is_none():
    assert check_task(TASK, "odd") is TASK
    with pytest.raises(UserError, match="two letters or more"):
        StringTask("odd", odd_number_of_a, letters=("a",))
    with pytest.raises(UserError, match="the letter 'a' is given twice"):
        StringTask("odd", odd_number_of_a, letters=("a", "b", "a"))
    with pytest.raises(UserError, match="got 4 and 3"):
        StringTask("odd", odd_number_of_a, letters=("a", "b"), min_length=4, max_length=3)


# ---- answers that are a value, or one value for each letter


def number_of_a():
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "a")).named("as")


def copy_after_the_mark():
    """At "?" the first letter, behind it the second, and so on: letters are found by number, not by place."""

    def count(sop, wanted):
        return rasp.SelectorWidth(rasp.Select(sop, rasp.tokens, lambda key, query: key == wanted))

    after = count(rasp.tokens, "?").named("after")
    given = rasp.SequenceMap(lambda t, a: t in "abc" and a == 0, rasp.tokens, after).named("given")
    number = rasp.SequenceMap(lambda n, g: n if g else 0, count(given, True), given).named("number")
    wanted = count(after, 1).named("wanted")
    same = rasp.Select(number, wanted, lambda key, query: key == query and query > 0)
    return rasp.Aggregate(same, rasp.tokens)


VALUE = StringTask("as", number_of_a, letters=("a", "b"), max_length=4, answer="value",
                   truth=lambda letters: letters.count("a"))  # fmt: skip
SEQUENCE = StringTask("copy", copy_after_the_mark, letters=("a", "b", "c"), max_length=3, answer="sequence",
                      truth=lambda letters: letters)  # fmt: skip


@pytest.mark.parametrize("task", [TASK, VALUE, SEQUENCE], ids=lambda t: t.answer)
def test_every_form_of_answer_is_a_task_whose_bridge_is_proved(task):
    """check_contract asks for everything; the proof holds the program's values against the answer's tokens."""
    assert check_task(task, task.name) is task
    tokenizer = filtered(task)
    length = max(len(tokenizer.encode(f"{i.prompt} {i.label}")) for i in task.longest_items()) + 1
    teacher = compile_program(
        functools.partial(task.program, max_seq_len=length),
        vocab=task.vocab(), max_seq_len=length, mlp_exactness=task.mlp_exactness(length),
    )  # fmt: skip
    items = [task.train_item(i, seed=0) for i in range(20)]
    report = make_bridge(task, tokenizer, teacher).check(task, [*items, *task.longest_items()])
    assert report.matched == report.answer_positions >= 20
    for item in items:
        letters = letters_of(item)
        want = {"yes/no": "yes" if letters.count("a") % 2 else "no", "value": str(letters.count("a"))}
        assert item.label == want.get(task.answer, " ".join(letters))


def test_training_is_what_in_training_says():
    """By brute force: everything that 3,000 items show is in training, and all that is in training is shown."""
    for task in (
        TASK,
        VALUE,
        StringTask("odd", odd_number_of_a, letters=("a", "b", "c"), min_length=1, max_length=3),
    ):
        n = task.max_length + 1
        every = [s for k in range(1, n + 1) for s in itertools.product(task.letters, repeat=k)]
        allowed = {task._prompt(s) for s in every if task.in_training(task._prompt(s))}
        shown = {
            make(i, seed=s).prompt
            for make in (task.train_item, task.free_item)
            for s in (0, 1)
            for i in range(750)
        }
        assert shown == allowed


# ---- one message, one cause


def places():
    return rasp.Map(lambda i: i % 2 == 1, rasp.indices)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (places, {}, "depends on the words of the prompt: of '.*' it says '(yes|no)' alone and '(yes|no)' with"),
        (
            lambda: rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ),
            {},
            "is a selector, which has no value",
        ),
        (lambda: rasp.Map(lambda t: True, rasp.tokens), {}, "says 'yes' of all"),
        (lambda: 3, {}, "expected a tracr rasp.SOp or a function that returns one, got 3"),
        (lambda: rasp.numerical(rasp.Map(float, rasp.indices)), {"answer": "value"}, "value is numerical"),
        (
            lambda: rasp.Map(lambda t: None, rasp.tokens),
            {"answer": "value"},
            "is undefined .None. for every possible input",
        ),
        (odd_number_of_a, {"truth": lambda letters: True}, "the program says 'no', truth.. 'yes'"),
    ],
)
def test_mistakes_are_named_before_anything_is_built(build, options, message):
    with pytest.raises(UserError, match=message) as e:
        check_task(StringTask("wrong", build, letters=("a", "b"), **options), "wrong")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"question": "How many a are in"}, "contains 'a', which the program would read"),
        ({"question": "Say: "}, "contains ':'"),
        ({"letters": ("a", "b c")}, "the letter 'b c' must be a text without spaces"),
        ({"letters": ("a", "?")}, "the letter '\\?' must be"),
        ({"answer": "number"}, "answer must be 'yes/no', 'value' or 'sequence', got 'number'"),
    ],
)
def test_mistakes_at_construction(options, message):
    with pytest.raises(UserError, match=message):
        StringTask("wrong", odd_number_of_a, **({"letters": ("a", "b")} | options))


def test_of_a_file_with_several_tasks_one_mistake_stops_one_task(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from tracr.rasp import rasp\nimport tracr_jax\n"
        "def odd():\n"
        "    n = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k == 'a'))\n"
        "    return rasp.Map(lambda n: n % 2 == 1, n)\n"
        "BAD = tracr_jax.StringTask('bad', odd, letters=('a', 'b'), question='Is a in')\n"
        "GOOD = tracr_jax.StringTask('good', odd, letters=('a', 'b'))\n"
    )
    assert get_task(f"{tmp_path}/mine.py:GOOD").name == "good"
    with pytest.raises(UserError, match="task bad: the question 'Is a in' contains 'a'"):
        get_task(f"{tmp_path}/mine.py:BAD")
    with pytest.raises(UserError, match="holds BAD, GOOD; choose one"):
        get_task(f"{tmp_path}/mine.py")


class Shout(SampledTask):
    """A task with text of its own; its program may be another."""

    name, marker = "shout", "?"

    def __init__(self, build=None, label=None):
        self.build, self.label = build or odd_number_of_a, label

    def program(self, *, max_seq_len):
        made = self.build()
        return made.named(self.result) if isinstance(made, rasp.SOp) else made

    def vocab(self):
        return frozenset({"a", "b", "other", "?"})

    def token_map(self):
        return TokenMap({"a": "a", "b": "b", ":": "?"}, fill="other")

    def sample(self, r):
        text = " ".join("ab"[k] for k in r.integers(0, 2, int(r.integers(2, 9))))
        return Item(f"Odd {text} :", self.label or ("yes" if text.count("a") % 2 else "no"))

    def teacher_label(self, item):
        return (item.label == "yes",)


def test_sampled_task_needs_one_sampler():
    task = Shout()
    assert check_task(task, "shout") is task
    test = task.eval_sets()["test"]
    assert not {test.item(i).prompt for i in range(test.size)} & {
        task.train_item(i, seed=0).prompt for i in range(300)
    }


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ),
            "task mine: the program is a selector",
        ),
        (
            lambda: rasp.SequenceMap(lambda n, t: n > 3, rasp.length, rasp.tokens),
            r"task mine: .* no causal .* `rasp.Map\(lambda i: i \+ 1, rasp.indices\)` counts the tokens so far",
        ),
        (
            lambda: rasp.Map(lambda t: True, rasp.tokens),
            "task mine: the program's answer is True whatever it reads",
        ),
        (lambda: rasp.SequenceMap(lambda a, t: a, rasp.Full(1), rasp.tokens), "task mine: .* is a constant"),
        (lambda: 3, r"task mine: program\(\) must be a rasp.SOp, got 3"),
    ],
)
def test_programs_that_answer_nothing_are_refused_for_any_task(build, message):
    with pytest.raises(UserError, match=message):
        check_task(Shout(build), "mine")


def test_items_with_one_answer_are_refused():
    with pytest.raises(UserError, match="task shout: the answer is 'yes' in all of 316 items"):
        proved_items(Shout(label="yes"), seed=0)


def _two(letter):
    return rasp.Map(lambda n: n >= 2, width(letter))


def _reverse():
    opposite = rasp.Map(lambda i: 7 - i, rasp.indices)
    return rasp.Aggregate(rasp.Select(rasp.indices, opposite, rasp.Comparison.EQ), rasp.tokens).named("turned")


def _later():
    return rasp.SelectorWidth(rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.GT)).named("later")


REFUSED = {
    "no question": ({"question": None}, r"^task a_task: question must be a text, got None$"),
    "a length in quotes": ({"max_length": "10"}, r"^task a_task: max_length must be a whole number, got '10'$"),
    "no items": ({"set_size": 0}, r"^task a_task: set_size must be at least 1, got 0$"),
    "a name for the program": ({"build": "two"}, r"^task a_task: build must be a function, got 'two'$"),
    "strings of other letters": (
        {"build": lambda: _two("a"), "max_length": 30, "generate": lambda r: ["a", "z"]},
        r"^task a_task: generate\(\) gave \('a', 'z'\), and 'z' is none of the task's letters$",
    ),
    "no strings": (
        {"build": lambda: _two("a"), "max_length": 30, "generate": lambda r: None},
        r"^task a_task: generate\(\) must give a list of letters, and failed \(TypeError: 'NoneType'",
    ),
    "a truth that fails": (
        {"build": lambda: _two("a"), "truth": lambda s: 1 / 0},
        r"^task a_task: truth\(\) failed on '[ab ]+' \(ZeroDivisionError: division by zero\)$",
    ),
    "a truth of one value": (
        {"build": lambda: _two("a"), "answer": "value", "truth": lambda s: None},
        r"^task a_task: of '[ab ]+' the program says '(yes|no)', truth\(\) 'None'$",
    ),
    "a letter of the prompt's own": (
        {"build": lambda: _two("a"), "letters": ("a", "b", ":")},
        r"^task a_task: the letter ':' must be a text without spaces, other than '\?', 'other', ':', 'Answer'",
    ),
    "nothing but later positions": (
        {"build": lambda: rasp.Map(lambda n: n > 0, _later())},
        r"says 'no' of all .*; later\w* selects later positions, of which a causal network sees none$",
    ),
    "turned around": (
        {"build": _reverse, "answer": "sequence"},
        r"has no value at the answer of .*; \w+ selects later positions, of which a causal network sees none$",
    ),
    "different letters at once": (
        {
            "build": lambda: rasp.Map(
                lambda t: t == "a",
                rasp.Aggregate(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k in "ab"), rasp.tokens),
            )
        },
        "no value at the answer of .*different values at once.* give its Aggregate a default, or its functions a ",
    ),
    "a division by zero": (
        {"build": lambda: rasp.SequenceMap(lambda x, y: x / y > 1, width("a"), width("b"))},
        "no value at the answer of .*a function fails, as 1 / 0",
    ),
    "a number where yes or no is asked": (
        {"build": lambda: rasp.Map(lambda n: 7 * n, width("a"), simplify=False)},
        r"of '[ab ]+' the program's value is (7|14|\d\d), neither True nor False; give answer=\"value\"",
    ),
    "a letter where yes or no is asked": (
        {"build": lambda: rasp.Map(lambda n: "a" if n > 1 else "b", width("a"))},
        r"the program's value is '[ab]', neither True nor False",
    ),
    "answers of several tokens": (
        {"build": lambda: rasp.Map(lambda n: 100 * n, width("a"), simplify=False), "answer": "value"},
        r"^bridge: a_task: the answer '\d+' is \d tokens, the teacher writes 1; its functions must give one value "
        "for one input, written as one token",
    ),
    "an answer that is a test item": (
        {
            "build": lambda: rasp.Map(lambda n: n / 3, width("a")),
            "answer": "value",
            "max_length": 4,
            "question": "What third is",  # with these words all of its strings, and they are few, are test items
        },
        r"all strings with the answer '[\d.]+' are in the test split; raise max_length",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_stranger_may_write_is_refused_in_his_words(kind):
    options, line = REFUSED[kind]
    with pytest.raises(UserError, match=line) as refused:
        dry_run(
            StringTask(
                "a_task", **({"build": lambda: _two("a"), "max_length": 6, "letters": ("a", "b")} | options)
            )
        )
    assert "\n" not in str(refused.value)
    assert not re.search("token_map|keep_merge", str(refused.value))
