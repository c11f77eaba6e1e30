"""Where the centroids of a variable begin, before training moves them: numbers on a curve, other values apart.

No training makes a variable's centroids larger than they begin, see `Reserved.centroids`.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

_NUMBERS = 8  # whole numbers of more values than this are coded as places on a curve
_DRAWS = 300  # of which the one is taken whose nearest two places are furthest apart
_ENTRIES = 3_000_000  # distances that are looked at in all: fewer draws of very many values


def is_fixed(classes: int) -> bool:
    """Whether the centroids of so many classes stay where they begin: two, at ±sigma on one direction."""
    return classes == 2


def code(
    values: Sequence[Any], k: int, rng: np.random.Generator
) -> tuple[Float[np.ndarray, "m k"], Float[np.ndarray, " m"]]:
    """Where the centroids of a variable begin (sigma = 1), and how much each class counts in their common size.

    values: of each class the one that stands for it.
    """
    m = len(values)
    if is_fixed(m):
        return np.array([[1.0], [-1.0]]), np.full(2, 0.5)
    if m > _NUMBERS and all(isinstance(x, int | np.integer) and not isinstance(x, bool) for x in values):
        often = 1 / (1 + np.abs(np.asarray(values, float)))
        return number_code(values, k), often / often.sum()
    return spread(m, k, rng), np.full(m, 1 / m)


def spread(m: int, k: int, rng: np.random.Generator) -> Float[np.ndarray, "m k"]:
    """Places of m values, far from one another, with mean 0 and, on average over the dimensions, mean square 1.

    With m - 1 dimensions, and there are never more, all are equally far, √(2m); with fewer they are the best of
    some hundred draws. One draw alone puts two of three places nearer than four standard deviations of the noise
    once in six times, and there they would stay.
    """
    if k == m - 1:
        draws = [np.linalg.svd(np.eye(m) - 1 / m)[0][:, :k]]
    else:
        draws = (rng.normal(size=(m, k)) for _ in range(max(1, min(_DRAWS, _ENTRIES // m**2))))
    best = max(map(_scaled, draws), key=_nearest)
    return best @ np.linalg.qr(rng.normal(size=(k, k)))[0]


def _scaled(x: Float[np.ndarray, "m k"]) -> Float[np.ndarray, "m k"]:
    x = x - x.mean(axis=0)
    return x * np.sqrt(x.size / np.sum(x**2))


def _nearest(x: Float[np.ndarray, "m k"]) -> float:
    """The smallest squared distance of two places."""
    square = np.sum(x**2, axis=1)
    apart = square[:, None] + square - 2 * x @ x.T
    np.fill_diagonal(apart, np.inf)
    return apart.min()


def number_code(values: Sequence[int], k: int) -> Float[np.ndarray, "m k"]:
    """Places of whole numbers on a curve: a logarithmic, a clipped linear one, then waves of rising frequency.

    Small numbers stand far apart: most states hold them, and signs are read between -1, 0 and 1. On cosines over
    the whole range -1 and 0 stood a third of the noise apart, and no sign was ever learnt. Large ones stand close
    in few dimensions: of 0 … 59 on 8 the last are 0.4 apart, where the noise of training is 0.12, on 10 they are
    0.8, on 12 they are 1.5.
    """
    t = np.asarray(values, float)
    p = np.sign(t) * np.log1p(np.abs(t) / 2.0)
    u = (p - p.min()) / (p.max() - p.min()) * 2 - 1
    centre = np.average(p, weights=1 / (1 + np.abs(t)))
    columns = [1.6 * (p - centre) / np.abs(p).max(), 2.0 * np.clip(t / 12, -1.5, 1.5)]
    frequencies = itertools.chain((1.5,), (4.5 * 2**i for i in itertools.count()))
    while len(columns) < k:
        phase = np.pi * next(frequencies) * u
        columns += [1.2 * np.cos(phase), 1.2 * np.sin(phase)]
    return np.stack(columns, axis=1)[:, :k]
