"""What the zoo's programs are made of: which tokens are letters, their numbers, and where an answer stands.

A program of the RASP paper may look at the whole string from every position. Here a position sees itself and what
stands before it, and the answer is asked with "?" after the string: from there on everything is seen. So what the
paper computes at each letter is computed at the answer's positions instead, where the letter is fetched first.
"""

import functools
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


def count(keys: rasp.SOp, queries: rasp.SOp) -> rasp.SOp:
    """How many positions so far hold a key equal to the query of this one."""
    return rasp.SelectorWidth(rasp.Select(keys, queries, rasp.Comparison.EQ))


def fetch(values: rasp.SOp, keys: rasp.SOp, queries: rasp.SOp) -> rasp.SOp:
    """The value at the one position so far whose key is the query; None where there is none."""
    return rasp.Aggregate(rasp.Select(keys, queries, rasp.Comparison.EQ), values)


class String:
    """A string of letters as a program sees it: which positions hold them, their numbers, and the answer's steps.

    One for each program that is built: what is asked twice is the same expression, which is computed once.
    """

    def __init__(self, letters: Sequence[str]):
        """`letters`: the alphabet."""
        self._known = frozenset(letters)
        self._constants: dict[Hashable, rasp.SOp] = {}

    def constant(self, value: Hashable) -> rasp.SOp:
        """The same value everywhere."""
        if value not in self._constants:
            self._constants[value] = each(lambda _: value, rasp.tokens)
        return self._constants[value]

    def total(self, of: rasp.SOp) -> rasp.SOp:
        """How many positions so far hold True."""
        return count(of, self.constant(True))

    @functools.cached_property
    def asked(self) -> rasp.SOp:
        """True from the question mark on."""
        return each(bool, count(rasp.tokens, self.constant(ASK))).named("asked")

    @functools.cached_property
    def letter(self) -> rasp.SOp:
        """The letters of the string; `NONE` for words, and for what is written as the answer."""
        known = self._known
        return both(
            lambda token, behind: token if token in known and not behind else NONE, rasp.tokens, self.asked
        ).named("string")

    @functools.cached_property
    def length(self) -> rasp.SOp:
        """How many letters there are so far."""
        return self.total(each(lambda x: x != NONE, self.letter).named("is_letter")).named("length")

    @functools.cached_property
    def rank(self) -> rasp.SOp:
        """The number of each letter, from 1; 0 at other positions."""
        return both(lambda n, x: n if x != NONE else 0, self.length, self.letter).named("rank")

    @functools.cached_property
    def step(self) -> rasp.SOp:
        """Which value of the answer is written next: 1 at the question mark, 0 before it."""
        return self.total(self.asked).named("step")

    @functools.cached_property
    def here(self) -> rasp.SOp:
        """At each step of the answer the letter whose turn it is: the first, then the second, …; None before."""
        turn = each(lambda k: k or -1, self.step).named("turn")  # 0 is the rank of what is no letter
        return fetch(self.letter, self.rank, turn).named("here")
