"""Whether a model answers with given tokens, under an edit, in one forward pass. Source: docs/method.md §9.

Greedy decoding gives an answer a_1..a_n exactly if each a_j is the most likely token after the prompt and
a_1..a_{j-1}. So the answer in question is written after the prompt and the model runs once, at all positions:
no cache, no step by step. An edit acts on each position once, as it does while decoding.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from tracr_jax.intervene import Edit
from tracr_jax.lm.base import LanguageModel
from tracr_jax.train.losses import answer_positions
from tracr_jax.types import Array, LMOutput, Params


def would_answer(
    model: LanguageModel,
    params: Params,
    ids: Int[Array, "B S"],
    answer_mask: Float[Array, "B S"],
    *,
    count: int,
    edit: Edit | None = None,
) -> Bool[Array, " B"]:
    """Whether greedy decoding from each prompt gives the answer that follows it in `ids`.

    Args:
      model: the language model.
      params: its parameters.
      ids: prompts and answers, padded on the right with anything.
      answer_mask: 1 at the positions that emit the answer: position s predicts token s + 1.
      count: the largest number of answer tokens in a row, static.
      edit: applied at every position.
    """
    return answered(model, params, ids, answer_mask, count=count, edit=edit)[0]


def answered(
    model: LanguageModel,
    params: Params,
    ids: Int[Array, "B S"],
    answer_mask: Float[Array, "B S"],
    *,
    count: int,
    edit: Edit | None = None,
) -> tuple[Bool[Array, " B"], LMOutput]:
    """(what `would_answer` says, the pass that says it)."""
    positions, targets, weights = answer_positions(ids, answer_mask, count=count)
    out = model.apply(params, ids, edit=edit, logit_positions=positions)
    return jnp.all((jnp.argmax(out.logits, axis=-1) == targets) | (weights == 0), axis=1), out
