"""Sequences of several lengths in one pass of a model, without padding.

Dense layers see tokens and do not care whose they are: two groups of sequences, [B, S] and [B', U], lie side by
side as G rows of tokens, and only attention takes them apart. The weights are then read once for both, forward and
backward, and each has one gradient to compute instead of two to add. G is the largest number that divides B and
B': the rows of a batch that is spread over devices stay where they are.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from tracr_jax.intervene import Edit, on_part
from tracr_jax.types import Array


class Packing(NamedTuple):
    """The groups of a pass, by their static shapes."""

    shapes: tuple[tuple[int, int], ...]  # (sequences, tokens) of each group

    @property
    def rows(self) -> int:
        """G, the rows of tokens in which the groups lie side by side."""
        return math.gcd(*(count for count, _ in self.shapes))

    def join(self, groups: Sequence[Array]) -> Array:
        """Groups of [B, S, …] as one array of [G, tokens, …]."""
        return jnp.concatenate([x.reshape(self.rows, -1, *x.shape[2:]) for x in groups], axis=1)

    def split(self, x: Array, *, axis: int = 0) -> list[Array]:
        """The inverse of `join`: [*, G, tokens, …] -> groups of [*, B, S, …], where G is on axis `axis`."""
        out, start = [], 0
        for count, length in self.shapes:
            stop = start + count * length // self.rows
            part = jax.lax.slice_in_dim(x, start, stop, axis=axis + 1)
            out.append(part.reshape(*x.shape[:axis], count, length, *x.shape[axis + 2 :]))
            start = stop
        return out

    def positions(self, first: Array | None = None) -> Array:
        """The position of each token in its own sequence, [G, tokens]; of the first group [B, S] as given."""
        each = [jnp.broadcast_to(jnp.arange(s)[None], (b, s)) for b, s in self.shapes]
        return self.join(each if first is None else [first, *each[1:]])

    def edit_first(self, edit: Edit | None) -> Edit | None:
        """An edit of the first group's residual stream as one of the packed stream."""
        if edit is None:
            return None

        def change(fn, x):
            first, *others = self.split(x)
            return self.join([fn(first), *others])

        return on_part(edit, change)
