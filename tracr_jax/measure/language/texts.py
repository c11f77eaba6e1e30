"""The bundled evaluation texts as rows of token ids. Source: docs/method.md §10, docs/differences.md D33.

Differs from the original: LAMBADA is scored on the last word too, not only on its last token, and corpus
perplexities stand beside the original's mean over single lines. Licences: tracr_jax/data/corpus/README.md.
"""

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from tracr_jax.lm.tokenizer import Tokenizer


def lambada_texts() -> list[str]:
    """The 5,153 passages of LAMBADA's test split (OpenAI's version); the word to predict is the last one."""
    return [json.loads(line)["text"] for line in _read("lambada_test.jsonl.gz").splitlines()]


def shakespeare() -> str:
    """The first 2,000 lines of Tiny Shakespeare."""
    return _read("tinyshakespeare_head.txt.gz")


def wikitext() -> str:
    """The raw test split of WikiText-2, without its empty rows."""
    return _read("wikitext2_test.txt.gz")


def _read(name: str) -> str:
    return gzip.decompress(resources.files("tracr_jax").joinpath("data", "corpus", name).read_bytes()).decode()


@dataclass(frozen=True)
class TextRows:
    """Rows of token ids that fit a model, and how they were made to fit."""

    ids: list[list[int]]
    targets: list[int]
    """Of each row, how many of its last tokens are the last word."""
    cut: int = 0
    """Rows that lost tokens to fit the model."""
    skipped: int = 0
    """Texts left out: fewer than two tokens, or no token before the last word."""


def last_word_rows(texts: Sequence[str], tokenizer: Tokenizer, *, positions: int) -> TextRows:
    """Texts with the tokens of their last word counted; a long one keeps its last `positions` + 1 tokens.

    The last word begins at the white space before it. Its tokens are those after the longest beginning that the
    text shares, token by token, with itself without the word.
    """
    stems = [_without_last_word(t) for t in texts]
    ids, targets, cut, skipped = [], [], 0, 0
    for whole, stem in zip(tokenizer.encode_batch(texts), tokenizer.encode_batch(stems), strict=True):
        shared = next((i for i, (a, b) in enumerate(zip(whole, stem, strict=False)) if a != b), len(stem))
        kept = whole[-(positions + 1) :]
        word = len(whole) - shared
        # Something must stand before the word, as the first token of a row is never scored.
        if not 0 < word < len(kept):
            skipped += 1
            continue
        cut += len(kept) < len(whole)
        ids.append(kept)
        targets.append(word)
    return TextRows(ids, targets, cut, skipped)


def _without_last_word(text: str) -> str:
    return text[: len(text) - len(text.split()[-1])].rstrip() if text.split() else ""


def line_rows(text: str, tokenizer: Tokenizer, *, positions: int, limit: int | None = None) -> TextRows:
    """The first `limit` lines that are not blank, each alone and without its line end.

    Lines of fewer than two tokens are skipped; a long one keeps its first `positions` + 1 tokens.
    """
    lines = [line for line in text.splitlines() if line.strip()][:limit]
    encoded = tokenizer.encode_batch(lines)
    long_enough = [row for row in encoded if len(row) >= 2]
    ids = [row[: positions + 1] for row in long_enough]
    cut = sum(len(row) > positions + 1 for row in long_enough)
    return TextRows(ids, [0] * len(ids), cut, len(encoded) - len(ids))


def stream_rows(ids: Sequence[int], *, length: int, limit: int | None = None) -> list[list[int]]:
    """A text as windows of `length` inputs that overlap by one token: every token but the first is scored once.

    Row k holds ids[k·length : (k + 1)·length + 1], so its first scored token sees one token before it.
    """
    starts = range(0, len(ids) - 1, length)[:limit]
    return [list(ids[s : s + length + 1]) for s in starts]
