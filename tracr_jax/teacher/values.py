"""The values that a number can reach: tracr lists too few where a mean is involved.

tracr lists the mean of a variable of zeros and ones as 0 or 1/n, so 2/3 is read as 1/2, and a threshold between
the two stands wrongly. Here a mean is listed as what it can be: a sum of n values over n, for every n up to the
length of the table. What is computed from it is listed by the rules of tracr from these values.
"""

import math
from fractions import Fraction
from typing import Any

import networkx as nx
from tracr.compiler import nodes
from tracr.rasp import rasp

_MOST = 100_000  # values of a mean, and sums on the way to them


class Reached:
    """Lists the values that a number can reach where tracr lists fewer; `endless` collects what has too many."""

    def __init__(self, listed: nx.DiGraph, *, max_seq_len: int):
        """`listed` holds tracr's own value sets, which stand where there are too many."""
        self.endless: set[str] = set()
        self._listed, self._length = listed, max_seq_len

    def skips(self, graph: nx.DiGraph, label: str, *, most: int) -> bool:
        """Whether a sum of two numbers has too many pairs of values to be listed, or reads an endless one."""
        expr = graph.nodes[label][nodes.EXPR]
        if not isinstance(expr, rasp.LinearSequenceMap):
            return False
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
    exact = {Fraction(v) for v in values}
    unit = math.lcm(*(v.denominator for v in exact))
    parts = {int(v * unit) for v in exact}
    sums, out = {0}, set()
    for n in range(1, length + 1):
        if len(sums) * len(parts) > 2 * _MOST:
            return None
        sums = {s + v for s in sums for v in parts}
        out |= {s / (n * unit) for s in sums}
        if len(sums) > _MOST or len(out) > _MOST:
            return None
    return out


def is_number(value: Any) -> bool:
    """Whether a value can stand in a numerical variable."""
    return isinstance(value, int | float) and math.isfinite(value)
