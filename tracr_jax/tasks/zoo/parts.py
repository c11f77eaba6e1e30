"""What the zoo's programs are made of: which tokens are letters, their numbers, and where an answer stands.

A program of the RASP paper may look at the whole string from every position. Here a position sees itself and what
stands before it, and the answer is asked with "?" behind the string: from there on everything is seen. So what the
paper computes at each letter is computed at the answer's positions instead, where the letter is fetched first.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any

from tracr.rasp import rasp

from tracr_jax.tasks.prompt import ASK

NONE = "none"  # stands where a position holds no letter of the string


def each(f: Callable[[Any], Any], x: rasp.SOp) -> rasp.SOp:
    """What f makes of the value at every position."""
    return rasp.Map(f, x)


def both(f: Callable[[Any, Any], Any], x: rasp.SOp, y: rasp.SOp) -> rasp.SOp:
    """What f makes of the two values at every position."""
    return rasp.SequenceMap(f, x, y)


def constant(value: Hashable) -> rasp.SOp:
    """The same value everywhere."""
    return each(lambda _: value, rasp.tokens)


def count(keys: rasp.SOp, queries: rasp.SOp) -> rasp.SOp:
    """How many positions so far hold a key equal to the query of this one."""
    return rasp.SelectorWidth(rasp.Select(keys, queries, rasp.Comparison.EQ))


def asked() -> rasp.SOp:
    """True from the question mark on."""
    return each(bool, count(rasp.tokens, constant(ASK))).named("asked")


def string(letters: Sequence[str]) -> rasp.SOp:
    """The letters of the string; `NONE` for words, and for what is written as the answer."""
    known = frozenset(letters)
    return both(
        lambda token, behind: token if token in known and not behind else NONE, rasp.tokens, asked()
    ).named("string")


def length(of: rasp.SOp) -> rasp.SOp:
    """How many letters `of` has so far."""
    return count(each(lambda x: x != NONE, of).named("is_letter"), constant(True)).named("length")


def rank(of: rasp.SOp) -> rasp.SOp:
    """The number of each letter, from 1; 0 at other positions."""
    return both(lambda n, x: n if x != NONE else 0, length(of), of).named("rank")


def step() -> rasp.SOp:
    """Which value of the answer is written next: 1 at the question mark, 0 before it."""
    return count(asked(), constant(True)).named("step")


def fetch(values: rasp.SOp, keys: rasp.SOp, queries: rasp.SOp) -> rasp.SOp:
    """The value at the one position so far whose key is the query; None where there is none."""
    return rasp.Aggregate(rasp.Select(keys, queries, rasp.Comparison.EQ), values)


def here(of: rasp.SOp) -> rasp.SOp:
    """At each step of the answer the letter whose turn it is: the first, then the second, …; None before."""
    turn = each(lambda k: k or -1, step()).named("turn")  # 0 is the rank of what is no letter
    return fetch(of, rank(of), turn).named("here")
