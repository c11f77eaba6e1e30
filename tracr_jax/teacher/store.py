"""Teachers on disk: one .npz file with the arrays and a JSON header, no pickle; and a cache by content.

Implements docs/teacher.md §5.5. Values keep their types (1, True, 1.0 and "1" differ).
"""

import hashlib
import io
import json
import os
import warnings
from collections.abc import Callable, Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import tracr
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.files import cache_folder, reading, replacing
from tracr_jax.teacher.check import check_teacher
from tracr_jax.teacher.compile import build_program, compile_program, default_exactness
from tracr_jax.teacher.graph import PROGRAM_ERRORS, Trace, trace
from tracr_jax.teacher.model import Coo, Grid, Teacher, list_variables

FORMAT = 1  # raise when the meaning of a file or of the compiler's result changes
_LIMIT = 1 << 31  # bytes of a teacher's arrays; int_sum's of five digits has some 10 MB
_NUMBERS = ("num_layers", "width", "num_heads", "key_size", "mlp_hidden_size", "max_seq_len", "mlp_exactness")


def save_teacher(teacher: Teacher, path: str | os.PathLike) -> None:
    """Write a teacher to one file, in one step.

    Raises:
      UserError: the file cannot be written, or a value has a type that cannot be stored.
    """
    header = {name: getattr(teacher, name) for name in _NUMBERS}
    header |= {
        "format": FORMAT,
        "result": teacher.result,
        "bos": _encode(teacher.bos),
        "pad": _encode(teacher.pad),
        "directions": [[name, _encode(value)] for name, value in teacher.directions],
        "vocab": [[_encode(value), i] for value, i in teacher.vocab.items()],
        "writers": {v.name: v.writer_layer for v in teacher.variables},
        "shapes": {name: coo.shape for name, coo in teacher.weights.items()},
        "grids": {str(layer): len(grids) for layer, grids in teacher.grids.items()},
    }
    arrays = {f"{n}/{part}": getattr(coo, part) for n, coo in teacher.weights.items() for part in Coo._fields[:3]}
    arrays |= {f"pairs/{layer}": p for layer, p in teacher.pairs.items()}
    for layer, grids in teacher.grids.items():
        for i, grid in enumerate(grids):
            arrays |= {f"grids/{layer}/{i}/{part}": getattr(grid, part) for part in Grid._fields}
    with replacing(path) as f:
        np.savez_compressed(f, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)


def check_storable(teacher: Teacher, *, who: str) -> None:
    """Refuse values that no file of a teacher holds, before a run begins.

    Raises:
      UserError: the first such value, and the variable that has it.
    """
    for name, value in [*teacher.directions, *(("tokens", v) for v in teacher.vocab)]:
        try:
            _encode(value)
        except UserError as e:
            raise UserError(
                f"{who}: {name} can be {value!r}, a {type(value).__name__}, which no run can store; let it "
                "have numbers, texts, True, False or tuples of these, as in float(x)"
            ) from e


