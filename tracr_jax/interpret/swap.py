"""Counterfactual swaps: one variable is exchanged inside the LM, and the LM's answer compared with the program's.

An interchange intervention (Geiger et al., 2021, arXiv 2106.02997) on the variables of a compiled program; not in
the paper. `pairs` says which items, positions and prediction. At hidden[l] of the base item the component in the
span of v's adapter rows is replaced by that of the source item: h ← h − P_v h + P_v h_source. Three controls
change something else at the same positions, and the same exchange in the compiled teacher is the ceiling.

The rows of v are those of the values that occur in the sample: with those of all values the span of a variable of
81 values would be most of a small model's width.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tracr_jax.interpret.answers import answered
from tracr_jax.interpret.exchange import CONTROLS, WEIGHTS, WITHIN, Change, exchange, random_directions, span_basis
from tracr_jax.interpret.pairs import (
    Cell,
    Omission,
    Pair,
    PairFinder,
    PairRows,
    Pairs,
    list_cells,
    other_variable,
    pair_rows,
)
from tracr_jax.interpret.pool import Pool, in_batches, make_pool, padded_items, sample_pool
from tracr_jax.intervene import ResidualEdit
from tracr_jax.lm.blocks import first_blocks
from tracr_jax.progress import report
from tracr_jax.runs.model import Injected
from tracr_jax.runs.program import Program
from tracr_jax.stats import followed_above, share
from tracr_jax.teacher.variables import DEFINED
from tracr_jax.train.losses import apply_adapter
from tracr_jax.train.reserved import Reserved
from tracr_jax.types import Adapter, Array, Params

POOL = 400  # items from which pairs are made


class Hits(NamedTuple):
    """For each pair, whether the prediction is met by the answer and by the decoded result."""

    answer: list[bool]
    decoded: list[bool]


def make_lm_swap(run: Injected, pool: Pool, bases: Mapping[str, Float[np.ndarray, "d R"]]) -> Callable[..., Hits]:
    """A function (cell, pairs, change, other=None, seed=0) -> whether the LM answers and shows what is predicted.

    One compiled program serves all cells and changes of one length: block, basis, mask and weights are its
    arguments, and it computes the blocks after the edit only. `bases`: see `variable_bases`.
    """
    model, teacher, states = run.model, run.program.teacher, np.array(run.program.states)
    short, cut = first_blocks(model, run.params, run.program.top + 1)
    below = jax.jit(lambda p, ids: short.apply(p, ids).hidden[states])
    hidden = in_batches(below, cut, padded_items(pool))
    reserved, coded = run.program.reserved, run.program.coded
    q = np.asarray(coded[0].basis(coded[1])) if coded else None
    widest = max((b.shape[1] for b in bases.values()), default=1)
    widest = max(widest, reserved.total) if reserved is not None else widest
    count = max((len(k.answer) for k in pool.items), default=1)
    result = next(v for v in teacher.variables if v.name == pool.oracle.result)
    reader = Adapter(*(x[np.array(result.indices)] for x in run.adapter))
    place = {value: i for i, value in enumerate(result.values)}

    @jax.jit
    def answers(
        params: Params,
        base: Float[Array, "B S d"],
        source: Float[Array, "B S d"],
        ids: Int[Array, "B S"],
        mask: Float[Array, "B S"],
        shown: Int[Array, "B S"],
        where: Float[Array, "B S"],
        state: Int[Array, ""],
        basis: Float[Array, "d R"],
        weights: Float[Array, " 3"],
        key: Array,
    ) -> tuple[Bool[Array, " B"], Bool[Array, " B"]]:
        direction = random_directions(key, source.shape).astype(source.dtype)
        changed = exchange(base, source, basis, where, weights=weights, direction=direction)
        # hidden[state] was computed with the base, once for all its cells and changes.
        edit = ResidualEdit(state, lambda _: changed, before=True, skip=True)
        said, out = answered(model, params, ids, mask, count=count, edit=edit)
        last = jnp.where(state == states[-1], changed, out.hidden[states[-1]])
        read = jnp.argmax(apply_adapter(reader, last.astype(jnp.float32)), axis=-1)
        return said, jnp.all((read == shown) | (mask == 0), axis=1)

    @functools.lru_cache(maxsize=2)  # the cells of a variable come one after the other, with their own answers
    def rows_of(pairs: tuple[Pair, ...]) -> list[tuple[PairRows, Int[np.ndarray, "B S"], Float[Array, "L B S d"]]]:
        out = []
        for rows in pair_rows(pool, pairs):
            shown = np.zeros(rows.ids.shape, np.int32)
            for row, pair in enumerate(pairs[i] for i in rows.at):
                shown[row, list(pool.items[pair.base].emitting)] = [place[v] for v in pair.values]
            out.append((rows, shown, below(cut, rows.ids)))
        return out

    def swap(
        cell: Cell, pairs: Sequence[Pair], change: Change, *, other: str | None = None, seed: int = 0
    ) -> Hits:
        basis = bases[other if change == "other" and other else cell.variable]
        if change in ("outside", "faithful"):
            assert reserved is not None
            assert q is not None
            basis = q[
                :, held_coordinates(reserved, cell.layer, but=cell.variable if change == "faithful" else None)
            ]
        basis = np.pad(basis, ((0, 0), (0, widest - basis.shape[1])))
        weights, key = np.asarray(WEIGHTS[change], np.float32), jax.random.key(seed)
        out = Hits([False] * len(pairs), [False] * len(pairs))
        for i, (rows, shown, base) in enumerate(rows_of(tuple(pairs))):
            source = hidden[cell.layer, rows.sources, : rows.ids.shape[1]]
            found = answers(
                run.params, base[cell.layer], source, rows.ids, rows.mask, shown, rows.where,
                np.int32(states[cell.layer]), basis, weights, jax.random.fold_in(key, i),
            )  # fmt: skip
            for hits, more in zip(out, found, strict=True):
                for at, hit in zip(rows.at, np.asarray(more).tolist(), strict=False):
                    hits[at] = hit
        return out

    return swap


def variable_bases(run: Injected, pool: Pool) -> dict[str, Float[np.ndarray, "d R"]]:
    """The subspace of each variable: its reserved directions, or the span of its rows of values in the sample."""
    bases = {}
    if coded := run.program.coded:
        reserved, codes = coded
        q = np.asarray(reserved.basis(codes))
        return {name: q[:, reserved.coordinates(name)] for name in reserved.names}
    for v in run.program.teacher.variables:
        if v.kind == "categorical" and v.name in pool.oracle.names:
            held = pool.held[v.name]
            rows = [i for i, value in zip(v.indices, v.values, strict=True) if value in held]
            if rows:
                bases[v.name] = span_basis(np.asarray(run.adapter.weight, np.float32)[rows])
    return bases


def held_coordinates(reserved: Reserved, layer: int, *, but: str | None = None) -> Bool[np.ndarray, " X"]:
    """Which coordinates hold a variable at a layer, of one variable not; an affine adapter has no outside."""
    held = reserved.by_coordinate(reserved.alive[layer])
    if but is not None:
        held[reserved.coordinates(but)] = False
    return held


def make_teacher_swap(program: Program, pool: Pool) -> Callable[..., list[bool]]:
    """The ceiling: (cell, pairs, change="swap", other=None) -> whether the compiled teacher answers as predicted.

    In its residual stream r_l the variable's own directions are exchanged ("swap"), those of another variable
    ("other"), or all but its own ("complement"); the layers from l on read them.
    """
    teacher, phi, residuals = program.teacher, program.phi, program.residuals
    result = np.asarray(teacher.result_indices(pool.oracle.result))
    variables = {v.name: v for v in teacher.variables}
    values = {v: i for i, v in enumerate(variables[pool.oracle.result].values)}

    @jax.jit
    def run(
        phi: Any,
        base: Int[Array, "B T"],
        given: Float[Array, "B T D"],
        where: Float[Array, "B T"],
        layer: Int[Array, ""],
        moved: Float[Array, " D"],
    ) -> Int[Array, "B T"]:
        swapped = (where[:, :, None] > 0) & (moved[None, None] > 0)
        edit = ResidualEdit(layer - 1, lambda x: jnp.where(swapped, given, x))
        read = residuals(phi, base, edit=edit)[-1][:, :, result]
        return jnp.where(jnp.max(read, axis=-1) > DEFINED, jnp.argmax(read, axis=-1), -1)

    bridge = pool.bridge
    # On the host: one layer of one batch of it is needed at a time.
    states = in_batches(jax.jit(residuals), phi, bridge.to_teacher(padded_items(pool)))

    rows_of = functools.lru_cache(maxsize=2)(lambda pairs: pair_rows(pool, pairs))

    def swap(
        cell: Cell, pairs: Sequence[Pair], change: Change = "swap", *, other: str | None = None
    ) -> list[bool]:
        moved = np.zeros(teacher.width, np.float32)
        moved[list(variables[other if change == "other" and other else cell.variable].indices)] = 1
        if change == "complement":
            moved = 1 - moved
        out = [False] * len(pairs)
        for rows in rows_of(tuple(pairs)):
            base = bridge.to_teacher(rows.ids)
            given = states[cell.layer, rows.sources, : base.shape[1]]
            where = np.pad(rows.where, ((0, 0), (1, 0)))  # BOS
            found = np.asarray(run(phi, base, given, where, np.int32(cell.layer), moved))[:, 1:]
            for i, read in zip(rows.at, found, strict=False):
                emitting = list(pool.items[pairs[i].base].emitting)
                out[i] = read[emitting].tolist() == [values[v] for v in pairs[i].values]
        return out

    return swap


def swaps(
    run: Injected,
    *,
    pairs: int = 100,
    pool_items: int = POOL,
    seed: int = 0,
) -> dict[str, Any]:
    """Swap every variable at every possible layer, with controls and ceiling: "swaps" of interpretation.json.

    Args:
      run: the model with the program.
      pairs: pairs for each cell, at least half of them flips if enough are found.
      pool_items: items from which the pairs are made, see `sample_pool`.
      seed: of the pairs and of the random control.

    Raises:
      UserError: the run trained no adapter.
    """
    run.trained_adapter  # noqa: B018 - says why there is none, before items are drawn
    items, sets = sample_pool(run.program.task, run.program.bridge, items=pool_items)
    pool = make_pool(run.program.task, run.program.bridge, items)
    cells, omitted = list_cells(run.program.teacher, pool.oracle)
    if not pool.items:
        reason = "no set has an item whose answer the program gives token for token"
        omitted += [Omission(name, None, reason) for name in dict.fromkeys(c.variable for c in cells)]
        cells = []
    measure = _Measure(run, pool, seed=seed) if cells else None
    find, program = PairFinder(pool, count=pairs, seed=seed), run.program
    out: list[dict[str, Any]] = []
    reasons: dict[tuple[str, str], list[int]] = {}
    for done, cell in enumerate(cells):
        assert measure is not None
        found = program.why_unread(program.teacher.variable(cell.variable), cell.layer) or find(cell)
        wide = program.reserved is None and len(pool.held[cell.variable]) >= run.model.width
        if wide and isinstance(found, Pairs):
            found = f"has as many values as the model is wide ({run.model.width}): its span is everything"
        if isinstance(found, str):
            reasons.setdefault((cell.variable, found), []).append(cell.layer)
        else:
            out.append(measure(cell, found))
        report("swaps", done + 1, len(cells))
    omitted += _told_once(reasons, cells)
    used, swapped = used_variables(out)
    return {
        "used": used,
        "used_by_program": used_variables(out, by="program")[0],
        "swapped": swapped,
        "set": ", ".join(sets),
        "pool": len(pool.items),
        "pairs": pairs,
        "mode": "source",
        "positions": "all where the program holds the variable in both items",
        "causal_abstraction_error": causal_abstraction_error(out),
        "cells": out,
        "left_out": [{"variable": o.variable, "layer": o.layer, "reason": o.reason} for o in omitted],
    }


class _Measure:
    """Measures the swaps of one cell after another: an entry of "cells"."""

    def __init__(self, run: Injected, pool: Pool, *, seed: int):
        self._program, self._pool, self._seed = run.program, pool, seed
        bases = variable_bases(run, pool)
        self._in_lm, self._in_teacher = make_lm_swap(run, pool, bases), make_teacher_swap(run.program, pool)
        self._among = bases.keys()
        self._unmoved: dict[int, tuple[dict[str, Any], Hits]] = {}

    def __call__(self, cell: Cell, found: Pairs) -> dict[str, Any]:
        chosen = found.pairs
        # Of a variable whose directions were handed on nothing is left, and they may be the cell's own by now.
        program, teacher = self._program, self._program.teacher
        among = [n for n in self._among if not program.why_unread(teacher.variable(n), cell.layer)]
        other = other_variable(teacher, self._pool, cell, among=among)
        changes: list[Change] = [c for c in CONTROLS if c != "other" or other]
        if self._program.reserved is not None:
            changes.extend(("outside", "faithful"))
        hits = {c: self._in_lm(cell, chosen, c, other=other, seed=self._seed) for c in ("swap", *changes)}
        measured = {c: _share(h.answer) for c, h in hits.items()}
        plain, right = self._without_a_swap(cell, found)
        within = [c for c in ("swap", *changes) if c in WITHIN]
        program = {c: self._in_teacher(cell, chosen, c, other=other) for c in within}
        return {
            "variable": cell.variable,
            "layer": cell.layer,
            "total": len(chosen),
            "flips": sum(p.flips for p in chosen),
            "equal_length": found.equal_length,
            "match": measured["swap"],
            "controls": {c: measured.get(c) for c in CONTROLS},
            "other_variable": other,
            "ceiling": _share(program["swap"]),
            "unmoved": plain,
            "followed": _followed(chosen, hits, right, program=program),
            "faithful": measured.get("faithful"),
            "outside_moved": self._moved(cell, chosen, right),
        }

    def _moved(self, cell: Cell, pairs: Sequence[Pair], right: Hits) -> dict[str, Any] | None:
        """How often right answers become any others when what no variable holds is exchanged; of flips."""
        if self._program.reserved is None:
            return None
        kept = self._in_lm(cell, [as_it_is(self._pool, p) for p in pairs], "outside")
        asked = zip(pairs, right.answer, kept.answer, strict=True)
        return _share([not same for pair, was, same in asked if pair.flips and was])

    def _without_a_swap(self, cell: Cell, found: Pairs) -> tuple[dict[str, Any], Hits]:
        """(share of the predictions met, whether each base is answered right); the layer plays no part."""
        # Cells share their pairs, and the finder keeps them: an id names one set of pairs.
        if id(found) not in self._unmoved:
            own = [as_it_is(self._pool, pair) for pair in found.pairs]
            met = _share(self._in_lm(cell, found.pairs, "none").answer)
            self._unmoved[id(found)] = met, self._in_lm(cell, own, "none")
        return self._unmoved[id(found)]


def _told_once(reasons: dict[tuple[str, str], list[int]], cells: Sequence[Cell]) -> list[Omission]:
    """(variable, reason) -> layers, as omissions; one for a reason that holds at all layers of a variable."""
    out = []
    for (variable, reason), at in reasons.items():
        whole = at == [c.layer for c in cells if c.variable == variable]
        out += [Omission(variable, None if whole else layer, reason) for layer in (at[:1] if whole else at)]
    return out


def as_it_is(pool: Pool, pair: Pair) -> Pair:
    """The prediction that the base's own answer is given."""
    base = pool.items[pair.base]
    return dataclasses.replace(pair, values=base.result, answer=base.answer)


