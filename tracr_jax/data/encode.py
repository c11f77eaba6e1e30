"""One item as token ids with the positions that must emit its answer. Source: docs/method.md §6,
docs/differences.md A1, B11.

Differs from the original: the mask covers the answer's tokens and, by default, one end-of-text after it (the model
learns to stop); an item is never cut. `as_coded_mask` and `as_coded_length` restore a mask of as many positions as
the label has characters, and items cut at the original's lengths.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tracr_jax.config import Fidelity
from tracr_jax.data.bridge import find_separator, split_item
from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.tasks.base import Item, Task


def sequence_length(
    task: Task, tokenizer: Tokenizer, *, answer_end: bool = True, separator: str | None = None
) -> int:
    """S: tokens of the longest training or in-distribution item, answer (and end-of-text) included.

    Needs no teacher, whose position table is made this long. The default separator is that of `find_separator`.
    """
    between = find_separator(task, tokenizer) if separator is None else separator
    lengths = [sum(map(len, split_item(i, tokenizer, separator=between))) for i in task.longest_items()]
    return max(lengths) + int(answer_end)


def place(
    item: Item,
    prompt: Sequence[int],
    label: Sequence[int],
    *,
    length: int,
    eos: int,
    answer_end: bool,
    fidelity: Fidelity,
) -> tuple[Int[np.ndarray, " S"], Float[np.ndarray, " S"]]:
    """Token ids padded with end-of-text on the right, and the mask: 1 where position s must emit token s + 1.

    Args:
      item: prompt and answer, as text.
      prompt: its token ids.
      label: those of the answer.
      length: S.
      eos: the id of end-of-text.
      answer_end: one end-of-text after the answer is supervised too.
      fidelity: with `as_coded_mask` the mask has as many positions as the label has characters
        (docs/differences.md B11), with `as_coded_length` what is longer than S is cut (A1).

    Raises:
      UserError: the item is longer than S.
    """
    ids = np.full(length, eos, np.int32)
    mask = np.zeros(length, np.float32)
    tokens = [*prompt, *label]
    need = len(tokens) + int(answer_end and not fidelity.as_coded_mask)
    if need > length and not fidelity.as_coded_length:
        raise UserError(
            f"item {item.prompt!r} -> {item.label!r} takes {need} tokens, S is {length}: add it to the task's "
            "longest_items, or shorten it"
        )
    ids[: min(len(tokens), length)] = tokens[:length]
    supervised = len(item.label) if fidelity.as_coded_mask else len(label) + int(answer_end)
    start = len(prompt) - 1
    mask[start : start + supervised] = 1
    return ids, mask
