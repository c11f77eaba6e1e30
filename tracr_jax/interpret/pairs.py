"""Which swaps are made, and what the program would answer after each. No model code.

A swap gives a base item the source's values of one variable v, at every position where the program holds a value
of v in both, and leaves everything else. Both have the same number of prompt and of answer tokens, so positions
correspond by index. Where hardly any such pair changes the answer (the position of a marker is the same in both,
the number of digits too), items of any length are swapped; positions then correspond as far as both go. Answer
positions count too, with each item's own answer before them. The program's evaluator (the oracle) does the same:
v is overridden with the source's values, and only readers placed after the edited layer see it. Where it then
answers otherwise than for the base, the pair *flips*.
"""

import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tracr_jax.data.samples import FINE, round_up
from tracr_jax.interpret.pool import Pool, padded
from tracr_jax.teacher import Teacher
from tracr_jax.teacher.oracle import Oracle, Sees, reads_after
from tracr_jax.teacher.readers import last_read

_TRIES = 6  # predictions made for each pair that is wanted
_CANDIDATES = 20_000  # pairs of items looked at for a difference
_SCARCE = 4  # flips are fewer than one in so many of the pairs that are wanted
_ROWS = 50  # pairs in one pass, or all where that is less
_FEW = 4  # possible answers, up to which the pairs are balanced between them


@dataclass(frozen=True)
class Cell:
    """A place to intervene: a variable in r_layer, that is in the LM's hidden[layer]; layer >= 1."""

    variable: str
    layer: int


@dataclass(frozen=True)
class Omission:
    """A variable that is not swapped, and why; layer None: at all its layers."""

    variable: str
    layer: int | None
    reason: str


@dataclass(frozen=True)
class Pair:
    """A swap and its prediction."""

    base: int  # in the pool
    source: int
    positions: tuple[int, ...]  # where v is exchanged
    values: tuple[Any, ...]  # the program's answer after the swap
    answer: tuple[int, ...]  # the same in LM tokens
    flips: bool  # whether it differs from the base's


@dataclass(frozen=True, eq=False)
class Pairs:
    """The pairs of a cell."""

    pairs: tuple[Pair, ...]
    equal_length: bool
    """Whether both items of every pair have as many prompt and answer tokens; False where the answer changes more
    often between items of different lengths."""


def list_cells(teacher: Teacher, oracle: Oracle) -> tuple[list[Cell], list[Omission]]:
    """Every categorical variable of the program, at each r_l from its writer to the last that is still read."""
    cells, omitted = [], []
    for v in teacher.variables:
        last = last_read(teacher, oracle, v.name)
        if v.kind != "categorical":
            omitted.append(Omission(v.name, None, "numerical: one direction holds a number, not one per value"))
        elif v.name not in oracle.readers:
            omitted.append(Omission(v.name, None, "the program does not use it"))
        elif last is None:
            omitted.append(Omission(v.name, None, "read only inside the layer that writes it"))
        else:
            if v.writer_layer == 0:
                # Where nothing later reads it, all of it is left out.
                at = 0 if last else None
                omitted.append(Omission(v.name, at, "the embedding: no block's output that could be edited"))
            cells += [Cell(v.name, layer) for layer in range(max(v.writer_layer, 1), last + 1)]
    return cells, omitted


