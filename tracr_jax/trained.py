"""What of a language model is trained, as a run names it: all, lora:8, blocks:3-5, embeddings or adapter."""

import re
from typing import NamedTuple

from tracr_jax.errors import UserError


class TrainedPart(NamedTuple):
    """What of the language model is trained; `RunConfig.train` as numbers."""

    kind: str  # all, lora, blocks, embeddings or adapter
    rank: int = 0  # of lora
    first: int = 0  # of blocks, counted from 0
    last: int = 0  # of blocks, included


def trained_part(text: str) -> TrainedPart:
    """`RunConfig.train` read.

    Raises:
      UserError: it is none of the forms.
    """
    if text in ("all", "embeddings", "adapter"):
        return TrainedPart(text)
    if found := re.fullmatch(r"lora:([1-9]\d*)", text):
        return TrainedPart("lora", rank=int(found[1]))
    if found := re.fullmatch(r"blocks:(\d+)-(\d+)", text):
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise UserError(f"train {text!r}: the first block, {first}, lies behind the last, {last}")
        return TrainedPart("blocks", first=first, last=last)
    raise UserError(f"train {text!r} is none of all, lora:RANK, blocks:FIRST-LAST, embeddings, adapter")
