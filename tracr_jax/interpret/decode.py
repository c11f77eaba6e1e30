"""Decode one text: the value of every program variable at every position and layer, read from the model.

v = A h_l at each position; of each variable the value whose coordinate is largest. Source: docs/method.md §11.
Differs from the original: every layer 0..L and not the last alone; the margin to the runner-up; the program's own
value beside it, from the compiled teacher, or from the oracle where the text is longer than the teacher's table;
and "not defined here" where the program holds nothing, where the original reads noise (docs/differences.md D36).
"""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.data.samples import LONG, round_up
from tracr_jax.errors import UserError
from tracr_jax.interpret.display import Decoded
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import states_at
from tracr_jax.measure.variables.labelled import oracle_values
from tracr_jax.measure.variables.reading import NOTHING, best_values, held_values, margins
from tracr_jax.runs.model import Injected, opened
from tracr_jax.runs.program import Program
from tracr_jax.teacher.variables import VariableLayout
from tracr_jax.train.losses import apply_adapter
from tracr_jax.types import Adapter, Array, Params


def decode(run: Injected | str | Path, text: str) -> Decoded:
    """Decode every program variable from the model at each token of a text.

    Args:
      run: from `inject` or `open`, or the folder of a run or of an export.
      text: any text, unchanged; an item's prompt is enough, as the program is causal.

    Raises:
      UserError: the text has no tokens, or more than the model has positions, or the run trained no adapter.
    """
    if not isinstance(text, str):
        raise UserError(f"decode: expected a text, got {text!r}; see `decode_ids` for tokens")
    run = opened(run)
    return decode_ids(run, run.program.tokenizer.encode(text))


def decode_ids(run: Injected, ids: Sequence[int]) -> Decoded:
    """`decode` for a text that is already token ids."""
    program, adapter, row = run.program, run.trained_adapter, padded_row(run, ids)
    hidden = _hidden(run.model, run.params, row, states=program.states)
    held, states, unknown = None, None, ""
    if row.shape[1] <= program.length:
        states = program.teacher_states(program.bridge.to_teacher(row))[:, 0, 1:]
    else:
        try:
            held = oracle_values(program, row, [len(ids)])[0][:, 0]
        except UserError as e:
            unknown = beyond_table(program, len(ids), str(e))
    return read_states(program, adapter, ids, hidden, states=states, held=held, unknown=unknown)


def beyond_table(program: Program, count: int, why: str) -> str:
    """One line on why the program's values are unknown for a text of `count` tokens."""
    return f"{count} tokens are more than the {program.length} of the longest training item; {why}"


def read_states(
    program: Program,
    adapter: Adapter,
    ids: Sequence[int],
    hidden: Float[Array, "L1 W d"],
    *,
    states: Float[Array | np.ndarray, "L1 W D"] | None = None,
    held: Int[np.ndarray, "L1 W n"] | None = None,
    unknown: str = "",
) -> Decoded:
    """Decode given states of a text, together with the program's own values.

    Args:
      program: whose variables are read.
      adapter: what reads them.
      ids: the text. Cut to its length is what was computed for a padded row: else each length would compile anew.
      hidden: states of the model that the teacher's layers are read from.
      states: the compiled program's own, without BOS.
      held: the program's values in layout order, where there are no states of it.
      unknown: why there is neither.
    """
    count, layout, variables = len(ids), program.layout, program.teacher.variables
    reading, read, margin = (np.asarray(x)[:, :count] for x in _reading(adapter, hidden, layout=layout))
    numbers = np.full(reading.shape, np.nan)
    if states is not None:
        numbers, held = (np.asarray(x)[:, :count] for x in (states, _held(states, layout=layout)))
    held = np.full(read.shape, NOTHING) if held is None else program.readable(held[:, :count])
    place = {name: k for k, name in enumerate(layout.names)}
    shape = (program.depth + 1, len(variables), count)
    out = Decoded(
        tuple(program.tokenizer.token_text(i) for i in ids),
        tuple(int(i) for i in ids),
        variables,
        program.result,
        np.full(shape, NOTHING, np.int32),
        np.zeros(shape, np.float32),
        np.full(shape, NOTHING, np.int32),
        np.full(shape, np.nan, np.float32),
        np.full(shape, np.nan, np.float32),
        unknown,
    )
    for i, v in enumerate(variables):
        if v.kind == "categorical":
            k = place[v.name]
            out.values[:, i], out.margins[:, i], out.truth[:, i] = read[..., k], margin[..., k], held[..., k]
        else:
            out.numbers[:, i] = reading[..., v.indices[0]]
            out.true_numbers[v.writer_layer :, i] = numbers[v.writer_layer :, :, v.indices[0]]
    return out if program.codes is None else _between(out, program, hidden)


