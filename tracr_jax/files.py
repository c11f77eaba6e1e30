"""Writing files so that none is ever half there: write beside, then rename."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tracr_jax.errors import UserError, describe

_TEXT_LIMIT = 1 << 28  # bytes; a tokenizer.json has some 10 MB


def numbered(folder: str | os.PathLike) -> list[int]:
    """The whole numbers that what is in a folder is named by, in order; none where there is no such folder."""
    with contextlib.suppress(OSError):
        return sorted(int(p.name) for p in Path(folder).iterdir() if p.name.isdecimal())
    return []


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends without an error, in one step.

    Raises:
      UserError: it cannot be written; what was there before is intact.
    """
    path = Path(path)
    if not path.name or path.is_dir():
        raise UserError(f"{path} is a folder; name a file")
    # The random part: two threads may write the same file.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "wb") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e}); what was there before is intact") from e
    finally:
        # There only after a failure. Where the folder is a file, this fails as well.
        with contextlib.suppress(OSError):
            beside.unlink()


def refuse_filled(path: str | os.PathLike) -> None:
    """A UserError where a new folder would meet something that is there."""
    path = Path(path)
    if path.is_dir():
        found = next(path.iterdir(), None)
        if found is not None:
            raise UserError(f"{path} is not empty (it holds {found.name}); name a folder that is not there yet")
    elif path.exists():
        raise UserError(f"{path} is a file; name a folder that is not there yet")


@contextlib.contextmanager
def new_folder(path: str | os.PathLike) -> Iterator[Path]:
    """A folder to fill, which gets its name `path` when the block ends without an error, in one step.

    Raises:
      UserError: something is there already, or it cannot be written; then nothing of that name appears.
    """
    refuse_filled(path)
    path = Path(path).resolve()
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        beside.mkdir(parents=True)
        yield beside
        os.replace(beside, path)  # an empty folder gives way, one that was filled meanwhile does not
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e}); nothing is left there") from e
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file's content, in one step.

    Raises:
      UserError: one of them cannot be read or written.
    """
    with reading(source), replacing(target) as f:
        f.write(source.read_bytes())


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with replacing(path) as f:
        f.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step.

    Raises:
      UserError: NaN or infinity is among the values, or it cannot be written; what was there before is intact.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as e:
        raise UserError(f"{path}: not written, a number is not finite ({e})") from e
    write_text(path, text + "\n")


@contextlib.contextmanager
def reading(where: str | os.PathLike, advice: str = "") -> Iterator[None]:
    """Reading what others wrote: whatever damage makes a reader raise becomes one line that names the file.

    For readers that trust what they read (third parties' above all), which may raise anything. The advice is
    put after the line: what to do about it.
    """
    advice = f"; {advice}" if advice else ""
    try:
        yield
    except UserError as e:
        if str(where) in str(e):
            raise
        raise UserError(f"{where}: {e}{advice}") from e
    except FileNotFoundError as e:
        raise UserError(f"{e.filename or where}: no such file{advice}") from e
    except Exception as e:
        raise UserError(f"{where}: damaged ({describe(e)}){advice}") from e


def read_text(path: str | os.PathLike) -> str:
    """A text file's content; one clear line where it is missing, too large or not UTF-8."""
    path = Path(path)
    try:
        if path.stat().st_size > _TEXT_LIMIT:
            raise UserError(f"{path}: {path.stat().st_size} bytes, more than {_TEXT_LIMIT}; is it another file?")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file") from e
    except UnicodeDecodeError as e:
        raise UserError(f"{path}: damaged, not UTF-8 text ({e})") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e


def read_json(path: str | os.PathLike) -> Any:
    """A JSON file's value; one clear line where it is missing or damaged."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as e:  # not JSON, a number of 5,000 digits, 100,000 lists in one another
        raise UserError(f"{path}: damaged, not JSON ({e})") from e


def cache_folder(kind: str) -> Path:
    """A folder for what can be made again: $TRACR_JAX_CACHE/KIND, or ~/.cache/tracr_jax/KIND."""
    root = os.environ.get("TRACR_JAX_CACHE") or Path.home() / ".cache" / "tracr_jax"
    return Path(root) / kind
