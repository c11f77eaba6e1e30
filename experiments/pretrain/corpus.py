"""Text and tokenizer of the bundled model: own byte-level BPE, token ids packed into one pass of windows.

The corpora are those of shared/data (its README gives sources and licences). Nothing of docs/method.md is here;
the merges follow its section 2: digits and brackets stay alone, so that the tasks' merge filters have nothing to
drop.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPORA = ("gutenberg", "tinystories")
END_OF_TEXT = "<|endoftext|>"
VOCABULARY = 8192
WINDOW = 256
"""Tokens in the unit of shuffling; training sequences are this long or a whole fraction of it."""

BRACKETS, DIGITS = "()[]{}", "0123456789"
# What the tasks' prompts, labels and evaluations need as one token each (Ġ is the byte-level space).
SINGLE = [f"Ġ{d}" for d in DIGITS] + ["Ġ=", "Ġ+", "Ġx", "Ġy", "Ġz", "Ġ:", "Ġyes", "Ġno", "Answer", "yes", "no"]


def documents(data: Path, corpus: str, split: str) -> list[str]:
    """Documents of a corpus, without their end-of-text lines."""
    with gzip.open(data / corpus / f"{split}.txt.gz", "rt", encoding="utf-8") as f:
        return [d for d in f.read().split(f"{END_OF_TEXT}\n") if d]


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenisation; 256 bytes, then merges in order, then end-of-text.

    Merges that would glue a bracket or a digit to anything but a digit's own space are left out, and the
    missing ones of SINGLE are appended, where they have the lowest priority and change nothing else.
    """
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # A surplus, since some merges are dropped.
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY + 256, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(_pieces(texts), trainer)
    merges = [(left, right) for left, right in _merges(raw) if _allowed(left + right)]

    room = VOCABULARY - 1 - len(alphabet)
    kept = merges[: room - 2 * len(SINGLE)]
    for word in SINGLE:
        pieces = [t.value for t in _build(kept).model.tokenize(word)]
        while len(pieces) > 1:
            kept.append((pieces[0], pieces[1]))
            pieces[:2] = [pieces[0] + pieces[1]]
    known = set(kept)
    kept += [m for m in merges[room - 2 * len(SINGLE) :] if m not in known][: room - len(kept)]
    return _build(kept)


def _allowed(token: str) -> bool:
    bare = token.removeprefix("Ġ")
    if any(c in BRACKETS for c in token) or any(c in DIGITS for c in bare):
        return bare in set(DIGITS)
    return True


def _pieces(texts: Sequence[str], characters: int = 100_000) -> Iterator[str]:
    for text in texts:
        for start in range(0, len(text), characters):
            yield text[start : start + characters]


def _merges(tokenizer: Tokenizer) -> list[Sequence[str]]:
    return json.loads(tokenizer.to_str())["model"]["merges"]


def _build(merges: Sequence[tuple[str, str]]) -> Tokenizer:
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    seen = set(tokens)
    for a, b in merges:
        if a + b not in seen:
            seen.add(a + b)
            tokens.append(a + b)
    tokens.append(END_OF_TEXT)
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> Int[np.ndarray, " T"]:
    """Token ids of the documents in one stream, end-of-text before the first and after each."""
    end = tokenizer.token_to_id(END_OF_TEXT)
    parts = [np.array([end], np.uint16)]
    for encoding in tokenizer.encode_batch_fast(list(texts)):
        parts += [np.array(encoding.ids, np.uint16), parts[0]]
    return np.concatenate(parts)


def windows_per_pass(stream: Int[np.ndarray, " T"]) -> int:
    """Whole windows in the stream, each with its next token."""
    return (len(stream) - 1) // WINDOW


def batch_at(
    stream: Int[np.ndarray, " T"], step: int, *, windows: int, length: int, seed: int
) -> Int[np.ndarray, "B S1"]:
    """Ids of one step: `windows` windows of a seeded shuffle, cut to `length` predictions each (one id more).

    Over windows_per_pass // windows steps every token but the first is predicted exactly once.
    """
    count = windows_per_pass(stream)
    epoch, first = divmod(step * windows, count - count % windows)
    order = np.random.default_rng((seed, epoch)).permutation(count)[first : first + windows]
    starts = (order[:, None] * WINDOW + np.arange(0, WINDOW, length)).reshape(-1, 1)
    return stream[starts + np.arange(length + 1)].astype(np.int32)
