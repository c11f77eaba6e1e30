"""GPT-2's way of splitting text, from the parts of the `tokenizers` library, and its letters for the 256 bytes."""

from collections.abc import Sequence

import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

END_OF_TEXT = "<|endoftext|>"


def byte_level(
    model: models.BPE,
    *,
    special: Sequence[str] = (),
    user_defined: Sequence[str] = (),
    add_prefix_space: bool = False,
    split_digits: bool = False,
) -> tokenizers.Tokenizer:
    """A tokenizer like GPT-2's: a regular expression cuts words, which the merges put together from bytes.

    Args:
      model: vocabulary and merges.
      special: tokens that are found in a text before it is split, and that `skip_special_tokens` leaves out.
      user_defined: the same, but part of the text.
      add_prefix_space: a text that does not begin with a space gets one.
      split_digits: every digit is cut off first, as SmolLM2 does.
    """
    made = tokenizers.Tokenizer(model)
    # Trimmed offsets are what GPT-2's own file says; they change no id.
    words = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, trim_offsets=True, use_regex=True)
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, words]) if split_digits else words
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in special])
    made.add_tokens([AddedToken(t, special=False, normalized=False) for t in user_defined])
    return made


def _byte_chars() -> dict[int, str]:
    """GPT-2's printable stand-in for each byte: itself where Latin-1 prints it, else 256, 257, … in order."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in prints]
    return {b: chr(b) for b in prints} | {b: chr(256 + i) for i, b in enumerate(rest)}


CHAR_OF = _byte_chars()
BYTE_OF = {c: b for b, c in CHAR_OF.items()}
