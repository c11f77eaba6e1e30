"""What the bundled model and its controls reach on held-out text, and a sample of its own."""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from tracr_jax.lm.base import LanguageModel
from tracr_jax.types import Params


def model_nats(
    model: LanguageModel, params: Params, stream: Int[np.ndarray, " T"], *, length: int, batch: int = 8
) -> float:
    """Total cross entropy, in nats, of stream[1:]; every token once, from at most `length` tokens before it."""
    total = 0.0
    for ids, fresh in _windows(stream, length, batch):
        total += float(_window_nats(model, params, ids, fresh))
    return total


def _windows(stream, length, batch) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    starts = np.arange(0, len(stream) - 1, length)
    # The last window ends with the stream; what an earlier one has already scored does not count again.
    moved = np.minimum(starts, len(stream) - 1 - length)
    for i in range(0, len(starts), batch):
        rows = np.resize(np.arange(i, min(i + batch, len(starts))), batch)
        places = moved[rows, None] + np.arange(length)
        fresh = (places >= starts[rows, None]) & (np.arange(batch)[:, None] < len(starts) - i)
        yield stream[moved[rows, None] + np.arange(length + 1)].astype(np.int32), fresh


@partial(jax.jit, static_argnums=0)
def _window_nats(model, params, ids, fresh):
    log_p = jax.nn.log_softmax(model.apply(params, ids[:, :-1]).logits)
    return -jnp.sum(jnp.take_along_axis(log_p, ids[:, 1:, None], axis=-1)[..., 0] * fresh)


def scores(nats: float, *, tokens: int, bytes_: int) -> dict[str, float]:
    """Perplexity per token and bits per byte of a text with that total cross entropy."""
    return {
        "perplexity": round(math.exp(nats / tokens), 3),
        "bits_per_byte": round(nats / math.log(2) / bytes_, 4),
    }


def sample(
    model: LanguageModel,
    params: Params,
    prompt: list[int],
    *,
    tokens: int,
    seed: int,
    temperature: float = 0.8,
    top: int = 40,
    length: int = 256,
) -> list[int]:
    """`tokens` ids drawn from the `top` likeliest at each position, after `prompt`."""
    ids = np.zeros((1, length), np.int32)
    ids[0, : len(prompt)] = prompt
    for place in range(len(prompt), len(prompt) + tokens):
        key = jax.random.fold_in(jax.random.key(seed), place)
        ids[0, place] = int(_draw(model, top, params, ids, place, key, temperature))
    return ids[0, len(prompt) : len(prompt) + tokens].tolist()


@partial(jax.jit, static_argnums=(0, 1))
def _draw(model, top, params, ids, place, key, temperature) -> Int[Array, ""]:
    logits: Float[Array, " V"] = model.apply(params, ids).logits[0, place - 1]
    best, which = jax.lax.top_k(logits, top)
    return which[jax.random.categorical(key, best / temperature)]


def control_table(
    streams: dict[str, np.ndarray],
    sizes: dict[str, int],
    rows: Mapping[str, Callable[[np.ndarray], float]],
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores by text and model, from functions stream -> total nats of stream[1:]."""
    return {
        text: {
            name: scores(nats(stream), tokens=len(stream) - 1, bytes_=sizes[text]) for name, nats in rows.items()
        }
        for text, stream in streams.items()
    }
