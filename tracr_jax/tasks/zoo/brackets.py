"""Languages of brackets: one kind, and two kinds properly nested (shuffle-dyck is the task `dyck`)."""

import itertools
from collections.abc import Sequence

import numpy as np
from tracr.rasp import rasp

from tracr_jax.tasks.brackets import ends_fit, exchange_two, is_matched
from tracr_jax.tasks.zoo.parts import NONE, String, both, count, each, fetch

ROUND = ("(", ")")
BOTH = ("(", ")", "[", "]")
_TRIES = 6  # at a mistake that first and last bracket do not show
_WIDE = 100  # more than brackets of one depth: depth and number in one value


def _depth(of: String) -> rasp.SOp:
    """Opening minus closing brackets so far."""
    opened, closed = (
        of.total(each(lambda x, kind=kind: x in kind, of.letter).named(name))
        for kind, name in (("([", "is_open"), (")]", "is_close"))
    )
    return both(lambda a, b: a - b, opened, closed).named("depth")


def _balanced(of: String, depth: rasp.SOp) -> rasp.SOp:
    """The depth was never negative and is 0 now."""
    below = of.total(each(lambda d: d < 0, depth).named("negative")).named("below")
    return both(lambda n, d: n == 0 and d == 0, below, depth).named("balanced")


def dyck1() -> rasp.SOp:
    """Whether brackets of one kind are balanced (RASP paper: Dyck-1 PTF, asked at the end)."""
    of = String(ROUND)
    return _balanced(of, _depth(of))


def nested() -> rasp.SOp:
    """Whether brackets of two kinds are properly nested (RASP paper: Dyck-2).

    The paper removes adjacent pairs again and again. Here a closing bracket finds its partner: among the opening
    ones of its depth the last so far, known by its number among them. Both are one value for the selector.
    """
    of = String(BOTH)
    depth = _depth(of)
    is_open = each(lambda x: x in "([", of.letter).named("opens")
    # Depth inside the bracket, the same for both partners; 0 where there is no bracket.
    inside = both(
        lambda d, x: 0 if x == NONE else max(d, 0) if x in "([" else max(d + 1, 0), depth, of.letter
    ).named("inside")
    open_at = both(lambda d, o: d if o else -1, inside, is_open).named("open_at")
    number = count(open_at, inside).named("number")
    pair = both(lambda d, n: _WIDE * d + n, inside, number).named("pair")
    key = both(lambda p, o: p if o else -1, pair, is_open).named("key")
    # Where the depth is not negative every closing bracket has a partner.
    wrong = both(_mismatch, fetch(of.letter, key, pair).named("opened_by"), of.letter).named("mismatch")
    faults = of.total(wrong).named("faults")
    return both(lambda n, b: n == 0 and b, faults, _balanced(of, depth)).named("nested")


def _mismatch(opened: str, x: str) -> bool:
    return x in (")", "]") and opened != {")": "(", "]": "["}[x]


def balanced_of(letters: Sequence[str]) -> bool:
    """Whether brackets are properly nested, in Python."""
    left = []
    for x in letters:
        if x in "([":
            left.append(x)
        elif not left or left.pop() + x not in ("()", "[]"):
            return False
    return not left


def balanced_string(letters: Sequence[str], r: np.random.Generator, low: int, high: int) -> list[str]:
    """A string of brackets, all even lengths alike, half of them properly nested.

    The others have a mistake that must be looked for: two closing brackets of different kinds exchanged, so that
    each kind is balanced for itself but crosses the other (with one kind an opening and a later closing one, so
    that the counts match), or, in one of 16 strings, one bracket replaced.
    """
    pairs = ["".join(letters[i : i + 2]) for i in range(0, len(letters), 2)]
    kind = int(r.integers(16))
    while True:
        out: list[str] = []
        for _ in range(int(r.integers(-(-low // 2), high // 2 + 1))):
            at = int(r.integers(0, len(out) + 1))
            out[at:at] = pairs[int(r.integers(len(pairs)))]
        if kind < 8:
            return out
        if kind == 8:
            out[int(r.integers(len(out)))] = letters[int(r.integers(len(letters)))]
            return out
        if len(pairs) == 1:
            wrong = [exchange_two(r, "".join(out), tuple(pairs)) for _ in range(_TRIES)]
            return [*next(filter(first_and_last, wrong), wrong[0])]  # else the ends alone would tell
        if crossed := _crossings(out):
            return crossed[int(r.integers(len(crossed)))]


def _crossings(nested: Sequence[str]) -> list[list[str]]:
    """A nested string with two closing brackets of different kinds exchanged, so that each kind stays balanced."""
    closers = [k for k, x in enumerate(nested) if x in ")]"]
    crossed = []
    for i, j in itertools.combinations(closers, 2):
        out = list(nested)
        out[i], out[j] = out[j], out[i]
        if nested[i] != nested[j] and types_apart(out):
            crossed.append(out)
    return crossed


def types_apart(letters: Sequence[str]) -> bool:
    """Whether each kind of bracket is balanced, the others left out: what a count of each kind can tell."""
    return is_matched("".join(letters), ("()", "[]"))


def first_and_last(letters: Sequence[str]) -> bool:
    """Whether an even number of brackets begins with an opening one and ends with a closing one."""
    return ends_fit("".join(letters), ("()", "[]"))


def as_many(letters: Sequence[str]) -> bool:
    """Whether as many round brackets open as close."""
    return letters.count("(") == letters.count(")")
