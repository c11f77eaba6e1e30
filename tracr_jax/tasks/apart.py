"""Which letters a program tells apart: for strings on which something happens that among many letters is rare."""

from collections.abc import Sequence
from typing import Any

from tracr.rasp import rasp

from tracr_jax.teacher.graph import Trace, outcome

_OTHERS = 200  # values beside which a letter is tried


def told_apart(traced: Trace, letters: Sequence[Any]) -> tuple[Any, ...]:
    """One letter for each kind of letters that no function or selector of the program tells apart.

    Steps that hand letters on, as the one before, tell none apart: what is made of these is asked.
    """
    letter = {rasp.tokens.label}
    moves = {n: e.sop.label for n, e in traced.exprs.items() if isinstance(e, rasp.Aggregate)}
    while new := {n for n, source in moves.items() if source in letter} - letter:  # handed on, and on
        letter |= new
    signatures: dict[Any, list[Any]] = {v: [] for v in letters}
    for expr in traced.exprs.values():
        if isinstance(expr, rasp.Map) and expr.inner.label in letter:
            for v, of in signatures.items():
                of.append(outcome(expr.f, v))
        f, two = None, ()
        if isinstance(expr, rasp.SequenceMap):
            f, two = expr.f, (expr.fst.label, expr.snd.label)
        elif isinstance(expr, rasp.Select):
            f, two = expr.predicate, (expr.keys.label, expr.queries.label)
        for side, name in enumerate(two):
            if f is None or name not in letter:
                continue
            others = sorted(traced.sops[two[1 - side]].values, key=repr)[:_OTHERS]
            for v, of in signatures.items():
                of += [outcome(f, *((v, w) if side == 0 else (w, v))) for w in others]
    kinds: dict[str, Any] = {}
    for v, of in signatures.items():
        kinds.setdefault(repr(of), v)
    return tuple(kinds.values())
