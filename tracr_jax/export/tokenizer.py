"""The tokenizer's files as old and new `transformers` look for them, each giving the ids of training."""

import json
import os
from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.files import write_json, write_text
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.lm.tokenizer_files import Backend, is_gpt2_like, parsed

_TEXTS, _PIECES = 100, 32  # texts that are compared, and tokens of the vocabulary that each is made of
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
    _refuse_other_ids(folder, tokenizer)


def _refuse_other_ids(folder: Path, tokenizer: Tokenizer) -> None:
    """Read what was written with the installed transformers, whose releases have changed ids in silence.

    Raises:
      UserError: it gives other ids, special tokens on, for a text made of the vocabulary.
    """
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # that PyTorch is missing, which is not needed
    # Imported here for its second; unlike AutoTokenizer, it does not import torch.
    from transformers import PreTrainedTokenizerFast, __version__

    theirs = PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    ids = tokenizer.token_ids()
    texts = [tokenizer.decode(ids[i : i + _PIECES]) for i in range(0, len(ids), max(_PIECES, len(ids) // _TEXTS))]
    for text, want in zip(texts, tokenizer.encode_batch(texts), strict=True):
        if theirs(text, verbose=False).input_ids != want:
            raise UserError(
                f"{folder}: transformers {__version__} splits {text[:40]!r} otherwise than the run's tokenizer; "
                "export with another version of transformers, and report it"
            )


def is_vocab_and_merges(backend: Backend) -> bool:
    """Whether vocabulary and merges alone determine every id, read by a class that splits text as GPT-2 does."""
    vocab = backend.get_vocab(with_added_tokens=False)
    return (
        is_gpt2_like(backend)
        and not getattr(backend.pre_tokenizer, "add_prefix_space", False)
        and all(t.content in vocab for t in backend.get_added_tokens_decoder().values())
    )
