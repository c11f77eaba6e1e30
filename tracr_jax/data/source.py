"""Where retention text comes from, and its documents piece by piece: a file may be larger than memory."""

import contextlib
import gzip
import hashlib
import io
import re
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Literal

from tracr_jax.errors import UserError

SEPARATOR = "<|endoftext|>"  # alone on a line between documents
PIECE = 2**20  # characters in memory at once, about

Split = Literal["train", "valid"]

_SEPARATOR_LINE = re.compile(rf"(?<=\n){re.escape(SEPARATOR)}\n")
# Before the last line that begins with a word, else before the last word: byte-level BPE joins nothing there.
_CUTS = tuple(re.compile(p, re.DOTALL) for p in (r".*\S\n(?=\S)", r".*\S(?= \S)"))


@contextlib.contextmanager
def open_text(name: str, *, split: Split = "train") -> Iterator[io.BufferedIOBase]:
    """The bytes of "bundled" (data/corpus/README.md) or of a text file, unpacked where its name ends in .gz.

    Raises:
      UserError: the file is missing, is not UTF-8 or is damaged; also when that is found while reading.
    """
    try:
        if name == "bundled":
            packed = resources.files("tracr_jax").joinpath("data", "corpus", f"{split}.txt.gz").read_bytes()
            yield io.BytesIO(gzip.decompress(packed))
        else:
            path = Path(name)
            with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as f:
                yield f
    except (FileNotFoundError, IsADirectoryError) as e:
        raise UserError(f"text {name}: no such file; give a text file or 'bundled'") from e
    except (UnicodeDecodeError, gzip.BadGzipFile, EOFError) as e:
        raise UserError(f"text {name}: not UTF-8 text ({e})") from e


def digest(stream: io.BufferedIOBase) -> tuple[bytes, int]:
    """A hash of all that is left to read, and its number of bytes."""
    total, size = hashlib.blake2b(), 0
    while chunk := stream.read(PIECE):
        total.update(chunk)
        size += len(chunk)
    return total.digest(), size


def pieces(text: io.TextIOBase, *, size: int = PIECE) -> Iterator[tuple[str, bool]]:
    """The documents in order, long ones in several pieces: (piece, whether the document ends with it).

    Documents stand between lines that hold SEPARATOR alone; newlines around them and empty ones are left out.

    Args:
      text: opened with newline="".
      size: longer documents are cut; at most about three times as many characters are held.
    """
    rest, begun = "\n", False  # of a document that has begun, a piece was handed out already
    while chunk := text.read(size):
        while chunk.endswith("\r") and (more := text.read(1)):
            chunk += more
        *ended, rest = _SEPARATOR_LINE.split(rest + chunk.replace("\r\n", "\n"))
        for part in ended:
            yield from _last(part, begun)
            begun = False
        if not begun:
            rest = "\n" + rest.lstrip("\n")  # a separator line is known by the newline before it
        while len(rest) > 2 * size:
            # What may become a separator line with the next characters is left in the rest.
            end = len(rest) - len(SEPARATOR) - 2
            found = next(filter(None, (cut.match(rest, 0, end) for cut in _CUTS)), None)
            cut = found.end() if found else end
            yield rest[:cut] if begun else rest[:cut].lstrip("\n"), False
            rest, begun = rest[cut:], True
    *ended, rest = _SEPARATOR_LINE.split(rest + "\n")
    for part in (*ended, rest):
        yield from _last(part, begun)
        begun = False


def _last(part: str, begun: bool) -> Iterator[tuple[str, bool]]:
    part = part.rstrip("\n") if begun else part.strip("\n")
    if part or begun:
        yield part, True
