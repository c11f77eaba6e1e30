"""Where the centroids of a variable begin, before training moves them: numbers on a curve, other values apart."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from tracr_jax.teacher.model import Variable

_NUMBERS = 8  # whole numbers of more values than this are coded as places on a curve


def is_fixed(classes: int) -> bool:
    """Whether the centroids of so many classes stay where they begin: two, at ±sigma on one direction."""
    return classes == 2


def code(
    variable: Variable, classes: Sequence[int], k: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, " m"]]:
    """Where the centroids of a variable begin (sigma = 1), and how much each class counts in their common size."""
    m = max(classes) + 1
    first = [variable.values[list(classes).index(c)] for c in range(m)]
    if is_fixed(m):
        return np.array([[1.0], [-1.0]]), np.full(2, 0.5)
    if m > _NUMBERS and all(isinstance(x, int | np.integer) and not isinstance(x, bool) for x in first):
        often = 1 / (1 + np.abs(np.asarray(first, float)))
        return number_code(first, k), often / often.sum()
    return rng.normal(size=(m, k)), np.full(m, 1 / m)


def number_code(values: Sequence[int], k: int) -> Float[np.ndarray, "m k"]:
    """Places of whole numbers on a curve: a logarithmic, a clipped linear one, then waves of rising frequency.

    Small numbers stand far apart: most states hold them, and signs are read between -1, 0 and 1. On cosines over
    the whole range -1 and 0 stood a third of the noise apart, and no sign was ever learnt.
    """
    t = np.asarray(values, float)
    p = np.sign(t) * np.log1p(np.abs(t) / 2.0)
    u = (p - p.min()) / (p.max() - p.min()) * 2 - 1
    centre = np.average(p, weights=1 / (1 + np.abs(t)))
    columns = [1.6 * (p - centre) / np.abs(p).max(), 2.0 * np.clip(t / 12, -1.5, 1.5)]
    for f in (1.5, 4.5, 9.0):
        columns += [1.2 * np.cos(np.pi * f * u), 1.2 * np.sin(np.pi * f * u)]
    return np.stack(columns, axis=1)[:, :k]
