"""One block of triples per RASP expression: attention heads and groups of hidden units.

Implements docs/teacher.md §2: what tracr's craft blocks compute, written directly as entries between named
directions. Nothing is rounded: entries are float64, and each is computed by the same expression as tracr's.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.teacher.graph import PROGRAM_ERRORS, Node, Trace
from tracr_jax.teacher.model import Direction
from tracr_jax.teacher.precision import ROUNDING, TRACRS, Imprecise, Off
from tracr_jax.teacher.twins import same

ONE: Direction = ("one", None)
_ROUNDED = 1e-12  # relative: what sums of float64 differ by
CLEAN_BOS: Direction = ("_hidden_clean_bos_", None)

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
    twins: bool = False
    """Whether two values of a category are equal and not the same (`tracr_jax.teacher.twins`)."""


@dataclass(frozen=True)
class Build:
    """How the blocks of a program are built; tracr's way by default."""

    bos: Direction
    exactness: float
    """Slope of the steps."""
    coldness: float = TRACRS
    """Score of a selected position, before it is divided by the root of the key size."""
    off: Mapping[str, Off] = field(default_factory=dict)
    """How far each variable may be off."""
    quiet: bool = False
    """Steps write nothing at BOS; tracr's write what their function makes of 0."""


def attention(trace: Trace, selector: rasp.Select, how: Build, *, always_bos: bool) -> tuple[list, list, Any]:
    """Queries, keys and scores: 100 where the predicate holds; BOS gets 100 always, or 50 as the default."""
    query, key = trace.sops[selector.queries.label], trace.sops[selector.keys.label]
    queries, keys = [*query.basis, ONE], [*key.basis, how.bos]
    qk = np.zeros((len(queries), len(keys)))
    for i, (_, q) in enumerate(query.basis):
        for j, (_, k) in enumerate(key.basis):
            qk[i, j] = how.coldness * bool(selector.predicate(k, q))
    qk[-1, -1] = how.coldness * (1.0 if always_bos else 0.5)
    return queries, keys, qk


def aggregate(trace: Trace, node: Node, how: Build) -> Head:
    """Move a variable's directions to the aggregate's own, each to that of the same value."""
    source = trace.sops[node.expr.sop.label]
    queries, keys, qk = attention(trace, node.expr.selector, how, always_bos=False)
    to = {value: (name, value) for name, value in node.basis}
    return Head(queries, keys, qk, [*source.basis, how.bos], [(d, to[d[1]]) for d in source.basis])


def selector_width(trace: Trace, node: Node, how: Build) -> tuple[Head, Units, list[Direction]]:
    """1/(d+1) by attention, d by inversion, and the directions to be cleaned at BOS."""
    out: Direction = (f"{node.label}_selector_width_attn_output", None)
    queries, keys, qk = attention(trace, node.expr.selector, how, always_bos=True)
    xs = sorted(1 / (v + 1) for v in node.values)
    units = steps(node, out, xs, [round(1 / x - 1) for x in xs], how)
    clean = [out]
    if node.categorical and not how.quiet:
        clean.append(next(d for d in node.basis if d[1] == 0))
    return Head(queries, keys, qk, [how.bos], [(how.bos, out)]), units, clean


def steps(node: Node, source: Direction, xs: Sequence[float], ys: Sequence[Any], how: Build) -> Units:
    """A function of one number: a pair of units per threshold between neighbouring inputs, slope `exactness`.

    `ys` are its values at `xs`, in order; None, of a category only, writes nothing.
    """
    hidden, exactness = f"_hidden_{node.label}_", how.exactness
    ys = ys if node.categorical else [float(y) for y in ys]
    index = {value: i for i, (_, value) in enumerate(node.basis)}
    units: list[Direction] = [(f"{hidden}start", None)]
    fst, snd, pairs = [(1, 0, 1.0)], [], []

    def write(unit, factor, y):
        if not node.categorical:
            snd.append((unit, 0, factor * y))
        elif y is not None:
            snd.append((unit, index[y], factor * 1.0))

    def silence(unit, z):
        """Keep what a unit makes of a source of 0 or 1 below 0 where BOS stands."""
        if how.quiet:
            fst.append((2, unit, -(z + exactness + 2)))

    write(0, 1, ys[0])
    silence(0, 1.0)
    for k in range(1, len(xs)):
        threshold = (xs[k - 1] + xs[k]) / 2
        a = len(units)
        units += [(hidden, (k, 0)), (hidden, (k, 1))]
        fst += [(0, a, exactness), (1, a, 1 - exactness * threshold)]
        fst += [(0, a + 1, exactness), (1, a + 1, -exactness * threshold)]
        for unit, sign in ((a, 1), (a + 1, -1)):
            silence(unit, exactness * abs(threshold))
            if not node.categorical:
                write(unit, sign, ys[k] - ys[k - 1])
            elif ys[k] != ys[k - 1]:
                write(unit, sign, ys[k])
                write(unit, -sign, ys[k - 1])
        pairs.append((a, a + 1))
    inputs = [source, ONE, *([how.bos] if how.quiet else [])]
    return Units(units, inputs, list(node.basis), _columns(fst), _columns(snd), pairs)


