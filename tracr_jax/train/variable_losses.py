"""The losses of reserved variables: cross-entropy of the readout, and distance of the states to their centroids.

Both are means over rows and positions, one for each variable; `tracr_jax.train.exchange` weighs them.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tracr_jax.teacher.variables import ALONE
from tracr_jax.train.reserved import Group, Reserved
from tracr_jax.types import EXACT, Array, Codes


def reading_loss(
    reserved: Reserved,
    read: Float[Array, "l B S C"],
    target: Float[Array, "l B S C"],
    weights: Float[Array, "l B S"],
    *,
    layers: slice,
    rare_power: float,
    own: Float[Array, "l B S C"] | None = None,
    changed_weight: float = 1.0,
) -> Float[Array, " n"]:
    """Cross-entropy (nats) of every variable: weighted mean over rows and positions, then over its layers.

    Of all these l layers, those before the variable is written count as 0, as the recipe was measured; one that is
    aligned until its last reader only weighs as much as if it were aligned to the end.

    Args:
      reserved: the variables.
      read: logits of the classes, from `Reserved.readout`.
      target: the classes as one-hots, from `Reserved.classes`.
      weights: of each position.
      layers: which of the teacher's layers these l are.
      rare_power: values weigh by their frequency to the power of minus this.
      own: the row's own classes; where the target differs, a position weighs `changed_weight`.
      changed_weight: see `own`.
    """
    out = []
    for g, alive, factor in _groups(reserved, layers):
        z, r, o = (reserved.group(x, g) for x in (read, target, target if own is None else own))
        held = alive * weights[..., None] * (jnp.max(r, axis=-1) > ALONE).astype(weights.dtype)
        hot = (r > 0.5).astype(held.dtype) * held[..., None]
        count = jnp.maximum(jnp.sum(hot, axis=(1, 2), keepdims=True), 1.0)
        w = jnp.sum(hot * count**-rare_power, axis=-1) * _changed(r, o, changed_weight)
        out.append(factor * _mean(-jnp.sum(r * jax.nn.log_softmax(z), axis=-1), w))
    return jnp.concatenate(out)


def distance_loss(
    reserved: Reserved,
    codes: Codes,
    hidden: Float[Array, "l B S d"],
    target: Float[Array, "l B S C"],
    weights: Float[Array, "l B S"],
    *,
    layers: slice,
    own: Float[Array, "l B S C"] | None = None,
    changed_weight: float = 1.0,
) -> Float[Array, " n"]:
    """Squared distance to the target's centroid in units of sigma, mean over directions; else as `reading_loss`.

    Its gradient reaches the states only: the centroids stay where reading and writing put them.
    """
    places, held = reserved.encode(jax.lax.stop_gradient(codes), target)
    read = jnp.matmul(hidden, reserved.basis(codes), precision=EXACT)
    error = jnp.square((read - places) / reserved.sigma)
    out = []
    for g, alive, factor in _groups(reserved, layers):
        r, o = (reserved.group(x, g) for x in (target, target if own is None else own))
        part = slice(g.coordinate, g.coordinate + g.n * g.k)
        each = error[..., part].reshape(*error.shape[:-1], g.n, g.k)
        w = alive * weights[..., None] * held[..., part][..., :: g.k]
        out.append(factor * _mean(jnp.mean(each, axis=-1), w * _changed(r, o, changed_weight)))
    return jnp.concatenate(out)


def _groups(reserved: Reserved, layers: slice) -> Iterator[tuple[Group, jax.Array, jax.Array]]:
    """(group, where its variables are alive [l, 1, 1, n], their factors [n]), group by group."""
    for g in reserved.groups:
        alive = reserved.alive[layers, g.variable : g.variable + g.n]
        from_first = np.maximum.accumulate(alive, axis=0).sum(axis=0)
        factor = from_first / np.maximum(alive.sum(axis=0), 1)
        yield g, jnp.asarray(alive, jnp.float32)[:, None, None], jnp.asarray(factor, jnp.float32)


def _changed(target, own, weight):
    return 1.0 + (weight - 1.0) * (jnp.max(jnp.abs(own - target), axis=-1) > 0.5).astype(own.dtype)


def _mean(loss: Float[Array, "l B S n"], weights: Float[Array, "l B S n"]) -> Float[Array, " n"]:
    total = jnp.maximum(jnp.sum(weights, axis=(1, 2)), 1e-6)
    return jnp.mean(jnp.sum(loss * weights, axis=(1, 2)) / total, axis=0)
