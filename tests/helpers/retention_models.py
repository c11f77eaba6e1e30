"""Models whose every logit can be worked out by hand, for the tests of the retention suite."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from tracr_jax.lm.base import LanguageModel
from tracr_jax.types import LMOutput


@LanguageModel.register
@dataclass(frozen=True)
class Summing:
    """The logits at position s are the row of the table at (sum of tokens 0..s) mod V: all context counts."""

    vocab_size: int
    max_positions: int

    def apply(self, table, ids, *, logit_positions=None):
        logits = table[jnp.cumsum(ids, axis=1) % self.vocab_size]
        if logit_positions is not None:
            logits = jnp.take_along_axis(logits, logit_positions[:, :, None], axis=1)
        return LMOutput(logits, jnp.zeros(()))


def table(vocab_size, *, seed=0):
    return np.random.default_rng(seed).normal(0, 2, (vocab_size, vocab_size)).astype(np.float32)


def always(vocab_size, token):
    """The table of a model that predicts one token, whatever stands before."""
    out = np.zeros((vocab_size, vocab_size), np.float32)
    out[:, token] = 5.0
    return out


def log_probabilities(logits):
    logits = np.asarray(logits, np.float64)
    return logits - np.log(np.sum(np.exp(logits)))


def by_hand(logits, row):
    """[(nats, whether it is the likeliest)] of every token of a row but the first."""
    out = []
    for s in range(len(row) - 1):
        here = logits[sum(row[: s + 1]) % len(logits)]
        out.append((-log_probabilities(here)[row[s + 1]], int(np.argmax(here)) == row[s + 1]))
    return out


def random_rows(lengths, *, vocab_size, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, vocab_size, n).tolist() for n in lengths]
