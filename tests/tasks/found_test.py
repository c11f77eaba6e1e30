"""Which of a file's programs is meant, and which modules belong to the file."""

import sys

import pytest

from tests.helpers.task_files import HEAD, read, task_of
from tracr_jax.errors import UserError
from tracr_jax.tasks.kept import keep_files, own_spec

HELPER = "VOCAB = set('abc')\nis_a = rasp.Map(lambda t: t == 'a', rasp.tokens).named('is_a')\n"
COUNT = "rasp.SelectorWidth(rasp.Select(is_a, rasp.indices, lambda key, query: key)).named('count_a')"


def test_of_a_class_and_its_base_the_program_is_the_class(tmp_path):
    source = """
VOCAB = range(3)
class Base:
    def get_program(self): raise NotImplementedError
class Double(Base):
    def get_program(self): return rasp.Map(lambda x: 2 * x, rasp.tokens)
"""
    assert task_of(tmp_path, "mine", source).item(["1", "2"]).label == "24"


@pytest.mark.parametrize(
    "source",
    [
        f"{HELPER}def make_count():\n    return {COUNT}",
        f"{HELPER}def make_count():\n    def inner(): return {COUNT}\n    return inner()",
        f"{HELPER}count = {COUNT}",
        f"{HELPER}def make_count():\n    return {COUNT}\nresult = make_count()",
        "VOCAB = set('abc')\ndef make_is_a():\n    return rasp.Map(lambda t: t == 'a', rasp.tokens)\n"
        f"def make_count(tokens):\n    is_a = make_is_a()\n    return {COUNT}",
        "from lib_of_helpers import is_a\nVOCAB = set('abc')\n" f"def make_count(tokens):\n    return {COUNT}",
        f"{HELPER}class Case:\n    def get_program(self): return {COUNT}",
        f"{HELPER}class Case:\n    def get_program(self): return {COUNT}\nREGISTRY = {{'case': Case}}\n"
        "def make_old() -> rasp.SOp:\n    return rasp.Map(str, rasp.tokens)\n"
        "def main(): return Case().get_program()",
        f"{HELPER}def _part():\n    return {COUNT}\ndef make_count():\n    return _part()\n"
        "def test_count(): return make_count()('abc')",
        f"{HELPER}def make_count():\n    return {COUNT}\nEXAMPLE = 'abc'.count('a')",
        "from lib_of_helpers import count\nVOCAB = set('abc')",
    ],
    ids=["a global", "in a function", "objects", "made at the top", "of two kinds", "imported", "class",
         "class and leftovers", "through a part", "a method's name", "imported alone"],
)  # fmt: skip
def test_of_several_the_program_is_what_the_others_do_not_use(tmp_path, source):
    (tmp_path / "lib_of_helpers.py").write_text(f"{HEAD}{HELPER}count = {COUNT}\n")
    task = task_of(tmp_path, "mine", source + "\nCAUSAL = True\n")
    assert [task.item(tuple(x)).label for x in ("aca", "bb", "cab")] == ["112", "00", "011"]


def test_two_that_nothing_uses_are_asked_for(tmp_path):
    """Of whatever kind: a leftover beside the program is not taken for it."""
    source = f"{HELPER}DEBUG = rasp.Map(str, rasp.tokens)\ndef make_count():\n    return {COUNT}\n"
    with pytest.raises(UserError, match=r"the programs DEBUG, make_count; choose one as .*mine\.py:DEBUG"):
        task_of(tmp_path, "mine", source)


def test_what_lies_beside_a_file_is_its_own(tmp_path):
    """Two folders hold a module of one name."""
    for letter in ("a", "b"):
        (tmp_path / letter).mkdir()
        (tmp_path / letter / "beside.py").write_text(f"LETTER = {letter!r}")
        source = (
            "from beside import LETTER\nVOCAB = {'a', 'b'}\nPROGRAM = rasp.Map(lambda t: t == LETTER, rasp.tokens)"
        )
        (tmp_path / letter / "more.py").write_text("NUMBER = 1")
        assert task_of(tmp_path / letter, "mine", source).item(("a", "b")).label == {
            "a": "yes no", "b": "no yes"
        }[letter]  # fmt: skip


def test_a_file_of_a_package_above_it_is_read_and_kept(tmp_path, monkeypatch):
    """As the cases of a benchmark import its vocabularies: neither installed nor beside the file."""
    package = tmp_path / "some_bench_of_mine"
    (package / "cases").mkdir(parents=True)
    (package / "vocabs.py").write_text("def letters(n):\n    return set('abcdef'[:n])\n")
    (package / "case.py").write_text("class Case:\n    def get_max_seq_len(self): return 6\n")
    case = package / "cases" / "case_1.py"
    case.write_text(
        HEAD + "from some_bench_of_mine import vocabs\nfrom some_bench_of_mine.case import Case\n"
        "class Case1(Case):\n    def get_program(self): return rasp.Map(str.upper, rasp.tokens)\n"
        "    def get_vocab(self): return vocabs.letters(3)\n"
    )
    task = read(case)
    assert task.item(["a", "c"]).label == "A C"
    assert task.max_length == 5
    keep_files(str(case), tmp_path / "run")
    for module in [m for m in sys.modules if m.startswith("some_bench_of_mine")]:
        monkeypatch.delitem(sys.modules, module)
    package.rename(tmp_path / "gone")
    copy = own_spec(str(case), tmp_path / "run")
    assert copy.startswith(str(tmp_path / "run"))
    assert read(copy).item(["b", "c"]).label == "B C"