def _table(node: Node, inputs: Iterable[float]) -> tuple[list[float], list]:
    """The inputs of a function of a number, in order, and its values there; None for undefined."""
    xs = sorted(inputs)
    return xs, [_call(node.expr.f, x) for x in xs]


def _call(f: Callable, *values: Any) -> Any:
    try:
        return f(*values)
    except ArithmeticError:
        return None  # undefined, as in tracr's inference


def discretise(node: Node, source: Node, how: Build) -> Units:
    """`steps` on a number that another block computed.

    With tracr's thresholds where these are right at every value that the number can reach; else with thresholds
    between these values. Differs from tracr there: its table lacks most values of a mean.

    Raises:
      Imprecise: two values of different outcome lie too close.
      UserError: the number has too many values.
    """
    if source.endless:
        raise UserError(
            f"program: {node.label} reads {source.label}, a number with more values than can be told apart; "
            "use counts (SelectorWidth) and a SequenceMap of two of them in place of means of means"
        )
    off, gap = how.off.get(source.label, Off()), 1 / how.exactness
    xs, ys = _table(node, source.values)
    # tracr leaves undefined inputs out, and may list some that do not occur.
    listed = zip(*_table(node, source.listed or source.values), strict=True)
    tracrs = tuple(map(list, zip(*((x, y) for x, y in listed if y in node.values), strict=True))) or ([], [])
    for known, made in (tracrs, _where_it_changes(xs, ys)):
        if known and not _misread(known, made, xs, ys, off, gap):
            return steps(node, source.basis[0], known, made, how)
    k = min((k for k in range(1, len(xs)) if ys[k] != ys[k - 1]), key=lambda k: xs[k] - xs[k - 1])
    apart = 2 * (gap + off.of(xs[k]))
    if xs[k] - xs[k - 1] < _ROUNDED * max(1.0, abs(xs[k])):
        raise Imprecise(
            f"program: {node.label} tells {xs[k - 1]!r} from {xs[k]!r}, two values of {source.label} that differ "
            "by rounding alone; compare with a margin, as in x > 1e-6"
        )
    raise Imprecise(
        f"program: {node.label} must tell {source.label} = {xs[k - 1]:.6g} from {xs[k]:.6g}; with the teacher's "
        f"mlp_exactness {how.exactness:g} values may lie {apart:.3g} apart and no closer; use counts "
        "(SelectorWidth) and a SequenceMap of two of them, or a shorter table"
    )


def _where_it_changes(xs: list, ys: list) -> tuple[list, list]:
    """The inputs beside each change of a function: steps between others do nothing."""
    beside = sorted({i for k in range(1, len(xs)) if ys[k] != ys[k - 1] for i in (k - 1, k)} or {0})
    return [xs[i] for i in beside], [ys[i] for i in beside]


def _misread(known: list, made: list, xs: list, ys: list, off: Off, gap: float) -> bool:
    """Whether steps between the known inputs may give another value than y at one of the inputs x."""
    changes = [((known[k - 1] + known[k]) / 2, made[k]) for k in range(1, len(known)) if made[k] != made[k - 1]]
    places, heights = [t for t, _ in changes], [made[0], *(y for _, y in changes)]
    for x, y in zip(xs, ys, strict=True):
        i = bisect_right(places, x)
        if heights[i] != y:
            return True
        for t in places[max(i - 1, 0) : i + 1]:
            far = off.of(x) + ROUNDING * (abs(x) + abs(t))  # the slope times x - t is rounded too
            if t - gap - far < x < t + far:
                return True
    return False


