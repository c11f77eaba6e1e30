"""Writing files so that none is ever half there: write beside, then rename."""

import json
import os
from pathlib import Path
from typing import Any

from tracr_jax.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Replace a text file in one step."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    except OSError as e:
        beside.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written ({e.strerror}); what was there before is intact") from e


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
