"""The values that a number can reach: tracr lists too few where a mean is involved.

tracr lists the mean of a variable of zeros and ones as 0 or 1/n, so 2/3 is read as 1/2, and a threshold between
the two stands wrongly. Here a mean is listed as what it can be: a sum of n values over n, for every n up to the
length of the table. What is computed from it is listed by the rules of tracr from these values.
"""

import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction
from typing import Any

import networkx as nx
import numpy as np
from tracr.compiler import nodes
from tracr.rasp import rasp

_LARGEST = 1e30  # so that sums and products stay within float32
_MOST = 100_000  # values of a mean, and sums on the way to them


class Reached:
    """Lists the values that a number can reach where tracr lists fewer; `endless` collects what has too many."""

    def __init__(self, listed: nx.DiGraph, *, max_seq_len: int):
        """`listed` holds tracr's own value sets, which stand where there are too many."""
        self.endless: set[str] = set()
        self._listed, self._length = listed, max_seq_len

    def lists(self, graph: nx.DiGraph, label: str, *, most: int) -> bool:
        """Put in the values of a sum of two numbers, unless tracr's rule will do: the sum of every pair of values.

        It will not for means over the same positions, and where there are too many pairs, or an endless number.
        """
        expr = graph.nodes[label][nodes.EXPR]
        if not isinstance(expr, rasp.LinearSequenceMap):
            return False
        together = _sums_of_means(graph, expr, length=self._length)
        if together is not None:
            graph.nodes[label].update(self._listed.nodes[label])
            graph.nodes[label][nodes.VALUE_SET] = together
            return True
        sizes = [len(graph.nodes[c.label][nodes.VALUE_SET]) for c in expr.children]
        if math.prod(sizes) <= most and not self._endless_source(expr):
            return False
        graph.nodes[label].update(self._listed.nodes[label])
        self.endless.add(label)
        return True

    def mend(self, graph: nx.DiGraph, label: str) -> None:
        """Put the values of a mean, or of what reads an endless number, into the node that was inferred last."""
        expr = graph.nodes[label][nodes.EXPR]
        if not isinstance(expr, rasp.SOp) or not rasp.is_numerical(expr):
            return
        values: set | None = graph.nodes[label][nodes.VALUE_SET]
        if self._endless_source(expr):
            values = None
        elif isinstance(expr, rasp.Aggregate):
            values = means(graph.nodes[expr.sop.label][nodes.VALUE_SET], self._length)
            if values is not None and expr.default is not None:
                values = {*values, expr.default}
        if values is None or len(values) > _MOST:
            self.endless.add(label)
            values = self._listed.nodes[label][nodes.VALUE_SET]
        graph.nodes[label][nodes.VALUE_SET] = values

    def _endless_source(self, expr: rasp.RASPExpr) -> bool:
        return any(c.label in self.endless for c in expr.children if isinstance(c, rasp.SOp))


def means(values: Any, length: int) -> set[float] | None:
    """Means of 1 to `length` of the values; None where they are too many."""
    # Exact sums, of whole multiples of one fraction: 0.1 + 0.2 and 0.3 are one value.
    fractions = {exact(v) for v in values}
    unit = math.lcm(*(v.denominator for v in fractions))
    parts = {int(v * unit) for v in fractions}
    sums, out = {0}, set()
    for n in range(1, length + 1):
        if len(sums) * len(parts) > 2 * _MOST:
            return None
        sums = {s + v for s in sums for v in parts}
        out |= {s / (n * unit) for s in sums}
        if len(sums) > _MOST or len(out) > _MOST:
            return None
    return out


def _sums_of_means(graph: nx.DiGraph, expr: rasp.LinearSequenceMap, *, length: int) -> set[float] | None:
    """Values of a sum of means that select the same positions; None of other sums, and of too many values."""
    leaves: dict[str, Any] = {}
    stack: list[rasp.RASPExpr] = [expr]
    while stack:
        one = stack.pop()
        if isinstance(one, rasp.LinearSequenceMap):
            stack += one.children
        else:
            leaves[one.label] = one
    if not all(isinstance(a, rasp.Aggregate) and isinstance(a.selector, rasp.Select) for a in leaves.values()):
        return None
    selectors = [a.selector for a in leaves.values()]
    if len({(s.keys.label, s.queries.label, s.predicate) for s in selectors}) > 1:
        return None
    each = {tuple(map(exact, vs)) for vs in _together(graph, [a.sop for a in leaves.values()])}
    unit = math.lcm(*(v.denominator for vs in each for v in vs))
    parts = {tuple(int(v * unit) for v in vs) for vs in each}
    place = {label: i for i, label in enumerate(leaves)}

    def reader(one: Any) -> Callable[[Sequence[float]], float]:
        """The sum as a function of its means, added up in the program's order."""
        if one.label in place:
            return operator.itemgetter(place[one.label])
        f, first, second = one.f, reader(one.fst), reader(one.snd)
        return lambda means: f(first(means), second(means))

    read = reader(expr)
    out = {read([a.default for a in leaves.values()])}
    sums, count = {(0,) * len(leaves)}, 0
    for n in range(1, length + 1):
        count += len(sums)
        if len(sums) * len(parts) > 2 * _MOST or count > _MOST:
            return None
        sums = {tuple(map(operator.add, s, v)) for s in sums for v in parts}
        out |= {read([x / (n * unit) for x in s]) for s in sums}
    return out


def _together(graph: nx.DiGraph, sops: Sequence[rasp.SOp]) -> Iterable[tuple]:
    """What numbers can be at one position: where all are made of one variable, what its values give."""
    inner = {sop.inner.label if isinstance(sop, rasp.Map) else sop.label for sop in sops}
    if len(inner) == 1 and all(isinstance(sop, rasp.Map) for sop in sops):
        try:
            values = graph.nodes[inner.pop()][nodes.VALUE_SET]
            made = [tuple(sop.f(v) for sop in sops) for v in values]  # pyright: ignore[reportAttributeAccessIssue]
        except ArithmeticError:
            made = []
        if made and all(is_number(v) for vs in made for v in vs):
            return made
    return itertools.product(*(graph.nodes[sop.label][nodes.VALUE_SET] for sop in sops))


def is_number(value: Any) -> bool:
    """Whether a value can stand in a numerical variable, in float32."""
    return isinstance(value, int | float | np.integer | np.floating | np.bool_) and bool(abs(value) <= _LARGEST)


def exact(value: Any) -> Fraction:
    """A number without rounding."""
    return Fraction(value if isinstance(value, int | float) else float(value))
