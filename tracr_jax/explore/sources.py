"""Where a value that is set comes from: the state of a prompt in which the program holds it.

With reserved directions a value has a place of its own, its centroid, and is written there. An affine adapter has
none: states that show one value differ in how they show it, and a state made up to be read as the value (the
smallest change, `tracr_jax.write`) lies where the model has never been: its answer does not follow. So a variable
is set as `tracr_jax.interpret.swap` swaps it: the component in the span of its rows is exchanged with that of a
source, here the most similar state among the prompts that were read.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tracr_jax.errors import UserError
from tracr_jax.interpret.display import Decoded
from tracr_jax.interpret.exchange import span_basis
from tracr_jax.interpret.write import write
from tracr_jax.measure.variables.reading import NOTHING
from tracr_jax.runs.model import Injected

PROMPTS = 200  # whose states are kept, the newest


class Sources:
    """States of the prompts read so far, with what the program holds in them."""

    def __init__(self, run: Injected):
        """Nothing is read yet."""
        self._run = run
        self._hidden: list[Float[np.ndarray, "L1 S d"]] = []
        self._read: list[Decoded] = []

    @property
    def written(self) -> bool:
        """Whether values have a place of their own, so that no source is needed."""
        return self._run.program.codes is not None

    def add(self, hidden: Float[np.ndarray, "L1 S d"], read: Decoded) -> None:
        """Keep the states of a prompt; of one whose program values are unknown nothing is kept."""
        if self.written or read.unknown or any(read.token_ids == r.token_ids for r in self._read):
            return
        self._hidden.append(hidden)
        self._read.append(read)
        if len(self._read) > PROMPTS:
            del self._hidden[0], self._read[0]

    def values(self, variable: int) -> list[int]:
        """The values that a variable can be set to, by their places; one of those that share a centroid."""
        v, reserved = self._run.program.teacher.variables[variable], self._run.program.reserved
        if reserved is not None:
            named = v.name in reserved.names
            return np.unique(reserved.standing(self._run.program.teacher, v.name)).tolist() if named else []
        held = {int(x) for r in self._read for x in np.unique(r.truth[v.writer_layer, variable])}
        return sorted(held - {NOTHING})

    def place(
        self, state: Float[np.ndarray, " d"], *, variable: int, layer: int, value: int
    ) -> Float[np.ndarray, " d"]:
        """The state of a layer in which a variable has a value.

        Raises:
          UserError: no prompt read so far holds the value, or the variable's span is the whole space.
        """
        v = self._run.program.teacher.variables[variable]
        if self.written:
            return np.asarray(write(self._run, jnp.asarray(state), v.name, v.values[value], layer=layer))
        held = self.values(variable)
        if value not in held:
            raise UserError(
                f"{v.name} = {v.values[value]}: no prompt read so far holds this value, so there is no state to "
                "take it from; read one that does"
            )
        if len(held) >= len(state):
            raise UserError(f"{v.name}: it has as many values as the model is wide, its span is everything")
        rows = [v.indices[k] for k in held]
        basis = span_basis(np.asarray(self._run.adapter.weight, np.float32)[rows])
        both = zip(self._hidden, self._read, strict=True)
        found = [h[layer][r.truth[layer, variable] == value] for h, r in both]
        difference = np.concatenate(found) - state
        inside = difference @ basis
        apart = np.sum(difference**2, axis=1) - np.sum(inside**2, axis=1)
        return state + basis @ inside[np.argmin(apart)]
