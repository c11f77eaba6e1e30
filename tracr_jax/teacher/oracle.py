"""The oracle: a RASP evaluator that visits every expression once and lets values be replaced.

Implements docs/teacher.md §5.10: tracr's own evaluator fails on a key or query that is undefined and evaluates
once per path. Semantics are those of the compiled network, position by position without BOS:

* `None` is an undefined value (nothing selected, a function of an undefined value, an arithmetic error); it is
  never selected and selects nothing.
* A categorical Aggregate that selects positions with *different* values holds a mixture, not a value: it reads
  as None, and so does what is computed from it, unless all values of the mixture give one result (as a mask does).

With `causal=False` a selector selects later positions too: RASP's own meaning, which no causal network has.
"""

import functools
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.graph import label_program
from tracr_jax.teacher.model import Teacher
from tracr_jax.teacher.values import exact

Values = dict[str, list[Any]]
Overrides = Mapping[tuple[str, int], Any]
Sees = Callable[[str, str], bool]  # (name of the reader, name of the variable it reads)

_State = frozenset  # possible values at one position: one element is a value, several a mixture
States = dict[str, list[_State]]
_Read = Callable[[rasp.SOp], list[_State]]
_Memo = dict[Any, Any]  # by the ids of pooled states

_SELECTION = "selection"  # in the memo of what reads a selector
_KEPT = 1024  # evaluations
_UNKNOWN, _PERHAPS = -1, 2  # beside 0 and 1 in a selector's answers


class Evaluation(NamedTuple):
    """Values per variable and position, and where None stands for a mixture rather than for nothing."""

    values: Values
    mixed: dict[str, list[bool]]


def evaluate_program(
    program: rasp.SOp, tokens: Sequence[Any], *, overrides: Overrides | None = None, sees: Sees | None = None
) -> Values:
    """Values of every variable on one input, {name: [value at each position]}; see `Oracle` for the arguments."""
    return Oracle(program)(tokens, overrides=overrides, sees=sees).values


def reads_after(teacher: Teacher, layer: int) -> Sees:
    """The readers that see an edit of the residual stream r_layer: those computed in that layer or later.

    Use with overrides of variables that r_layer already holds (`Variable.writer_layer` <= layer); what was
    computed from the old value before the edit keeps its own old value.
    """
    start = reading_layers(teacher)
    return lambda reader, variable: start[reader] > layer


def reading_layers(teacher: Teacher) -> dict[str, int]:
    """For each variable the l >= 1 for which it is computed from r_{l-1} (0 for the inputs)."""
    computed = {v.name: v.writer_layer for v in teacher.variables}
    # A SelectorWidth reads its keys in the attention half, which may lie in an earlier layer than its output.
    return {n: computed.get(f"{n}_selector_width_attn_output", at) for n, at in computed.items()}


