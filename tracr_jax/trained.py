"""What of a model is trained, as a run names it: all, program, lora:8, blocks:3-5, embeddings, adapter, graft."""

import re
from typing import NamedTuple

from tracr_jax.errors import UserError

# Blocks that "program" trains above the state that holds the program's last layer: they turn its result into an
# answer. What lies higher need not change for it, and is what the language would lose (experiments/diary.md).
_ABOVE = 3


FORMS = "all, program, blocks:FIRST-LAST, lora:RANK, embeddings, adapter, graft:result, graft:variables"
"""What `trained_part` reads."""


class TrainedPart(NamedTuple):
    """What of the language model is trained; `RunConfig.train` as numbers."""

    kind: str  # all, program, lora, blocks, embeddings, adapter or graft
    rank: int = 0  # of lora
    first: int = 0  # of blocks, counted from 0
    last: int = 0  # of blocks and program, included; of graft, the block that it follows, -1 for the last
    form: str = ""  # of graft, what its map reads: result or variables

    def of_program(self, top: int) -> "TrainedPart":
        """The same for a program whose last layer is read from the model's state h_top."""
        return self._replace(last=top - 1 + _ABOVE) if self.kind == "program" else self


def trained_part(text: str) -> TrainedPart:
    """`RunConfig.train` read.

    Raises:
      UserError: it is none of the forms.
    """
    if text in ("all", "program", "embeddings", "adapter"):
        return TrainedPart(text)
    if found := re.fullmatch(r"lora:([1-9]\d*)", text):
        return TrainedPart("lora", rank=int(found[1]))
    if found := re.fullmatch(r"blocks:(\d+)-(\d+)", text):
        first, last = int(found[1]), int(found[2])
        if first > last:
            raise UserError(f"train {text!r}: the first block, {first}, comes after the last, {last}")
        return TrainedPart("blocks", first=first, last=last)
    if found := re.fullmatch(r"graft:(result|variables)(?:@(\d+))?", text):
        return TrainedPart("graft", last=int(found[2] or -1), form=found[1])
    raise UserError(f"train {text!r} is none of {FORMS}")


def check_part(part: TrainedPart, *, alignment: str, hook: bool, onto: str) -> None:
    """Refuse what has nothing to learn from in a run of this alignment, with or without hook, or onto another run.

    Raises:
      UserError: it has not.
    """
    if part.kind == "adapter" and alignment == "none":
        raise UserError(
            "train 'adapter': without alignment the adapter has no loss; give another --train or another --preset"
        )
    if part.kind == "adapter" and alignment == "exchange":
        raise UserError(
            "train 'adapter': the directions of exchange training are fixed, so that a model that does not change "
            "cannot come to hold anything there; give --preset variable"
        )
    if part.kind == "graft" and (alignment != "none" or hook):
        raise UserError(
            f"train 'graft:{part.form}': the program stands beside the model, which has nothing to align and no "
            "hook; give --preset graft"
        )
    if part.kind == "graft" and onto:
        raise UserError(f"train 'graft:{part.form}': a graft has one program; leave out --onto")