def lookup(node: Node, source: Node, f: Callable) -> Units:
    """A function of one categorical variable: the hidden layer is the output, the second matrix the identity.

    A number that may be negative takes two units, since a ReLU keeps nothing below zero; tracr's one loses it.
    """
    outputs = list(node.basis)
    results = [_call(f, value) for _, value in source.basis]
    if not node.categorical:
        if min(results) < 0:
            return _signed(node, source, results)
        fst, twins = [(i, 0, y) for i, y in enumerate(results)], False
    else:
        index = {value: i for i, (_, value) in enumerate(outputs)}
        fst = [(i, index[y], 1.0) for i, y in enumerate(results) if y in index]
        twins = any(y in index and not same(y, outputs[index[y]][1]) for y in results)
    every = np.arange(len(outputs))
    snd = (every, every, np.ones(len(outputs)))
    return Units(outputs, list(source.basis), outputs, _columns(fst), snd, twins=twins)


def _signed(node: Node, source: Node, numbers: list) -> Units:
    units: list[Direction] = [(f"_hidden_{node.label}_", sign) for sign in (1, -1)]
    fst = [(i, int(y < 0), abs(y)) for i, y in enumerate(numbers)]
    return Units(units, list(source.basis), list(node.basis), _columns(fst), _columns([(0, 0, 1.0), (1, 0, -1.0)]))


def product(node: Node, first: Node, second: Node) -> Units:
    """A function of two categorical variables: one unit relu(x_i + y_j - 1) per pair of values."""
    if {d for d in first.basis} & {d for d in second.basis}:
        raise UserError(f"program: {node.label} combines two views of one variable, which tracr cannot compile")
    hidden = f"_hidden_{node.label}_"
    a, b = len(first.basis), len(second.basis)
    index = {value: i for i, (_, value) in enumerate(node.basis)}
    units, snd, twins = [], [], False
    for x_name, x in first.basis:
        for y_name, y in second.basis:
            made = _call(node.expr.f, x, y)
            out = index.get(made)
            if out is not None:
                snd.append((len(units), out, 1.0))
                twins = twins or not same(made, node.basis[out][1])
            units.append((hidden, (x_name, x, y_name, y)))
    i, j = np.divmod(np.arange(a * b), b)
    unit = np.arange(a * b)
    fst = (
        np.concatenate([i, a + j, np.full(a * b, a + b)]),
        np.concatenate([unit, unit, unit]),
        np.concatenate([np.ones(2 * a * b), -np.ones(a * b)]),
    )
    inputs = [*first.basis, *second.basis, ONE]
    return Units(units, inputs, list(node.basis), fst, _columns(snd), grid=(a, b), twins=twins)


def linear(node: Node, first: Node, second: Node) -> Units:
    """Two numbers x, y to a x + b y, each as the difference of two units."""
    hidden = f"_hidden_{node.label}_"
    units: list[Direction] = [(f"{hidden}{axis}", sign) for axis in "xy" for sign in (1, -1)]
    fst = [(0, 0, 1.0), (0, 1, -1.0), (1, 2, 1.0), (1, 3, -1.0)]
    a, b = node.expr.fst_fac, node.expr.snd_fac
    snd = [(0, 0, a), (1, 0, -a), (2, 0, b), (3, 0, -b)]
    return Units(units, [first.basis[0], second.basis[0]], list(node.basis), _columns(fst), _columns(snd))


def build(trace: Trace, node: Node, how: Build):
    """The block of one expression: (head or None, units or None, directions to clean at BOS).

    Raises:
      UserError: one of the program's functions fails, or tracr has no such block.
    """
    expr = node.expr
    try:
        if isinstance(expr, rasp.SelectorWidth):
            return selector_width(trace, node, how)
        if isinstance(expr, rasp.Aggregate):
            return aggregate(trace, node, how), None, []
        return None, _units(trace, node, how), []
    except UserError:
        raise
    except PROGRAM_ERRORS as e:
        raise UserError(f"program: {node.label} cannot be compiled, a function in it fails ({describe(e)})") from e


def _units(trace: Trace, node: Node, how: Build) -> Units:
    expr = node.expr
    if isinstance(expr, rasp.Map):
        source = trace.sops[expr.inner.label]
        if source.categorical:
            return lookup(node, source, expr.f)
        return discretise(node, source, how)
    first, second = trace.sops[expr.fst.label], trace.sops[expr.snd.label]
    if isinstance(expr, rasp.LinearSequenceMap):
        return linear(node, first, second)
    if first.basis == second.basis:
        return lookup(node, first, lambda x: expr.f(x, x))
    return product(node, first, second)


def _columns(triples: list) -> Triples:
    return ([t[0] for t in triples], [t[1] for t in triples], [t[2] for t in triples])