class Oracle:
    """A program made ready for evaluation; `names` are the teacher's variable names without values.

    What a function of the program returned is kept for all inputs: RASP's functions are pure.
    """

    def __init__(self, program: rasp.SOp, *, causal: bool = True):
        """Labels are drawn as in `compile_program`, so that both agree; see the module for `causal`."""
        exprs = label_program(program)
        self.program = program
        self._causal = causal
        self.result = program.label
        self._sops: dict[str, Any] = {}
        # Kept by object: another program that shares an expression draws its label anew.
        self._names = {id(c): c.label for e in exprs.values() for c in [e, *e.children]}
        for label in _children_first(exprs):
            if isinstance(exprs[label], rasp.SOp):
                self._sops[label] = exprs[label]
        self._reads = {label: tuple(dict.fromkeys(self.inputs(label))) for label in self._sops}
        self._pool = _Pool()
        self._evaluated: dict[Hashable, Evaluation] = {}
        self._memo: dict[str, _Memo] = {label: {} for label in self._sops}

    def expression(self, name: str) -> rasp.SOp:
        """The expression that computes a variable."""
        return self._sops[name]

    def inputs(self, name: str) -> tuple[str, ...]:
        """The variables that a variable is computed from, in the order of its arguments.

        A selector is no variable: its keys and its queries stand in its place, before the aggregated variable.
        """
        children = self._sops[name].children
        direct = [c for child in children for c in ([child] if isinstance(child, rasp.SOp) else child.children)]
        return tuple(self._names[id(c)] for c in direct)

    @property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """For each variable, those that are computed from it directly or through a selector."""
        return {name: tuple(r for r, reads in self._reads.items() if name in reads) for name in self._sops}

    @property
    def names(self) -> tuple[str, ...]:
        """All variables, inputs first."""
        return tuple(self._sops)

    @property
    def ahead(self) -> tuple[str, ...]:
        """Without causality, the variables whose selector has selected a later position of any input so far."""
        return tuple(n for n, memo in self._memo.items() if _SELECTION in memo and memo[_SELECTION].ahead)

    @property
    def selectors(self) -> dict[str, rasp.Selector]:
        """The selector of each variable that has one."""
        reads = rasp.Aggregate | rasp.SelectorWidth
        return {name: sop.selector for name, sop in self._sops.items() if isinstance(sop, reads)}

    def states(self, tokens: Sequence[Any]) -> States:
        """Possible values of every variable at every position; for several calls on the same input."""
        tokens = list(tokens)
        states: States = {}
        for label in self._sops:
            states[label] = self._one(label, tokens, states)
        return states

    def _one(self, label: str, tokens: list, sources: Mapping[str, list[_State]]) -> list[_State]:
        read = lambda child: sources[self._names[id(child)]]  # noqa: E731
        return _evaluate(self._sops[label], tokens, read, self._memo[label], self._pool, causal=self._causal)

    def __call__(
        self,
        tokens: Sequence[Any],
        *,
        overrides: Overrides | None = None,
        sees: Sees | None = None,
        states: States | None = None,
    ) -> Evaluation:
        """Evaluate one input.

        Args:
          tokens: the input without BOS.
          overrides: {(variable name, position): value} put in place of what the program computes there. Everything
            that reads the variable is computed from it, in turn, unless `sees` says otherwise.
          sees: (reader, variable) -> whether that reader sees the overrides of that variable; all do by default.
            `reads_after` makes one for an edit at a layer.
          states: from `Oracle.states` on the same tokens; with it only what the overrides reach is computed.

        Returns:
          values with the overrides in place, and the mixtures.

        Raises:
          UserError: an override names no variable or no position.
        """
        tokens = list(tokens)
        if not overrides and states is None:
            return self._plain(tokens)
        overrides = dict(overrides or {})
        for name, position in overrides:
            if name not in self._sops or not 0 <= position < len(tokens):
                raise UserError(
                    f"oracle: override of {name!r} at position {position}; the input has {len(tokens)} positions "
                    f"and the program {', '.join(self._sops)}"
                )
        touched = {name for name, _ in overrides}
        states = self.states(tokens) if states is None else states
        before: States = {}  # without the variable's own overrides
        after: States = {}
        for label in self._sops:
            sources = {}
            for name in self._reads[label]:
                hidden = name in touched and sees is not None and not sees(label, name)
                sources[name] = before[name] if hidden else after[name]
            reached = any(source is not states[name] for name, source in sources.items())
            before[label] = after[label] = self._one(label, tokens, sources) if reached else states[label]
            if label in touched:
                after[label] = list(before[label])
                for (name, position), value in overrides.items():
                    if name == label:
                        after[label][position] = self._pool.value(value)
        return _evaluation(after)

    def _plain(self, tokens: list) -> Evaluation:
        # Several checks ask about the same inputs in turn.
        key = tuple((t.__class__, t) for t in tokens)
        if key not in self._evaluated:
            if len(self._evaluated) >= _KEPT:
                self._evaluated.clear()
            self._evaluated[key] = _evaluation(self.states(tokens))
        return self._evaluated[key]


