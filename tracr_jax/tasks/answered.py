"""A program with a value at every position of a string becomes one that answers after the string.

A RASP program of a paper or a benchmark reads its own values (numbers, letters) and nothing else, and gives a
value at every position. A language model reads the string as text and answers after it. So `reading` puts the
program on written letters: its functions get the value that a letter stands for, without a layer more. Behind the
string they get the first value, and since the network is causal nothing of that reaches the string. `last` and
`every` then fetch what the program says: at the last letter, or at one letter after the other.
"""

# tracr types every value of a program as int | float | str | bool | None, whatever it can be here.
# pyright: reportOperatorIssue=false, reportArgumentType=false

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from tracr.rasp import rasp

from tracr_jax.tasks.prompt import ASK


def reading(program: rasp.SOp, values: Mapping[str, Hashable]) -> rasp.SOp:
    """The same program, expression by expression, for the letters that `values` gives the values of."""
    first = next(iter(values.values()))

    def value(letter: Any) -> Any:
        return values.get(letter, first)

    done: dict[int, rasp.RASPExpr] = {}
    letters = rasp.Map(value, rasp.tokens).named("letter")

    def of(x: rasp.RASPExpr) -> Callable[[Any], Any]:
        return value if _is_tokens(x) else _same

    def source(x: rasp.RASPExpr) -> Any:
        return rasp.tokens if _is_tokens(x) else new(x)

    def new(x: rasp.RASPExpr) -> Any:
        if id(x) not in done:
            if _is_tokens(x):
                done[id(x)] = rasp.numerical(letters) if rasp.is_numerical(x) else letters
                return done[id(x)]
            made = done[id(x)] = _rebuilt(x, new, source, of)
            if made is not x:
                made.annotations = dict(x.annotations)
        return done[id(x)]

    return new(program)


def _rebuilt(x: Any, new: Callable, source: Callable, of: Callable) -> rasp.RASPExpr:
    if isinstance(x, rasp.Map):
        f, at = x.f, of(x.inner)
        return rasp.Map(lambda v: f(at(v)), source(x.inner), simplify=False)
    if isinstance(x, rasp.LinearSequenceMap):
        return rasp.LinearSequenceMap(new(x.fst), new(x.snd), x.fst_fac, x.snd_fac)
    if isinstance(x, rasp.SequenceMap):
        g, one, two = x.f, of(x.fst), of(x.snd)
        return rasp.SequenceMap(lambda v, w: g(one(v), two(w)), source(x.fst), source(x.snd))
    if isinstance(x, rasp.Select):
        holds, key, query = x.predicate, of(x.keys), of(x.queries)
        return rasp.Select(source(x.keys), source(x.queries), lambda k, q: holds(key(k), query(q)))
    if isinstance(x, rasp.Aggregate):
        return rasp.Aggregate(new(x.selector), new(x.sop), default=x.default)
    if isinstance(x, rasp.SelectorWidth):
        return rasp.SelectorWidth(new(x.selector))
    return x  # rasp.indices; other expressions are no part of a program that compiles


def _same(value: Any) -> Any:
    return value


def _is_tokens(x: rasp.RASPExpr) -> bool:
    return isinstance(x, rasp.TokensType)


def last(program: rasp.SOp) -> rasp.SOp:
    """At "?" what the program says at the letter before it."""
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    return rasp.Aggregate(before, program).named("fetched")


def every(program: rasp.SOp, *, skipped: int = 0) -> rasp.SOp:
    """From "?" on what the program says at the first letter that is not skipped, the second, and so on."""
    mark = rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == ASK)
    behind = rasp.Aggregate(mark, rasp.indices).named("length")
    turn = rasp.SequenceMap(lambda i, n: max(i - n, 0) + skipped, rasp.indices, behind).named("turn")
    return rasp.Aggregate(rasp.Select(rasp.indices, turn, rasp.Comparison.EQ), program).named("fetched")
