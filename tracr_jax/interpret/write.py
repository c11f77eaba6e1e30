"""Writing a value of a variable into states of the model."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from tracr_jax.errors import UserError
from tracr_jax.runs.model import Injected
from tracr_jax.train.losses import apply_adapter
from tracr_jax.types import Adapter, Array


def move_to_value(
    h: Float[Array, "*B d"], adapter: Adapter, *, indices: Sequence[int], value: int | Int[Array, "*#B"]
) -> Float[Array, "*B d"]:
    """The smallest change of h after which a variable decodes to the given value; no source state is needed.

    The variable's largest coordinate and that of the value change places, so that what is read is as clear as
    before; every other coordinate of the variable stays. Where the value is already read, nothing changes.

    Args:
      h: states.
      adapter: the affine map.
      indices: the variable's teacher directions, in the order of its values.
      value: index into `indices`.
    """
    rows = np.asarray(indices)
    own = Adapter(adapter.weight[rows], adapter.bias[rows])
    z = apply_adapter(own, h)
    old = jax.nn.one_hot(jnp.argmax(z, axis=-1), len(rows))
    new = jax.nn.one_hot(jnp.broadcast_to(jnp.asarray(value), z.shape[:-1]), len(rows))
    gap = jnp.max(z, axis=-1, keepdims=True) - jnp.sum(z * new, axis=-1, keepdims=True)
    return h + jnp.einsum("...n,dn->...d", gap * (new - old), jnp.linalg.pinv(own.weight))


def write(
    run: Injected, states: Float[Array, "*B d"], variable: str, value: Any, *, layer: int | None = None
) -> Float[Array, "*B d"]:
    """States of the model in which a variable of its program has a value, and nothing else is changed.

    With reserved directions the variable's coordinates become the value's centroid, as in exchange training. With
    an affine adapter it is the smallest change after which the value is read, see `move_to_value`: the model need
    not follow it, since its own states of that value lie further away (in the main job's run the answer follows
    none of twelve such changes of the result, and thirty of thirty exchanges with another text's state).

    Args:
      run: from `inject` or `open`.
      states: any hidden states that the adapter reads; put them back with a `ResidualEdit`.
      variable: the variable, by its full name or without tracr's counter.
      value: one of its values, known when the call is traced.
      layer: which of the program's layers the states are read as. With reserved directions a variable has them
        from its writer to its last reader; after that they can be another variable's, which a write would change.
        Given, such a layer is refused.

    Raises:
      UserError: no such variable or value, or nothing is reserved for the variable, or nothing at this layer.
    """
    program = run.program
    found = program.teacher.variable(variable)
    if isinstance(value, Tracer):
        raise UserError(
            f"write: {found.name}: a value that is traced is not known; see `move_to_value` for indices"
        )
    if found.kind != "categorical":
        raise UserError(f"write: {found.name} is a number: one direction, and no values to choose from")
    if np.ndim(value):
        raise UserError(
            f"write: {found.name}: one value for all states, got an array of shape {np.shape(value)}; see "
            "`move_to_value` for one at each"
        )
    if value not in found.values:
        known = ", ".join(map(repr, found.values[:20]))
        raise UserError(f"write: {found.name} has no value {value!r}; its values: {known}")
    if layer is not None and not isinstance(layer, int | np.integer):
        raise UserError(f"write: the layer must be a whole number, got {layer!r}")
    if layer is not None and (why := program.why_unread(found, layer)):
        raise UserError(f"write: {found.name} at layer {layer}: {why}")
    if np.shape(states)[-1:] != (run.model.width,):
        raise UserError(f"write: states must end in the model's width, {run.model.width}; got {np.shape(states)}")
    place = found.values.index(value)
    if coded := program.coded:
        reserved, codes = coded
        group = reserved.class_of(program.teacher, found.name)[place]
        return reserved.write(codes, states, found.name, int(group))
    if not program.layers_of(found):
        raise UserError(f"write: {found.name}: {program.why_unread(found, program.depth)}")
    return move_to_value(states, run.trained_adapter, indices=found.indices, value=place)