def _evaluation(states: States) -> Evaluation:
    values = {n: [next(iter(s)) if len(s) == 1 else None for s in row] for n, row in states.items()}
    return Evaluation(values, {n: [len(s) > 1 for s in row] for n, row in states.items()})


def _children_first(exprs: dict[str, rasp.RASPExpr]) -> list[str]:
    order: list[str] = []
    done: set[str] = set()
    stack = [next(iter(exprs))]
    while stack:
        label = stack[-1]
        waiting = [c.label for c in exprs[label].children if c.label not in done]
        if waiting and label not in done:
            stack.extend(waiting)
            continue
        stack.pop()
        if label not in done:
            done.add(label)
            order.append(label)
    return order


class _Pool:
    """One object for each state, kept for good: its id stands for the state in every memo."""

    def __init__(self):
        self._states: dict[Hashable, _State] = {}

    def value(self, value: Any) -> _State:
        # To a dictionary True, 1 and 1.0 are one, to a function of the program they are not.
        key = value.__class__, value
        found = self._states.get(key)
        return self._states.setdefault(key, frozenset([value])) if found is None else found

    def state(self, state: _State) -> _State:
        if len(state) == 1:
            return self.value(next(iter(state)))
        return self._states.setdefault(frozenset((v.__class__, v) for v in state), state)


def _evaluate(expr: Any, tokens: list, read: _Read, memo: _Memo, pool: _Pool, *, causal: bool) -> list[_State]:
    if isinstance(expr, rasp.TokensType):
        return [pool.value(t) for t in tokens]
    if isinstance(expr, rasp.IndicesType):
        return [pool.value(i) for i in range(len(tokens))]
    if isinstance(expr, rasp.Full):
        return [pool.value(expr.fill)] * len(tokens)
    if isinstance(expr, rasp.Map):
        states = read(expr.inner)
        # The number of a mixture lies between those of its values, where a function may have any value.
        between = {None} if rasp.is_numerical(expr.inner) else set()
        for s in states:
            if id(s) not in memo:
                made = frozenset(_call(expr.f, v) for v in s)
                memo[id(s)] = pool.state(made | between if len(s) > 1 else made)
        return [memo[id(s)] for s in states]
    if isinstance(expr, rasp.SequenceMap):
        pairs = list(zip(read(expr.fst), read(expr.snd), strict=True))
        for a, b in pairs:
            if (id(a), id(b)) not in memo:
                memo[id(a), id(b)] = pool.state(_pointwise(expr.f, a, b))
        return [memo[id(a), id(b)] for a, b in pairs]
    if isinstance(expr, rasp.SelectorWidth):
        found = _select(expr, read, memo, causal=causal)
        counts = (np.count_nonzero(found == answer, axis=1).tolist() for answer in (1, _PERHAPS))
        widths = list(zip(*counts, strict=True))
        for sure, maybe in widths:
            if (sure, maybe) not in memo:
                memo[sure, maybe] = pool.state(frozenset(range(sure, sure + maybe + 1)))
        return [memo[w] for w in widths]
    if isinstance(expr, rasp.Aggregate):
        values = read(expr.sop)
        mean = rasp.is_numerical(expr)
        rows = (
            (np.flatnonzero(row == 1).tolist(), np.flatnonzero(row == _PERHAPS).tolist())
            for row in _select(expr, read, memo, causal=causal)
        )
        return [pool.state(_aggregate(expr, values, sure, maybe, mean=mean)) for sure, maybe in rows]
    raise UserError(f"oracle: {expr.label} is a {type(expr).__name__}, which has no causal meaning here")


def _call(f: Callable, *values: Any) -> Any:
    if any(v is None for v in values):
        return None
    try:
        return f(*values)
    except ArithmeticError:
        return None  # "this input does not occur", as in tracr's inference


