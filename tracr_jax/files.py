"""Writing files so that none is ever half there: write beside, then rename."""

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from tracr_jax.errors import UserError


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` when the block ends without an error, in one step.

    Raises:
      UserError: it cannot be written; what was there before is intact.
    """
    path = Path(path)
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


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    with replacing(path) as f:
        f.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """A JSON file's value; one clear line where it is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file") from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise UserError(f"{path}: damaged, not JSON ({e})") from e


def cache_folder(kind: str) -> Path:
    """A folder for what can be made again: $TRACR_JAX_CACHE/KIND, or ~/.cache/tracr_jax/KIND."""
    root = os.environ.get("TRACR_JAX_CACHE") or Path.home() / ".cache" / "tracr_jax"
    return Path(root) / kind
