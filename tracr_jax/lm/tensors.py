"""Named tensors of a model on disk, read one at a time: single or sharded safetensors, and how they are written.

The header is read and checked against the file's size first; nothing is allocated before the caller has compared
the shapes with what the configuration says.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tracr_jax.errors import UserError, describe
from tracr_jax.files import read_json, reading, replacing

Shape = tuple[int, ...]

_HEADER_LIMIT = 100_000_000  # bytes, as in the safetensors library

_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclass(frozen=True)
class Tensors:
    """Shapes by name, and a way to get one tensor as float32; `where` names the file or folder in errors."""

    where: str
    shapes: Mapping[str, Shape]
    get: Callable[[str], np.ndarray]
    dtype: str | None = None
    """In which all of them are stored, "bfloat16"; None where they differ, or no such type holds them."""


def open_safetensors(folder: str | Path, *, name: str = "model") -> Tensors:
    """NAME.safetensors, or the shards that NAME.safetensors.index.json lists.

    Raises: UserError if there is neither, a shard is missing or damaged, or index and shards disagree.
    """
    folder = Path(folder)
    single, index = folder / f"{name}.safetensors", folder / f"{name}.safetensors.index.json"
    if single.exists():
        files, listed = [single], None
    elif index.exists():
        with reading(index):
            listed = dict(read_json(index)["weight_map"])
            files = [folder / _plain_name(shard) for shard in sorted(set(listed.values()))]
    else:
        old = " (only pytorch_model.bin, which is not read: convert it to safetensors)"
        hint = old if (folder / "pytorch_model.bin").exists() else ""
        raise UserError(f"{folder}: no {single.name} and no {index.name}{hint}")
    entries: dict[str, _Entry] = {}
    for entry in (entry for path in files for entry in _read_header(path)):
        first = entries.setdefault(entry.name, entry)
        if first is not entry and not np.array_equal(_read(first), _read(entry)):
            where = f"{first.path.name} and {entry.path.name}"
            raise UserError(f"{folder}: {entry.name} stands in {where} with different values")
    if listed is not None and set(listed) != set(entries):
        odd = sorted(set(listed) ^ set(entries))[0]
        raise UserError(f"{index}: the index and its shards disagree about {odd}")

    types = {np.dtype(e.dtype).name for e in entries.values()}
    shapes = {name: e.shape for name, e in entries.items()}
    return Tensors(
        str(folder), shapes, lambda name: _read(entries[name]), types.pop() if len(types) == 1 else None
    )


class _Entry(NamedTuple):
    """One tensor's place; offset in bytes from the start of the file."""

    name: str
    path: Path
    dtype: Any
    shape: Shape
    offset: int


def _read(e: _Entry) -> np.ndarray:
    """The tensor in float32."""
    if 0 in e.shape:  # which cannot be mapped
        return np.zeros(e.shape, np.float32)
    mapped = np.memmap(e.path, e.dtype, "r", e.offset, e.shape or (1,))
    with np.errstate(over="ignore"):  # to infinity, which is refused with the name of the tensor
        return mapped.reshape(e.shape).astype(np.float32)


def read_metadata(path: Path) -> dict[str, str]:
    """What a safetensors file says of itself, beside its tensors.

    Raises: UserError if it is missing or damaged.
    """
    with _checked(path):
        return {str(k): str(v) for k, v in _header(path)[0].get("__metadata__", {}).items()}


def weights_digest(tensors: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a model's weights: names, shapes and float32 bits, in the order of the names."""
    h = hashlib.sha256()
    for name in sorted(tensors):
        value = np.ascontiguousarray(tensors[name], "<f4")
        h.update(f"{name} {value.shape}\n".encode())
        h.update(value.data)
    return h.hexdigest()


def _header(path: Path) -> tuple[dict[str, Any], int, int]:
    """(the header, its bytes, the file's bytes)."""
    size = path.stat().st_size
    with open(path, "rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if length > min(size - 8, _HEADER_LIMIT):
            raise UserError(
                f"{path}: damaged, its header should have {length} bytes; the file has {size}, and a header "
                f"at most {_HEADER_LIMIT}"
            )
        return json.loads(f.read(length), object_pairs_hook=_distinct), length, size


def _read_header(path: Path) -> Iterator[_Entry]:
    """Every tensor of one safetensors file."""
    with _checked(path):
        header, length, size = _header(path)
        header.pop("__metadata__", None)
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            shape = tuple(entry["shape"])
            if any(type(n) is not int for n in (*shape, begin, end)):
                raise TypeError(f"{name}: sizes and offsets must be whole numbers")
            if entry["dtype"] not in _DTYPES:
                if not name.endswith(("attn.bias", "masked_bias")):  # old GPT-2 files hold Boolean causal masks
                    raise UserError(f"{path}: {name} has type {entry['dtype']}; known are {', '.join(_DTYPES)}")
                continue
            dtype = _DTYPES[entry["dtype"]]
            wanted = math.prod(shape) * np.dtype(dtype).itemsize
            if min(shape, default=0) < 0 or begin < 0 or end - begin != wanted or 8 + length + end > size:
                raise UserError(f"{path}: damaged, {name} {list(shape)} does not fit into bytes {begin} to {end}")
            yield _Entry(name, path, dtype, shape, 8 + length + begin)


@contextlib.contextmanager
def _checked(path: Path) -> Iterator[None]:
    """What a damaged header makes a reader raise, as one line."""
    try:
        yield
    except FileNotFoundError as e:
        raise UserError(f"{path}: no such file; the model's folder is incomplete") from e
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror or e})") from e
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise UserError(f"{path}: damaged, its header is not that of a safetensors file ({describe(e)})") from e


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, whose names must differ: of two tensors of one name the first would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(n for n in names if names.count(n) > 1)} stands there twice")
    return found


def _plain_name(shard: str) -> str:
    """The name, which must not lead out of the model's folder."""
    if not shard or shard != Path(shard).name:
        raise ValueError(f"the shard {shard!r} is not the name of a file")
    return shard


def write_safetensors(
    path: Path,
    tensors: Mapping[str, np.ndarray],
    *,
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write one safetensors file in one step; dtype "float32", "float16" or "bfloat16", of integers int32."""
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    if dtype not in names:
        raise UserError(f"{path}: cannot write dtype {dtype!r}; known are {', '.join(names)}")
    kinds = {name: "I32" if value.dtype.kind in "iu" else names[dtype] for name, value in tensors.items()}
    sizes = {"I32": np.dtype(np.int32)} | {n: np.dtype(_DTYPES[n]) for n in names.values()}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for name, value in tensors.items():
        end = offset + value.size * sizes[kinds[name]].itemsize
        header[name] = {"dtype": kinds[name], "shape": list(value.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the format wants aligned data
    with replacing(path) as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for name, value in tensors.items():
            f.write(np.ascontiguousarray(value, sizes[kinds[name]]).tobytes())
