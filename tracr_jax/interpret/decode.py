"""Decode program variables from the language model's residual stream, and count how often that is right.

v = A h_i at a position; of each variable the value whose coordinate is largest. Source: method.md 11. Unlike the
original, a position counts for a variable only where the program holds a value there (findings.md A36).
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tracr_jax.losses import DEFINED, VariableLayout, apply_adapter
from tracr_jax.types import Adapter, Hidden, Residuals


class DecodeCounts(NamedTuple):
    """Sums over items and positions, one row per mask; layers 0..L, categorical variables in layout order."""

    right: Int[Array, "M L1 n"]  # decoded value = true value
    held: Int[Array, "M L1 n"]  # positions where the program holds a value
    values: Int[Array, "M L1 D"]  # how often each value was the true one, in grouped order


def decode_counts(
    adapter: Adapter,
    hidden: Hidden,
    truth: Residuals,
    masks: Float[Array, "M B S"],
    *,
    layout: VariableLayout,
) -> DecodeCounts:
    """Count right decodings of every categorical variable at every layer, under several position masks.

    Args:
      adapter: the affine map.
      hidden: h_0..h_L, [L+1, B, S, d].
      truth: teacher states or one-hots of the oracle at the same positions, [L+1, B, S, D].
      masks: 0/1 position masks, e.g. all program positions and the answer positions.
      layout: from `losses.variable_layout`.

    Returns:
      Counts; accuracy = right / held.
    """
    order = layout.order
    read = apply_adapter(Adapter(adapter.weight[order], adapter.bias[order]), hidden)
    truth = truth[..., order]
    right, held, values = [], [], []
    for size, count, first in layout.groups:
        shape = (*read.shape[:-1], count, size)
        z = read[..., first : first + count * size].reshape(shape)
        r = truth[..., first : first + count * size].reshape(shape)
        is_held = jnp.max(r, axis=-1) > DEFINED
        hit = is_held & (jnp.argmax(z, axis=-1) == jnp.argmax(r, axis=-1))
        right.append(jnp.einsum("lbsn,mbs->mln", hit.astype(masks.dtype), masks))
        held.append(jnp.einsum("lbsn,mbs->mln", is_held.astype(masks.dtype), masks))
        one_hot = (r > DEFINED).astype(masks.dtype).reshape(*read.shape[:-1], count * size)
        values.append(jnp.einsum("lbsk,mbs->mlk", one_hot, masks))
    return DecodeCounts(*(jnp.concatenate(x, axis=-1) for x in (right, held, values)))


@dataclass(frozen=True)
class VariableScore:
    """Decode accuracy of one variable at one layer, under one mask."""

    name: str
    accuracy: float | None  # None where the program never holds it
    majority: float | None  # rate of always answering the most frequent value
    positions: int


def scores(counts: DecodeCounts, *, layout: VariableLayout, mask: int, layer: int) -> list[VariableScore]:
    """Per-variable accuracies from summed counts, with the majority rate that a constant reader would reach."""
    out = []
    names = iter(range(len(layout.names)))
    for size, count, first in layout.groups:
        for k in range(count):
            i = next(names)
            held = int(counts.held[mask, layer, i])
            start = first + k * size
            frequent = float(np.max(np.asarray(counts.values[mask, layer, start : start + size])))
            accuracy = float(counts.right[mask, layer, i]) / held if held else None
            out.append(VariableScore(layout.names[i], accuracy, frequent / held if held else None, held))
    return out
