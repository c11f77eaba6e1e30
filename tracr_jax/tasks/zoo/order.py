"""Programs whose answer is an order or a place: copy, reverse, sort, first position of a letter."""

from collections.abc import Sequence
from functools import reduce

from tracr.rasp import rasp

from tracr_jax.tasks.zoo.parts import NONE, String, both, each, fetch

LETTERS = ("a", "b", "c")


def copy() -> rasp.SOp:
    """The string again: each step of the answer fetches the letter of its number."""
    return String(LETTERS).here.named("copy")


def reverse() -> rasp.SOp:
    """The string from its end (RASP paper, section 3: reverse).

    The paper fetches position length - index - 1 at every position, which is ahead in the first half. Behind the
    question mark step k fetches letter length - k + 1, which is always seen.
    """
    of = String(LETTERS)
    # 0 is the rank of what is no letter.
    which = both(lambda n, k: n - k + 1 if 0 < k <= n else -1, of.length, of.step).named("which")
    return fetch(of.letter, of.rank, which).named("reverse")


def sort() -> rasp.SOp:
    """The letters in the alphabet's order (RASP paper: sort).

    The paper counts for each letter the smaller ones and moves it there, which needs the letters after it. At
    step k of the answer the letter is the first one that is no smaller than k letters of the string.
    """
    of = String(LETTERS)
    place = each(lambda x: LETTERS.index(x) if x in LETTERS else len(LETTERS), of.letter).named("place")
    up_to = [
        rasp.SelectorWidth(rasp.Select(place, of.constant(i), rasp.Comparison.LEQ)).named(f"up_to_{x}")
        for i, x in enumerate(LETTERS[:-1])
    ]
    passed = [both(lambda n, k: int(n < k), n, of.step) for n in up_to]
    return each(lambda n: LETTERS[n], reduce(lambda a, b: both(_add, a, b), passed)).named("sort")


def _add(a: int, b: int) -> int:
    return a + b


def first_position() -> rasp.SOp:
    """The number of the first letter that is an "a", 0 where there is none."""
    of = String(LETTERS)
    so_far = of.total(each(lambda x: x == "a", of.letter).named("is_a")).named("so_far")
    before = both(lambda x, n: x != NONE and n == 0, of.letter, so_far).named("before_any")
    passed = of.total(before).named("passed")
    return both(lambda n, k: k + 1 if n else 0, so_far, passed).named("first_position")


def first_position_of(letters: Sequence[str]) -> int:
    """The same in Python."""
    return list(letters).index("a") + 1 if "a" in letters else 0
