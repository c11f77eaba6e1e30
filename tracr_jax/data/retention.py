"""The retention text of a run: what is trained on, and the held-out windows that perplexities are measured on."""

import jax
import numpy as np
from jaxtyping import Int

from tracr_jax.config import DataConfig
from tracr_jax.data.hub import PREFIX, hub_text
from tracr_jax.data.text import TextIds
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.progress import Say

_WINDOWS, _LENGTH = 64, 64


def retention_text(
    data: DataConfig, tokenizer: Tokenizer, *, say: Say = lambda _: None
) -> tuple[TextIds, TextIds]:
    """(text to train on, held-out text of the same kind), as the configuration names it.

    Raises:
      UserError: no such text, or too little of it.
    """
    name = data.text
    if name.startswith(PREFIX):
        here, all_of = jax.process_index(), jax.process_count()
        name = str(hub_text(name, megabytes=data.text_megabytes, process=here, processes=all_of, say=say))
    say(f"tokenising retention text: {name}")
    text = TextIds.open(name, tokenizer)
    if data.text.startswith(PREFIX):
        text.content = ""  # of a share, which is another one with another number of processes
    if name == "bundled":
        return text, TextIds.open("bundled", tokenizer, split="valid")
    return text.hold_out(_WINDOWS * _LENGTH, row=_LENGTH)


def held_out_windows(held_out: TextIds) -> Int[np.ndarray, "W U"]:
    """The windows of the held-out text that perplexities are measured on: always the same ones."""
    return held_out.windows(_WINDOWS, length=_LENGTH)
