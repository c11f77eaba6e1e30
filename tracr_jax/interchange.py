"""Interchange alignment: some free rows get one program variable of another row, in the LM and in the teacher.

Alignment alone makes variables readable; it does not make later blocks read them there. Here a variable is
exchanged in the LM's residual stream, h_l ← h_l + P_v (h_l' − h_l), and in the teacher's r_l, and the layers after
l are aligned with what the teacher then computes. Interchange-intervention training (Geiger et al., 2022,
arXiv 2112.00826) with a compiled program as the causal model; not in the paper. `interpret/swap.py` measures it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from tracr_jax.errors import UserError
from tracr_jax.intervene import ResidualEdit
from tracr_jax.losses import DEFINED
from tracr_jax.teacher.evaluate import Oracle, last_read
from tracr_jax.teacher.model import Teacher
from tracr_jax.types import Adapter, Residuals

_RIDGE = 1e-5  # of a Gram matrix, beside its mean diagonal: rows that depend on each other stay solvable


class Exchanges(NamedTuple):
    """What can be exchanged: C places, each a variable of at most m values in one layer.

    Compared as an object, so that it can be a static argument of jit.
    """

    names: tuple[str, ...]  # [C] of the variables
    layer: np.ndarray  # [C] int: l >= 1, the exchange is made in r_l and h_l
    directions: np.ndarray  # [C, m] int: the variable's teacher directions, padded with 0
    real: np.ndarray  # [C, m] bool: which of them are no padding

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def find_exchanges(teacher: Teacher, oracle: Oracle, *, width: int) -> Exchanges:
    """Every categorical variable in each layer 1 <= l < L that holds it while something is still computed from it.

    Left out: variables with as many values as the LM is wide, whose span would be everything.

    Raises:
      UserError: there is none.
    """
    places = []
    for v in teacher.variables:
        last = last_read(teacher, oracle, v.name) if v.kind == "categorical" and v.name in oracle.names else None
        if last is not None and len(v.indices) < width:
            stop = min(last, teacher.num_layers - 1)
            places += [(v, layer) for layer in range(max(v.writer_layer, 1), stop + 1)]
    if not places:
        raise UserError("interchange: the program has no variable that a later layer reads; set interchange to 0")
    widest = max(len(v.indices) for v, _ in places)
    directions = np.zeros((len(places), widest), np.int32)
    real = np.zeros((len(places), widest), bool)
    for i, (v, _) in enumerate(places):
        directions[i, : len(v.indices)] = v.indices
        real[i, : len(v.indices)] = True
    return Exchanges(
        tuple(v.name for v, _ in places), np.array([layer for _, layer in places], np.int32), directions, real
    )


def draw_edits(
    key: Array,
    adapter: Adapter,
    target: Residuals,
    present: Bool[Array, "B S"],
    *,
    exchanges: Exchanges,
    rows: int,
    free: int,
) -> tuple[ResidualEdit, ResidualEdit]:
    """Edits of (the LM on the free rows, the teacher on the edited rows): one place per row, drawn with `key`.

    Of the F free rows, the last of the batch, the last n receive, the first n give, so that what is given has
    itself not been edited. A variable is exchanged at all positions where the teacher holds it in both.

    Args:
      key: decides the places.
      adapter: its rows span the subspaces; no gradient flows into them from here.
      target: r_0..r_L of the whole batch without BOS, [L+1, B, S, D].
      present: positions that are not padding.
      exchanges: where.
      rows: n <= F / 2.
      free: F.

    Returns:
      An edit of [F, S, d] (the LM's free rows, in order) and one of [n, S + 1, D] (the teacher on the last n).
    """
    place = jax.random.randint(key, (rows,), 0, len(exchanges.names))
    layer, directions, real = (jnp.asarray(x)[place] for x in exchanges[1:])
    states = target[:, -free:]
    each = jnp.arange(rows)
    base, source = states[:, -rows:][layer, each], states[:, :rows][layer, each]  # [n, S, D]
    held = jnp.ones(base.shape[:2], bool)
    for part, state in ((present[-rows:], base), (present[-free:][:rows], source)):
        values = jnp.take_along_axis(state, directions[:, None], axis=2)
        held &= part & (jnp.max(jnp.where(real[:, None], values, 0), axis=2) > DEFINED)
    own = jnp.zeros((rows, target.shape[-1]), bool).at[each[:, None], directions].max(real)
    given = jnp.pad(source, ((0, 0), (1, 0), (0, 0)))
    where = jnp.pad(held, ((0, 0), (1, 0)))[:, :, None] & own[:, None]
    in_teacher = ResidualEdit(_of_rows(layer), lambda x: jnp.where(where, given.astype(x.dtype), x))

    # Only values that occur: the rows of all that a variable could have may span most of a small model.
    occurs = jnp.any(target > DEFINED, axis=(1, 2))[layer]
    basis = _spans(adapter, directions, real & jnp.take_along_axis(occurs, directions, axis=1))

    def fn(h: Float[Array, "F S d"]) -> Float[Array, "F S d"]:
        b = basis.astype(h.dtype)
        difference = (h[:rows] - h[-rows:]) * held[:, :, None].astype(h.dtype)
        inside = jnp.einsum("nsm,nmd->nsd", jnp.einsum("nsd,nmd->nsm", difference, b), b)
        return jnp.concatenate([h[:-rows], h[-rows:] + inside])

    return ResidualEdit(_of_rows(jnp.pad(layer, (free - rows, 0))), fn), in_teacher


def _of_rows(layer: Int[Array, " n"]) -> Int[Array, "n 1 1"]:
    """The block whose output is hidden[layer], for each row; no block for layer 0."""
    return (layer - 1)[:, None, None]


def _spans(adapter: Adapter, directions: Int[Array, "n m"], chosen: Bool[Array, "n m"]) -> Float[Array, "n m d"]:
    """For each row an orthonormal basis of the span of the chosen adapter rows; zeros for the others."""
    w = jax.lax.stop_gradient(adapter.weight)[directions] * chosen[:, :, None]
    gram = jnp.einsum("nad,nbd->nab", w, w)
    size = jnp.trace(gram, axis1=1, axis2=2) / jnp.maximum(jnp.sum(chosen, axis=1), 1)
    ridge = jnp.where(chosen, _RIDGE * size[:, None], 1.0)
    lower = jnp.linalg.cholesky(gram + jax.vmap(jnp.diag)(ridge))
    return jax.lax.linalg.triangular_solve(lower, w, left_side=True, lower=True)


def key_of(progress: jax.typing.ArrayLike) -> Array:
    """The random key of a step: its progress is its name, so a resumed run draws what the first would have."""
    bits = jax.lax.bitcast_convert_type(jnp.asarray(progress, jnp.float32), jnp.uint32)
    return jax.random.fold_in(jax.random.key(0), bits)
