"""Values that are equal and not the same (1, True, 1.0): the network has one direction, or number, for them."""

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.graph import Trace, depths, outcome

Variants = dict[Any, list[Any]]  # a value -> the values equal to it that can occur


def same(a: Any, b: Any) -> bool:
    """Whether two equal values are the same to every function."""
    return a is b or (type(a) is type(b) and (not isinstance(a, tuple) or repr(a) == repr(b)))


def check_twins(trace: Trace) -> None:
    """Refuse a function that tells equal values apart, as `str` does, and a result that is True or 1.

    Raises:
      UserError: with the values.
    """
    known: dict[str, Variants] = {}
    depth = depths(trace.exprs)
    for label in sorted(trace.exprs, key=lambda n: (depth[n], isinstance(trace.exprs[n], rasp.Selector))):
        expr: Any = trace.exprs[label]
        if isinstance(expr, rasp.Select):
            _outcomes(label, lambda k, q, f=expr.predicate: bool(f(k, q)), known, expr.keys, expr.queries)
        elif isinstance(expr, rasp.Aggregate) and rasp.is_categorical(expr):
            known[label] = known[expr.sop.label]
        elif trace.sops[label].endless:
            known[label] = {}  # which nothing may read
        elif isinstance(expr, rasp.Map):
            known[label] = _group(_outcomes(label, expr.f, known, expr.inner))
        elif isinstance(expr, rasp.LinearSequenceMap):
            values = trace.sops[label].values
            known[label] = _group(w for v in values for w in ([float(v), int(v)] if v == int(v) else [v]))
        elif isinstance(expr, rasp.SequenceMap):
            known[label] = _group(_outcomes(label, expr.f, known, expr.fst, expr.snd))
        elif isinstance(expr, rasp.Aggregate):
            known[label] = _group([expr.default, *map(float, trace.sops[label].values)])
        else:
            known[label] = _group(trace.sops[label].values)
    if trace.sops[trace.result].categorical:
        for variants in known[trace.result].values():
            if len({isinstance(v, bool) for v in variants}) == 2:
                raise UserError(f"program: {trace.result} can be {_told(variants)}")


def _told(variants: list[Any]) -> str:
    shown = " and ".join(sorted(map(repr, variants)))
    return f"{shown}, which are equal and so one value to the network; give it one type, as in int(x)"


def _group(made: Iterable[Any]) -> Variants:
    out: Variants = {}
    for value in made:
        if value is not None and not any(same(value, v) for v in out.setdefault(value, [])):
            out[value].append(value)
    return out


def _outcomes(label: str, f: Callable, known: Mapping[str, Variants], *sources: rasp.SOp) -> list[Any]:
    """All results; those of equal arguments must be equal."""
    out: list[Any] = []
    names = [s.label for s in sources]
    arguments = itertools.product(*(known[n].values() for n in dict.fromkeys(names)))
    for one in arguments:
        one = one if len(one) == len(names) else one * len(names)
        found = [outcome(f, *values) for values in itertools.product(*one)]  # a failure is said by the block
        if any(y is not found[0] and (y is None or found[0] is None or y != found[0]) for y in found):
            told = next(variants for variants in one if len(variants) > 1)
            raise UserError(f"program: {label} tells apart {_told(told)}")
        out += found
    return out
