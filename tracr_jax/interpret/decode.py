"""Decode one text: the value of every program variable at every position and layer, read from the model.

v = A h_l at each position; of each variable the value whose coordinate is largest. Source: docs/method.md §11.
Differs from the original: every layer 0..L and not the last alone; the margin to the runner-up; the program's own
value beside it, from the compiled teacher, or from the oracle where the text is longer than the teacher's table;
and "not defined here" where the program holds nothing, where the original reads noise (docs/differences.md D36).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.data.samples import LONG, round_up
from tracr_jax.errors import UserError
from tracr_jax.interpret.display import DecodedTable
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import first_blocks
from tracr_jax.measure.variables.labelled import oracle_values
from tracr_jax.measure.variables.reading import NOTHING, best_values, held_values, margins
from tracr_jax.runs.build import Setup
from tracr_jax.teacher.model import Variable
from tracr_jax.teacher.variables import VariableLayout
from tracr_jax.train.losses import apply_adapter
from tracr_jax.train.step import TrainParams
from tracr_jax.types import Adapter, Params


class Trained(Protocol):
    """A run with its trained parameters: what `inject` and `open_run` return."""

    @property
    def setup(self) -> Setup:
        """The run's parts."""
        ...

    @property
    def params(self) -> TrainParams:
        """Trained model and adapter."""
        ...


@dataclass(frozen=True, eq=False)
class Decoded:
    """Every variable of the program at every position and layer of one text; shows itself as a table.

    Values are positions in `variables[i].values`, -1 where there is none: a numerical variable, or a place where
    the program does not define the variable. n variables in the teacher's order, layers 0..L.
    """

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    variables: tuple[Variable, ...]
    result: str
    """Name of the program's result."""
    values: Int[np.ndarray, "L1 n S"]
    """Read from the model."""
    margins: Float[np.ndarray, "L1 n S"]
    """Best minus runner-up (logits); 0 for a numerical variable."""
    truth: Int[np.ndarray, "L1 n S"]
    """What the program holds."""
    numbers: Float[np.ndarray, "L1 n S"]
    """Numerical variables as read, NaN for the others."""
    true_numbers: Float[np.ndarray, "L1 n S"]
    """Numerical variables as the program holds them; NaN elsewhere and where the oracle does not know them."""

    @property
    def layers(self) -> int:
        """L + 1."""
        return len(self.values)

    def index(self, name: str) -> int:
        """Place of a variable, by its full name or without the counter ("final_result").

        Raises:
          UserError: no variable or several answer to it.
        """
        found = [i for i, v in enumerate(self.variables) if v.name == name]
        found = found or [i for i, v in enumerate(self.variables) if _base(v.name) == name]
        if len(found) != 1:
            known = ", ".join(v.name for v in self.variables)
            raise UserError(f"decode: {len(found)} variables are named {name!r}, the program has {known}")
        return found[0]

    def title(self, i: int) -> str:
        """A variable's name, without tracr's counter where that leaves it its own."""
        short = _base(self.variables[i].name)
        return short if sum(_base(v.name) == short for v in self.variables) == 1 else self.variables[i].name

    def read(self, name: str, *, layer: int = -1) -> list[Any]:
        """What the model shows of a variable at each position; None where the program does not define it."""
        return self._column(self.index(name), self.values[layer], self.numbers[layer], self.truth[layer])

    def program(self, name: str, *, layer: int = -1) -> list[Any]:
        """What the program holds of a variable at each position; None where it does not define it."""
        return self._column(self.index(name), self.truth[layer], self.true_numbers[layer], self.truth[layer])

    def _column(self, i, values, numbers, truth):
        variable = self.variables[i]
        if variable.kind != "categorical":
            return [None if np.isnan(x) else float(x) for x in numbers[i]]
        return [None if t == NOTHING else variable.values[v] for v, t in zip(values[i], truth[i], strict=True)]

    def show(
        self, *, layer: int = -1, names: Sequence[str] | None = None, everything: bool = False
    ) -> DecodedTable:
        """The table of one layer, for a terminal or a notebook.

        Args:
          layer: 0..L, or from the end.
          names: the variables to show, in order; by default the result, then those computed last.
          everything: all variables, in as many tables as the terminal needs.

        Raises:
          UserError: no such layer or variable.
        """
        if not -self.layers <= layer < self.layers:
            raise UserError(f"decode: no layer {layer}, this program is aligned on layers 0..{self.layers - 1}")
        order = [self.index(n) for n in names] if names is not None else self._order(everything)
        return DecodedTable(self, layer % self.layers, tuple(order), everything or names is not None)

    def _order(self, everything: bool) -> list[int]:
        chosen = [i for i, v in enumerate(self.variables) if everything or v.kind == "categorical"]

        def rank(i: int):
            v = self.variables[i]
            return v.name != self.result, v.kind != "categorical", -v.writer_layer

        return sorted(chosen, key=rank)

    def __rich__(self) -> DecodedTable:
        """The last aligned layer, with as many variables as fit."""
        return self.show()

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()


