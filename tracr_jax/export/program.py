"""A program as a small file, which is put on the model it was trained on and taken off again.

    program_adapter.safetensors   the low-rank pairs of every projection, under PEFT's names, A [r, in], B [out, r]
                                  metadata: "base", digest of the weights it belongs to, "rank", "scale", "lm"
    original/                     what taking it off needs: the model's small files, and bits.npz

What `apply_program` writes is a plain Hugging Face folder, weights merged: W' = W + s·A·B, rounded once. Floating
point does not give W back as W' - s·A·B: the sum is rounded. But the difference is known when the program is put
on, and bits.npz keeps it, bit by bit, and compressed: nearly all of it is zero. Both directions sum in one order
(`tracr_jax.lm.lora`), so this holds on every machine, and `remove_program` compares the digest of what it has with
the one that the program was trained on before it writes a file. It either gives the original weights or an error.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.files import copy_file, new_folder, read_json, reading, refuse_filled, replacing
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import stack_blocks
from tracr_jax.lm.convert import from_tensors, table_of, to_tensors
from tracr_jax.lm.load import TOKENIZER_FILES, copy_small_files, load_lm, name_type, read_model, write_small_files
from tracr_jax.lm.lora import SCALE, A, B, added, lost_bits, split_pairs, unmerged
from tracr_jax.lm.tensors import open_safetensors, read_metadata, weights_digest, write_safetensors
from tracr_jax.runs.program_files import FILE as PROGRAM
from tracr_jax.types import Params

FILE, ORIGINAL, BITS = "program_adapter.safetensors", "original", "bits.npz"
_PREFIX = "base_model.model."  # PEFT's, before the names of modules
_KIND = "tracr_jax program 1"
# Of an export, what reads the program's variables and says what it is.
_PROGRAM_FILES = (
    PROGRAM, "teacher.npz", "adapter.safetensors", "reserved.npz", "codes.safetensors", "README.md",
    "original.json",
)  # fmt: skip

Weights = Mapping[str, np.ndarray]  # float32, under Hugging Face's names


class ProgramAdapter(NamedTuple):
    """The content of program_adapter.safetensors."""

    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]  # name of a weight -> A [in, r], B [r, out]
    base: str  # digest of the weights that it was trained on
    scale: float
    lm: str  # their name


def apply_program(adapter: str | Path, model: str, folder: str | Path) -> Path:
    """Put a program on the model that it was trained on.

    Args:
      adapter: program_adapter.safetensors, or the folder that holds it. In an export, the program's other files
        (program.json, the adapter that reads its variables, its tokenizer) go along, and `open` reads the result.
      model: a name for `load_lm`.
      folder: does not exist yet, or is empty; it becomes a Hugging Face folder, weights in float32.

    Returns:
      The folder.

    Raises:
      UserError: the model is another than the program was trained on, or a file is missing or damaged.
    """
    refuse_filled(folder)
    path = Path(adapter) / FILE if Path(adapter).is_dir() else Path(adapter)
    program, lm = read_pairs(path), load_lm(model)
    base = to_tensors(lm.model, lm.params)
    found = weights_digest(base)
    if found != program.base:
        raise UserError(
            f"{model}: its weights are {found[:12]}, {path} was trained on {program.base[:12]} ({program.lm}); "
            "give that model; the run that trained it keeps it in its folder, RUN/model"
        )
    with new_folder(folder) as out:
        write_small_files(lm, out)
        if (path.parent / PROGRAM).exists():
            for name in _PROGRAM_FILES:
                if (path.parent / name).exists():
                    copy_file(path.parent / name, out / name)
            if (path.parent / "tokenizer.json").exists():
                # Not the model's own beside it: a vocab.json without the program's merges is another tokenizer.
                for name in TOKENIZER_FILES:
                    (out / name).unlink(missing_ok=True)
            copy_small_files(path.parent, out)
        name_type(out, "float32")
        write_small_files(lm, out / ORIGINAL)
        copy_file(path, out / FILE)
        with np.errstate(over="ignore"):  # to infinity, which is refused
            merged = base | _each(lm.model, base, program, added)
        if odd := next((name for name, x in merged.items() if not np.isfinite(x).all()), None):
            raise UserError(f"{path}: with it {odd} of {model} is not finite; the file is damaged")
        write_bits(out, lm.model, base, program)
        write_safetensors(out / "model.safetensors", merged)
    return Path(folder)


def remove_program(folder: str | Path, out: str | Path) -> Path:
    """Take a program off again: the model that it was put on, every weight bit for bit, in the type it had.

    Weights lie in one file, whatever their number of files was; other files are those that a model's reader needs.

    Args:
      folder: of `apply_program`, or an export of a run with --train lora.
      out: does not exist yet, or is empty.

    Returns:
      The second folder.

    Raises:
      UserError: there is no program to remove, or the weights have changed since it was put on.
    """
    refuse_filled(out)
    folder = Path(folder)
    if not (folder / FILE).exists() or not (folder / ORIGINAL / BITS).exists():
        raise UserError(f"{folder}: no program to remove, there is no {FILE} with {ORIGINAL}/{BITS}")
    program, model = read_pairs(folder / FILE), read_model(folder)
    merged = to_tensors(model, from_tensors(model, open_safetensors(folder)))
    with reading(folder / ORIGINAL / BITS), np.load(folder / ORIGINAL / BITS, allow_pickle=False) as bits:
        base = merged | _each(model, merged, program, unmerged, bits)
    found = weights_digest(base)
    if found != program.base:
        raise UserError(
            f"{folder}: without the program its weights are {found[:12]} and not {program.base[:12]}, on which it "
            "was put; they have changed since, and nothing is written"
        )
    with new_folder(out) as beside:
        copy_small_files(folder / ORIGINAL, beside)
        kind = _type_of(base, beside / "config.json")
        name_type(beside, kind)
        write_safetensors(beside / "model.safetensors", base, dtype=kind)
    return Path(out)


def write_pairs(path: Path, model: LanguageModel, params: Params, *, lm: str) -> ProgramAdapter:
    """Write the pairs of a model's parameters; returns what was written.

    Args:
      path: the file.
      model: without parameters.
      params: with pairs, see `tracr_jax.lm.lora`.
      lm: name of the model without them.
    """
    plain, pairs = split_pairs(params)
    blocks = (pairs if "blocks" in pairs else stack_blocks(pairs))["blocks"]
    table, found = table_of(model), {}
    for name, at in table.block.items():
        module, _, kind = at.rpartition("/")
        if kind == "kernel":
            a, b = (np.asarray(blocks[module][k], np.float32) for k in (A, B))
            for i, pair in enumerate(zip(a, b, strict=True)):
                found[table.full(f"{table.blocks}.{i}.{name}")] = pair
    program = ProgramAdapter(found, weights_digest(to_tensors(model, plain)), SCALE, lm)
    tensors = {}
    for name, pair in found.items():
        for letter, x in zip("AB", pair, strict=True):
            tensors[f"{_PREFIX}{name.removesuffix('.weight')}.lora_{letter}.weight"] = x.T
    rank = next(iter(found.values()))[0].shape[1]
    metadata = {"kind": _KIND, "base": program.base, "rank": str(rank), "scale": str(SCALE), "lm": lm}
    write_safetensors(path, tensors, metadata=metadata)
    return program


def read_pairs(path: Path) -> ProgramAdapter:
    """Read program_adapter.safetensors.

    Raises:
      UserError: it is missing, damaged or something else.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; it is in what tracr-jax export writes of a run with --train lora:RANK"
        )
    said = read_metadata(path)
    if said.get("kind") != _KIND:
        raise UserError(f"{path}: not a program of tracr_jax, its kind is {said.get('kind')!r}")
    tensors = open_safetensors(path.parent, name=path.name.removesuffix(".safetensors"))
    with reading(path):
        modules = {k.removeprefix(_PREFIX).rpartition(".lora_")[0] for k in tensors.shapes}
        pairs, rank, scale = {}, int(said["rank"]), float(said["scale"])
        for module in sorted(modules):
            a, b = (tensors.get(f"{_PREFIX}{module}.lora_{letter}.weight").T for letter in "AB")
            if a.ndim != 2 or b.ndim != 2 or not a.shape[1] == b.shape[0] == rank:
                raise ValueError(f"{module}: {a.shape} and {b.shape} are no pair of rank {rank}")
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise ValueError(f"{module}: not finite")
            pairs[f"{module}.weight"] = (a, b)
        if not math.isfinite(scale):
            raise ValueError(f"its scale is {scale}")
        return ProgramAdapter(pairs, said["base"], scale, said["lm"])


