"""Retention text as token ids: memory-mapped, cached by content, windows by (seed, step). Source:
docs/method.md §8.

Differs from the original: it streams FineWeb-Edu and takes the first U tokens of each document (mode "documents"
does that with any file); here a window begins anywhere, because the bundled text has few, long documents.
"""

import contextlib
import copy
import functools
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from jaxtyping import Int, Integer

from tracr_jax.data.source import PIECE, Split, digest, open_text, pieces
from tracr_jax.errors import UserError
from tracr_jax.files import cache_folder, replacing
from tracr_jax.lm.tokenizer import Tokenizer

Mode = Literal["windows", "documents"]

_IN_MEMORY = 2**30  # bytes of text whose ids may stay in memory where the cache cannot be written
_SCAN = 2**24  # ids looked at in one go


class TextIds:
    """Token ids of documents, each followed by end-of-text, as one flat array (a memory map when cached)."""

    def __init__(self, ids: Integer[np.ndarray, " N"], *, eos_id: int, content: str = ""):
        self.ids = ids
        self.content = content
        """Digest of the text that these are the ids of, whole: of a part of it, too; "" where it is not known."""
        self.eos_id = eos_id
        self._only: Sequence[int] | None = None

    @functools.cached_property
    def _ends(self) -> Int[np.ndarray, " M"]:
        """Where documents end; found in pieces, because comparing all ids at once takes half of their size."""
        starts = range(0, len(self.ids), _SCAN)
        found = [np.flatnonzero(self.ids[s : s + _SCAN] == self.eos_id).astype(np.int64) + s for s in starts]
        # The last one has no end where the rest of it is held out.
        cut = [] if self.ids[-1] == self.eos_id else [np.array([len(self.ids)])]
        return np.concatenate(found + cut)

    @classmethod
    def open(
        cls, name: str, tokenizer: Tokenizer, *, split: Split = "train", cache: Path | None = None
    ) -> "TextIds":
        """Tokenise "bundled" or a text file (.gz too) piece by piece, or map the ids of an earlier run.

        Args:
          name: "bundled", or a file; it may be larger than memory: the ids go to the cache as they come.
          tokenizer: with the task's merges, as in all retention numbers (docs/differences.md D31).
          split: of the bundled text.
          cache: folder of cached ids; by default that of the user (`cache_folder`).

        Raises:
          UserError: no such file, not UTF-8, or no document in it; over 1 GiB of text and the cache cannot be
            written.
        """
        return cls._build(lambda: open_text(name, split=split), tokenizer, cache)

    @classmethod
    def build(cls, text: str, tokenizer: Tokenizer, *, cache: Path | None = None) -> "TextIds":
        """The same from a text in memory: documents separated by lines that hold SEPARATOR."""
        return cls._build(lambda: contextlib.nullcontext(io.BytesIO(text.encode())), tokenizer, cache)

    @classmethod
    def _build(
        cls,
        source: Callable[[], AbstractContextManager[io.BufferedIOBase]],
        tokenizer: Tokenizer,
        cache: Path | None,
    ) -> "TextIds":
        with source() as f:
            content, size = digest(f)
        path = (cache or cache_folder("text")) / f"{_fingerprint(content, tokenizer)}.npy"
        ids = _mapped(path)
        if ids is not None:
            return cls(ids, eos_id=tokenizer.eos_id, content=content.hex())

        def parts() -> Iterator[np.ndarray]:
            with source() as f:
                yield from _encoded(f, tokenizer)

        try:
            with replacing(path) as f:
                _write_ids(f, parts(), _kind(tokenizer))
            ids = _mapped(path)
        except UserError:
            if size > _IN_MEMORY:
                raise
        # For such texts a cache that cannot be written is no error; what is wrong with the text is said again.
        ids = np.concatenate(list(parts())) if ids is None else ids
        return cls(ids, eos_id=tokenizer.eos_id, content=content.hex())

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
        only = range(count) if self._only is None else self._only
        if mode == "documents":
            out = np.full((len(only), length), self.eos_id, np.int32)
            for place, row in enumerate(only):
                k = (step * count + row) % len(self._ends)
                start = self._ends[k - 1] + 1 if k else 0
                piece = self.ids[start : min(self._ends[k], start + length)]
                out[place, : len(piece)] = piece
            return out
        room = self._room(length)
        starts = np.random.default_rng((seed, step, 3)).integers(0, room, count)
        return self._gather(starts[list(only)], length)

    def hold_out(self, tokens: int, *, row: int) -> tuple["TextIds", "TextIds"]:
        """(what is trained on, what is not): the last `tokens` are held out, at most a tenth, at least one row.

        Raises:
          UserError: nothing would be left to train on.
        """
        held = max(row, min(tokens, len(self.ids) // 10))
        if held >= len(self.ids):
            raise UserError(f"text: {len(self.ids)} tokens, of which {held} are held out; give more text")
        about = {"eos_id": self.eos_id, "content": self.content}
        return TextIds(self.ids[:-held], **about), TextIds(self.ids[-held:], **about)

    def part(self, only: Sequence[int]) -> "TextIds":
        """The same texts, of whose `rows` only some are made: row k of the part is row only[k] of the whole."""
        part = copy.copy(self)
        part._only = only
        return part

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


def _kind(tokenizer: Tokenizer) -> type[np.unsignedinteger]:
    return np.uint16 if tokenizer.vocab_size <= 2**16 else np.uint32


def _encoded(stream: io.BufferedIOBase, tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids of the documents, each followed by end-of-text, some pieces at a time."""
    waiting: list[tuple[str, bool]] = []
    held, found = 0, False

    def encode() -> np.ndarray:
        encoded = tokenizer.encode_batch([piece for piece, _ in waiting])
        ends = ([tokenizer.eos_id] if ends else [] for _, ends in waiting)
        out = [i for ids, end in zip(encoded, ends, strict=True) for i in (*ids, *end)]
        waiting.clear()
        return np.array(out, _kind(tokenizer))

    with io.TextIOWrapper(stream, encoding="utf-8", newline="") as text:  # pyright: ignore[reportArgumentType]
        for piece in pieces(text):
            waiting.append(piece)
            held, found = held + len(piece[0]), True
            if held >= PIECE:
                yield encode()
                held = 0
    if not found:
        raise UserError("text: no document in it; documents are separated by lines <|endoftext|>")
    yield encode()


def _write_ids(f: BinaryIO, parts: Iterator[np.ndarray], kind: type[np.unsignedinteger]) -> None:
    """A one-dimensional .npy of all parts, whose length is known at the end only."""

    def header(count: int) -> int:
        f.seek(0)
        np.lib.format.write_array_header_1_0(
            f, {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (count,)}
        )
        return f.tell()

    count, begin = 0, header(0)
    for part in parts:
        f.write(part.data)
        count += len(part)
    if header(count) != begin:  # NumPy leaves room for the longest number
        raise RuntimeError("the header of an .npy file grew")


def _fingerprint(content: bytes, tokenizer: Tokenizer) -> str:
    total = hashlib.blake2b(content, digest_size=16)
    splits = ["special tokens are split"] if tokenizer.splits_special else []
    for part in (tokenizer.to_json(), tokenizer.eos_token, *splits):
        total.update(hashlib.blake2b(part.encode()).digest())
    return total.hexdigest()


def _mapped(path: Path) -> np.ndarray | None:
    """The cached ids; None if absent or damaged (then they are made again)."""
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return ids if ids.ndim == 1 and ids.dtype in (np.uint16, np.uint32) else None