def decode(run: Trained, text: str) -> Decoded:
    """Read every program variable from the model at each token of a text.

    Args:
      run: from `inject` or `open_run`.
      text: any text, as it stands; an item's prompt is enough, the program is causal.

    Raises:
      UserError: the text has no tokens, or more than the model has positions.
    """
    return decode_ids(run, run.setup.tokenizer.encode(text))


def decode_ids(run: Trained, ids: Sequence[int]) -> Decoded:
    """`decode` for a text that is already token ids."""
    setup, params = run.setup, run.params
    depth, layout, teacher = setup.shape.depth, setup.layout, setup.teacher
    row = _padded(setup, ids)
    count = len(ids)
    # Cut to the text on the host only: on the device each length would be compiled anew.
    found = _reading(setup.lm.model, params.lm, params.adapter, row, layout=layout, depth=depth)
    reading, read, margin = (np.asarray(x)[:, :count] for x in found)
    if row.shape[1] <= setup.sequence_length:
        states = _program(setup.residuals, setup.phi, setup.bridge.to_teacher(row), layout=layout)
        numbers, held = (np.asarray(x)[:, :count] for x in states)
    else:
        held = oracle_values(setup, row, [count])[0][:, 0, :count]
        numbers = np.full(reading.shape, np.nan)
    place = {name: k for k, name in enumerate(layout.names)}
    shape = (depth + 1, len(teacher.variables), count)
    out = Decoded(
        tuple(setup.tokenizer.token_text(i) for i in ids),
        tuple(int(i) for i in ids),
        teacher.variables,
        teacher.variable(setup.task.result).name,
        np.full(shape, NOTHING, np.int32),
        np.zeros(shape, np.float32),
        np.full(shape, NOTHING, np.int32),
        np.full(shape, np.nan, np.float32),
        np.full(shape, np.nan, np.float32),
    )
    for i, v in enumerate(teacher.variables):
        if v.kind == "categorical":
            k = place[v.name]
            out.values[:, i], out.margins[:, i], out.truth[:, i] = read[..., k], margin[..., k], held[..., k]
        else:
            out.numbers[:, i] = reading[..., v.indices[0]]
            out.true_numbers[v.writer_layer :, i] = numbers[v.writer_layer :, :, v.indices[0]]
    return out


def hidden_states(run: Trained, text: str) -> dict[str, Float[np.ndarray, "S d"]]:
    """The trained model's states of a text by name, for other tools: "hidden_0".."hidden_N" and "logits" [S, V].

    hidden_i is the input of block i, hidden_N is taken after the final norm, as in Hugging Face's models. The
    adapter reads hidden_0..hidden_L.
    """
    ids = run.setup.tokenizer.encode(text)
    out = _forward(run.setup.lm.model, run.params.lm, _padded(run.setup, ids))
    states = {f"hidden_{i}": h[0, : len(ids)] for i, h in enumerate(np.asarray(out.hidden))}
    return states | {"logits": np.asarray(out.logits)[0, : len(ids)]}


def _padded(setup: Setup, ids: Sequence[int]) -> Int[np.ndarray, "1 S"]:
    """One row of few possible widths, so that few programs are compiled."""
    if not len(ids):
        raise UserError("decode: the text is empty; give at least one token")
    limit = setup.lm.model.max_positions
    if len(ids) > limit:
        raise UserError(f"decode: the text has {len(ids)} tokens, the model {limit} positions; shorten it")
    short = setup.sequence_length
    width = short if len(ids) <= short else min(round_up(len(ids), to=LONG), limit)
    row = np.full((1, width), setup.tokenizer.eos_id, np.int32)
    row[0, : len(ids)] = ids
    return row


@functools.partial(jax.jit, static_argnames=("model", "layout", "depth"))
def _reading(
    model: LanguageModel, lm_params: Params, adapter: Adapter, ids, *, layout: VariableLayout, depth: int
):
    """What the adapter reads of one row [L1, S, D]; of each categorical variable value and margin [L1, S, n]."""
    model, lm_params = first_blocks(model, lm_params, depth + 1)
    reading = apply_adapter(adapter, model.apply(lm_params, ids).hidden[: depth + 1, 0].astype(jnp.float32))
    grouped = reading[..., layout.order]
    return reading, best_values(grouped, layout=layout), margins(grouped, layout=layout)


@functools.partial(jax.jit, static_argnames=("residuals", "layout"))
def _program(residuals: Callable, phi: Any, ids, *, layout: VariableLayout):
    """The compiled teacher's states of one row [L1, S, D], and the values that they hold [L1, S, n]."""
    states = residuals(phi, ids)[:, 0, 1:]
    return states, held_values(states[..., layout.order], layout=layout)


@functools.partial(jax.jit, static_argnames=("model",))
def _forward(model: LanguageModel, lm_params: Params, ids):
    return model.apply(lm_params, ids)


def _base(name: str) -> str:
    head, _, counter = name.rpartition("_")
    return head if counter.isdigit() and head else name
