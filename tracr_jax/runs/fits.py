"""Whether a program and its options fit a model: enough blocks, room for the result, and what options name."""

from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel


def blocks_needed(config: RunConfig, *, depth: int) -> int:
    """The last aligned state h_top and the hook lie inside the model: top and the hook's block below N.

    Args:
      config: of the run.
      depth: L, the layers of the teacher.
    """
    top = config.layers.top(depth)
    return max(top, config.losses.hook_block(top)) + 1


def check_depth(model: LanguageModel, config: RunConfig, *, name: str, task: str, depth: int) -> None:
    """Refuse a model of fewer blocks than `blocks_needed`."""
    blocks, needed = model.num_blocks, blocks_needed(config, depth=depth)
    if blocks < needed:
        top = config.layers.top(depth)
        hook_block = config.losses.hook_block(top)
        where = "" if top == depth else f", the last of which is read from the output of block {top - 1}"
        advice = "" if top == depth else ", or a smaller --layer-offset or --layer-stride"
        raise UserError(
            f"{name} has {blocks} blocks, too few for {task}: its teacher has {depth} layers{where} and the hook "
            f"sits on block {hook_block}, so at least {needed} blocks are needed; choose a deeper --lm{advice}"
        )


def check_result_rank(rank: int, width: int, *, name: str) -> None:
    """With as many result directions as the model is wide, the projector is the identity: no hook at all."""
    if rank >= width:
        raise UserError(
            f"{name}: the result variable has {rank} values and the model is {width} wide; the result subspace "
            "would be the whole space and the hook would do nothing; choose a wider --lm"
        )


def check_options(model: LanguageModel, config: RunConfig, *, depth: int) -> None:
    """Refuse options that name a block of the model or a layer of the teacher that is not there."""
    part, count = config.part, model.num_blocks
    if part.kind == "blocks" and part.last >= count:
        raise UserError(
            f"train 'blocks:{part.first}-{part.last}': the model has {count} blocks, the last is {count - 1}"
        )
    blocks = config.layer_blocks
    if len(blocks) > depth:
        raise UserError(
            f"layer_blocks {' '.join(map(str, blocks))}: the program has {depth} layers; give at most {depth}"
        )
    lower = config.exchange.lower_layers
    if config.losses.alignment == "exchange" and lower > depth:
        raise UserError(f"lower_layers is {lower}, the program has {depth} layers; give {depth} or less")


def check_shift(model: LanguageModel, config: RunConfig, *, length: int, places: bool) -> None:
    """Refuse a shift of the rows that the model does not see, has no positions for, or is asked to see through.

    Args:
      model: the language model.
      config: of a run that shifts its rows, by `data.shift`.
      length: S, tokens of a row.
      places: whether what is aligned tells each token's place in its row.
    """
    shift = config.data.shift
    if not model.learnt_positions:
        raise UserError(f"shift {shift}: {model.title} sees distances only, no shift of a row; leave it out")
    if shift + length > (count := model.max_positions):
        raise UserError(
            f"shift {shift}: rows of {length} tokens would end at position {shift + length - 1}, the model has "
            f"{count}; give {count - length} or less"
        )
    if places:
        raise UserError(
            f"shift {shift}: 'indices' is aligned, the place of a token in its row, which a shifted row does not "
            "tell; leave the option out"
        )
