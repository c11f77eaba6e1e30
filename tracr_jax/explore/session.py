"""Reading prompts one after another, with values that the user sets: what the page asks of the model.

A change sets one variable at one token of the state that one teacher layer is read from: see `Sources` for the
language model; in the compiled program it is the value's one-hot. Changes of several layers are made in the order
of the layers, so that each one meets the state that those before it have left. What follows is the model's own:
the answer is generated token by token, and every variable is read again, beside what the program makes of the same
changes.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.errors import UserError
from tracr_jax.explore.answers import Answer, compare, items_of, longest_answer, spelling
from tracr_jax.explore.sources import Sources
from tracr_jax.interpret.decode import beyond_table, padded_row, read_states
from tracr_jax.interpret.display import Decoded
from tracr_jax.interpret.examples import as_json
from tracr_jax.interpret.stepwise import generate, next_token
from tracr_jax.intervene import LayerEdit
from tracr_jax.measure.variables.labelled import oracle_values
from tracr_jax.measure.variables.reading import NOTHING, held_values
from tracr_jax.progress import Say
from tracr_jax.runs.model import Injected
from tracr_jax.teacher.oracle import reads_after
from tracr_jax.types import Array

TOKENS = 256  # of a prompt; more would be a table that nobody reads
CHANGES = 32
_SAMPLE = 40  # items of the training whose states values are taken from


class Change(NamedTuple):
    """One value that is set, all by their places: variable and value in the teacher's lists."""

    variable: int
    layer: int
    token: int
    value: int


