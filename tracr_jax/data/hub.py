"""Retention text from the Hugging Face hub: streamed once into a file of the cache, then read like any file.

A run draws windows by (seed, step) from a fixed text, so that it resumes bit for bit; a stream that only goes
forward could not give them. What is streamed is bounded (`megabytes`), and a broken stream goes on where it broke.
Differs from the original, which reads FineWeb-Edu's stream anew in each run. Source: docs/method.md §8.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tracr_jax.data.source import SEPARATOR
from tracr_jax.errors import UserError
from tracr_jax.files import cache_folder, read_json, write_json
from tracr_jax.lock import is_at
from tracr_jax.progress import Say

PREFIX = "hub:"
_SAVE_EVERY = 2**22  # bytes between two notes of where the stream stands
_COLUMN = "text"

Load = Callable[[str, str | None], Any]  # (dataset, configuration) -> datasets.IterableDataset


def load_stream(name: str, config: str | None) -> Any:
    """The train split as a stream; nothing is downloaded as a whole. A UserError without `datasets`."""
    try:
        from datasets import load_dataset
    except ImportError as e:
        raise UserError(f"text {PREFIX}{name}: needs the datasets package: pip install 'tracr-jax[hub]'") from e
    return load_dataset(name, config, split="train", streaming=True)


def hub_text(
    source: str,
    *,
    megabytes: int,
    process: int = 0,
    processes: int = 1,
    cache: Path | None = None,
    say: Say = lambda _: None,
    load: Load = load_stream,
) -> Path:
    """The file that holds the beginning of a hub dataset's text; streamed where it is not there yet.

    Args:
      source: "hub:OWNER/NAME" or "hub:OWNER/NAME:CONFIGURATION"; its train split must have a column "text".
      megabytes: of UTF-8 text, over all processes; less where the dataset has less.
      process: which of several processes this is; each streams its own documents, a share of the whole.
      processes: how many there are.
      cache: folder of the file; by default that of the user (`cache_folder`).
      say: receives one line now and then.
      load: opens a stream, for tests.

    Raises:
      UserError: the name is not of that form, the hub does not answer, the dataset has no text.
    """
    name, _, config = source.removeprefix(PREFIX).partition(":")
    if not name or not source.startswith(PREFIX):
        raise UserError(f"text {source}: give {PREFIX}OWNER/NAME or {PREFIX}OWNER/NAME:CONFIGURATION")
    # No name on the hub has two hyphens in a row: a/b:c and a/b-c are two files.
    stem = "--".join(("hub", *name.split("/"), *([config] if config else ()), f"{megabytes}mb"))
    if processes > 1:
        stem += f"-{process}of{processes}"
    path = (cache or cache_folder("text")) / f"{stem}.txt"
    if path.exists():
        return path
    limit = megabytes * 10**6 // processes
    try:
        _stream(path, lambda: _open(load, name, config or None, process, processes), limit, say, source)
    except UserError:
        raise
    except Exception as e:  # whatever a dataset's own code, the network or the hub may raise
        said = (str(e).strip().splitlines() or [type(e).__name__])[0]
        raise UserError(
            f"text {source}: the stream broke ({type(e).__name__}: {said[:200]}); the same command goes on there, "
            "or give a text file or 'bundled'"
        ) from e
    return path


def _open(load: Load, name: str, config: str | None, process: int, processes: int) -> Any:
    stream = load(name, config)
    if processes > 1:
        from datasets.distributed import split_dataset_by_node

        stream = split_dataset_by_node(stream, rank=process, world_size=processes)
    return stream


def _stream(path: Path, open_stream: Callable[[], Any], limit: int, say: Say, source: str) -> None:
    """Fill `path` up to `limit` bytes; where it stands is noted beside, and it gets its name when it is whole."""
    part, note = path.with_suffix(".part"), path.with_suffix(".part.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    while not path.exists():
        with open(part, "a+b") as held:
            if not _alone(held):
                say(f"streaming {source}: another process does it, waiting")
                fcntl.flock(held, fcntl.LOCK_EX)
            if not path.exists() and is_at(held, part):  # else the other one was done, or gave up
                _fill(part, note, open_stream(), limit, say, source)
                os.replace(part, path)
                note.unlink(missing_ok=True)
            elif is_at(held, part):  # made after the other one had renamed its own
                part.unlink()


def _alone(file: IO[bytes]) -> bool:
    """Hold the file until it is closed, unless another process does. Where there are no locks nobody else does."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _fill(part: Path, note: Path, stream: Any, limit: int, say: Say, source: str) -> None:
    written = 0
    if note.exists() and part.stat().st_size >= (saved := read_json(note))["bytes"]:
        written = int(saved["bytes"])
        stream.load_state_dict(saved["stream"])
        say(f"streaming {source}: on from {written / 1e6:.0f} MB")
    with open(part, "r+b") as f:
        f.truncate(written)  # bytes after the last note would come again
        f.seek(written)
        noted = written
        for text in _documents(stream, source):
            f.write(text)
            written += len(text)
            if written >= limit:
                break
            if written - noted >= _SAVE_EVERY:
                f.flush()
                os.fsync(f.fileno())
                write_json(note, {"bytes": written, "stream": stream.state_dict()})
                noted = written
                say(f"streaming {source}: {written / 1e6:.0f} of {limit / 1e6:.0f} MB")
        f.flush()
        os.fsync(f.fileno())
    if not written:
        part.unlink()
        raise UserError(f"text {source}: no document in it; choose another dataset")


def _documents(stream: Any, source: str) -> Iterator[bytes]:
    for row in stream:
        if not isinstance(row.get(_COLUMN), str):
            raise UserError(
                f"text {source}: its rows have no column {_COLUMN!r} of strings, but {', '.join(row)}; "
                "choose another dataset"
            )
        text = row[_COLUMN].strip("\n")
        if text:
            yield f"{text}\n{SEPARATOR}\n".encode()
