"""Scores of given tokens under a language model: the one computation behind every retention number.

Rows of any length go in; they are sorted by length and padded on the right (a causal model does not see it) to
powers of two, so that few programs are compiled; those are shared by all models of one architecture.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from tracr_jax.lm.base import LanguageModel, check_ids
from tracr_jax.progress import report
from tracr_jax.train.losses import retention_kl
from tracr_jax.types import Array, Params

Rows = Sequence[Sequence[int]] | Int[np.ndarray, "W U"] | Int[Array, "W U"]  # token ids, of any lengths

# Logits held at once (128 MiB in float32) and tokens of one pass: between them they bound the batch.
_LOGITS, _TOKENS = 2**25, 4096
_SHORTEST = 16


class TokenScores(NamedTuple):
    """Of one row of U tokens: entry s is about token s + 1, given tokens 0..s."""

    nll: Float[np.ndarray, " U1"]  # U1 = U - 1; negative log-likelihood, nats
    right: Bool[np.ndarray, " U1"]  # whether the token has the largest logit


def score_rows(model: LanguageModel, params: Params, rows: Rows) -> list[TokenScores]:
    """Scores of every token but the first of each row, in the order given; a row has at least two tokens.

    Raises:
      UserError: a row has more than `max_positions` + 1 tokens, or an id beyond the vocabulary.
    """
    out: dict[int, TokenScores] = {}
    for chosen, ids in _batches(rows, model, inputs=-1):
        nll, right = jax.device_get(_score(model, params, ids))
        for row, k in enumerate(chosen):
            count = len(rows[k]) - 1
            out[k] = TokenScores(nll[row, :count], right[row, :count])
    return [out[k] for k in range(len(rows))]


def choose(model: LanguageModel, params: Params, rows: Rows, *, choices: Sequence[int]) -> Int[np.ndarray, " W"]:
    """For each row, which of the token ids `choices` is likeliest to follow: its index, the first of equals.

    Raises:
      UserError: a row has more than `max_positions` tokens, or an id beyond the vocabulary.
    """
    out = np.zeros(len(rows), np.int64)
    for chosen, ids in _batches(rows, model, inputs=0):
        last = np.zeros(len(ids), np.int32)
        last[: len(chosen)] = [len(rows[k]) - 1 for k in chosen]
        logits = jax.device_get(_next(model, params, ids, last, np.asarray(choices, np.int32)))
        out[chosen] = np.argmax(logits, axis=1)[: len(chosen)]
    return out


def perplexity(model: LanguageModel, params: Params, rows: Rows) -> float:
    """Corpus perplexity per token: exp of the mean negative log-likelihood over all scored tokens of all rows."""
    return float(exp_of_mean(np.concatenate([s.nll for s in score_rows(model, params, rows)])))


def exp_of_mean(nll: Float[np.ndarray, " U1"]) -> np.floating:
    """Perplexity of tokens scored in nats; infinite where a model has diverged."""
    with np.errstate(over="ignore"):
        return np.exp(np.mean(nll, dtype=np.float64))


def mean_kl(
    model: LanguageModel, params: Params, original: Params, windows: Int[np.ndarray, "W U"] | Int[Array, "W U"]
) -> float:
    """KL(original ‖ model) of the next-token distributions, nats per token: the mean over all W·U positions."""
    check_ids(windows, model.vocab_size)
    # Two sets of logits at once.
    batch = max(1, min(len(windows), _batch_size(windows.shape[1], model.vocab_size) // 2))
    total = 0.0
    for start in range(0, len(windows), batch):
        chosen = windows[start : start + batch]
        # One shape, one compilation; repeated rows are cut off.
        total += float(
            np.sum(_kl(model, params, original, np.resize(chosen, (batch, windows.shape[1])))[: len(chosen)])
        )
        report(f"KL over {len(windows)} windows", start + len(chosen), len(windows))
    return total / len(windows)


def _batches(
    rows: Rows, model: LanguageModel, *, inputs: int
) -> Iterator[tuple[list[int], Int[np.ndarray, "B U"]]]:
    """Batches, longest rows first: which rows, and their padded ids. inputs = -1: the last id is only a target."""
    order = sorted(range(len(rows)), key=lambda k: -len(rows[k]))
    start = 0
    while start < len(order):
        needed = len(rows[order[start]]) + inputs
        length = _padded_length(needed, model.max_positions)
        batch = min(_batch_size(length, model.vocab_size), len(order))
        chosen = order[start : start + batch]
        ids = np.zeros((batch, length - inputs), np.int32)
        for row, k in enumerate(chosen):
            ids[row, : len(rows[k])] = rows[k]
        check_ids(ids, model.vocab_size)
        yield chosen, ids
        start += batch
        report(f"scoring {len(order)} texts", min(start, len(order)), len(order))


def _padded_length(needed: int, positions: int) -> int:
    """The next power of two, at most the model's positions; more is the model's to refuse."""
    return max(needed, min(positions, max(_SHORTEST, 1 << (needed - 1).bit_length())))


def _batch_size(length: int, vocab_size: int) -> int:
    return max(1, min(_TOKENS, _LOGITS // vocab_size) // length)


@partial(jax.jit, static_argnums=0)
def _score(
    model: LanguageModel, params: Params, ids: Int[Array, "B U"]
) -> tuple[Float[Array, "B U1"], Bool[Array, "B U1"]]:
    logits = model.apply(params, ids[:, :-1]).logits.astype(jnp.float32)
    nll = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:])
    return nll, jnp.argmax(logits, axis=-1) == ids[:, 1:]


@partial(jax.jit, static_argnums=0)
def _next(
    model: LanguageModel, params: Params, ids: Int[Array, "B U"], last: Int[Array, " B"], choices: Int[Array, " C"]
) -> Float[Array, "B C"]:
    return model.apply(params, ids, logit_positions=last[:, None]).logits[:, 0, choices]


@partial(jax.jit, static_argnums=0)
def _kl(model: LanguageModel, params: Params, original: Params, ids: Int[Array, "B U"]) -> Float[Array, " B"]:
    logits = (model.apply(p, ids).logits.astype(jnp.float32)[:, None] for p in (params, original))
    return jax.vmap(partial(retention_kl, reduction="token"))(*logits)
