"""One prompt's answer token by token, with the states that gave it: for a page, and for a few examples.

No key/value cache: every token is a forward pass of a row of one of few widths, so that one program is compiled
for the answer and for reading its states. For hundreds of items `tracr_jax.lm.generate.greedy` is the one to use.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.interpret.decode import padded_row
from tracr_jax.intervene import LayerEdit
from tracr_jax.lm.base import LanguageModel
from tracr_jax.runs.model import Injected
from tracr_jax.types import Array, Params

Step = Callable[[Sequence[int]], tuple[Float[Array, "L1 W d"], int]]


def next_token(
    run: Injected,
    ids: Sequence[int],
    *,
    given: Float[np.ndarray, "L1 W d"] | None = None,
    mask: Float[np.ndarray, "L1 W"] | None = None,
) -> tuple[Float[Array, "L1 W d"], int]:
    """(states of a padded row that the teacher's layers are read from, the likeliest token after the text).

    Args:
      run: from `inject` or `open`.
      ids: the text.
      given: states that the model's blocks are to read where `mask` is 1, and that are returned there.
      mask: which these are.

    Raises:
      UserError: no tokens, or more than the model has positions.
    """
    row, last = padded_row(run, ids), np.int32(len(ids) - 1)
    hidden, token = _next(run.model, run.params, row, last, given, mask, states=run.program.states)
    return hidden, int(token)


def generate(step: Step, prompt: Sequence[int], *, most: int, end: int) -> tuple[list[int], Array, bool]:
    """(the answer, states of prompt and answer [L1, W, d], whether the model ends it by itself).

    Args:
      step: (a text) -> what `next_token` returns.
      prompt: its tokens.
      most: tokens after which the answer is cut.
      end: the token that ends it, and is no part of it.
    """
    answer: list[int] = []
    while True:
        hidden, token = step([*prompt, *answer])
        if token == end or len(answer) == most:
            return answer, hidden, token == end
        answer.append(token)


@functools.partial(jax.jit, static_argnames=("model", "states"))
def _next(
    model: LanguageModel,
    params: Params,
    row: Int[Array, "1 W"],
    last: Int[Array, ""],
    given: Float[Array, "L1 W d"] | None,
    mask: Float[Array, "L1 W"] | None,
    *,
    states: tuple[int, ...],
) -> tuple[Float[Array, "L1 W d"], Int[Array, ""]]:
    at, edit = np.array(states), None
    if given is not None and mask is not None:

        def fn(h, i):
            layer = jnp.argmax(jnp.asarray(at) == i)
            chosen = (jnp.asarray(at)[layer] == i) & (mask[layer] > 0)
            return jnp.where(chosen[None, :, None], given[layer][None].astype(h.dtype), h)

        edit = LayerEdit(fn)
    out = model.apply(params, row, edit=edit, logit_positions=last[None, None])
    hidden = out.hidden[at, 0].astype(jnp.float32)
    if given is not None and mask is not None:
        hidden = jnp.where(mask[:, :, None] > 0, given, hidden)
    return hidden, jnp.argmax(out.logits[0, 0])
