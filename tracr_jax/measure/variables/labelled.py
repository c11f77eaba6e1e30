"""Items as rows of tokens with the program's own value of every variable at every position and layer.

The values are the oracle's (tracr_jax.teacher.oracle), which the compiled teacher was proved to hold: a layer
holds a variable from its writer on. What the program does not define is NOTHING there; so is, for items longer
than the teacher's table, a value for which it has no direction, which is counted apart. Run as the original codes
it, a teacher may be wrong: then what fits its table takes the values from its own states.

Classes of positions, which may overlap:

| class | positions |
|---|---|
| all | every token of prompt and answer |
| prompt | tokens of the prompt that the teacher sees as its fill token: the words around the input |
| program | tokens of the prompt that have a teacher token of their own, but for the marker |
| marker | tokens of the prompt that are the teacher's marker, where the answer begins |
| answer | positions that emit a token of the answer: the last one of the prompt, and the answer's but the last |
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.data.samples import LONG, ROWS, padded_rows, round_up
from tracr_jax.measure.variables.reading import NOTHING, held_values
from tracr_jax.runs.model import Injected
from tracr_jax.runs.program import Program
from tracr_jax.tasks.base import Item
from tracr_jax.teacher.oracle import Overrides, Sees

CLASSES = ("all", "prompt", "program", "marker", "answer")


class LabelledRows(NamedTuple):
    """Some items as padded rows; rows beyond the items have empty masks."""

    ids: Int[Any, "B S"]
    masks: Float[Any, "C B S"]  # one for each of CLASSES
    held: Int[Any, "L1 B S n"]  # the program's value of each categorical variable in layout order, or NOTHING
    truth: Int[Any, "L1 B S n"]  # the same as far as the adapter tells values apart, see `Program.readable`
    unlabelled: int  # values without a direction in the teacher


class Labeller:
    """Makes labelled rows for a run; with the teacher's own states it compiles, so make one and keep it."""

    def __init__(self, run: Injected):
        """For the task of `Injected.program`, with the tokens of its tokenizer."""
        self._run = run
        layout, residuals = run.program.layout, run.program.residuals
        self._held = jax.jit(
            lambda phi, ids: held_values(residuals(phi, ids)[:, :, 1:][..., layout.order], layout=layout)
        )

    def rows(self, items: Sequence[Item], *, batch: int = ROWS) -> Iterator[LabelledRows]:
        """All items in their `order`, `batch` at a time (or as many as there are)."""
        lengths = self._lengths(items)
        order = self._by_length(lengths)
        batch, table = min(batch, len(items)), self._run.program.length
        first = sum(n <= table for n in lengths)
        for start in range(0, first, batch):
            yield self._labelled([items[k] for k in order[start : min(start + batch, first)]], batch, width=table)
        for start in range(first, len(order), batch):
            chosen = order[start : start + batch]
            longest = lengths[chosen[-1]]
            # Few widths for all sets: a program is compiled for each.
            width = round_up(longest, to=LONG, most=self._run.model.max_positions)
            yield self._labelled([items[k] for k in chosen], batch, width=width)

    def order(self, items: Sequence[Item]) -> list[int]:
        """Those that fit the teacher's table as they come, after them the longer ones, the shortest first."""
        return self._by_length(self._lengths(items))

    def _lengths(self, items: Sequence[Item]) -> list[int]:
        return [self._run.program.token_count(i) for i in items]

    def _by_length(self, lengths: Sequence[int]) -> list[int]:
        return sorted(range(len(lengths)), key=lambda k: max(lengths[k], self._run.program.length))

    def _labelled(self, items: Sequence[Item], batch: int, *, width: int) -> LabelledRows:
        program, missing = self._run.program, 0
        ids, masks = padded_rows(program.bridge, items, batch=batch, length=width)
        if program.config.fidelity.as_coded and width == program.length:  # they fit the table
            truth = np.asarray(self._held(program.phi, program.bridge.to_teacher(ids)))
        else:
            truth, missing = oracle_values(program, ids, masks[0].sum(axis=1).astype(int))
        masks = position_classes(self._run, ids, masks)
        return LabelledRows(ids, masks, truth, program.readable(truth), missing)


def position_classes(
    run: Injected, ids: Int[np.ndarray, "B S"], masks: Float[np.ndarray, "2 B S"]
) -> Float[np.ndarray, "C B S"]:
    """The masks of CLASSES, made of those of `padded_rows`: own positions and those that emit the answer."""
    own, answer = masks
    # The prompt ends where the answer's first token is emitted.
    prompt = own * (np.cumsum(answer, axis=1) - answer == 0)
    teacher_ids = run.program.bridge.to_teacher(ids)[:, 1:]
    vocab, task = run.program.teacher.vocab, run.program.task
    fill = teacher_ids == vocab[task.token_map().fill]
    marker = teacher_ids == vocab.get(task.marker, -1)
    return np.stack([own, prompt * fill, prompt * ~(fill | marker), prompt * marker, answer])


def oracle_values(
    program: Program,
    ids: Int[np.ndarray, "B S"],
    lengths: Sequence[int] | Int[np.ndarray, " B"],
    *,
    overrides: Overrides | None = None,
    sees: Sees | None = None,
) -> tuple[Int[np.ndarray, "L1 B S n"], int]:
    """The oracle's values of every categorical variable for rows of any length, and how many have no direction.

    Args:
      program: whose task's own code is at hand.
      ids: LM tokens.
      lengths: how many of each row are its own; the program is causal, the rest is left out.
      overrides: values put in place of the program's, see `Oracle`.
      sees: who reads them.
    """
    by_name = {v.name: v for v in program.teacher.variables if v.kind == "categorical"}
    variables = [by_name[n] for n in program.layout.names if n in by_name]
    index = [{value: k for k, value in enumerate(v.values)} for v in variables]
    truth = np.full((*ids.shape, len(variables)), NOTHING, np.int32)
    missing, oracle = 0, program.oracle
    inputs = [program.bridge.teacher_values(ids[row, :length].tolist()) for row, length in enumerate(lengths)]
    for row, (tokens, states) in enumerate(zip(inputs, oracle.states_of(inputs), strict=True)):
        length = len(tokens)
        values = oracle(tokens, overrides=overrides, sees=sees, states=states).values if length else {}
        # Every compiled teacher holds them, even where the program never reads them.
        values = {"indices": list(range(length))} | values
        for k, variable in enumerate(variables):
            for s, value in enumerate(values.get(variable.name, ())):
                if value is None:
                    continue
                truth[row, s, k] = index[k].get(value, NOTHING)
                missing += value not in index[k]
    writer = np.array([v.writer_layer for v in variables])
    held = np.arange(program.depth + 1)[:, None] >= writer[None]
    return np.where(held[:, None, None], truth[None], NOTHING), missing