def write_bits(folder: Path, model: LanguageModel, base: Weights, program: ProgramAdapter) -> None:
    """Write what `remove_program` needs to give `base` back to the bit."""
    with replacing(folder / ORIGINAL / BITS) as f:
        np.savez_compressed(f, **_each(model, base, program, lost_bits))  # pyright: ignore[reportArgumentType]


def write_removable(folder: Path, model: LanguageModel, params: Params, *, lm: str, original: Path | None) -> None:
    """Beside an export of a model with pairs: the program alone, and what taking it off needs.

    Args:
      folder: the export.
      model: without parameters.
      params: with pairs.
      lm: name of the model without them.
      original: folder with that model's small files.
    """
    program = write_pairs(folder / FILE, model, params, lm=lm)
    if original is not None:
        copy_small_files(original, folder / ORIGINAL)
        write_bits(folder, model, to_tensors(model, split_pairs(params)[0]), program)


def _each(
    model: LanguageModel, tensors: Weights, program: ProgramAdapter, fn: Any, *others: Any
) -> dict[str, Any]:
    """fn(W, A, B, …) of every weight of the program, W as [in, out]; the result lies as the file's weight does."""
    table, out = table_of(model), {}
    kernels = [name for name, at in table.block.items() if at.endswith("/kernel")]
    needed = [table.full(f"{table.blocks}.{i}.{name}") for i in range(model.num_blocks) for name in kernels]
    if lacks := sorted(set(needed) - set(program.pairs)):
        raise UserError(f"{FILE}: has no pair of {lacks[0]}, and {len(needed)} are needed; the file is damaged")
    for name, pair in program.pairs.items():
        shape = (len(pair[0]), pair[1].shape[1])
        if name not in tensors or tuple(table.turned(name, tensors[name].shape)) != shape:
            raise UserError(f"{FILE}: {name} has no place in this model; the program belongs to another")
        w, *rest = (table.turned(name, x[name]) for x in (tensors, *others))
        out[name] = np.ascontiguousarray(table.turned(name, fn(w, *pair, *rest, scale=program.scale)))
    return out


def _type_of(tensors: Weights, config: Path) -> str:
    """The type that config.json names, if all numbers are of that type."""
    values = read_json(config) if config.exists() else {}
    name = str(values.get("dtype") or values.get("torch_dtype"))
    kind = {"bfloat16": ml_dtypes.bfloat16, "float16": np.float16}.get(name)
    if kind is None or any(not np.array_equal(x.astype(kind).astype(np.float32), x) for x in tensors.values()):
        return "float32"
    return name
