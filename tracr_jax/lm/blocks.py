"""Running a stack of blocks, scanned or as a loop, with the residual edit and all hidden states.

A block is a linen module called as block(h, context, cache) -> (h, cache); `context` is what all blocks share.
Scanned parameters live under "blocks" with a leading axis N, looped ones under "block_0", "block_1", …
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from tracr_jax.intervene import Edit, edited
from tracr_jax.lm.base import LanguageModel
from tracr_jax.types import Array, Params


def run_blocks(
    make_block: Callable[[str], nn.Module],
    h: Float[Array, "B S d"],
    context: Any,
    *,
    num_blocks: int,
    scan: bool,
    remat: bool,
    cache: Any = None,
    edit: Edit | None = None,
) -> tuple[Float[Array, "B S d"], Float[Array, "N B S d"], Any]:
    """Apply N blocks; returns (output of the last, input of each, cache of each).

    The edit is a select inside the scan body. Measured against two scans split at the block (24 blocks × 128,
    gradient step on two cores): the same gradients to the bit, compile 4.8 s against 12.0 s, best step 0.77 s
    against 1.04 s (0.71 s without an edit).
    """

    def body(block, h, xs):
        index, layer_cache = xs
        out, layer_cache = block(edited(h, edit, index, before=True), context, layer_cache)
        return edited(out, edit, index, before=False), (h, layer_cache)

    if remat:
        body = nn.remat(body, prevent_cse=not scan)
    if scan:
        scanned = nn.scan(body, variable_axes={"params": 0}, split_rngs={"params": True}, length=num_blocks)
        h, (inputs, cache) = scanned(make_block("blocks"), h, (jnp.arange(num_blocks), cache))
        return h, inputs, cache
    inputs, caches = [], []
    for i in range(num_blocks):
        layer_cache = jax.tree.map(lambda x, i=i: x[i], cache)
        h, (before, layer_cache) = body(make_block(f"block_{i}"), h, (i, layer_cache))
        inputs.append(before)
        caches.append(layer_cache)
    return h, jnp.stack(inputs), jax.tree.map(lambda *x: jnp.stack(x), *caches) if cache is not None else None


def unstack_blocks(params: Params) -> Params:
    """Parameters of the scanned form as those of the loop."""
    stacked = params["blocks"]
    count = jax.tree.leaves(stacked)[0].shape[0]
    rest = {k: v for k, v in params.items() if k != "blocks"}
    return rest | {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], stacked) for i in range(count)}


def stack_blocks(params: Params) -> Params:
    """Parameters of the loop as those of the scanned form."""
    names = sorted((k for k in params if k.startswith("block_")), key=lambda k: int(k.removeprefix("block_")))
    rest = {k: v for k, v in params.items() if k not in names}
    return rest | {"blocks": jax.tree.map(lambda *x: jnp.stack(x), *(params[k] for k in names))}


def last_blocks(model: LanguageModel, params: Params, start: int) -> tuple[LanguageModel, Params]:
    """The model from block `start` on (below N), to be entered with hidden[start] of the whole model.

    It still embeds its ids; `ResidualEdit(0, lambda _: hidden, before=True)` puts the state in their place.
    """
    rest = model.with_blocks(model.num_blocks - start)
    if "blocks" in params:
        return rest, params | {"blocks": jax.tree.map(lambda x: x[start:], params["blocks"])}
    dropped = {f"block_{i}" for i in range(start)}
    moved = {f"block_{i}": f"block_{i - start}" for i in range(start, model.num_blocks)}
    return rest, {moved.get(k, k): v for k, v in params.items() if k not in dropped}


def first_blocks(model: LanguageModel, params: Params, count: int) -> tuple[LanguageModel, Params]:
    """The model cut after `count` blocks: hidden[0..count-1] are those of the whole model, for less work.

    hidden[count] and the logits are not: there the final norm comes after the last block that is left.
    """
    if "blocks" in params:
        return model.with_blocks(count), params | {"blocks": jax.tree.map(lambda x: x[:count], params["blocks"])}
    dropped = {f"block_{i}" for i in range(count, model.num_blocks)}
    return model.with_blocks(count), {k: v for k, v in params.items() if k not in dropped}