def _between(out: Decoded, program: Program, hidden: Float[Array, "L1 W d"]) -> Decoded:
    """The same with distances to the centroids: margins in their units, and how far away the nearest one is.

    Where a variable has no directions, or its directions are another's by then, nothing is read.
    """
    reserved = program.reserved
    assert reserved is not None
    _, margin, distance = (np.asarray(x)[:, : len(out.tokens)] for x in reserved.read(program.codes, hidden))
    margins, away = np.zeros_like(out.margins), np.zeros_like(out.margins)
    values, numbers = out.values.copy(), out.numbers.copy()
    for i, v in enumerate(out.variables):
        unread = sorted({*range(program.depth + 1)} - {*program.layers_of(v)})
        values[unread, i], numbers[unread, i] = NOTHING, np.nan
    for k, name in enumerate(reserved.names):
        i = next(i for i, v in enumerate(out.variables) if v.name == name)
        margins[:, i], away[:, i] = margin[..., k], distance[..., k]
    alike = tuple(program.alike(v.name) for v in out.variables)
    return dataclasses.replace(out, values=values, numbers=numbers, margins=margins, away=away, alike=alike)


def hidden_states(run: Injected | str | Path, text: str) -> dict[str, Float[np.ndarray, "S d"]]:
    """The trained model's states of a text by name, for other tools: "hidden_0".."hidden_N" and "logits" [S, V].

    hidden_i is the input of block i, hidden_N is taken after the final norm, as in Hugging Face's models. The
    adapter reads those of `Program.states`.
    """
    run = opened(run)
    ids = run.program.tokenizer.encode(text)
    out = _forward(run.model, run.params, padded_row(run, ids))
    states = {f"hidden_{i}": h[0, : len(ids)] for i, h in enumerate(np.asarray(out.hidden))}
    return states | {"logits": np.asarray(out.logits)[0, : len(ids)]}


def padded_row(run: Injected, ids: Sequence[int]) -> Int[np.ndarray, "1 S"]:
    """A padded row of one of few widths, so that few programs are compiled.

    Raises:
      UserError: no tokens, or more than the model has positions.
    """
    if not len(ids):
        raise UserError("decode: the text is empty; give at least one token")
    limit = run.model.max_positions
    if len(ids) > limit:
        raise UserError(f"decode: the text has {len(ids)} tokens, the model {limit} positions; shorten it")
    short = run.program.length
    width = short if len(ids) <= short else round_up(len(ids), to=LONG, most=limit)
    row = np.full((1, width), run.program.tokenizer.eos_id, np.int32)
    row[0, : len(ids)] = ids
    return row


@functools.partial(jax.jit, static_argnames=("model", "states"))
def _hidden(model: LanguageModel, lm_params: Params, ids, *, states: tuple[int, ...]):
    """The hidden states [L1, W, d] of one row that are aligned with the teacher's layers."""
    return states_at(model, lm_params, ids, states)[:, 0]


@functools.partial(jax.jit, static_argnames=("layout",))
def _reading(adapter: Adapter, hidden, *, layout: VariableLayout):
    """Decoded states [L1, W, d]: coordinates [L1, W, D]; each variable's value and margin [L1, W, n]."""
    reading = apply_adapter(adapter, hidden.astype(jnp.float32))
    grouped = reading[..., layout.order]
    return reading, best_values(grouped, layout=layout), margins(grouped, layout=layout)


@functools.partial(jax.jit, static_argnames=("layout",))
def _held(states, *, layout: VariableLayout):
    """The values that the compiled teacher's states [L1, W, D] hold [L1, W, n]."""
    return held_values(states[..., layout.order], layout=layout)


@functools.partial(jax.jit, static_argnames=("model",))
def _forward(model: LanguageModel, lm_params: Params, ids):
    return model.apply(lm_params, ids)
