"""How far the network's values may lie from the program's: what the softmax leaks, and what float32 rounds.

tracr multiplies the scores of every head by 100 and divides them by the root of the key size K: what is not
selected keeps a weight of e^(-100/√K) beside what is, and BOS, which stands for the default, e^(-50/√K)
(docs/teacher.md §3b). The bounds are worst cases over inputs. Where they are too wide for the program with tracr's
factor, all heads take a larger one; where that does not help, the program is refused.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.graph import PROGRAM_ERRORS, Trace, depths

TRACRS = 100.0  # factor of the scores
_EPS = 2.0**-24  # float32's rounding, relative
ROUNDING = 4 * _EPS  # of a difference, relative to its parts
_LANES = 8  # partial sums that a product of matrices keeps, at least
_GRID, _WHOLE = 2.0**10, 2.0**13  # sums of multiples of 1/_GRID below _WHOLE are exact in float32
_NUMBER, _CATEGORY, _COUNT, _NOTHING = 5e-4, 0.1, 0.25, 1.0  # what is right, see `bound`


class Imprecise(UserError):
    """The network cannot hold a value as exactly as the program needs it."""


@dataclass(frozen=True)
class Off:
    """Bounds of a variable's deviation where it has a value.

    Of a category: `absolute`, summed over its coordinates. Of a number x: `absolute` + `relative` |x|; `scale` is
    the largest |x|.
    """

    absolute: float = 0.0
    relative: float = 0.0
    scale: float = 1.0

    def of(self, x: float) -> float:
        """Of a number x."""
        return self.absolute + self.relative * abs(x)


def colder(trace: Trace, *, max_seq_len: int) -> float:
    """A factor of the scores that leaks 1e-8 of the largest number at most."""
    largest = max((abs(float(v)) for s in trace.sops.values() if not s.categorical for v in s.values), default=1.0)
    return float(math.ceil(2 * _key_size(trace) ** 0.5 * math.log(1e8 * max_seq_len * max(1.0, largest))))


def bound(trace: Trace, *, max_seq_len: int, coldness: float) -> dict[str, Off]:
    """Bounds of every variable; a number may be off by 0.0005 (relative above 1), a category by 0.1 in all.

    Raises:
      Imprecise: it is more, or the heads count wrongly, or nothing cannot be told from something.
    """
    off: dict[str, Off] = {}
    depth = depths(trace.exprs)
    heads = _Heads(coldness / _key_size(trace) ** 0.5, max_seq_len)
    for label in sorted(trace.sops, key=depth.__getitem__):
        expr = trace.sops[label].expr
        found = off[label] = _bound(label, expr, trace, off, heads)
        if rasp.is_categorical(expr):
            limit = _CATEGORY
        else:
            limit = _NUMBER * max(1.0, min(abs(float(v)) for v in trace.sops[label].values))
        if found.absolute > limit:
            raise Imprecise(
                f"program: in {label} the network may be off by {found.absolute:.2g}, at most {limit:.2g} is "
                "right; use smaller numbers, fewer positions, or keys with fewer values"
            )
    return off


def _key_size(trace: Trace) -> int:
    sizes = [1]
    for e in trace.exprs.values():
        if isinstance(e, rasp.Select):
            sizes += [len(trace.sops[e.queries.label].basis) + 2, len(trace.sops[e.keys.label].basis) + 1]
        elif isinstance(e, rasp.Aggregate):
            sizes.append(len(trace.sops[e.sop.label].basis))
    return max(sizes)


@dataclass(frozen=True)
class _Heads:
    score: float  # of a selected position, after the division
    length: int

    def wrong(self, expr: Any, off: Mapping[str, Off]) -> float:
        """How far two scores may be off."""
        select = expr.selector
        return min(1.0, off[select.keys.label].absolute + off[select.queries.label].absolute) * self.score

    def leak(self, wrong: float, *, half: bool = False, count: bool = True) -> float:
        """Weight of `count` positions that are not selected beside one that is, or beside the default (`half`)."""
        return (self.length if count else 1) * math.exp(min(0.0, wrong - self.score / (2 if half else 1)))


def _bound(label: str, expr: Any, trace: Trace, off: Mapping[str, Off], heads: _Heads) -> Off:
    number = rasp.is_numerical(expr) if isinstance(expr, rasp.SOp) else False
    if isinstance(expr, rasp.Map):
        source = off[expr.inner.label]
        scale = _largest(trace.sops[label].values) if number else 1.0
        if rasp.is_categorical(expr.inner):
            return Off(source.absolute * scale, _EPS, scale) if number else source
        # A function of a number is exact where its steps tell the values apart, which `discretise` sees to.
        return Off(_sum_of_steps(expr.f, trace.sops[expr.inner.label].values), _EPS, scale) if number else Off()
    if isinstance(expr, rasp.LinearSequenceMap):
        parts = [(off[expr.fst.label], abs(expr.fst_fac)), (off[expr.snd.label], abs(expr.snd_fac))]
        absolute = sum(k * (o.absolute + (o.relative + 2 * _EPS) * o.scale) for o, k in parts)
        return Off(absolute, _EPS, sum(k * o.scale for o, k in parts))
    if isinstance(expr, rasp.SequenceMap):
        names = {expr.fst.label, expr.snd.label}
        return Off(sum(off[n].absolute for n in names))
    if isinstance(expr, rasp.SelectorWidth):
        wrong = heads.wrong(expr, off)
        count = heads.leak(wrong) + heads.length * math.expm1(min(50.0, 2 * wrong))
        if count > _COUNT:
            raise Imprecise(
                f"program: {label} may count {count:.2g} positions that are not selected; use fewer positions, or "
                "keys with fewer values"
            )
        return Off()
    if not isinstance(expr, rasp.Aggregate):
        return Off()
    source, wrong = off[expr.sop.label], heads.wrong(expr, off)
    nothing = heads.leak(wrong, half=True)  # of what the default should be
    leak = heads.leak(wrong, half=True, count=False) + heads.leak(wrong)
    if not number:
        # Each position is its own value of the indices: they do not add up.
        if nothing > _NOTHING and not isinstance(expr.sop, rasp.IndicesType):
            raise Imprecise(f"program: {label} may take what is not selected for its value; use fewer positions")
        return Off(source.absolute + leak)
    uneven = math.expm1(min(50.0, 2 * wrong))
    rounded = source.relative + (heads.length / _LANES + 8) * _EPS
    values = trace.sops[expr.sop.label].values
    cancels = trace.sops[expr.sop.label].endless or (min(values) < 0 < max(values))
    absolute = source.absolute + source.scale * (nothing + leak + uneven + (rounded if cancels else 0.0))
    return Off(absolute, _EPS if cancels else rounded, source.scale)


def _largest(values: Any) -> float:
    return max((abs(float(v)) for v in values), default=0.0)


def _sum_of_steps(f: Any, values: Any) -> float:
    """Rounding of the sum that gives a function of a number."""
    heights = []
    for x in sorted(values):
        try:
            heights.append(float(f(x)))
        except PROGRAM_ERRORS:  # the block that is built from it says so
            return 0.0
    steps = np.diff(np.array([0.0, *heights]))
    total = float(np.abs(steps).sum())
    if total < _WHOLE and np.all(steps * _GRID % 1 == 0):
        return 0.0
    return (2 + np.count_nonzero(steps)) * _EPS * total
