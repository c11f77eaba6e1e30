"""Programs that count letters: histograms, the most frequent letter, parity, majority, a sum modulo five."""

from collections import Counter
from collections.abc import Sequence
from functools import reduce

from tracr.rasp import rasp

from tracr_jax.tasks.zoo.parts import String, both, count, each

LETTERS = ("a", "b", "c", "d")
DIGITS = ("0", "1", "2", "3", "4")


def _counts(of: String, letters: Sequence[str]) -> list[rasp.SOp]:
    """How often each letter stands in the string so far."""
    return [count(of.letter, of.constant(x)).named(f"count_{x}") for x in letters]


def histogram() -> rasp.SOp:
    """For each letter how often it stands in the string (RASP paper, section 3: hist).

    The paper counts at every letter's own position, which here does not see the letters after it. The letter is
    fetched to the step of the answer at which its count is written, and counted there.
    """
    return _histogram(String(LETTERS))


def _histogram(of: String) -> rasp.SOp:
    return count(of.letter, of.here).named("histogram")


def histogram_of(letters: Sequence[str]) -> list[int]:
    """The same in Python."""
    return [letters.count(x) for x in letters]


def double_histogram() -> rasp.SOp:
    """For each letter how many letters stand in the string as often as it (RASP paper: hist2).

    The paper selects the first position of each letter and counts those of equal histogram. Over a known alphabet
    that is one comparison for each letter, which needs no position to see what comes after it.
    """
    of = String(LETTERS)
    own = _histogram(of)
    same = [both(lambda n, own: int(n == own > 0), n, own) for n in _counts(of, LETTERS)]
    return reduce(lambda a, b: both(lambda x, y: x + y, a, b), same).named("double_histogram")


def double_histogram_of(letters: Sequence[str]) -> list[int]:
    """The same in Python."""
    often = Counter(letters)
    return [sum(n == often[x] for n in often.values()) for x in letters]


def most_frequent() -> rasp.SOp:
    """The letter that stands most often, of several the first in the alphabet (RASP paper: most-freq).

    The paper sorts all letters by their histogram. The first of that order is the maximum, taken letter by letter.
    """
    last = len(LETTERS) - 1
    # One number says both how often and which: of equal counts the earlier letter is the larger.
    marks = [
        each(lambda n, i=i: n * len(LETTERS) + last - i, n).named(f"mark_{LETTERS[i]}")
        for i, n in enumerate(_counts(String(LETTERS), LETTERS))
    ]
    best = reduce(lambda a, b: both(max, a, b), marks).named("best")
    return each(lambda mark: LETTERS[last - mark % len(LETTERS)], best).named("most_frequent")


def most_frequent_of(letters: Sequence[str]) -> str:
    """The same in Python."""
    return min(LETTERS, key=lambda x: (-letters.count(x), x))


def parity() -> rasp.SOp:
    """Whether "a" stands an even number of times."""
    return each(lambda n: n % 2 == 0, _counts(String(("a", "b")), ("a",))[0]).named("parity")


def majority() -> rasp.SOp:
    """Whether "a" stands more often than "b"."""
    a, b = _counts(String(("a", "b")), ("a", "b"))
    return both(lambda n, m: n > m, a, b).named("majority")


def modular_sum() -> rasp.SOp:
    """The sum of the digits 0 to 4, modulo 5: digit by digit the count times the digit is added."""
    counts = _counts(String(DIGITS), DIGITS)
    parts = [each(lambda n, d=d: n * d % 5, n).named(f"times_{d}") for d, n in enumerate(counts) if d > 0]
    return reduce(lambda a, b: both(lambda x, y: (x + y) % 5, a, b), parts).named("modular_sum")


def modular_sum_of(letters: Sequence[str]) -> int:
    """The same in Python."""
    return sum(map(int, letters)) % 5
