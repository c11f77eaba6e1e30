"""Possible values of a program's expressions as codes: what the oracle computes, one expression at a time.

A state is the set of values that may stand at a position: one is a value, several are a mixture. Every state is
numbered once, in a `Pool`; an expression's function is asked once for each code (or pair of codes) of what it
reads, so that positions, and inputs of one length, are evaluated together as arrays of codes [..., T].
"""

import functools
import itertools
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int
from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.teacher.graph import PROGRAM_ERRORS
from tracr_jax.teacher.values import exact

State = frozenset
Codes = Int[np.ndarray, "... T"]

_Read = Callable[[rasp.SOp], Codes]
_ROWS = 100_000  # means and mixtures kept for a variable
_SHORT = 256  # codes, up to which looking for repeated ones costs more than it saves
_UNKNOWN, _PERHAPS = -1, 2  # beside 0 and 1 in a selector's answers


class Pool:
    """The states that occurred, by their codes, kept for good."""

    def __init__(self):
        self.states: list[State] = []
        self.values: list[Any] = []  # of the states that are one value; None for mixtures
        self.mixed: list[bool] = []
        self._codes: dict[Hashable, int] = {}

    def value(self, value: Any) -> int:
        """The code of the state that is this value."""
        # To a dictionary True, 1 and 1.0 are one, to a function of the program they are not.
        key = value.__class__, value
        found = self._codes.get(key)
        return self._new(key, frozenset([value])) if found is None else found

    def state(self, state: State) -> int:
        """The code of a state."""
        if len(state) == 1:
            return self.value(next(iter(state)))
        key = frozenset((v.__class__, v) for v in state)
        found = self._codes.get(key)
        return self._new(key, state) if found is None else found

    def _new(self, key: Hashable, state: State) -> int:
        code = self._codes[key] = len(self.states)
        self.states.append(state)
        self.mixed.append(len(state) > 1)
        self.values.append(None if len(state) > 1 else next(iter(state)))
        return code


class Memo:
    """One expression, and what it made of every state of its inputs so far."""

    def __init__(self, expr: Any, pool: Pool):
        self._expr, self._pool = expr, pool
        self._made: dict[Any, int] = {}
        self.selection: _Selection | None = None
        if isinstance(expr, rasp.Aggregate | rasp.SelectorWidth) and isinstance(expr.selector, rasp.Select):
            self.selection = _Selection(expr.selector.predicate, pool, of=expr.label)

    def __call__(self, tokens: Codes, read: _Read, *, causal: bool) -> Codes:
        """Codes of the expression's states, for the tokens' codes and those of the variables it reads."""
        expr, pool = self._expr, self._pool
        if isinstance(expr, rasp.TokensType):
            return tokens
        if isinstance(expr, rasp.IndicesType):
            places = np.array([pool.value(i) for i in range(tokens.shape[-1])], np.int64)
            return np.broadcast_to(places, tokens.shape)
        if isinstance(expr, rasp.Full):
            return np.full_like(tokens, pool.value(expr.fill))
        if isinstance(expr, rasp.Map):
            return self._each(read(expr.inner), self._map)
        if isinstance(expr, rasp.SequenceMap):
            return self._each_pair(read(expr.fst), read(expr.snd), self._sequence_map)
        if isinstance(expr, rasp.SelectorWidth):
            found = self._select(expr.selector, read, causal=causal)
            sure, maybe = ((found == answer).sum(axis=-1) for answer in (1, _PERHAPS))
            return self._each_pair(sure, maybe, lambda n, m: frozenset(range(n, n + m + 1)))
        if isinstance(expr, rasp.Aggregate):
            return self._aggregate(self._select(expr.selector, read, causal=causal), read(expr.sop))
        raise UserError(f"oracle: {expr.label} is a {type(expr).__name__}, which has no causal meaning here")

    def _map(self, code: int) -> State:
        state = self._pool.states[code]
        made = frozenset(_call(self._expr.f, v) for v in state)
        # The number of a mixture lies between those of its values, where a function may have any value.
        return made | {None} if len(state) > 1 and rasp.is_numerical(self._expr.inner) else made

    def _sequence_map(self, first: int, second: int) -> State:
        return _pointwise(self._expr.f, self._pool.states[first], self._pool.states[second])

    def _select(self, select: Any, read: _Read, *, causal: bool) -> Int[np.ndarray, "... T T"]:
        if self.selection is None:
            raise UserError(f"oracle: {select.label} is a {type(select).__name__}; only a Select can be compiled")
        return self.selection(read(select.keys), read(select.queries), causal=causal)

    def _aggregate(self, found: Int[np.ndarray, "... T T"], values: Codes) -> Codes:
        # The state depends on what is selected, and on whether all of it is sure.
        selected = np.where(found > 0, values[..., None, :], -1).astype(np.int32)
        if rasp.is_numerical(self._expr):
            selected.sort(axis=-1)  # a mean does not depend on the order, and most rows then occur before
        doubtful = (found == _PERHAPS).any(axis=-1)
        rows = selected.reshape(doubtful.size, selected.shape[-1])
        if len(self._made) > _ROWS:
            self._made.clear()
        made, out = self._made, []
        for row, (codes, maybe) in enumerate(zip(map(np.ndarray.tobytes, rows), doubtful.flat, strict=True)):
            key = codes, maybe
            if key not in made:
                states = [self._pool.states[c] for c in rows[row].tolist() if c >= 0]
                made[key] = self._pool.state(_aggregate(self._expr, states, maybe=bool(maybe)))
            out.append(made[key])
        return np.array(out, np.int64).reshape(doubtful.shape)

    def _each(self, codes: Int[np.ndarray, "..."], make: Callable[[int], State]) -> Codes:
        """`make` of each code, asked once for each."""
        distinct, inverse = codes.ravel(), None
        if distinct.size > _SHORT:
            distinct, inverse = np.unique(distinct, return_inverse=True)
        made, out = self._made, []
        for code in distinct.tolist():
            if code not in made:
                made[code] = self._pool.state(make(code))
            out.append(made[code])
        found = np.array(out, np.int64)
        return (found if inverse is None else found[inverse]).reshape(codes.shape)

    def _each_pair(
        self, first: Int[np.ndarray, "..."], second: Int[np.ndarray, "..."], make: Callable[[int, int], State]
    ) -> Codes:
        return self._each(first << 32 | second, lambda both: make(both >> 32, both & 0xFFFFFFFF))


