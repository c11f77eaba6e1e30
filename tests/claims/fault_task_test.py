"""User task files with wrong fields, and texts that nobody would write: one clear line, or an answer."""

import numpy as np
import pytest

from tests.helpers import fault_parts as F
from tests.helpers import interpret_parts as P
from tests.helpers.export_parts import EVALUATION
from tests.injection_test import USER_TASK
from tracr_jax.errors import UserError
from tracr_jax.export.folder import card
from tracr_jax.files import read_json
from tracr_jax.interpret.decode import decode
from tracr_jax.runs.program_files import describe_program
from tracr_jax.tasks.registry import _REQUIRED, get_task

FIELDS = ("name", "result", "marker")
METHODS = tuple(name for name in _REQUIRED if name not in FIELDS)
# What a method may give back, or do, in place of what it should.
BODIES = (
    "return None", "return 3", "return ''", "return []", "return {}", "return object()", "return float('nan')",
    "return 1 / 0", "raise KeyError('key')", "raise RuntimeError('two\\nlines')", "return self.nothing",
    "assert False", "return [[]]", "return ('a',)", "return {'test': 3}", "return lambda *a: None",
    "return Item('', 'yes')", "return Item('What', 3)", "return TokenMap(3, 4)",
    "return TokenMap({'x': []}, None)", "return f(self)", "yield 1",
    "return {'test': EvalSet('test', 0, lambda i: None, '')}",
    "return {'test': EvalSet('test', 5, lambda i: None, '')}",
    "return {'always': lambda prompt: 1 / 0}", "import sys; sys.exit(3)", "return (Item('', ''),)", "return -1",
)  # fmt: skip


def broken(number):
    """The file of a user's task in which one attribute is wrong."""
    rng = np.random.default_rng((41, number))
    kind = number % 10
    if kind == 0:
        at = int(rng.integers(len(USER_TASK)))
        return USER_TASK[:at] + " ) '''\n"[: int(rng.integers(1, 8))] + USER_TASK[at + int(rng.integers(9)) :]
    if kind == 1:
        first = ("1 / 0", "raise KeyError('x')", "import sys; sys.exit(0)", "nothing", "\x00", "(" * 999)
        return first[number // 10 % len(first)] + "\n" + USER_TASK
    if kind < 4:
        field = FIELDS[int(rng.integers(len(FIELDS)))]
        change = f"    {field} = {F.ODD[int(rng.integers(len(F.ODD)))]!r}"
    else:
        method = METHODS[number % len(METHODS)]
        heads = (*["self, *args, **kwargs"] * 3, "self", "", "self, a, b, c, d")
        head = heads[int(rng.integers(len(heads)))]
        change = f"    def {method}({head}):\n        {BODIES[int(rng.integers(len(BODIES)))]}"
    names = "\nnan, inf = float('nan'), float('inf')\ndef f(x):\n    return f(x)\n"
    return f"{USER_TASK}{names}\nclass Wrong(More):\n{change}\n\nTASK = Wrong()\n"


def test_user_task_files(tmp_path):
    path = tmp_path / "task.py"

    def read(content):
        path.write_text(content)
        get_task(f"{path}:TASK")

    cases = [(f"{i}: {broken(i)[-160:]!r}", broken(i)) for i in range(F.CASES + 50)]
    F.survives("user task file", read, cases, says="task")


def test_the_line_of_the_users_file_is_named(tmp_path):
    path = tmp_path / "task.py"
    path.write_text(USER_TASK.replace('return {"always_no": lambda prompt: "no"}', "return {}[3]"))
    line = path.read_text()[: path.read_text().index("{}[3]")].count("\n") + 1
    with pytest.raises(UserError, match=rf"baselines\(\) failed .KeyError: 3; {path}, line {line}\)"):
        get_task(f"{path}:TASK")


def text_of(number):
    """Control characters, halves of pairs, emoji, other scripts, markup, special tokens; very long ones too."""
    rng = np.random.default_rng((43, number))
    pieces = (
        "\x00", "\x1b[2J", "\r\n", "\t", "\u202e", "\u200d", "😀", "👩‍👩‍👧‍👦", "é", "e\u0301", "漢字", "مرحبا",
        "\ud83d", "\udcff", "()[]",
        "<|endoftext|>", "<script>", "\\n", "What is", " yes", " ", "\ufeff", "\U0010ffff", "compute", "{0}", "%s",
        "\x7f", "a",
    )  # fmt: skip
    count = (1, 3, 10, 30, 100)[number % 5]
    text = "".join(pieces[int(k)] for k in rng.integers(0, len(pieces), count))
    return {0: "", 1: "(" * 200_000, 2: "😀" * 30_000, 3: " " * 100_000}.get(number, text)


def test_texts_to_decode():
    run = P.known_run()
    for length in (1, 50, 100):
        decode(run, "(" * length)  # the three widths are compiled outside of the limits

    def read(text):
        table = decode(run, text).show(layer=-1)
        assert "<|endoftext|>" not in table._repr_html_()

    cases = [(f"{i}: {text_of(i)[:60]!a}", text_of(i)) for i in range(F.CASES + 10)]
    F.survives("texts to decode", read, cases, refused=40)


def test_evaluation_json_in_an_export(tmp_path):
    path = tmp_path / "evaluation.json"
    run = P.small_run()
    program = describe_program(run.program, width=run.model.width)

    def read(content):
        path.write_bytes(content)
        card(run, read_json(path), content=program)

    cases = [(str(i), F.odd_texts(EVALUATION, i)) for i in range(F.CASES)]
    F.survives("evaluation.json in an export", read, cases, says="evaluation.json")