def load_teacher(path: str | os.PathLike) -> Teacher:
    """Read a teacher.

    Raises:
      UserError: the file is missing, damaged, or of another format.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; a teacher is written by save_teacher or a run")
    with reading(path, "delete it"):
        teacher = _read(path)
        check_teacher(teacher)
        return teacher


def _read(path: Path) -> Teacher:
    # From memory: np.load leaves a damaged file open.
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
        if (size := sum(member.file_size for member in file.zip.infolist())) > _LIMIT:
            raise ValueError(f"{size} bytes of arrays, more than {_LIMIT}")
        header = json.loads(bytes(file["header"]))
        if header["format"] != FORMAT:
            raise UserError(
                f"{path}: teacher format {header['format']}, this version reads {FORMAT}; compile it again"
            )
        weights = {
            name: Coo(file[f"{name}/row"], file[f"{name}/col"], file[f"{name}/value"], (shape[0], shape[1]))
            for name, shape in header["shapes"].items()
        }
        pairs = {int(n.split("/")[1]): file[n] for n in file.files if n.startswith("pairs/")}
        grids = {
            int(layer): tuple(
                Grid(*(file[f"grids/{layer}/{i}/{part}"] for part in Grid._fields)) for i in range(count)
            )
            for layer, count in header["grids"].items()
        }
    directions = tuple((name, _decode(value)) for name, value in header["directions"])
    return Teacher(
        **{name: header[name] for name in _NUMBERS},
        bos=_decode(header["bos"]),
        pad=_decode(header["pad"]),
        directions=directions,
        vocab={_decode(value): i for value, i in header["vocab"]},
        result=header["result"],
        variables=list_variables(directions, header["writers"]),
        weights=weights,
        pairs=pairs,
        grids=grids,
    )


def cached_compile(
    program: Callable[[], rasp.SOp] | rasp.SOp,
    *,
    vocab: Collection[Any],
    max_seq_len: int,
    bos: Any = "bos",
    pad: Any = "pad",
    mlp_exactness: float | None = None,
    folder: str | os.PathLike | None = None,
) -> Teacher:
    """`compile_program`, kept under a hash of what the program computes (its tables, not its source text).

    A damaged or unreadable cache file is compiled again, with a warning; a folder that cannot be written only
    costs the time of the next compilation, with a warning.
    """
    program = build_program(program)
    exactness = default_exactness(max_seq_len) if mlp_exactness is None else mlp_exactness
    traced = trace(program, vocab=set(vocab), max_seq_len=max_seq_len)
    key = _fingerprint(traced, vocab=vocab, settings=(max_seq_len, bos, pad, float(exactness)))
    path = (Path(folder) if folder is not None else cache_folder("teacher")) / f"{key}.npz"
    if path.exists():
        try:
            return load_teacher(path)
        except UserError as e:
            warnings.warn(f"teacher cache: {e}; compiling again", stacklevel=2)
    teacher = compile_program(
        program, vocab=vocab, max_seq_len=max_seq_len, bos=bos, pad=pad, mlp_exactness=exactness
    )
    try:
        save_teacher(teacher, path)
    except UserError as e:
        warnings.warn(f"teacher cache: {e}; not kept", stacklevel=2)
    return teacher


_COMPILER = 3  # counted up when the same program compiles to another teacher


def _fingerprint(traced: Trace, *, vocab: Collection[Any], settings: tuple) -> str:
    """Hash of the graph, of every function's table over its inputs, and of the versions."""
    digest = hashlib.sha256()

    def add(*parts: Any) -> None:
        digest.update(("\x1f".join(f"{type(p).__name__}:{p!r}" for p in parts) + "\x1e").encode())

    # The field names change with the meaning of a teacher; tracr's own version is what its inference depends on.
    add(
        FORMAT,
        _COMPILER,
        getattr(tracr, "__version__", ""),
        np.__version__,
        [f.name for f in fields(Teacher)],
        *settings,
    )
    add(*sorted(vocab, key=repr))
    for label, expr in traced.exprs.items():
        add(label, type(expr).__name__, *(c.label for c in expr.children))
        if isinstance(expr, rasp.Select):
            keys, queries = _ordered(traced, expr.keys), _ordered(traced, expr.queries)
            add(*(_try(expr.predicate, k, q) for k in keys for q in queries))
        elif isinstance(expr, rasp.Map):
            add(rasp.get_encoding(expr), *(_try(expr.f, v) for v in _ordered(traced, expr.inner)))
        elif isinstance(expr, rasp.SequenceMap):
            first, second = _ordered(traced, expr.fst), _ordered(traced, expr.snd)
            add(rasp.get_encoding(expr), *(_try(expr.f, a, b) for a in first for b in second))
            add(getattr(expr, "fst_fac", None), getattr(expr, "snd_fac", None))
        elif isinstance(expr, rasp.SOp):
            add(rasp.get_encoding(expr), getattr(expr, "default", None))
    return digest.hexdigest()[:32]


def _ordered(traced: Trace, sop: rasp.SOp) -> list:
    return sorted(traced.sops[sop.label].values, key=lambda v: (type(v).__name__, repr(v)))


def _try(f: Callable, *values: Any) -> Any:
    try:
        return f(*values)
    except PROGRAM_ERRORS as e:
        return type(e).__name__


def _encode(value: Any) -> Any:
    """JSON that remembers the type: [type, text or members]."""
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, tuple):
        return ["tuple", [_encode(v) for v in value]]
    if isinstance(value, bool | int | float | str):
        kind = (
            "bool"
            if isinstance(value, bool)
            else next(t for t in (int, float, str) if isinstance(value, t)).__name__
        )
        plain = {"bool": bool, "int": int, "float": float, "str": str}[kind](value)
        return [kind, plain.hex() if isinstance(plain, float) else plain]
    raise UserError(f"teacher: a value of type {type(value).__name__} ({value!r}) cannot be stored")


def _decode(value: Any) -> Any:
    if value is None:
        return None
    kind, content = value
    if kind == "tuple":
        return tuple(_decode(v) for v in content)
    return float.fromhex(content) if kind == "float" else content