def _call(f: Callable, *values: Any) -> Any:
    if any(v is None for v in values):
        return None
    try:
        return f(*values)
    except ArithmeticError:
        return None  # "this input does not occur", as in tracr's inference


def _pointwise(f: Callable, a: State, b: State) -> State:
    out = frozenset(_call(f, x, y) for x, y in itertools.product(a, b))
    # relu(x + y - 1) of two mixtures loses mass.
    return out | {None} if len(a) > 1 and len(b) > 1 else out


@functools.cache
def _earlier(length: int) -> np.ndarray:
    """1 where a query may select a key: itself and what stands before it."""
    return np.tri(length, dtype=np.int8)


class _Selection:
    """A selector's answer to every pair of query and key so far: 0 no, 1 yes, 2 perhaps, for a mixture."""

    def __init__(self, predicate: Callable[[Any, Any], Any], pool: Pool, *, of: str):
        self._predicate, self._pool, self._of = predicate, pool, of
        self.ahead = False  # whether a later position was selected
        self._keys, self._queries = _Places(), _Places()
        self._answers = np.full((64, 64), _UNKNOWN, np.int8)  # query, key

    def __call__(self, keys: Codes, queries: Codes, *, causal: bool) -> Int[np.ndarray, "... T T"]:
        """The answers [..., query, key]; no to later keys if causal."""
        column, row = self._keys(keys), self._queries(queries)
        needed = max(len(self._keys), len(self._queries))
        if needed > len(self._answers):
            larger = np.full((2 * needed, 2 * needed), _UNKNOWN, np.int8)
            larger[: len(self._answers), : len(self._answers)] = self._answers
            self._answers = larger
        place = row[..., :, None] * len(self._answers) + column[..., None, :]
        seen = _earlier(keys.shape[-1]) if causal else np.int8(1)
        answers = self._answers.take(place) * seen
        if answers.min(initial=0) == _UNKNOWN:
            for pair in set(place[answers == _UNKNOWN].tolist()):
                q, k = divmod(pair, len(self._answers))
                self._answers[q, k] = self._ask(self._keys.codes[k], self._queries.codes[q])
            answers = self._answers.take(place) * seen
        self.ahead = self.ahead or (not causal and bool(np.triu(answers, 1).any()))
        return answers

    def _ask(self, key: int, query: int) -> int:
        found = {
            x is not None and y is not None and self._says(x, y)
            for x, y in itertools.product(self._pool.states[key], self._pool.states[query])
        }
        return _PERHAPS if len(found) == 2 else int(True in found)

    def _says(self, key: Any, query: Any) -> bool:
        try:
            return bool(self._predicate(key, query))
        except PROGRAM_ERRORS as e:
            where = f"key {key!r} and query {query!r}"
            raise UserError(f"{self._of}: its selector fails on {where} ({describe(e)})") from e


class _Places:
    """A place in a table for each code, in the order in which they come."""

    def __init__(self):
        self.codes: list[int] = []
        self._place = np.full(64, _UNKNOWN)

    def __len__(self) -> int:
        return len(self.codes)

    def __call__(self, codes: Codes) -> Int[np.ndarray, "..."]:
        most = int(codes.max(initial=0))
        if most >= len(self._place):
            self._place = np.concatenate([self._place, np.full(most + 1, _UNKNOWN)])
        found = self._place[codes]
        if found.min(initial=0) == _UNKNOWN:
            for code in dict.fromkeys(codes[found == _UNKNOWN].tolist()):
                self._place[code] = len(self.codes)
                self.codes.append(code)
            found = self._place[codes]
        return found


def exact_mean(numbers: Sequence[float], count: int) -> float:
    """Sum over count, rounded once: in float64 the mean of 0.1, 0.1 and 0.1 is not 0.1."""
    if all(isinstance(v, int) for v in numbers):
        return sum(numbers) / count
    return float(sum(map(exact, numbers)) / count)


def _aggregate(expr: Any, selected: Sequence[State], *, maybe: bool) -> State:
    """The state of the selected ones; maybe: not all of them are surely selected."""
    mixture = frozenset().union(*selected)
    if maybe:
        return mixture | {None}
    if not selected:
        return frozenset([expr.default])
    if not rasp.is_numerical(expr):
        return mixture
    if any(len(state) > 1 for state in selected):
        return mixture | {None}
    numbers = [v for state in selected for v in state if v is not None]
    return frozenset([exact_mean(numbers, len(selected)) if numbers else None])
