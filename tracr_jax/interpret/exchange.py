"""Edits of the residual stream that exchange one variable, and controls that change something else as much."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tracr_jax.intervene import project
from tracr_jax.types import Array

Change = Literal["swap", "random", "complement", "other", "outside", "faithful", "none"]
CONTROLS: tuple[Change, ...] = ("random", "complement", "other")
WITHIN: tuple[Change, ...] = ("swap", "complement", "other")  # exchange variables, as the teacher can, too

# What is added to h is a · P_v diff + b · diff + c · ‖P_v diff‖ · (a random direction), diff = h_source − h.
WEIGHTS: dict[Change, tuple[float, float, float]] = {
    "swap": (1.0, 0.0, 0.0),
    "random": (0.0, 0.0, 1.0),
    "complement": (-1.0, 1.0, 0.0),
    "other": (1.0, 0.0, 0.0),  # with another variable's rows
    "outside": (-1.0, 1.0, 0.0),  # with the directions of all variables: exchanged is what none of them holds
    "faithful": (-1.0, 1.0, 0.0),  # with those of all other variables: the variable and what none holds
    "none": (0.0, 0.0, 0.0),
}
_RELATIVE = 1e-5  # singular values below this share of the largest are none: dependent rows
_FLOOR = 1e-12


def span_basis(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "d R"]:
    """Orthonormal basis of the span of rows, which may be linearly dependent."""
    _, size, basis = np.linalg.svd(np.asarray(rows, np.float64), full_matrices=False)
    return basis[size > _RELATIVE * size.max()].T.astype(np.float32)


def random_directions(key: Array, shape: tuple[int, ...]) -> Float[Array, "*B d"]:
    """Unit vectors, uniform over directions."""
    g = jax.random.normal(key, shape)
    return g / (jnp.linalg.norm(g, axis=-1, keepdims=True) + _FLOOR)


def exchange(
    h: Float[Array, "B S d"],
    source: Float[Array, "B S d"],
    basis: Float[Array, "d R"],
    where: Float[Array, "B S"],
    *,
    weights: Float[Array, " 3"],
    direction: Float[Array, "B S d"],
) -> Float[Array, "B S d"]:
    """Change h where the mask is 1; see `WEIGHTS`: the swap itself is a = 1, its controls are other weights."""
    difference = (source - h) * where[:, :, None].astype(h.dtype)
    inside = project(difference, basis.astype(h.dtype))
    size = jnp.linalg.norm(inside, axis=-1, keepdims=True)
    a, b, c = weights.astype(h.dtype)
    return h + a * inside + b * difference + c * size * direction
