"""One block of triples per RASP expression: attention heads and groups of hidden units.

Implements docs/teacher.md §2: what tracr's craft blocks compute, written directly as entries between named
directions. Nothing is rounded: entries are float64, and each is computed by the same expression as tracr's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.graph import PROGRAM_ERRORS, Node, Trace, describe
from tracr_jax.teacher.model import Direction

ONE: Direction = ("one", None)
CLEAN_BOS: Direction = ("_hidden_clean_bos_", None)
COLDNESS = 100

Triples = tuple[Sequence[Any] | np.ndarray, Sequence[Any] | np.ndarray, Sequence[Any] | np.ndarray]


@dataclass(frozen=True)
class Head:
    """Scores queries[i], keys[j] -> qk[i, j]; moves `moves` = (from, to) pairs of directions with weight 1."""

    queries: list[Direction]
    keys: list[Direction]
    qk: np.ndarray
    values: list[Direction]  # all directions of the value space, BOS included
    moves: list[tuple[Direction, Direction]]


@dataclass(frozen=True)
class Units:
    """Hidden units of an MLP. Triples are (from index, to index, weight) into inputs, units and outputs."""

    units: list[Direction]
    inputs: list[Direction]
    outputs: list[Direction]
    fst: Triples
    snd: Triples
    pairs: Sequence[tuple[int, int]] = ()
    grid: tuple[int, int] | None = None


def attention(trace: Trace, selector: rasp.Select, *, bos: Direction, always_bos: bool) -> tuple[list, list, Any]:
    """Queries, keys and scores: 100 where the predicate holds; BOS gets 100 always, or 50 as the default."""
    query, key = trace.sops[selector.queries.label], trace.sops[selector.keys.label]
    queries, keys = [*query.basis, ONE], [*key.basis, bos]
    qk = np.zeros((len(queries), len(keys)))
    for i, (_, q) in enumerate(query.basis):
        for j, (_, k) in enumerate(key.basis):
            qk[i, j] = COLDNESS * selector.predicate(k, q)
    qk[-1, -1] = COLDNESS * (1.0 if always_bos else 0.5)
    return queries, keys, qk


def aggregate(trace: Trace, node: Node, *, bos: Direction) -> Head:
    """Move a variable's directions to the aggregate's own, in sorted order."""
    source = trace.sops[node.expr.sop.label]
    queries, keys, qk = attention(trace, node.expr.selector, bos=bos, always_bos=False)
    return Head(queries, keys, qk, [*source.basis, bos], list(zip(source.basis, node.basis, strict=True)))


def selector_width(
    trace: Trace, node: Node, *, bos: Direction, exactness: float
) -> tuple[Head, Units, list[Direction]]:
    """1/(d+1) by attention, d by inversion, and the directions to be cleaned at BOS."""
    out: Direction = (f"{node.label}_selector_width_attn_output", None)
    queries, keys, qk = attention(trace, node.expr.selector, bos=bos, always_bos=True)
    units = steps(
        node,
        out,
        inputs={1 / (v + 1) for v in node.values},
        f=lambda x: round((1 / x) - 1),
        exactness=exactness,
    )
    clean = [out]
    if node.categorical:
        clean.append(next(d for d in node.basis if d[1] == 0))
    return Head(queries, keys, qk, [bos], [(bos, out)]), units, clean


def steps(node: Node, source: Direction, *, inputs: set, f: Callable, exactness: float) -> Units:
    """A function of one number: a pair of units per threshold between neighbouring inputs, slope `exactness`."""
    xs, ys = [], []
    for x in sorted(inputs):
        try:
            y = f(x)
        except ArithmeticError:
            continue  # as in tracr's inference: this input does not occur
        if y is not None:
            xs.append(x)
            ys.append(y)
    if not xs:
        raise UserError(f"program: {node.label} is undefined for every possible input")
    hidden = f"_hidden_{node.label}_"
    index = {value: i for i, (_, value) in enumerate(node.basis)}
    units: list[Direction] = [(f"{hidden}start", None)]
    fst, snd, pairs = [(1, 0, 1.0)], [], []

    def write(unit, sign, y, before):
        if not node.categorical:
            snd.append((unit, 0, sign * (y - before)))
        elif y != before:
            snd.extend([(unit, index[y], sign * 1.0), (unit, index[before], -sign * 1.0)])

    snd.append((0, index[ys[0]], 1.0) if node.categorical else (0, 0, ys[0]))
    for k in range(1, len(xs)):
        threshold = (xs[k - 1] + xs[k]) / 2
        a = len(units)
        units += [(hidden, (k, 0)), (hidden, (k, 1))]
        fst += [(0, a, exactness), (1, a, 1 - exactness * threshold)]
        fst += [(0, a + 1, exactness), (1, a + 1, -exactness * threshold)]
        write(a, 1, ys[k], ys[k - 1])
        write(a + 1, -1, ys[k], ys[k - 1])
        pairs.append((a, a + 1))
    return Units(units, [source, ONE], list(node.basis), _columns(fst), _columns(snd), pairs)


def lookup(node: Node, source: Node, f: Callable) -> Units:
    """A function of one categorical variable: the hidden layer is the output, the second matrix the identity."""
    outputs = list(node.basis)
    index = {value: i for i, (_, value) in enumerate(outputs)}
    fst = []
    for i, (_, value) in enumerate(source.basis):
        y = f(value)
        if not node.categorical:
            fst.append((i, 0, y))
        elif y in index:
            fst.append((i, index[y], 1.0))
    same = np.arange(len(outputs))
    return Units(outputs, list(source.basis), outputs, _columns(fst), (same, same, np.ones(len(outputs))))


def product(node: Node, first: Node, second: Node) -> Units:
    """A function of two categorical variables: one unit relu(x_i + y_j - 1) per pair of values."""
    if {d for d in first.basis} & {d for d in second.basis}:
        raise UserError(f"program: {node.label} combines two views of one variable, which tracr cannot compile")
    hidden = f"_hidden_{node.label}_"
    a, b = len(first.basis), len(second.basis)
    index = {value: i for i, (_, value) in enumerate(node.basis)}
    units, snd = [], []
    for x_name, x in first.basis:
        for y_name, y in second.basis:
            out = index.get(node.expr.f(x, y))
            if out is not None:
                snd.append((len(units), out, 1.0))
            units.append((hidden, (x_name, x, y_name, y)))
    i, j = np.divmod(np.arange(a * b), b)
    unit = np.arange(a * b)
    fst = (
        np.concatenate([i, a + j, np.full(a * b, a + b)]),
        np.concatenate([unit, unit, unit]),
        np.concatenate([np.ones(2 * a * b), -np.ones(a * b)]),
    )
    inputs = [*first.basis, *second.basis, ONE]
    return Units(units, inputs, list(node.basis), fst, _columns(snd), grid=(a, b))


def linear(node: Node, first: Node, second: Node) -> Units:
    """Two numbers x, y to a x + b y, each as the difference of two units."""
    hidden = f"_hidden_{node.label}_"
    units: list[Direction] = [(f"{hidden}{axis}", sign) for axis in "xy" for sign in (1, -1)]
    fst = [(0, 0, 1.0), (0, 1, -1.0), (1, 2, 1.0), (1, 3, -1.0)]
    a, b = node.expr.fst_fac, node.expr.snd_fac
    snd = [(0, 0, a), (1, 0, -a), (2, 0, b), (3, 0, -b)]
    return Units(units, [first.basis[0], second.basis[0]], list(node.basis), _columns(fst), _columns(snd))


def build(trace: Trace, node: Node, *, bos: Direction, exactness: float):
    """The block of one expression: (head or None, units or None, directions to clean at BOS).

    Raises:
      UserError: one of the program's functions fails, or tracr has no such block.
    """
    expr = node.expr
    try:
        if isinstance(expr, rasp.SelectorWidth):
            return selector_width(trace, node, bos=bos, exactness=exactness)
        if isinstance(expr, rasp.Aggregate):
            return aggregate(trace, node, bos=bos), None, []
        return None, _units(trace, node, exactness=exactness), []
    except UserError:
        raise
    except PROGRAM_ERRORS as e:
        raise UserError(f"program: {node.label} cannot be compiled, a function in it fails ({describe(e)})") from e


def _units(trace: Trace, node: Node, *, exactness: float) -> Units:
    expr = node.expr
    if isinstance(expr, rasp.Map):
        source = trace.sops[expr.inner.label]
        if source.categorical:
            return lookup(node, source, expr.f)
        return steps(node, source.basis[0], inputs=set(source.values), f=expr.f, exactness=exactness)
    first, second = trace.sops[expr.fst.label], trace.sops[expr.snd.label]
    if isinstance(expr, rasp.LinearSequenceMap):
        return linear(node, first, second)
    if first.basis == second.basis:
        return lookup(node, first, lambda x: expr.f(x, x))
    return product(node, first, second)


def _columns(triples: list) -> Triples:
    return ([t[0] for t in triples], [t[1] for t in triples], [t[2] for t in triples])