def _pointwise(f: Callable, a: _State, b: _State) -> _State:
    out = frozenset(_call(f, x, y) for x, y in itertools.product(a, b))
    # relu(x + y - 1) of two mixtures loses mass.
    return out | {None} if len(a) > 1 and len(b) > 1 else out


@functools.cache
def _earlier(length: int) -> np.ndarray:
    """1 where a query may select a key: itself and what stands before it."""
    return np.tri(length, dtype=np.int8)


class _Selection:
    """A selector's answer to every pair of query and key so far: 0 no, 1 yes, 2 perhaps, for a mixture."""

    def __init__(self, predicate: Callable[[Any, Any], Any]):
        self._predicate = predicate
        self.ahead = False  # whether a later position was selected
        self._keys: dict[int, int] = {}  # id of a pooled state -> column
        self._queries: dict[int, int] = {}  # -> row
        self._answers = np.full((64, 64), _UNKNOWN, np.int8)  # query, key

    def __call__(self, keys: list[_State], queries: list[_State], *, causal: bool) -> np.ndarray:
        """The answers [queries, keys]; no to later keys if causal."""
        column = np.array([self._keys.setdefault(id(k), len(self._keys)) for k in keys])
        row = np.array([self._queries.setdefault(id(q), len(self._queries)) for q in queries])
        needed = max(len(self._keys), len(self._queries))
        if needed > len(self._answers):
            larger = np.full((2 * needed, 2 * needed), _UNKNOWN, np.int8)
            larger[: len(self._answers), : len(self._answers)] = self._answers
            self._answers = larger
        place = row[:, None] * len(self._answers) + column
        seen = _earlier(len(keys)) if causal else np.int8(1)
        answers = self._answers.take(place) * seen
        if answers.min(initial=0) == _UNKNOWN:
            for q, k in np.argwhere(answers == _UNKNOWN):
                if self._answers[row[q], column[k]] == _UNKNOWN:
                    self._answers[row[q], column[k]] = self._ask(keys[k], queries[q])
            answers = self._answers.take(place) * seen
        self.ahead = self.ahead or (not causal and bool(np.triu(answers, 1).any()))
        return answers

    def _ask(self, key: _State, query: _State) -> int:
        found = {
            x is not None and y is not None and bool(self._predicate(x, y))
            for x, y in itertools.product(key, query)
        }
        return _PERHAPS if len(found) == 2 else int(True in found)


def _select(expr: Any, read: _Read, memo: _Memo, *, causal: bool) -> np.ndarray:
    """What an Aggregate or a SelectorWidth selects, [position, position it reads], see `_Selection`."""
    select = expr.selector
    if not isinstance(select, rasp.Select):
        raise UserError(f"oracle: {select.label} is a {type(select).__name__}; only a Select can be compiled")
    if _SELECTION not in memo:
        memo[_SELECTION] = _Selection(select.predicate)
    return memo[_SELECTION](read(select.keys), read(select.queries), causal=causal)


def exact_mean(numbers: Sequence[float], count: int) -> float:
    """Sum over count, rounded once: in float64 the mean of 0.1, 0.1 and 0.1 is not 0.1."""
    if all(isinstance(v, int) for v in numbers):
        return sum(numbers) / count
    return float(sum(map(exact, numbers)) / count)


def _aggregate(expr: Any, values: list[_State], sure: list[int], maybe: list[int], *, mean: bool) -> _State:
    if maybe:
        return frozenset().union({None}, *(values[s] for s in sure + maybe))
    if not sure:
        return frozenset([expr.default])
    if not mean:
        return frozenset().union(*(values[s] for s in sure))
    if any(len(values[s]) > 1 for s in sure):
        return frozenset().union({None}, *(values[s] for s in sure))
    numbers = [v for s in sure for v in values[s] if v is not None]
    return frozenset([exact_mean(numbers, len(sure)) if numbers else None])
