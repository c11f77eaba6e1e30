"""From readings to values: which value of each variable a state shows, and how often that is the right one.

Source: docs/method.md §11. A reading is a state in teacher coordinates in grouped order (`VariableLayout.order`),
so that every variable of one size is handled at once; values are positions in the variable's list of values.
Unlike the original, a position counts for a variable only where the program holds a value there
(docs/differences.md D36).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.teacher.variables import ALONE, NOTHING, VariableLayout
from tracr_jax.types import Array


class DecodeCounts(NamedTuple):
    """Sums over items and positions for C classes of positions; n categorical variables in layout order."""

    right: Float[Array, "*L C n"]  # read value = true value
    held: Float[Array, "*L C n"]  # positions where the program holds a value
    values: Float[Array, "*L C K"]  # how often each value was the true one, in grouped order


def best_values(reading: Float[Array, "*B D"], *, layout: VariableLayout) -> Int[Array, "*B n"]:
    """The value whose coordinate is largest, for every categorical variable; the first one wins a tie."""
    return jnp.concatenate([jnp.argmax(z, axis=-1) for z in _groups(reading, layout)], axis=-1)


def margins(reading: Float[Array, "*B D"], *, layout: VariableLayout) -> Float[Array, "*B n"]:
    """Largest coordinate minus the runner-up (logits); 0 for a variable with a single value."""
    out = []
    for z in _groups(reading, layout):
        best = jnp.max(z, axis=-1)
        chosen = jnp.argmax(z, axis=-1, keepdims=True) == _count_up(z)
        second = jnp.max(jnp.where(chosen, -jnp.inf, z), axis=-1)
        out.append(best - second if z.shape[-1] > 1 else jnp.zeros_like(best))
    return jnp.concatenate(out, axis=-1)


def held_values(residuals: Float[Array, "*B D"], *, layout: VariableLayout) -> Int[Array, "*B n"]:
    """The value that a teacher state holds of each variable, NOTHING where it holds none or a mean of several."""
    out = [
        jnp.where(jnp.max(z, axis=-1) > ALONE, jnp.argmax(z, axis=-1), NOTHING) for z in _groups(residuals, layout)
    ]
    return jnp.concatenate(out, axis=-1)


def one_hot(values: Int[Array, "*B n"], *, layout: VariableLayout) -> Float[Array, "*B K"]:
    """Values as one-hots in grouped order; zeros for NOTHING. K counts the categorical directions."""
    out, first = [], 0
    for size, count, _ in layout.groups:
        v = values[..., first : first + count, None]
        out.append((v == _count_up(v, size)).astype(jnp.float32).reshape(*values.shape[:-1], count * size))
        first += count
    return jnp.concatenate(out, axis=-1)


def count_right(
    read: Int[Array, "B S n"], truth: Int[Array, "B S n"], masks: Float[Array, "C B S"], *, layout: VariableLayout
) -> DecodeCounts:
    """Count right readings under several position masks; accuracy = right / held."""
    held = truth != NOTHING
    hit = held & (read == truth)
    return DecodeCounts(
        jnp.einsum("bsn,cbs->cn", hit.astype(masks.dtype), masks),
        jnp.einsum("bsn,cbs->cn", held.astype(masks.dtype), masks),
        jnp.einsum("bsk,cbs->ck", one_hot(truth, layout=layout), masks),
    )


def _groups(x: Float[Array, "*B D"], layout: VariableLayout) -> Iterator[Float[Array, "*B n m"]]:
    for size, count, first in layout.groups:
        yield x[..., first : first + count * size].reshape(*x.shape[:-1], count, size)


def _count_up(x, size: int | None = None):
    # Explicit rank: broadcasting it silently is an error in our tests.
    size = size or x.shape[-1]
    return jnp.arange(size).reshape((1,) * (x.ndim - 1) + (size,))


@dataclass(frozen=True)
class VariableScore:
    """Decode accuracy of one variable at one layer, in one class of positions."""

    name: str
    accuracy: float | None  # None where the program never holds it
    majority: float | None  # rate of always answering the most frequent value
    positions: int


def over_layers(
    counts: DecodeCounts, *, layout: VariableLayout, position_class: int
) -> dict[str, tuple[VariableScore, list[float | None]]]:
    """By variable: the score at the last layer that encodes it, and the accuracy at every layer.

    An affine adapter reads every variable at the last layer; reserved directions are handed on after a variable's
    last reader. A variable that no layer encodes has the empty score of the last.
    """
    layers = [
        scores(counts, layout=layout, position_class=position_class, layer=layer)
        for layer in range(len(counts.right))
    ]
    out = {}
    for of_one in zip(*layers, strict=True):
        latest = next((s for s in reversed(of_one) if s.positions), of_one[-1])
        out[latest.name] = latest, [s.accuracy for s in of_one]
    return out


def scores(
    counts: DecodeCounts, *, layout: VariableLayout, position_class: int, layer: int
) -> list[VariableScore]:
    """Per-variable accuracies from summed counts, with the majority rate that a constant reader would reach."""
    right, held, values = (np.asarray(x)[layer, position_class] for x in counts)
    out, i = [], 0
    for size, count, first in layout.groups:
        for k in range(count):
            total = int(held[i])
            start = first + k * size
            frequent = float(values[start : start + size].max())
            out.append(
                VariableScore(
                    layout.names[i],
                    float(right[i]) / total if total else None,
                    frequent / total if total else None,
                    total,
                )
            )
            i += 1
    return out
