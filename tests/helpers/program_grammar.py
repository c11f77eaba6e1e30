"""Random small programs of every operation of `rasp` on every kind of value, and how a compiled one is judged."""

import itertools
import random
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher import compile_program, verify
from tracr_jax.teacher.graph import label_program
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.verify import VerifyReport

VOCABULARIES = (
    ("a", "b"),
    ("a", "b", "c"),
    (0, 1),
    (-1, 0, 2),
    (0.5, -1.5, 3),
    (True, False),
    ("1", "a", 1),
    ("x",),
    (-2, "b", 0.25, False),
)
NUMBERS = (0, 1, -1, 2, -3, 0.5, -0.25, 1.5, True, False, 7, 1 / 3, 1e-3, 300, -1e5)
VALUES = (0, 1, -1, 2, 0.5, -0.25, True, False, "a", "b", "-1", "", None)
FACTORS = (1, -1, 0, 2, 0.5, -0.25)
_SHOWN = ("f", "predicate", "fst_fac", "snd_fac", "default", "fill")


@dataclass(frozen=True)
class Program:
    """A built program and where it runs."""

    result: rasp.SOp
    vocab: tuple
    length: int
    seed: int | None = None

    def __repr__(self) -> str:
        """The program line by line, so that a failure can be read."""
        lines = [f"seed {self.seed}: vocab {self.vocab}, {self.length} positions"]
        for label, expr in reversed(label_program(self.result).items()):
            kind = "numerical " if isinstance(expr, rasp.SOp) and rasp.is_numerical(expr) else ""
            details = {k: v for k, v in vars(expr).items() if k in _SHOWN}
            lines.append(f"{label} = {kind}{type(expr).__name__} of {[c.label for c in expr.children]} {details}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Verdict:
    """`refused` is the one line, or None where the program was compiled and compared."""

    refused: str | None
    report: VerifyReport | None = None


@dataclass(frozen=True)
class Function:
    """A function that can be read in a failure."""

    text: str
    f: Callable

    def __call__(self, *values):
        return self.f(*values)

    def __repr__(self) -> str:
        return self.text


def table(seed: int, outputs: tuple) -> Function:
    """A function of any values whose results look random; equal values of any type have one result."""

    def f(*values):
        plain = [float(v) if isinstance(v, bool | int | float) else v for v in values]
        return outputs[zlib.crc32(f"{seed}{plain!r}".encode()) % len(outputs)]

    return Function(f"table({seed}, {outputs})", f)


def programs() -> st.SearchStrategy[Program]:
    """Programs of two to seven operations."""
    # By a seed: drawn choice by choice, hypothesis repeats its choices, and most programs are alike.
    return st.integers(0, 2**64 - 1).map(lambda seed: _Grammar(seed).program())


class _Grammar:
    """One random program; what was made before is used again, in several places too."""

    def __init__(self, seed: int):
        self._seed, self._r = seed, random.Random(seed)
        self._categorical: list[rasp.SOp] = [rasp.tokens, rasp.indices]
        self._numbers: list[rasp.SOp] = []

    def program(self) -> Program:
        made: rasp.SOp = rasp.tokens
        for _ in range(self._r.randint(2, 6)):
            made = self._operation()
            (self._numbers if rasp.is_numerical(made) else self._categorical).append(made)
        if rasp.tokens.label not in label_program(made):  # which every program must read
            if rasp.is_numerical(made):
                score = rasp.numerical(rasp.Map(self._function(number=True), rasp.tokens))
                made = rasp.numerical(rasp.LinearSequenceMap(made, score, *self._factors()))
            else:
                made = rasp.SequenceMap(self._of_two(), made, rasp.tokens)
        return Program(made, self._r.choice(VOCABULARIES), self._r.randint(1, 6), self._seed)

    def _operation(self) -> rasp.SOp:
        if self._r.random() < 0.02:
            return self._rare()
        kinds = [
            lambda: self._map(self._cat(), number=False),
            lambda: self._map(self._cat(), number=True),
            lambda: rasp.SequenceMap(self._of_two(), self._cat(), self._cat()),
            self._width,
            lambda: rasp.Aggregate(self._select(), self._cat()),
        ]
        if self._numbers:
            kinds += 2 * [lambda: self._map(self._num(), number=False), self._mean]
            kinds += [
                lambda: self._map(self._num(), number=True),
                lambda: rasp.numerical(rasp.LinearSequenceMap(self._num(), self._num(), *self._factors())),
            ]
        return self._r.choice(kinds)()

    def _cat(self) -> rasp.SOp:
        return self._r.choice([*self._categorical[-3:], self._categorical[-1], rasp.tokens, rasp.indices])

    def _num(self) -> rasp.SOp:
        return self._r.choice(self._numbers[-3:])

    def _any(self) -> rasp.SOp:
        return self._r.choice([*self._categorical, *self._numbers])

    def _factors(self) -> tuple[float, float]:
        return self._r.choice(FACTORS), self._r.choice(FACTORS)

    def _some(self, values: tuple) -> tuple:
        return tuple(self._r.choices(values, k=self._r.randint(1, 4)))

    def _map(self, source: rasp.SOp, *, number: bool) -> rasp.SOp:
        made = rasp.Map(self._function(number=number), source, simplify=self._r.random() < 0.5)
        return rasp.numerical(made) if number else rasp.categorical(made)

    def _function(self, *, number: bool) -> Function:
        if self._r.random() < 0.5:
            return table(self._r.randrange(1000), self._some(NUMBERS if number else VALUES))
        c = self._r.choice(NUMBERS)
        plain = [
            Function(f"x == {c}", lambda x: x == c),
            Function(f"x != {c}", lambda x: x != c),
            Function("not x", lambda x: not x),
            Function("x", lambda x: x),
        ]
        partial = [  # defined for numbers only, or not even for all of them, or telling 1 from True
            Function(f"x > {c}", lambda x: x > c),
            Function(f"x + {c}", lambda x: x + c),
            Function(f"x * {c}", lambda x: x * c),
            Function("1 / x", lambda x: 1 / x),
            Function("round(x, 1)", lambda x: round(x, 1)),
            Function("float(x)", float),
            Function("len(str(x))" if number else "str(x)", (lambda x: len(str(x))) if number else str),
        ]
        return self._r.choice(3 * plain + partial)

    def _of_two(self) -> Function:
        plain = [
            table(self._r.randrange(1000), self._some(VALUES)),
            table(self._r.randrange(1000), self._some(VALUES)),
            Function("(x, y)", lambda x, y: (x, y)),
            Function("x == y", lambda x, y: x == y),
            Function("x or y", lambda x, y: x or y),
        ]
        partial = [Function("x - y", lambda x, y: x - y), Function("x / y", lambda x, y: x / y)]
        return self._r.choice(3 * plain + partial)

    def _select(self) -> rasp.Selector:
        how = self._r.choice(("one", "one", "one", "and", "or", "not", "past", "past", "before"))
        if how in ("past", "before"):
            order = {"past": rasp.Comparison.LEQ, "before": rasp.Comparison.LT}[how]
            return rasp.Select(rasp.indices, rasp.indices, order)
        keys, queries = self._cat(), self._cat()
        one, other = (rasp.Select(keys, queries, self._predicate()) for _ in range(2))
        return {"one": lambda: one, "not": lambda: ~one, "and": lambda: one & other, "or": lambda: one | other}[
            how
        ]()

    def _predicate(self) -> Any:
        constant = self._r.choice(VALUES)
        equal = [rasp.Comparison.EQ, rasp.Comparison.NEQ, rasp.Comparison.TRUE, rasp.Comparison.FALSE]
        order = [rasp.Comparison.LT, rasp.Comparison.LEQ, rasp.Comparison.GT, rasp.Comparison.GEQ]
        written = [
            Function(f"k == {constant!r}", lambda k, q: k == constant),
            Function(f"q != {constant!r}", lambda k, q: q != constant),
            table(self._r.randrange(1000), (True, False)),
            table(self._r.randrange(1000), (2, 0, "yes", "", None)),
        ]
        return self._r.choice([*equal, rasp.Comparison.EQ, *order, *written, *written])

    def _width(self) -> rasp.SOp:
        made = rasp.SelectorWidth(self._select())
        return rasp.numerical(made) if self._r.random() < 0.5 else made

    def _mean(self) -> rasp.SOp:
        default = self._r.choice((0, 0, 0, 0.0, False))
        return rasp.numerical(rasp.Aggregate(self._select(), self._num(), default=default))

    def _rare(self) -> rasp.SOp:
        """What is refused, nearly always."""
        here = rasp.Select(self._cat(), self._cat(), rasp.Comparison.EQ)
        first = Function("x", lambda x, y=None: x)
        kinds = [
            lambda: rasp.SequenceMap(first, rasp.Full(self._r.choice(VALUES)), self._cat()),
            lambda: rasp.numerical(rasp.LinearSequenceMap(rasp.numerical(rasp.Full(1)), self._any(), 1, 1)),
            lambda: rasp.SequenceMap(first, rasp.ConstantSOp([1, 2, 3]), self._cat()),
            lambda: rasp.SequenceMap(first, rasp.length, self._cat()),
            lambda: rasp.SequenceMap(first, self._any(), self._any()),
            lambda: rasp.LinearSequenceMap(self._any(), self._any(), 1, 1),
            lambda: rasp.Aggregate(here, self._cat(), default="a"),
            lambda: rasp.Aggregate(here, rasp.numerical(self._cat()), default=self._r.choice((1, None, 0.5))),
            lambda: rasp.Aggregate(rasp.SelectorAnd(here, here), self._any()),
            lambda: rasp.SelectorWidth(rasp.SelectorNot(here)),
            lambda: rasp.SelectorWidth(rasp.SelectorOr(here, here)),
            lambda: rasp.SelectorWidth(rasp.ConstantSelector([[True]])),
            lambda: rasp.SelectorWidth(rasp.Select(self._any(), self._any(), rasp.Comparison.EQ)),
            lambda: rasp.Map(first, rasp.numerical(self._any())),
            lambda: rasp.numerical(self._any()),
            lambda: rasp.numerical(rasp.indices) + self._cat(),
        ]
        return self._r.choice(kinds)()


def operations(program: Program) -> set[str]:
    """The kinds of operations in a program, numerical ones by that name."""
    found = set()
    for expr in label_program(program.result).values():
        kind: str = type(expr).__name__
        if isinstance(expr, rasp.SOp):
            kind = ("numerical " if rasp.is_numerical(expr) else "") + kind
            if isinstance(expr, rasp.Map) and rasp.is_numerical(expr.inner):
                kind += " of a number"
        found.add(kind)
    return found


def inputs_of(program: Program, *, most: int = 40, seed: int = 0) -> list[list]:
    """All inputs of the full length where there are few, otherwise random ones.

    The network and its oracle are causal: shorter inputs are beginnings of these.
    """
    if len(program.vocab) ** program.length <= most:
        return [list(x) for x in itertools.product(program.vocab, repeat=program.length)]
    rng = np.random.default_rng(seed)
    return [[program.vocab[i] for i in row] for row in rng.integers(0, len(program.vocab), (most, program.length))]


def judge(program: Program, *, most: int = 40) -> Verdict:
    """Compile, and compare every variable at every position with the oracle."""
    try:
        teacher = compile_program(program.result, vocab=program.vocab, max_seq_len=program.length)
    except UserError as e:
        return Verdict(str(e))
    return Verdict(None, verify(teacher, Oracle(program.result), inputs=inputs_of(program, most=most)))
