"""Which variables of a program can be undefined (None), and which selectors can select nothing.

Bounds: a variable that is not listed is defined at every position of every input; one that is may still be. What a
selector of positions selects is evaluated position by position; of other variables every combination of values is
taken to occur.
"""

from collections.abc import Callable, Collection
from typing import Any

from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.graph import PROGRAM_ERRORS, Trace, depths, trace
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.values import is_number


class Undefined:
    """`variables` that can be undefined, and `selects`: whether a selector always selects something."""

    def __init__(self, trace: Trace, *, max_seq_len: int):
        self.variables: set[str] = set()
        self._trace = trace
        depth = depths(trace.exprs)
        order = sorted(trace.exprs, key=lambda n: (depth[n], isinstance(trace.exprs[n], rasp.Selector)))
        self._at = _values_of_positions(trace, order, length=max_seq_len)
        for label in order:
            if label in trace.sops and self._can_be(trace.sops[label].expr, label):
                self.variables.add(label)

    def selects(self, label: str) -> bool:
        """Whether the selector of an Aggregate or SelectorWidth selects something at every position."""
        selector = self._trace.sops[label].expr.selector
        keys, queries, holds = selector.keys.label, selector.queries.label, selector.predicate
        k_at, q_at = self._at.get(keys), self._at.get(queries)
        k_all, q_all = self._trace.sops[keys].values, self._trace.sops[queries].values
        if (k_at is None and keys in self.variables) or (q_at is None and queries in self.variables):
            return False
        if k_at is None:  # only a position's own key is known to be there
            if keys == queries:
                return all(_call(holds, q, q) for q in q_all)
            return all(_call(holds, k, q) for q in (q_all if q_at is None else q_at) for k in k_all)
        if q_at is None:  # the first position selects itself, and is there for all others
            return all(_call(holds, k_at[0], q) for q in q_all)
        return all(any(_call(holds, k, q) for k in k_at[: t + 1]) for t, q in enumerate(q_at))

    def _can_be(self, expr: Any, label: str) -> bool:
        if label in self._at:
            return None in self._at[label]
        if isinstance(expr, rasp.Map):
            values = self._trace.sops[expr.inner.label].values
            return expr.inner.label in self.variables or any(_call(expr.f, v) is None for v in values)
        if isinstance(expr, rasp.SequenceMap):
            first, second = expr.fst.label, expr.snd.label
            if {first, second} & self.variables:
                return True
            if isinstance(expr, rasp.LinearSequenceMap):
                return False
            a, b = self._trace.sops[first].values, self._trace.sops[second].values
            pairs = ((v, v) for v in a) if first == second else ((v, w) for v in a for w in b)
            return any(_call(expr.f, v, w) is None for v, w in pairs)
        if isinstance(expr, rasp.Aggregate) and rasp.is_categorical(expr):
            return expr.sop.label in self.variables or not self.selects(label)
        return False


def only_answer(program: rasp.SOp, *, vocab: Collection[Any], max_seq_len: int) -> list[Any]:
    """[value] where a program's result has one value for all tokens; [] where it may have more, or be undefined.

    Raises:
      UserError: tracr cannot compile the program.
    """
    traced = trace(program, vocab=set(vocab), max_seq_len=max_seq_len)
    values = list(traced.sops[traced.result].values)
    if len(values) > 1 or traced.result in Undefined(traced, max_seq_len=max_seq_len).variables:
        return []
    return values


def check_numbers(trace: Trace, undefined: Undefined) -> None:
    """Refuse a numerical variable that can be anything but a finite number."""
    for label, node in trace.sops.items():
        expr: Any = node.expr
        if node.categorical:
            continue
        if isinstance(expr, rasp.Map):
            for x in trace.sops[expr.inner.label].values:
                if not is_number(y := _call(expr.f, x)):
                    raise UserError(
                        f"program: {label} is a number, but {y!r} at {x!r}; give a number for every value it meets"
                    )
        if label in undefined.variables:
            source = next(c.label for c in expr.children if c.label in undefined.variables)
            raise UserError(
                f"program: {label} is a number and reads {source}, which can be undefined (None), as where a "
                "selector selects nothing; no number stands for that: select something at every position, or keep "
                "it categorical"
            )


def _values_of_positions(trace: Trace, order: list[str], *, length: int) -> dict[str, list[Any]]:
    """The values at each position of every variable that no token changes; a mixture counts as unknown."""
    found: set[str] = set()
    for label in order:
        expr: Any = trace.exprs[label]
        fixed = bool(expr.children) and found.issuperset(c.label for c in expr.children)
        if fixed or isinstance(expr, rasp.IndicesType) or _selects_all_or_none(expr, trace):
            found.add(label)
    positions = {rasp.indices.label: list(range(length))} if rasp.indices.label in found else {}
    if found <= positions.keys():
        return positions
    token = next(iter(trace.sops[rasp.tokens.label].values))
    try:
        values, mixed = Oracle(trace.sops[trace.result].expr)([token] * length)
    except PROGRAM_ERRORS:  # the block that is built from the function that fails says so
        return positions
    return {n: values[n] for n in found if n in values and not any(mixed[n])}


def _selects_all_or_none(expr: Any, trace: Trace) -> bool:
    inputs = rasp.TokensType | rasp.IndicesType
    if (
        not isinstance(expr, rasp.Select)
        or not isinstance(expr.keys, inputs)
        or not isinstance(expr.queries, inputs)
    ):
        return False
    keys, queries = trace.sops[expr.keys.label].values, trace.sops[expr.queries.label].values
    return len({bool(_call(expr.predicate, k, q)) for k in keys for q in queries}) == 1


def _call(f: Callable, *values: Any) -> Any:
    """None also where f fails: at what does occur, the block that is built from it says so."""
    if any(v is None for v in values):
        return None
    try:
        return f(*values)
    except PROGRAM_ERRORS:
        return None
