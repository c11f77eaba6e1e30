"""The losses of one training step: small pure functions of arrays. Source: docs/method.md §4.

The alignment loss comes in two forms. `cosine_alignment` is the paper's. `variable_alignment` is ours: the
result variable carries only a few per cent of the squared norm of a teacher state, so a cosine hardly sees
it; a cross-entropy per variable makes each program variable count alike.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from tracr_jax.teacher.variables import DEFINED, VariableLayout
from tracr_jax.types import EXACT, Adapter, Array, Hidden, Residuals

_NORM_FLOOR = 1e-12  # of both vectors of a cosine, docs/method.md §4.4


def apply_adapter(adapter: Adapter, hidden: Float[Array, "*B d"]) -> Float[Array, "*B D"]:
    """The adapter's reading of LM states in teacher coordinates: h Wᵀ + b."""
    return jnp.einsum("...d,Dd->...D", hidden, adapter.weight, precision=EXACT) + _rows(adapter.bias, hidden.ndim)


def _rows(vector, ndim):
    return vector.reshape((1,) * (ndim - 1) + (-1,))  # explicit: rank promotion is an error in our tests


def cosine_alignment(
    adapter: Adapter,
    hidden: Hidden,
    residuals: Residuals,
    *,
    weights: Float[Array, "B S"] | None = None,
) -> Float[Array, " L1"]:
    """Per-layer mean of 1 − cos(A h_i, r_i); the loss of docs/method.md §4.4 is their sum over the L + 1 layers.

    Args:
      adapter: the affine map.
      hidden: h_0..h_L, [L+1, B, S, d].
      residuals: r_0..r_L at the same positions, [L+1, B, S, D] (BOS already dropped).
      weights: weight of each position in the mean; all ones as in the paper.

    Returns:
      [L+1] dimensionless means over positions.
    """
    read = apply_adapter(adapter, hidden)
    cosine = jnp.sum(_unit(read) * _unit(residuals), axis=-1)
    if weights is None:
        return jnp.mean(1.0 - cosine, axis=(1, 2))
    weights = weights[None]
    return jnp.sum((1.0 - cosine) * weights, axis=(1, 2)) / jnp.maximum(jnp.sum(weights), 1.0)


def _unit(x):
    # Maximum under the square root: the norm's gradient is finite at zero.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), _NORM_FLOOR**2))


def variable_alignment(
    adapter: Adapter,
    hidden: Hidden,
    residuals: Residuals,
    *,
    layout: VariableLayout,
    weights: Float[Array, "B S"] | None = None,
) -> Float[Array, " n"]:
    """Cross-entropy (nats) of every program variable, read from the LM, against the teacher's one-hot.

    For each categorical variable and layer: mean over the positions where the teacher holds it, summed over
    the layers that hold it, divided by L + 1. Numerical variables: squared error over the teacher's mean square
    in the same place. One matrix product with the adapter's rows in grouped order; nothing is gathered.

    Args:
      adapter: the affine map.
      hidden: h_0..h_L, [L+1, B, S, d].
      residuals: r_0..r_L at the same positions, [L+1, B, S, D].
      layout: from `variable_layout`.
      weights: weight of each position; all ones by default.

    Returns:
      [n] one loss per variable, in the order of layout.names. The alignment loss is
      mean(layout.weights · this). Source: ours, see docs/design.md and docs/differences.md B10.
    """
    order = layout.order
    grouped = Adapter(adapter.weight[order], adapter.bias[order])
    read = apply_adapter(grouped, hidden)
    truth = residuals[..., order]
    if weights is None:
        weights = jnp.ones(hidden.shape[1:3], read.dtype)
    layers = hidden.shape[0]
    losses = []
    for size, count, first in layout.groups:
        shape = (*read.shape[:-1], count, size)
        z = read[..., first : first + count * size].reshape(shape)
        r = truth[..., first : first + count * size].reshape(shape)
        held = (jnp.max(r, axis=-1) > DEFINED).astype(weights.dtype) * weights[None, :, :, None]
        loss = -jnp.sum(r * jax.nn.log_softmax(z), axis=-1)
        total = jnp.sum(held, axis=(1, 2))
        losses.append(jnp.sum(jnp.sum(loss * held, axis=(1, 2)) / jnp.maximum(total, 1.0), axis=0) / layers)
    first, count = layout.numerical
    if count:
        z, r = read[..., first:], truth[..., first:]
        w = weights[None, :, :, None]
        scale = jnp.sum(r * r * w, axis=(1, 2))
        error = jnp.sum((z - r) ** 2 * w, axis=(1, 2)) / jnp.maximum(scale, 1e-6)
        losses.append(jnp.sum(jnp.where(scale > 1e-6, error, 0.0), axis=0) / layers)
    return jnp.concatenate(losses)


def answer_positions(
    ids: Int[Array, "B S"], answer_mask: Float[Array, "B S"], *, count: int
) -> tuple[Int[Array, "B K"], Int[Array, "B K"], Float[Array, "B K"]]:
    """The `count` positions of each row that may predict answer tokens: (positions, targets, weights).

    `answer_mask[b, s]` = 1 where position s predicts an answer token s + 1; its last column is not used. Lets the
    model compute logits there only; K is the largest number of ones in a row of the mask.
    """
    weights, positions = jax.lax.top_k(answer_mask[:, :-1], count)
    return positions, jnp.take_along_axis(ids, positions + 1, axis=1), weights


def weighted_cross_entropy(
    logits: Float[Array, "B K V"], targets: Int[Array, "B K"], weights: Float[Array, "B K"]
) -> Float[Array, ""]:
    """Mean cross-entropy of the answer tokens, nats per token, one mean over the batch; docs/method.md §4.3.

    Arguments as `answer_positions` gives them. Without an answer it is 0, where the original divides by zero
    (docs/differences.md A1).
    """
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
    return jnp.sum(loss * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def retention_kl(
    logits: Float[Array, "B U V"], logits_original: Float[Array, "B U V"], *, reduction: str = "text"
) -> Float[Array, ""]:
    """KL(LM₀ ‖ LM) on ordinary text, nats; docs/method.md §4.2.

    reduction "text" (the paper's "batchmean"): sum over the U positions, mean over the texts;
    "token": mean over both, U times smaller.
    """
    log_p = jax.nn.log_softmax(logits_original)
    kl = jnp.sum(jnp.exp(log_p) * (log_p - jax.nn.log_softmax(logits)), axis=-1)
    return jnp.mean(jnp.sum(kl, axis=-1)) if reduction == "text" else jnp.mean(kl)


def item_positions(ids: Int[Array, "B S"], *, pad_id: int) -> Bool[Array, "B S"]:
    """True up to the last token of each item that is not padding (padding is on the right)."""
    return jnp.flip(jax.lax.cummax(jnp.flip((ids != pad_id).astype(jnp.int32), axis=1), axis=1), axis=1) > 0
