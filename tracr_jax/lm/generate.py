"""Batched greedy decoding with a key/value cache. Source: docs/method.md §9.

The original generates one prompt at a time; here prompts of different lengths, padded on the right, share one
jitted program. Nothing stops at end-of-text: an answer has a known number of tokens.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Int

from tracr_jax.errors import UserError
from tracr_jax.intervene import Edit
from tracr_jax.lm.base import LanguageModel
from tracr_jax.types import Array, Params

# An edit, or one made for each forward pass: step (0 for the prompt, traced) -> edit, e.g. to draw fresh noise.
StepEdit = Edit | Callable[[Int[Array, ""]], Edit]


def generate_ids(
    model: LanguageModel,
    params: Params,
    prompt_ids: Int[Array, "B S"],
    lengths: Int[Array, " B"],
    *,
    num_tokens: int,
    edit: StepEdit | None = None,
    prefix: Int[Array, " P"] | None = None,
) -> Int[Array, "B K"]:
    """The K = `num_tokens` most likely next tokens after each prompt, each fed back into the model.

    A pure function, to be composed and jitted by the caller; `greedy` is the same, jitted.

    Args:
      model: the language model.
      params: its parameters.
      prompt_ids: prompts, padded on the right with anything.
      lengths: tokens of each prompt without padding, at least 1.
      num_tokens: K, static.
      edit: applied in every forward pass, so once at each position.
      prefix: what stands before every prompt, computed once for all of them, as a pass of one row; `lengths` do
        not count it.

    Raises: UserError if P + S + K - 1 exceeds the model's positions.
    """
    batch, width = prompt_ids.shape
    shared = 0 if prefix is None else len(prefix)
    longest = shared + width + num_tokens - 1
    if num_tokens < 1 or longest > model.max_positions:
        raise UserError(
            f"generate: prompts of {shared + width} tokens and {num_tokens} new ones need {longest} positions, "
            f"the model has {model.max_positions}; shorten the prompts or ask for fewer (at least 1)"
        )

    def edit_at(step):
        return edit(step) if callable(edit) else edit

    def next_token(hidden):
        return jnp.argmax(model.unembed(params, hidden), axis=-1).astype(jnp.int32)

    cache = model.init_cache(batch, longest)
    if prefix is not None:
        first, at = model.init_cache(1, longest), jnp.arange(shared)[None]
        _, first = model.apply_cached(params, prefix[None], first, positions=at, edit=edit_at(jnp.int32(0)))
        cache = jax.tree.map(lambda one, every: jnp.broadcast_to(one, every.shape), first, cache)
    positions = shared + jnp.broadcast_to(jnp.arange(width)[None], (batch, width))
    out, cache = model.apply_cached(params, prompt_ids, cache, positions=positions, edit=edit_at(jnp.int32(0)))
    # The head is applied to the last token of each prompt only: jit removes the other logits.
    last = jnp.take_along_axis(out.hidden[-1], (lengths - 1)[:, None, None], axis=1)[:, 0]
    first = next_token(last)
    if num_tokens == 1:
        return first[:, None]  # a scan of no steps would still be compiled

    def body(carry, step):
        token, cache = carry
        here = (shared + lengths + step - 1)[:, None]
        out, cache = model.apply_cached(params, token[:, None], cache, positions=here, edit=edit_at(step))
        token = next_token(out.hidden[-1][:, 0])
        return (token, cache), token

    _, rest = jax.lax.scan(body, (first, cache), jnp.arange(1, num_tokens))
    return jnp.concatenate([first[:, None], rest.T], axis=1)


greedy = functools.partial(jax.jit, static_argnames=("model", "num_tokens", "edit"))(generate_ids)
"""`generate_ids`, jitted. A program is compiled for every new edit object; where that costs too much, jit
`generate_ids` together with what builds the edit."""
