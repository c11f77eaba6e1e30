"""The control: an n-gram model with interpolated modified Kneser-Ney smoothing, over the same tokens.

Source: Chen and Goodman, "An empirical study of smoothing techniques for language modeling", 1999, section 3:
three discounts per order from the counts of counts; below the highest order a count is the number of different
tokens that occur in front. Sorted arrays and binary search, so 12 million tokens take seconds.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

BITS = 13
"""Bits of a token: the vocabulary has 8,192. Four tokens fit into a key; a fifth uses its context's rank."""


@dataclass(frozen=True)
class _Order:
    grams: Int[np.ndarray, " G"]
    counts: Int[np.ndarray, " G"]
    contexts: Int[np.ndarray, " C"]
    totals: Int[np.ndarray, " C"]
    backoff: Float[np.ndarray, " C"]
    discounts: Float[np.ndarray, " 4"]


class NGram:
    """A model of order 2 to 5, counted on one stream of token ids."""

    def __init__(self, stream: Int[np.ndarray, " T"], *, order: int, vocabulary: int):
        assert 2 <= order <= 5, order
        assert vocabulary <= 1 << BITS, vocabulary
        self.order, self.vocabulary = order, vocabulary
        ids = stream.astype(np.uint64)
        # contexts4: packed four-token contexts of the fifth order, ranked; empty where the order is lower.
        self._contexts4 = np.unique(_pack(ids[:-1], 4)) if order == 5 else np.zeros(0, np.uint64)
        keys, counts = np.unique(self._keys(ids, order), return_counts=True)
        orders = [_smooth(keys, counts)]
        for n in range(order - 1, 0, -1):
            # One entry per different longer gram, so a shorter one is counted once per token in front of it.
            keys, counts = np.unique(self._drop_first(keys, n + 1), return_counts=True)
            orders.append(_smooth(keys, counts))
        self._orders = orders[::-1]

    def _keys(self, ids, n):
        if n < 5:
            return _pack(ids, n)
        rank, known = _find(self._contexts4, _pack(ids[:-1], 4))
        keys = (rank.astype(np.uint64) << np.uint64(BITS)) | ids[4:]
        # An unknown context gets a rank that no table has.
        return np.where(known, keys, np.uint64(len(self._contexts4)) << np.uint64(BITS))

    def _drop_first(self, keys, n):
        if n == 5:
            context = self._contexts4[(keys >> np.uint64(BITS)).astype(np.int64)]
            last = keys & np.uint64((1 << BITS) - 1)
            return ((context & _mask(3)) << np.uint64(BITS)) | last
        return keys & _mask(n - 1)

    def probabilities(self, stream: Int[np.ndarray, " T"]) -> Float[np.ndarray, " T1"]:
        """p(stream[t] | up to order − 1 tokens before it) for every t ≥ 1."""
        ids = stream.astype(np.uint64)
        p = np.full(len(ids), 1.0 / self.vocabulary)
        for n, table in enumerate(self._orders, start=1):
            p[n - 1 :] = _interpolate(table, self._keys(ids, n), p[n - 1 :])
        return p[1:]


def _mask(tokens):
    return np.uint64((1 << (BITS * tokens)) - 1)


def _pack(ids, n):
    key = np.zeros(len(ids) - n + 1, np.uint64)
    for i in range(n):
        key = (key << np.uint64(BITS)) | ids[i : len(ids) - n + 1 + i]
    return key


def _find(table, keys):
    place = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return place, table[place] == keys


def _smooth(grams, counts) -> _Order:
    n1, n2, n3, n4 = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    y = n1 / max(n1 + 2 * n2, 1)
    ratios = [(1, n2, n1), (2, n3, n2), (3, n4, n3)]
    steps = [k - (k + 1) * y * above / here if here else 0.0 for k, above, here in ratios]
    discounts = np.array([0.0, *np.clip(steps, 0.0, None)])
    contexts, first = np.unique(grams >> np.uint64(BITS), return_index=True)
    totals = np.add.reduceat(counts, first)
    taken = np.add.reduceat(np.minimum(discounts[np.minimum(counts, 3)], counts), first)
    return _Order(grams, counts, contexts, totals, taken / totals, discounts)


def _interpolate(table: _Order, keys, lower):
    context, seen = _find(table.contexts, keys >> np.uint64(BITS))
    gram, found = _find(table.grams, keys)
    count = np.where(found, table.counts[gram], 0)
    kept = np.maximum(count - table.discounts[np.minimum(count, 3)], 0.0) / table.totals[context]
    return np.where(seen, kept + table.backoff[context] * lower, lower)
