"""Which row of a batch each variable is taken from, and what the teacher makes of such a mixture.

A mixed state is one that no text may have: every variable comes from a row of its own. The compiled teacher takes
any state, so its layers say what each operation has to give there.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from tracr_jax.config import ExchangeConfig
from tracr_jax.intervene import LayerEdit
from tracr_jax.teacher.model import Teacher
from tracr_jax.teacher.variables import ALONE
from tracr_jax.train.step import ResidualsFn
from tracr_jax.types import Array, Residuals


class Mix(NamedTuple):
    """Which row each variable of a row is taken from, and where. n counts all variables of the teacher."""

    source: Int[Array, "n B"]
    free: Bool[Array, " B"]  # exchanged at one layer only
    layer: Int[Array, " B"]  # that layer; -1 where the row is exchanged at every layer
    outside: Bool[Array, " B"] | None = None  # everything that no variable holds is exchanged there, too

    def at(self, layer: int | Int[Array, ""]) -> Bool[Array, " B"]:
        """Whether each row is exchanged at a layer."""
        return ~self.free | (self.layer == layer)


def draw_mix(key: Array, *, variables: int, rows: int, layers: int, config: ExchangeConfig) -> Mix:
    """Rows that are mixed at every layer take every variable, each from a row of its own; free rows take some."""
    a, b, c, e = jax.random.split(key, 4)
    every = jnp.argsort(jax.random.uniform(a, (variables, rows)), axis=1)
    free = jnp.arange(rows) >= rows - round(config.free_share * rows)
    rate = 10.0 ** (-config.sparsest * jax.random.uniform(b, (1, rows)))
    some = jnp.where(jax.random.uniform(c, (variables, rows)) < rate, every, jnp.arange(rows)[None])
    layer = jnp.where(free, jax.random.randint(e, (rows,), 0, layers), -1)
    outside = None
    if config.outside_share:
        outside = free & (jax.random.uniform(jax.random.fold_in(key, 4), (rows,)) < config.outside_share)
    return Mix(jnp.where(free[None], some, every), free, layer, outside)


def variable_of(teacher: Teacher) -> Int[np.ndarray, " D"]:
    """The variable that each teacher direction belongs to, as an index into `Teacher.variables`."""
    out = np.zeros(teacher.width, np.int32)
    for i, v in enumerate(teacher.variables):
        out[list(v.indices)] = i
    return out


def mixed_states(states: Residuals, mix: Mix, owner: Int[np.ndarray, " D"]) -> Residuals:
    """Teacher states in which each variable is that of its source row, at the same position and layer.

    Where the source holds no single value, the row keeps its own: nothing else can be written into the language
    model, and the target must be of what it holds.

    Args:
      states: r_0..r_L of the rows as they are.
      mix: the plan.
      owner: from `variable_of`.
    """
    source = jnp.take_along_axis(states, mix.source[owner].T[None, :, None, :], axis=1)
    of = np.eye(owner.max() + 1, dtype=bool)[owner]  # [D, n]
    held = jnp.einsum("lbtd,dn->lbtn", (source > ALONE).astype(states.dtype), of.astype(states.dtype)) > 0
    return jnp.where(held[..., owner], source, states)


def mixed_targets(
    residuals: ResidualsFn, phi: Any, ids: Int[Array, "B T"], mixed: Residuals, mix: Mix
) -> Residuals:
    """r_0..r_L of the teacher whose layers read the mixed states, each row where its plan says so."""

    def fn(x, layer):
        return jnp.where(mix.at(layer)[:, None, None], mixed[layer], x)

    return residuals(phi, ids, edit=LayerEdit(fn))
