"""A stranger's file that holds a RASP program: each becomes a task with the program's answers, or one line."""

# tracr types every value of a program as int | float | str | bool | None, whatever it can be here.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportOptionalOperand=false

import numpy as np
import pytest
from tracr.rasp import rasp

from tests.helpers.task_files import HEAD, read, task_of
from tests.helpers.tasks_tokenizers import filtered
from tracr_jax.data.bridge import make_bridge
from tracr_jax.errors import UserError
from tracr_jax.tasks.answered import every, last, reading
from tracr_jax.tasks.prompt import Prompt, joined
from tracr_jax.teacher.compile import compile_program
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.verify import random_inputs, verify

SHIFT = """
def shift(by, sop):
    at = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - by)
    return rasp.Aggregate(at, sop).named("shifted")
"""

# File -> (source, answers of some strings, by hand).
FILES = {
    "functions": (
        SHIFT + """
def get_program() -> rasp.SOp:
    return shift(1, rasp.tokens == "a") & (rasp.tokens == "b")
def get_vocab():
    return {"a", "b", "c"}
def get_max_seq_len():
    return 7
""",
        {"a b a b": "yes no yes", "b b": "no", "c a b": "no yes"},
    ),
    "class": (
        """
class Base:
    def get_max_seq_len(self): return 6
    def get_correct_output_for_input(self, input): return self.get_program()(input)
class Case7(Base):
    def get_program(self): return make_squares()
    def get_vocab(self): return {0, 1, 2, 3}
def make_squares():
    return rasp.Map(lambda x: x * x, rasp.tokens).named("squares")
""",
        {"0 3 1 2": "0914"},
    ),
    "make": (
        "VOCAB = range(11)\ndef make_increment():\n    return rasp.Map(lambda x: x + 1, rasp.tokens)",
        {"0 9 A": "1 A B", "A A": "B B", "5 6": "67"},
    ),
    "of_the_tokens": (
        "VOCAB = {'a', 'b'}\ndef swapped(sop) -> rasp.SOp:\n"
        "    return rasp.Map(lambda x: 'ba'['ab'.index(x)], sop)",
        {"a a b": "b b a"},
    ),
    "object": (
        "VOCAB = {True, False}\nEVEN = rasp.SequenceMap(lambda t, i: t and i % 2 == 0, rasp.tokens, rasp.indices)",
        {"yes yes yes no": "yes no yes no"},
    ),
    "count_so_far": (
        """
VOCAB, MAX_LENGTH = {"x", "y"}, 6
def make_count():
    xs = rasp.Map(lambda t: t == "x", rasp.tokens)
    return rasp.SelectorWidth(rasp.Select(xs, rasp.tokens, lambda key, query: key)).named("xs")
CAUSAL = True
""",
        {"x y x": "112", "y y": "00"},
    ),
    "whole_string": (
        """
VOCAB = {"x", "y"}
def make_count():
    xs = rasp.Map(lambda t: t == "x", rasp.tokens)
    return rasp.SelectorWidth(rasp.Select(xs, rasp.tokens, lambda key, query: key)).named("xs")
""",
        {"x y x": "2", "y y": "0"},
    ),
    "share": (
        """
VOCAB, MAX_LENGTH = {"x", "y"}, 6
def get_program():
    is_x = rasp.numerical(rasp.Map(lambda t: 1.0 if t == "x" else 0.0, rasp.tokens)).named("is_x")
    so_far = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
    share = rasp.numerical(rasp.Aggregate(so_far, is_x, default=0)).named("share")
    return rasp.Map(lambda s: round(s, 3), share).named("rounded")
""",
        {"x y": ("1.0", "0.5"), "x y y": ("1.0", "0.5", "0.333"), "y y": ("0.0", "0.0")},
    ),
    "floats": (
        "VOCAB = {-1.0, -0.5, 0.5}\nPROGRAM = rasp.Map(abs, rasp.tokens)",
        {"-1.0 0.5 -0.5": ("1.0", "0.5", "0.5")},
    ),
    "words": (
        "VOCAB = {'red', 'green', 'blue'}\nprogram = rasp.Map(lambda w: len(w), rasp.tokens)",
        {"green red": ("5", "3")},
    ),
    "brackets": (
        SHIFT + "VOCAB = set('()[]')\ndef make_before():\n    return shift(1, rasp.tokens)",
        {"( ) [ ]": "()[", "( (": "("},
    ),
    "alphabet": (  # more values than there are positions
        SHIFT + "VOCAB, MAX_LENGTH = set('abcdefghijklmnopqrstuvwxyz'), 4\n"
        "def make_before():\n    return shift(2, rasp.tokens)",
        {"a b c d": "a b", "q i z": "Q"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_the_answers_are_the_programs_and_the_network_is_the_program(name, tmp_path):
    source, answers = FILES[name]
    task = task_of(tmp_path, name, source)
    text = {str(v): t for v, t in task.written.items()} | {t: t for t in task.written.values()}
    for string, said in answers.items():
        letters = [text[x] for x in string.split()]
        said = joined(text[x] for x in said) if isinstance(said, tuple) else said
        assert task.item(letters).label == said, string
        assert task._letters(task.item(letters).prompt) == tuple(letters)
    tokenizer = filtered(task, split_digits=len(name) % 2 == 0)
    items = [*(task.train_item(i, seed=0) for i in range(12)), *task.longest_items()[:3]]
    length = max(len(tokenizer.encode(f"{i.prompt} {i.label}")) for i in items)
    teacher = compile_program(lambda: task.program(max_seq_len=length), vocab=task.vocab(), max_seq_len=length)
    bridge, oracle = make_bridge(task, tokenizer, teacher), Oracle(task.program(max_seq_len=length))
    report = bridge.check(task, items, oracle=oracle)
    assert report.matched == report.answer_positions > 10
    assert task.answer == "value" or report.fill_share == 0.0
    for item in items:
        assert len(bridge.split(item)[0]) == len(task._letters(item.prompt)) + 1
    proof = verify(teacher, oracle, inputs=random_inputs(teacher, range(1, length + 1, 4)))
    assert proof.ok, str(proof)


REFUSED = {
    "no vocabulary": ("def make_a():\n    return rasp.Map(str, rasp.tokens)", r"add a line as VOCAB = "),
    "ahead": (
        "VOCAB = 'ab'\nVOCAB = set(VOCAB)\ndef make_next():\n"
        "    n = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query + 1)\n"
        "    return rasp.Aggregate(n, rasp.tokens)",
        "reads ahead: at letter 1 of .* CAUSAL = True",
    ),
    "length": ("VOCAB = range(3)\nPROGRAM = rasp.SequenceMap(lambda a, b: a + b, rasp.tokens, rasp.length)",
               "which no causal network knows"),
    "a number": ("VOCAB = range(3)\nPROGRAM = rasp.numerical(rasp.Map(lambda x: x / 3, rasp.tokens))",
                 "is a number .rasp.numerical.*finitely many"),
    "too many": ("VOCAB = range(40)\n"
                 "PROGRAM = rasp.SequenceMap(lambda x, i: 100 * x + i, rasp.tokens, rasp.indices)",
                 "can be any of 640, as .* bound them"),
    "undefined": (
        "VOCAB = {'a', 'b'}\ndef make_x():\n"
        "    s = rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == 'a')\n"
        "    return rasp.Aggregate(s, rasp.Map(lambda i: i % 2, rasp.indices))",
        "has no value at letter [0-9]+ of",
    ),
    "fails": ("VOCAB = {'a', 'b'}\nPROGRAM = rasp.Map(lambda x: x + 1, rasp.tokens)", "TypeError"),
    "two": ("VOCAB = range(3)\ndef make_a():\n    return rasp.Map(abs, rasp.tokens)\n"
            "def make_b():\n    return rasp.Map(str, rasp.tokens)", "the programs make_a, make_b; choose one"),
    "none": ("VOCAB = range(3)\ndef f(x, y):\n    return 3", "holds no task and no program"),
    "selector": ("VOCAB = range(3)\ndef make_s():\n    return rasp.Select(rasp.tokens, rasp.tokens, max)",
                 "is a selector, which has no value"),
    "raises": ("VOCAB = range(3)\ndef make_s():\n    return 1 / 0", "ZeroDivisionError.*mine.py, line 4$"),
    "random": ("import itertools\nVOCAB, N = range(3), itertools.count()\n"  # another value at each call, surely
               "PROGRAM = rasp.Map(lambda x: next(N) % 4, rasp.tokens)", "two things of .*asked twice"),
    "divides by zero": ("VOCAB = range(3)\nPROGRAM = rasp.Map(lambda x: 1 // x, rasp.tokens)",
                        "has no value at letter .* or fails, as 1 / 0"),
    "None at some letter": ("VOCAB = range(3)\nPROGRAM = rasp.Map(lambda x: None if x == 1 else 7, rasp.tokens)",
                            r"has no value at letter 1 of .1, 1"),
    "no value so soon": (
        "VOCAB = range(3)\ndef make_x():\n"
        "    s = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 9)\n"
        "    return rasp.Aggregate(s, rasp.tokens)",
        "the first 8 letters have no value, and strings have no more; give a larger MAX_LENGTH",
    ),
    "a relative import": ("from .beside import x\nVOCAB = range(3)", "has no package: write from NAME import"),
    "class that fails": ("class C:\n    def __init__(self, x): pass\n    def get_program(self): return 1",
                         "TypeError"),
    "predicate fails": (
        "VOCAB = {1, 2, 'a'}\n"
        "PROGRAM = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.LT))",
        "its selector fails on key .* and query .* .TypeError",
    ),
    "predicate's table": (
        "VOCAB, MAX_LENGTH, ALLOWED = {1, 2}, 5, [0, 1, 0, 1, 0]\ndef make_x():\n"
        "    s = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == ALLOWED[query])\n"
        "    return rasp.Aggregate(s, rasp.tokens)",
        "its selector fails on key 0 and query 5 .IndexError",
    ),
    "function's table": (
        "VOCAB, MAX_LENGTH, T = {1, 2}, 5, [0, 1, 0, 1, 0]\n"
        "PROGRAM = rasp.SequenceMap(lambda x, i: x + T[i], rasp.tokens, rasp.indices)",
        "values of sequence_map_1 cannot be listed .IndexError.* positions up to 9",
    ),
    "exits": ("VOCAB = {1, 2}\ndef make_x():\n    raise SystemExit(3)", "SystemExit: 3"),
    "lists": ("VOCAB = [['a'], ['b']]\nPROGRAM = rasp.Map(len, rasp.tokens)", "two values or more"),
    "None": ("VOCAB = {None, 'a', 'b'}\nPROGRAM = rasp.Map(str, rasp.tokens)", "none of them None"),
    "many values": ("VOCAB = range(10**7)\nPROGRAM = rasp.Map(abs, rasp.tokens)", "has 10,000,000 values"),
    "more values than letters": ("VOCAB = range(100)\nPROGRAM = rasp.Map(lambda t: t > 50, rasp.tokens)",
                                 "the vocabulary has 100 values; .* give fewer"),
    "constant": ("VOCAB = {1, 2}\nPROGRAM = rasp.Map(lambda t: 1, rasp.tokens, simplify=False)",
                 "value is 1 at every letter of all strings"),
    "true values": (
        "VOCAB = {-1, -2}\nPROGRAM = rasp.Map(abs, rasp.tokens)\n"
        "def get_correct_output_for_input(values): return [1 for _ in values]",
        r"of \[.*-2.*\] the program says \[.*2.*\], get_correct_output_for_input \[1, .*1\]; mend one",
    ),
    "a default": (
        "VOCAB = {'a', 'b'}\ndef make_x():\n"
        "    s = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)\n"
        "    return rasp.Aggregate(s, rasp.tokens, default='b')",
        r"leave out default=, and select always: key == max",
    ),
    "a number is needed": (
        "VOCAB = {1, 2}\ndef make_shifted_by(n: int):\n    return rasp.Map(lambda x: x + n, rasp.tokens)",
        "holds no task and no program",
    ),
    "one value": ("VOCAB = {1}\nPROGRAM = rasp.Map(abs, rasp.tokens)", "two values or more"),
    "lengths": ("VOCAB, MAX_LENGTH = {1, 2}, 1\nPROGRAM = rasp.Map(abs, rasp.tokens)", "2 to 1 letters; give"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_one_line_that_says_what_to_change(name, tmp_path):
    source, message = REFUSED[name]
    with pytest.raises(UserError, match=message) as error:
        task_of(tmp_path, "mine", source)
    assert "\n" not in str(error.value)
    assert "mine.py" in str(error.value)


def test_what_chance_seldom_makes_is_found(tmp_path):
    """Whether "abc" is in a string over 26 letters: four kinds of letters to the program."""
    source = """
VOCAB = set("abcdefghijklmnopqrstuvwxyz")
def make_pattern():
    def back(n):
        at = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == max(query - n, 0))
        return rasp.Aggregate(at, rasp.tokens)
    ab = rasp.SequenceMap(lambda x, y: x == "a" and y == "b", back(2), back(1))
    abc = rasp.SequenceMap(lambda x, y: x and y == "c", ab, rasp.tokens)
    found = rasp.SelectorWidth(rasp.Select(abc, rasp.tokens, lambda key, query: key))
    return rasp.Map(lambda n: n > 0, found)
"""
    task = task_of(tmp_path, "mine", source)
    assert [task.item(tuple(s)).label for s in ("xabcx", "xabxc")] == ["yes", "no"]
    items = [task.train_item(i, seed=0) for i in range(400)]
    found = {i.prompt for i in items if i.label == "yes"}
    assert 100 < sum(i.label == "yes" for i in items) < 300
    assert len(found) > 40
    assert len(set("".join(found)) - set("abcd: ")) > 10  # not told by the letters that stand beside the pattern
    longer = task.eval_sets()["longer"]
    assert {longer.item(i).label for i in range(longer.size)} == {"yes", "no"}
    (tmp_path / "more.py").write_text(HEAD + source.replace("lambda n: n > 0", "lambda n: min(n, 1)"))
    assert read(tmp_path / "more.py").answer == "value"


def test_a_variable_may_have_the_answers_name(tmp_path):
    task = task_of(
        tmp_path,
        "mine",
        "VOCAB = {1, 2, 3}\nPROGRAM = rasp.Map(lambda x: x > 1, rasp.tokens).named('final_result')",
    )
    teacher = compile_program(lambda: task.program(max_seq_len=9), vocab=task.vocab(), max_seq_len=9)
    assert teacher.variable(task.result).name == teacher.result


def test_a_vocabulary_is_any_collection(tmp_path):
    for i, vocab in enumerate(("'ab'", "['a', 'b', 'a']", "frozenset('ab')", "np.array(['a', 'b'])")):
        source = f"import numpy as np\nVOCAB = {vocab}\nPROGRAM = rasp.Map(lambda t: t == 'a', rasp.tokens)"
        assert task_of(tmp_path, f"mine{i}", source).item(("a", "b")).label == "yes no"


def test_a_rare_value_is_no_constant(tmp_path):
    """Whether the last four letters of 26 are the same: not in thousands of strings that are drawn."""
    source = """
VOCAB, CAUSAL = set("abcdefghijklmnopqrstuvwxyz"), True
def make_run():
    def back(n):
        at = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == max(query - n, 0))
        return rasp.Aggregate(at, rasp.tokens)
    same = lambda x, y: x == y
    two, other = rasp.SequenceMap(same, rasp.tokens, back(1)), rasp.SequenceMap(same, back(2), back(3))
    across = rasp.SequenceMap(same, back(1), back(2))
    late = rasp.Map(lambda i: i > 2, rasp.indices)
    both = lambda x, y: x and y
    return rasp.SequenceMap(both, rasp.SequenceMap(both, two, other), rasp.SequenceMap(both, across, late))
"""
    task = task_of(tmp_path, "mine", source)
    assert task.item(tuple("abbbba")).label == "no no no no yes no"


def test_values_that_python_takes_for_one_are_written_alike(tmp_path):
    task = task_of(tmp_path, "mine", "VOCAB = {1, 2, 3}\nPROGRAM = rasp.Map(lambda x: x > 1.5, rasp.tokens)")
    assert task.item(("1", "2", "3")).label == "011"
    assert "yes" not in task.written.values()


def test_what_can_be_written_as_it_is_is(tmp_path):
    """Two values of one text, here True and "yes", are letters of their own, and all others stay."""
    source = "VOCAB = {'a', 'A', 'no', 'yes'}\nPROGRAM = rasp.Map(lambda x: x > 'm', rasp.tokens)"
    task = task_of(tmp_path, "mine", source)
    assert [task.written[x] for x in ("a", "A")] == ["a", "A"]
    assert len(set(task.written.values())) == len(task.written)


def test_what_fails_on_inputs_that_do_not_occur_is_silent(tmp_path, capsys, caplog):
    source = "VOCAB = range(3)\nPROGRAM = rasp.SequenceMap(lambda a, b: 6 // (a + b - 9), rasp.tokens, BIG)"
    task_of(tmp_path, "mine", source.replace("BIG", "rasp.Map(lambda x: 9 + (x == 0), rasp.tokens)"))
    assert "arithmetic" not in capsys.readouterr().err + caplog.text


def random_program(r):
    """A causal program of maps, shifts and counts over integers."""
    sops = [rasp.tokens, rasp.Map(lambda i: i % 3, rasp.indices)]
    for _ in range(4):
        a, b = (sops[int(r.integers(len(sops)))] for _ in range(2))
        k = int(r.integers(1, 4))
        at = rasp.Select(rasp.indices, rasp.indices, lambda key, query, k=k: key == max(query - k, 0))
        sops.append(
            [
                lambda: rasp.Map(lambda x, k=k: (x + k) % 4, a, simplify=False),
                lambda: rasp.SequenceMap(lambda x, y: (x + 2 * y) % 4, a, b),
                lambda: rasp.Aggregate(at, a),
                lambda: rasp.SelectorWidth(rasp.Select(rasp.indices, b, rasp.Comparison.LEQ)),
            ][int(r.integers(4))]()
        )
    return sops[-1]


def test_a_program_on_letters_says_what_it_says_on_values():
    """Of every letter in turn and of the last, whatever is written behind the string."""
    values = dict(zip("0A?x", (0, 5, 7, 2), strict=True)) | {"1": 1}
    del values["?"]
    for seed in range(30):
        r = np.random.default_rng(seed)
        program = random_program(r)
        letters = [list(values)[k] for k in r.integers(0, 4, 5)]
        ours = Oracle(program)([values[x] for x in letters]).values
        said = ours[Oracle(program).result]
        oracle = Oracle(every(reading(program, values)))
        written = [*letters, "?", *[list(values)[k] for k in r.integers(0, 4, 4)]]
        assert oracle(written).values[oracle.result][5:10] == said
        oracle = Oracle(last(reading(program, values)))
        assert oracle([*letters, "?"]).values[oracle.result][5] == said[-1]


def test_prompts_are_read_back():
    letters = ["a", "1", "(", "yes", "B", "9", "]", "-"]
    for n in range(1, 9):
        for form in (Prompt(""), Prompt("What is in")):
            assert form.letters(form.text(letters[:n])) == tuple(letters[:n])