def _followed(
    pairs: Sequence[Pair], hits: dict[str, Hits], right: Hits, *, program: dict[str, list[bool]]
) -> dict[str, Any]:
    """Shares of the pairs that flip the program's answer and whose base is right without a swap.

    A model that always says no would follow every swap that leads to a no. By "answer" and by "decoded", each
    counted on the bases that are right there, and by "program", the compiled teacher, on all; "swap", and every
    control.
    """
    flips = [i for i, p in enumerate(pairs) if p.flips]
    out = {}
    for place in Hits._fields:
        asked = [i for i in flips if getattr(right, place)[i]]
        out[place] = {change: _share([getattr(h, place)[i] for i in asked]) for change, h in hits.items()}
    return out | {"program": {change: _share([h[i] for i in flips]) for change, h in program.items()}}


def used_variables(
    cells: Sequence[dict[str, Any]], *, by: Literal["answer", "program"] = "answer"
) -> tuple[list[str], list[str]]:
    """(variables that the answer follows at all their layers, all that were swapped), from the "cells" of `swaps`.

    Followed means: the interval of the swap's share lies above that of every control, of the pairs that flip the
    program's answer and whose base is right. By "program", what this rule says of the compiled program itself: a
    variable that predicts little without the others can be above the control that keeps it alone in no model.
    """
    names = list(dict.fromkeys(c["variable"] for c in cells))

    used = [n for n in names if all(followed_above(c["followed"][by]) for c in cells if c["variable"] == n)]
    return used, names


def causal_abstraction_error(cells: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """How often the answer is not the program's after an exchange, the mean over cells; 0 is a perfect account.

    The causal abstraction error of Méloux et al. (arXiv 2607.00267), top down, by its definition: values that
    occur in another item are written, and the outcome is compared with the program's, which is right or wrong.
    "mapped" exchanges the variable alone; "faithful" also everything that no variable holds, which must not count.
    None where there is no cell, or the adapter leaves nothing outside.
    """
    met = {"mapped": [c["match"] for c in cells], "faithful": [c["faithful"] for c in cells if c["faithful"]]}
    return {k: round(1 - fmean(s["accuracy"] for s in found), 4) if found else None for k, found in met.items()}


def _share(hits: Sequence[bool]) -> dict[str, Any]:
    return share(sum(hits), len(hits))