class Explorer:
    """A run's model and program, ready to read prompts; the second reading of a prompt's own state is kept."""

    def __init__(self, run: Injected):
        """For the run's newest program.

        Raises:
          UserError: an export of a run without alignment, which has no adapter.
        """
        self.run, self.program = run, run.program
        run.trained_adapter  # noqa: B018 - says why there is none
        self._most = longest_answer(self.program)
        self._spelling, self._endings = spelling(self.program)
        self.sources = Sources(run)
        self._plain: tuple[tuple[int, ...], dict[str, Any]] | None = None

    def warm(self, say: Say = lambda _: None) -> None:
        """Compile for texts of the two usual widths, some seconds each, and read the prompts values come from."""
        first = self.program.examples[0].prompt
        ids = self.program.tokenizer.encode(first)
        longer = self.program.length + 1
        for count in (len(ids), longer):
            if count + self._most <= self.run.model.max_positions:
                width = padded_row(self.run, [0] * count).shape[1]
                say(f"compiling for texts of up to {width} tokens")
                self._read((ids * count)[:count], ())
        self.sources = Sources(self.run)  # without the texts that were made up
        items = [] if self.sources.written else items_of(self.program, drawn=_SAMPLE)
        texts = [prompt + answer for prompt, answer in map(self.program.bridge.split, items)]
        texts = [text for text in texts if len(text) <= self.program.length]
        if texts:
            say(f"reading {len(texts)} prompts of the task")
        for text in texts:
            self._decoded(text, self._forward(text, ())[0], ())

    def read(self, prompt: str, changes: Sequence[Change] = ()) -> dict[str, Any]:
        """Everything the page shows of a prompt: {"before": …, "after": … or None where nothing is changed}.

        Each has the form of an example of the report ("tokens", "answer_positions", "layers", "truth") and
        "answer", which is the model's beside the program's, and "unknown", why the latter is not known.

        Raises:
          UserError: the prompt has no tokens or too many, or a change is impossible.
        """
        program, ids = self.program, self._encode(prompt)
        if self._plain is None or self._plain[0] != tuple(ids):
            self._plain = (tuple(ids), self._read(ids, ()))
        before = self._plain[1]
        if len(changes) > CHANGES:
            raise UserError(f"at most {CHANGES} values can be set at once, got {len(changes)}")
        for change in changes:
            self._check(change, len(before["tokens"]))
        return {
            "prompt": prompt,
            "result": program.result,
            "before": before,
            "settable": [self.sources.values(i) for i in range(len(program.teacher.variables))],
            "after": self._read(ids, changes) if changes else None,
        }

    def why_fixed(self, variable: int, layer: int) -> str:
        """Why a variable cannot be set at a layer; empty where it can."""
        v = self.program.teacher.variables[variable]
        if v.kind != "categorical":
            return "a number on one direction, not one of a list of values"
        if len(v.values) < 2:
            return "it has a single value"
        return self.program.why_unread(v, layer)

    def _encode(self, prompt: str) -> list[int]:
        ids = self.program.tokenizer.encode(prompt)
        limit = min(TOKENS, self.run.model.max_positions - self._most)
        if not ids:
            raise UserError("the prompt is empty")
        if len(ids) > limit:
            raise UserError(f"the prompt has {len(ids)} tokens, at most {limit} can be shown; shorten it")
        return ids

    def _check(self, change: Change, tokens: int) -> None:
        variables, depth = self.program.teacher.variables, self.program.depth
        sizes = len(variables), depth + 1, tokens
        if not all(0 <= at < size for at, size in zip(change[:3], sizes, strict=True)):
            raise UserError(
                f"no variable {change.variable}, layer {change.layer} or token {change.token}: there are "
                f"{len(variables)} variables, layers 0 to {depth} and {tokens} tokens"
            )
        v = variables[change.variable]
        why = self.why_fixed(change.variable, change.layer)
        if why:
            raise UserError(f"{v.name} cannot be set at layer {change.layer}: {why}")
        if not 0 <= change.value < len(v.values):
            raise UserError(f"{v.name} has {len(v.values)} values, none has the number {change.value}")

    def _read(self, prompt: Sequence[int], changes: Sequence[Change]) -> dict[str, Any]:
        """One reading; the text is the prompt and the model's own answer to it."""
        answer, hidden, ends = generate(
            lambda ids: self._forward(ids, changes), prompt, most=self._most, end=self.program.tokenizer.eos_id
        )
        read = self._decoded([*prompt, *answer], hidden, changes)
        emitting = range(len(prompt) - 1, len(prompt) - 1 + max(len(answer), 1))
        return as_json(read) | {
            "answer_positions": list(emitting),
            "unknown": read.unknown,
            "answer": self._compare(prompt, answer, ends, changes, read)._asdict(),
        }

    def _decoded(self, ids: Sequence[int], hidden: Array, changes: Sequence[Change]) -> Decoded:
        held, states, unknown = None, None, ""
        try:
            states, held = self._held(ids, changes)
        except UserError as e:
            unknown = beyond_table(self.program, len(ids), str(e))
        read = read_states(self.program, self.run.adapter, ids, hidden, states=states, held=held, unknown=unknown)
        if not changes:
            self.sources.add(np.asarray(hidden)[:, : len(ids)], read)
        return read

    def _forward(self, ids: Sequence[int], changes: Sequence[Change]) -> tuple[Array, int]:
        """(states [L1, W, d] under the changes, the token that the model puts after the text)."""
        run = self.run
        row = padded_row(run, ids)
        given = np.zeros((self.program.depth + 1, row.shape[1], run.model.width), np.float32)
        mask = np.zeros(given.shape[:2], np.float32)
        hidden, token = next_token(run, ids, given=given, mask=mask)
        for layer in sorted({c.layer for c in changes}):
            for c in (c for c in changes if c.layer == layer and c.token < len(ids)):
                at = (layer, c.token)
                state = given[at] if mask[at] else np.asarray(hidden[at], np.float32)
                given[at] = self.sources.place(state, variable=c.variable, layer=layer, value=c.value)
                mask[at] = 1
            hidden, token = next_token(run, ids, given=given, mask=mask)
        return hidden, token

    def _held(self, ids: Sequence[int], changes: Sequence[Change]) -> tuple[Any, Any]:
        """(the compiled program's states under the changes, None) or, of a longer text, (None, its values)."""
        program, row = self.program, padded_row(self.run, ids)
        if row.shape[1] > program.length:
            return None, self._by_oracle(row, len(ids), changes)
        width = row.shape[1] + 1  # BOS stands in front
        given = np.zeros((program.depth + 1, width, program.teacher.width), np.float32)
        mask = np.zeros_like(given)
        for c in changes:
            own = list(program.teacher.variables[c.variable].indices)
            given[c.layer, c.token + 1, own] = np.arange(len(own)) == c.value
            mask[c.layer, c.token + 1, own] = 1
        return _program(program.residuals, program.phi, program.bridge.to_teacher(row), given, mask), None

    def _by_oracle(
        self, row: Int[np.ndarray, "1 W"], count: int, changes: Sequence[Change]
    ) -> Int[np.ndarray, "L1 W n"]:
        program = self.program
        plain = oracle_values(program, row, [count])[0][:, 0]
        layers = sorted({c.layer for c in changes})
        if not layers:
            return plain
        if len(layers) > 1:
            raise UserError(f"the program's prediction is known for changes at one layer, not at {len(layers)}")
        variables = program.teacher.variables
        overrides = {
            (variables[c.variable].name, c.token): variables[c.variable].values[c.value]
            for c in changes
            if c.token < count
        }
        sees = reads_after(program.teacher, layers[0])
        after = oracle_values(program, row, [count], overrides=overrides, sees=sees)[0][:, 0]
        return np.where(np.arange(len(plain))[:, None, None] < layers[0], plain, after)

    def _compare(
        self, prompt: Sequence[int], answer: list[int], ends: bool, changes: Sequence[Change], read: Decoded
    ) -> Answer:
        """The model's answer beside the program's, which goes on from what it has itself written."""
        values: list[Any] = []
        written: list[int] = []
        unknown = read.unknown
        # Where the model has ended one value more: else one that stops early would be right so far.
        while not unknown and len(values) < max(len(answer) + ends, 1):
            beyond = len(values) == len(answer) > 0
            try:
                value = self._result(prompt, written, answer, changes, read)
            except UserError as e:
                unknown = "" if beyond else str(e)
                break
            token = self._spelling.get((len(written), value))
            if value is None or (beyond and (token is None or (len(written), value) in self._endings)):
                break
            values.append(value)
            if token is None:
                break
            written.append(token)
        return compare(self.program, answer, ends, values, written, spelling=self._spelling, unknown=unknown)

    def _result(self, prompt, written: Sequence[int], answer: Sequence[int], changes, read: Decoded) -> Any:
        """The program's value where the next token is due; None where it holds none."""
        at, i = len(prompt) - 1 + len(written), read.index(self.program.result)
        if list(written) == list(answer[: len(written)]):  # so far it has written what the model has
            found = int(read.truth[-1, i, at])
        else:
            states, held = self._held([*prompt, *written], changes)
            layout = self.program.layout
            if held is None:
                held = held_values(states[..., layout.order], layout=layout)
            found = int(held[-1, at, layout.names.index(self.program.result)])
        return None if found == NOTHING else read.variables[i].values[found]


@functools.partial(jax.jit, static_argnames=("residuals",))
def _program(
    residuals: Callable,
    phi: Any,
    ids: Int[Array, "1 T"],
    given: Float[Array, "L1 T D"],
    mask: Float[Array, "L1 T D"],
) -> Float[Array, "L1 W D"]:
    """The compiled program's states without BOS, in which what is given stands where the mask is 1."""
    edit = LayerEdit(lambda x, i: jnp.where(mask[i][None] > 0, given[i][None], x))
    states = residuals(phi, ids, edit=edit)[:, 0]
    return jnp.where(mask > 0, given, states)[:, 1:]
