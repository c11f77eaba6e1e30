"""How much of the language is kept: perplexity on ordinary text. Source: method.md 10.

The original reports a mean of per-line perplexities; here it is the corpus perplexity over fixed windows, with the
same (filtered) tokenizer for every model that is compared.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from tracr_jax.lm.base import LanguageModel
from tracr_jax.types import Params


def window_losses(
    model: LanguageModel, params: Params, ids: Int[np.ndarray, "W U"], *, batch: int = 16
) -> Float[np.ndarray, " W"]:
    """Mean negative log-likelihood (nats per token) of each window; its first token is never scored."""

    @jax.jit
    def losses(params, ids):
        logits = model.apply(params, ids).logits[:, :-1].astype(jnp.float32)
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]), axis=1)

    out = []
    for i in range(0, len(ids), batch):
        rows = ids[i : i + batch]
        full = np.resize(rows, (batch, ids.shape[1]))  # one shape, one compilation; repeated rows are cut off
        out.append(np.asarray(losses(params, full))[: len(rows)])
    return np.concatenate(out)


def perplexity(model: LanguageModel, params: Params, ids: Int[np.ndarray, "W U"], *, batch: int = 16) -> float:
    """Corpus perplexity per token: exp of the mean negative log-likelihood over all windows."""
    return float(np.exp(window_losses(model, params, ids, batch=batch).mean()))
