"""What of a language model is trained, `RunConfig.train`: its parameters as two trees, trained and frozen.

The two share no leaf, and their union (`tracr_jax.lm.lora.joined`) is what the model computes with. A gradient is
taken by the trained tree alone, so what is frozen has no gradient, no moments and no place in a checkpoint. Frozen
weights of a run that begins with the original model are θ₀'s own arrays: there is no second copy of them.
"""

from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from tracr_jax.lm.blocks import cut_blocks, join_blocks
from tracr_jax.lm.gpt2 import POSITIONS
from tracr_jax.lm.graft import KEY, MAP
from tracr_jax.lm.lora import init_pairs, joined
from tracr_jax.train.step import Frozen, LossFn, TrainParams
from tracr_jax.trained import TrainedPart
from tracr_jax.types import Params

_PAIRS = 0x70616972  # above every step


def in_stacks(part: TrainedPart, params: Params) -> Params:
    """A model's parameters in the form that `split` takes: trained blocks are a stack of their own.

    Args:
      part: of a program (`TrainedPart.of_program`).
      params: of the whole model, which has the blocks (`tracr_jax.runs.fits`).
    """
    if part.kind not in ("blocks", "program"):
        return params
    count = jax.tree.leaves(params["blocks"])[0].shape[0]
    return cut_blocks(params, (part.first, min(part.last + 1, count)))


def split(part: TrainedPart, params: Params, *, key: jax.Array) -> tuple[Params, Params]:
    """(what is trained, what is frozen) of parameters as `in_stacks` gives them.

    Args:
      part: what is trained.
      params: of the whole model.
      key: of the low-rank pairs' first values.
    """
    if part.kind == "lora":
        return init_pairs(params, rank=part.rank, key=key), params
    flat = flatten_dict(params)
    trained, frozen = ({k: x for k, x in flat.items() if _is_trained(part, k) == own} for own in (True, False))
    return unflatten_dict(trained), unflatten_dict(frozen)


def _is_trained(part: TrainedPart, path: tuple[str, ...]) -> bool:
    if part.kind == "blocks":
        return path[0] == f"blocks_{part.first}"
    if part.kind == "program":
        # Not the table of positions: answers are as good without it, and less of the language moves.
        return path[0] == "blocks_0" or (path[-1] == "embedding" and path[0] != POSITIONS)
    if part.kind == "embeddings":
        return is_embedding(path)
    if part.kind == "graft":
        return path == (KEY, MAP)
    return part.kind == "all"


def is_embedding(path: tuple[str, ...]) -> bool:
    """Whether a parameter is an embedding of the input, a position's among them, or the output matrix."""
    return path[-1] == "embedding" or path[0] == "lm_head"


def whole(part: TrainedPart, trained: Params, frozen: Params | None) -> Params:
    """Parameters of the whole model; of `lora` with pairs beside the kernels, see `tracr_jax.lm.lora.merged`."""
    return trained if part.kind == "all" or frozen is None else join_blocks(joined(trained, frozen))


def beside_frozen(loss_fn: LossFn) -> LossFn:
    """A loss of all parameters as one of the trained ones; the frozen ones come with `Frozen.base`."""

    def loss(params: TrainParams, frozen: Frozen, *rest: Any):
        assert frozen.base is not None
        return loss_fn(params._replace(lm=joined(params.lm, frozen.base)), frozen, *rest)

    return loss


def pair_key(seed: int) -> jax.Array:
    """The key of the low-rank pairs of a run, which is no key of its adapter, its random model or a step."""
    # Those split the run's key, or fold a step into it; and split(key)[1] is fold_in(key, 1).
    return jax.random.fold_in(jax.random.key(seed), _PAIRS)
