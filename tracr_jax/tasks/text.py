"""Retention text as token ids: memory-mapped, cached by content, windows by (seed, step). Source: method.md 8.

Differs from the original: it streams FineWeb-Edu and takes the first U tokens of each document (mode "documents"
does that with any file); here a window begins anywhere, because the bundled text has few, long documents.
"""

import contextlib
import gzip
import hashlib
from importlib import resources
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int

from tracr_jax.errors import UserError
from tracr_jax.files import cache_folder, replacing
from tracr_jax.lm.tokenizer import Tokenizer

SEPARATOR = "<|endoftext|>"  # alone on a line between documents

Mode = Literal["windows", "documents"]


def bundled_text(split: Literal["train", "valid"]) -> str:
    """The package's own text, documents separated by SEPARATOR lines; see tracr_jax/data/README.md."""
    packed = resources.files("tracr_jax").joinpath("data", f"{split}.txt.gz").read_bytes()
    return gzip.decompress(packed).decode()


def read_text(name: str, *, split: Literal["train", "valid"] = "train") -> str:
    """The content of "bundled" or of a text file (.gz too).

    Raises:
      UserError: the file is missing or is not UTF-8.
    """
    if name == "bundled":
        return bundled_text(split)
    path = Path(name)
    try:
        content = path.read_bytes()
        return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()
    except FileNotFoundError as e:
        raise UserError(f"text {path}: no such file; give a text file or 'bundled'") from e
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as e:
        raise UserError(f"text {path}: not UTF-8 text ({e})") from e


def documents(text: str) -> list[str]:
    """The documents of a text, empty ones left out."""
    parts = text.replace("\r\n", "\n").split(f"\n{SEPARATOR}\n") if SEPARATOR in text else [text]
    parts = [p.removesuffix(f"\n{SEPARATOR}").strip("\n") for p in parts]
    return [p for p in parts if p]


class TextIds:
    """Token ids of documents, each followed by end-of-text, as one flat array (a memory map when cached)."""

    def __init__(self, ids: Int[np.ndarray, " N"], *, eos_id: int):
        self.ids = ids
        self.eos_id = eos_id
        ends = np.flatnonzero(ids == eos_id)
        self._starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)
        self._ends = ends.astype(np.int64)

    @classmethod
    def build(cls, text: str, tokenizer: Tokenizer, *, cache: Path | None = None) -> "TextIds":
        """Tokenise a text, or map the ids of an earlier run.

        Args:
          text: documents separated by SEPARATOR lines.
          tokenizer: with the task's merges, as in all retention numbers (findings.md 31).
          cache: folder of cached ids; by default that of the user (`cache_folder`).

        Raises:
          UserError: the text has no document.
        """
        parts = documents(text)
        if not parts:
            raise UserError("text: no document in it; documents are separated by lines <|endoftext|>")
        path = (cache or cache_folder("text")) / f"{_fingerprint(text, tokenizer)}.npy"
        ids = _mapped(path)
        if ids is None:
            kind = np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32
            encoded = tokenizer.encode_batch(parts)
            ids = np.concatenate([np.array([*e, tokenizer.eos_id], kind) for e in encoded])
            # A cache that cannot be written is no error: the ids are in memory.
            with contextlib.suppress(UserError), replacing(path) as f:
                np.save(f, ids)
            mapped = _mapped(path)
            ids = ids if mapped is None else mapped
        return cls(ids, eos_id=tokenizer.eos_id)

    def rows(
        self, seed: int, step: int, *, count: int, length: int, mode: Mode = "windows"
    ) -> Int[np.ndarray, "B2 U"]:
        """Texts of one step, pure in (seed, step).

        Args:
          seed: of the run.
          step: of the run.
          count: rows.
          length: U.
          mode: "windows": begin anywhere; "documents": the first U tokens of the next documents, padded with
            end-of-text (the original).

        Raises:
          UserError: there is less text than one row.
        """
        if mode == "documents":
            out = np.full((count, length), self.eos_id, np.int32)
            for row in range(count):
                k = (step * count + row) % len(self._starts)
                piece = self.ids[self._starts[k] : min(self._ends[k], self._starts[k] + length)]
                out[row, : len(piece)] = piece
            return out
        room = self._room(length)
        starts = np.random.default_rng((seed, step, 3)).integers(0, room, count)
        return self._gather(starts, length)

    def windows(self, count: int, *, length: int) -> Int[np.ndarray, "W U"]:
        """At most `count` windows that do not overlap, evenly spread over the text: always the same ones."""
        room = self._room(length)
        count = min(count, (room - 1 + length) // length)
        starts = np.arange(count) * length if count * length >= room else np.linspace(0, room - 1, count)
        return self._gather(starts.astype(np.int64), length)

    def _room(self, length: int) -> int:
        room = len(self.ids) - length + 1
        if room < 1:
            raise UserError(f"text: {len(self.ids)} tokens, fewer than one row of {length}; give more text")
        return room

    def _gather(self, starts: np.ndarray, length: int) -> Int[np.ndarray, "W U"]:
        return np.stack([np.asarray(self.ids[s : s + length], np.int32) for s in starts])


def _fingerprint(text: str, tokenizer: Tokenizer) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (text, tokenizer.to_json(), tokenizer.eos_token):
        digest.update(hashlib.blake2b(part.encode()).digest())
    return digest.hexdigest()


def _mapped(path: Path) -> np.ndarray | None:
    """The cached ids; None if absent or damaged (then they are made again)."""
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return ids if ids.ndim == 1 and ids.dtype in (np.uint16, np.uint32) else None
