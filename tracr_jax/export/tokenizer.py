"""The tokenizer's files as old and new `transformers` look for them, each giving the ids of training."""

import json
from pathlib import Path

from tracr_jax.files import write_json, write_text
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.lm.tokenizer_files import Backend, is_gpt2_like, parsed

_SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")


def as_trained(tokenizer: Tokenizer, *, max_length: int) -> Tokenizer:
    """The same tokenizer, which adds no token of its own wherever it is loaded, as in training.

    Args:
      tokenizer: with the task's merges.
      max_length: positions of the model.
    """
    backend = parsed(tokenizer.to_json())
    backend.post_processor = None  # Llama's puts a BOS in front
    # Class names and switches of the original would let transformers rebuild parts of tokenizer.json from code.
    config = {k: v for k, v in tokenizer.config.items() if k not in ("tokenizer_class", "auto_map", "backend")}
    config |= {
        "add_bos_token": False,
        "add_eos_token": False,
        # transformers 4 changes the pre-tokenizer where the two disagree.
        "add_prefix_space": bool(getattr(backend.pre_tokenizer, "add_prefix_space", False)),
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    return Tokenizer(backend, config)


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Beside `Tokenizer.save`: special_tokens_map.json, and vocab.json with merges.txt where they say it all.

    The slow classes of transformers 4 know nothing but the latter two, and split text as GPT-2 does. A tokenizer
    that splits otherwise (SmolLM2: digits) would get other ids from them, so it gets no such files.
    """
    special = {k: v for k, v in tokenizer.config.items() if k in _SPECIAL and v}
    write_json(folder / "special_tokens_map.json", {"eos_token": tokenizer.eos_token} | special)
    if is_vocab_and_merges(parsed(tokenizer.to_json())):
        vocab = json.loads(tokenizer.to_json())["model"]["vocab"]
        write_text(folder / "vocab.json", json.dumps(vocab, ensure_ascii=False))
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in tokenizer.merges())]
        write_text(folder / "merges.txt", "\n".join(lines) + "\n")


def is_vocab_and_merges(backend: Backend) -> bool:
    """Whether vocabulary and merges alone determine every id, read by a class that splits text as GPT-2 does."""
    vocab = backend.get_vocab(with_added_tokens=False)
    return (
        is_gpt2_like(backend)
        and not getattr(backend.pre_tokenizer, "add_prefix_space", False)
        and all(t.content in vocab for t in backend.get_added_tokens_decoder().values())
    )