class PairFinder:
    """Finds pairs for cells; cells of a variable with the same readers ahead of them share their pairs."""

    def __init__(self, pool: Pool, *, count: int, seed: int):
        """`count` pairs for each cell where so many exist; `seed` decides which."""
        self._pool, self._count, self._seed = pool, count, seed
        self._found: dict[tuple[str, tuple[str, ...]], Pairs | str] = {}
        results = {k.result for k in pool.items}
        # With few possible answers, as many pairs of each (answer before, answer after) as can be found: else a
        # model that any change of its state makes answer "no" would look as if it followed the program.
        self._quota = -(-count // len(results) ** 2) if 1 < len(results) <= _FEW else 0
        self._results = results

    def __call__(self, cell: Cell) -> "Pairs | str":
        """Pairs for a cell, half of them flips where enough are found, or in words why there are none."""
        oracle = self._pool.oracle
        sees = reads_after(self._pool.bridge.teacher, cell.layer)
        ahead = tuple(r for r in oracle.readers[cell.variable] if sees(r, cell.variable))
        key = cell.variable, ahead
        if key not in self._found:
            self._found[key] = self._find(cell.variable, sees)
        return self._found[key]

    def _find(self, variable: str, sees: Sees) -> "Pairs | str":
        pool = self._pool
        if not pool.held[variable]:
            return "never one value: nothing, or a mixture of several, at every position of the sample"
        everything = range(len(pool.items))
        best, most, differ = None, -1, False
        for groups, equal in ((pool.groups, True), ((everything,), False)):
            order = np.array([(b, s) for g in groups for b in g for s in g if b != s]).reshape(-1, 2)
            order = np.random.default_rng((self._seed, len(order))).permutation(order)[:_CANDIDATES]
            differing = ((b, s) for b, s in order.tolist() if self._differ(variable, b, s))
            first = next(differing, None)
            if first:
                differ = True
                found = self._search(variable, itertools.chain([first], differing), sees)
                flips = sum(p.flips for p in found)
                if found and flips > most:
                    best, most = Pairs(found, equal), flips
                if most * _SCARCE >= self._count:
                    break
        if differ:
            return best or "the program's answer after a swap is never defined"
        return "no two items of the sample differ in it at the same position"

    def _differ(self, variable: str, base: int, source: int) -> bool:
        a, b = (self._pool.items[i].values[variable] for i in (base, source))
        return any(x != y and x is not None and y is not None for x, y in zip(a, b, strict=False))

    def _search(self, variable: str, candidates: Iterable[tuple[int, int]], sees: Sees) -> tuple[Pair, ...]:
        kinds: dict[tuple[Any, Any], list[Pair]] = defaultdict(list)
        half = self._count - self._count // 2
        tries = _TRIES * self._count

        def full(before: Any) -> bool:
            """Whether no pair is wanted any more whose base answers so."""
            if not self._quota:
                flips = sum(len(p) for (a, b), p in kinds.items() if a != b)
                return flips >= self._count or (flips >= half and sum(map(len, kinds.values())) >= self._count)
            return all(len(kinds[before, b]) >= (self._quota if b == before else half) for b in self._results)

        for base, source in candidates:
            before = self._pool.items[base].result
            if full(before):
                if not self._quota or all(map(full, self._results)):
                    break
                continue
            if not tries:
                break
            tries -= 1
            pair = predict(self._pool, variable, base, source, sees=sees)
            if pair is not None:
                kinds[before, pair.values].append(pair)
        flips = _in_turn([p for (a, b), p in kinds.items() if a != b])
        others = _in_turn([p for (a, b), p in kinds.items() if a == b])
        keep = max(half, self._count - len(others))
        return tuple((flips[:keep] + others)[: self._count])


def _in_turn(lists: list[list[Pair]]) -> list[Pair]:
    """One of each list, then the next of each."""
    return [p for row in itertools.zip_longest(*lists) for p in row if p is not None]


def predict(pool: Pool, variable: str, base: int, source: int, *, sees: Sees) -> Pair | None:
    """What the program answers for the base with the source's values of a variable; None if it is undefined.

    The answer is the one that is generated: each of its tokens is read by the program when the next is due.
    """
    to, of = pool.items[base], pool.items[source]
    # Not strict: where lengths differ, positions correspond as far as both go.
    both = zip(to.values[variable], of.values[variable], strict=False)
    positions = tuple(s for s, (x, y) in enumerate(both) if x is not None and y is not None)
    overrides = {(variable, s): of.values[variable][s] for s in positions}
    tokens, states = list(to.tokens), to.states
    answer = list(to.answer)
    for j, s in enumerate(to.emitting):
        values = pool.oracle(tokens, overrides=overrides, sees=sees, states=states).values[pool.oracle.result]
        found = tuple(values[to.emitting.start :])
        written = [pool.tokens.get((i, v)) if v is not None else None for i, v in enumerate(found)]
        if None in written[: j + 1]:
            return None
        if written == answer:
            return Pair(base, source, positions, found, tuple(answer), flips=found != to.result)
        if written[j] != answer[j]:
            answer[j] = written[j]  # pyright: ignore[reportCallIssue, reportArgumentType]
            if s + 1 < len(tokens):
                tokens[s + 1] = pool.bridge.teacher_values([answer[j]])[0]
                states = pool.oracle.states(tokens)
    return Pair(base, source, positions, found, tuple(answer), flips=found != to.result)


class PairRows(NamedTuple):
    """Pairs as rows of one pass: the base with the predicted answer after it, padded on the right."""

    at: tuple[int, ...]
    """Which of the pairs the rows are; there may be more rows."""
    ids: Int[np.ndarray, "B S"]
    mask: Float[np.ndarray, "B S"]
    """1 at the positions that emit the answer."""
    sources: Int[np.ndarray, " B"]
    """The source's place in the pool."""
    where: Float[np.ndarray, "B S"]
    """1 at the positions that are exchanged."""


def pair_rows(pool: Pool, pairs: Sequence[Pair]) -> list[PairRows]:
    """All pairs, the longest bases first, so that those of one pass are padded to nearly their own length."""

    def length(i: int) -> int:
        return len(pool.items[pairs[i].base].prompt) + len(pairs[i].answer)

    order = sorted(range(len(pairs)), key=length, reverse=True)
    size, out = min(_ROWS, len(pairs)), []
    for start in range(0, len(pairs), size or 1):
        at = tuple(order[start : start + size])
        shape = (size, min(pool.length, round_up(length(at[0]), to=FINE)))
        mask, where = np.zeros((2, *shape), np.float32)
        rows = PairRows(at, np.zeros(shape, np.int32), mask, np.zeros(size, np.int32), where)
        for row, pair in enumerate(pairs[i] for i in at):
            base = pool.items[pair.base]
            rows.ids[row] = padded(pool, base.prompt + pair.answer)[: shape[1]]
            rows.mask[row, list(base.emitting)] = 1
            rows.where[row, list(pair.positions)] = 1
            rows.sources[row] = pair.source
        out.append(rows)
    return out


def other_variable(
    teacher: Teacher, pool: Pool, cell: Cell, *, among: Collection[str] | None = None
) -> str | None:
    """The control's variable: already written at the layer, with the same or else the next number of values.

    One that is still to be read, where there is one: another moves no answer, and would be too easy a control.

    `among`: those that have a subspace; some have no reserved directions. Default all.
    """
    written = [
        v.name
        for v in teacher.variables
        if v.kind == "categorical" and v.name in pool.oracle.names and v.writer_layer <= cell.layer
    ]
    written = [n for n in written if among is None or n in among]
    own = len(pool.held[cell.variable])
    sizes = {n: len(pool.held[n]) for n in written if n != cell.variable}
    candidates = [n for n, size in sizes.items() if size > 1]
    last = {n: last_read(teacher, pool.oracle, n) for n in candidates}
    done = {n: at is None or at < cell.layer for n, at in last.items()}
    # Fewer values only where no other variable has as many: a smaller change would be too easy a control.
    return min(candidates, key=lambda n: (done[n], sizes[n] < own, abs(sizes[n] - own)), default=None)
