"""Small untrained models with small tokenizers, which hold each word of the bundled tasks as one token."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from tokenizers import models

from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.byte_level import BYTE_OF, CHAR_OF, END_OF_TEXT, byte_level
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.gpt2 import GPT2Config
from tracr_jax.lm.load import FAMILIES, LoadedLM, load_lm
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.types import Params

# Words of the bundled tasks, as single tokens of random models: a "text" spelled in letters would hold an x.
_PROMPT_WORDS = (
    *["What", "Are", "Answer"],
    *(
        f" {w}"
        for w in [
            "is",
            "the",
            "number",
            "of",
            "in",
            "this",
            "text",
            "parenthesis",
            "here",
            "correctly",
            "matched",
            "Answer",
        ]
    ),
)
TASK_WORDS = (" yes", " no", " x", " y", " z", *(f" {digit}" for digit in range(10)), *_PROMPT_WORDS)


def word_tokenizer(words: Sequence[str]) -> Tokenizer:
    """A small GPT-2-like tokenizer for tests and toy models: all bytes, end-of-text, and each word as one token.

    Raises: UserError if the words' merges get into each other's way.
    """
    # Words behind a space come first: their merges all begin at the space and cannot meet one another's.
    words = sorted(words, key=lambda w: not w.startswith(" "))
    vocab = {c: i for i, c in enumerate(BYTE_OF)}
    merges: dict[tuple[str, str], None] = {}
    for word in words:
        letters = [CHAR_OF[b] for b in word.encode()]
        for i in range(1, len(letters)):
            merges["".join(letters[:i]), letters[i]] = None
            vocab.setdefault("".join(letters[: i + 1]), len(vocab))
    vocab[END_OF_TEXT] = len(vocab)
    tokenizer = Tokenizer(byte_level(models.BPE(vocab=vocab, merges=list(merges)), special=[END_OF_TEXT]))
    broken = [w for w in words if tokenizer.single_id(w) is None]
    if broken:
        raise UserError(f"word_tokenizer: {broken} cannot be single tokens together with the other words")
    return tokenizer


def random_lm(config: Any, seed: int = 0, *, scan_layers: bool = True) -> tuple[LanguageModel, Params]:
    """A model with random weights from a GPT2Config or LlamaConfig."""
    make_model = next(make for known, make in FAMILIES.values() if isinstance(config, known))
    model = make_model(config, scan_layers=scan_layers)
    return model, jax.jit(model.init)(jax.random.key(seed))


def write_random_gpt2(
    folder: str | Path,
    *,
    num_blocks: int,
    width: int = 64,
    heads: int = 4,
    positions: int = 256,
    words: Sequence[str] = TASK_WORDS,
    seed: int = 0,
) -> LoadedLM:
    """Write a small untrained GPT-2 with a small tokenizer as a Hugging Face folder, and load it."""
    tokenizer = word_tokenizer(words)
    config = GPT2Config(
        vocab_size=tokenizer.vocab_size, n_positions=positions, n_embd=width, n_layer=num_blocks, n_head=heads
    )
    model, params = random_lm(config, seed)
    save_hf_folder(folder, model, params, tokenizer)
    return load_lm(str(folder))
