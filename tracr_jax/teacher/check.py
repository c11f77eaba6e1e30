"""Whether a teacher read from a file is one: every index within its table, every matrix of its layer's shape."""

import math
from typing import Any

import numpy as np

from tracr_jax.teacher.model import Coo, Grid, Teacher

_LARGEST = 1 << 24  # of any size


def check_teacher(teacher: Teacher) -> None:
    """Raise a ValueError for the first thing that does not fit; afterwards the forward pass cannot read beyond."""
    sizes = {n: getattr(teacher, n) for n in ("num_layers", "width", "num_heads", "key_size", "mlp_hidden_size")}
    for name, size in (sizes | {"max_seq_len": teacher.max_seq_len}).items():
        _need(type(size) is int and 1 <= size <= _LARGEST, f"{name} is {size!r}")
    _need(
        isinstance(teacher.mlp_exactness, float) and 0 < teacher.mlp_exactness < math.inf,
        f"mlp_exactness is {teacher.mlp_exactness!r}",
    )
    _need(len(teacher.directions) == teacher.width, f"{len(teacher.directions)} directions, width {teacher.width}")
    _need(all(isinstance(name, str) for name, _ in teacher.directions), "a direction without a name")
    _need(sorted(teacher.vocab.values()) == list(range(len(teacher.vocab))), "token ids are not 0, 1, 2, …")
    _need(teacher.bos in teacher.vocab and teacher.pad in teacher.vocab, "BOS or PAD is no token")
    _need(teacher.result in {v.name for v in teacher.variables}, f"no variable {teacher.result!r}")
    layers = range(teacher.num_layers + 1)
    _need(all(v.writer_layer in layers for v in teacher.variables), "a variable is written by no layer")
    shapes = expected_shapes(teacher)
    _need(
        shapes.keys() == teacher.weights.keys(), f"matrices {sorted(shapes.keys() ^ teacher.weights.keys())[:3]}"
    )
    for name, coo in teacher.weights.items():
        _check_coo(name, coo, shapes[name])
    for layer, pairs in teacher.pairs.items():
        _need(layer in layers[:-1] and pairs.ndim == 2 and pairs.shape[1] == 2, f"pairs of layer {layer}")
        _check_index(f"pairs of layer {layer}", pairs, teacher.mlp_hidden_size)
    for layer, grids in teacher.grids.items():
        for grid in grids:
            _check_grid(f"grids of layer {layer}", grid, teacher)
        _need(layer in layers[:-1], f"grids of layer {layer}")


def expected_shapes(teacher: Teacher) -> dict[str, tuple[int, int]]:
    """Names and shapes of a teacher's matrices."""
    width, heads, hidden = teacher.width, teacher.num_heads * teacher.key_size, teacher.mlp_hidden_size
    out = {"token_embed": (len(teacher.vocab), width), "pos_embed": (teacher.max_seq_len + 1, width)}
    for layer in range(teacher.num_layers):
        name = f"transformer/layer_{layer}"
        out |= {f"{name}/attn/{part}": (width, heads) for part in ("query", "key", "value")}
        out[f"{name}/attn/linear"] = (heads, width)
        out |= {f"{name}/mlp/linear_1": (width, hidden), f"{name}/mlp/linear_2": (hidden, width)}
    return out


def _check_coo(name: str, coo: Coo, shape: tuple[int, int]) -> None:
    _need(tuple(coo.shape) == shape, f"{name} is {coo.shape}, not {shape}")
    _need(
        coo.row.shape == coo.col.shape == coo.value.shape == (coo.value.size,),
        f"{name}: columns of unlike lengths",
    )
    _check_index(name, coo.row, shape[0])
    _check_index(name, coo.col, shape[1])
    _need(coo.value.dtype == np.float64 and bool(np.isfinite(coo.value).all()), f"{name}: values are no numbers")


def _check_grid(name: str, grid: Grid, teacher: Teacher) -> None:
    _need(grid.columns.shape == (grid.first.size, grid.second.size), f"{name} are {grid.columns.shape}")
    _need(grid.first.ndim == grid.second.ndim == 1, f"{name}: no lists of inputs")
    for index, limit in ((grid.first, teacher.width), (grid.second, teacher.width)):
        _check_index(name, index, limit)
    _check_index(name, grid.columns, teacher.mlp_hidden_size)


def _check_index(name: str, index: np.ndarray, limit: int) -> None:
    _need(np.issubdtype(index.dtype, np.integer), f"{name}: {index.dtype} in place of whole numbers")
    _need(not index.size or (int(index.min()) >= 0 and int(index.max()) < limit), f"{name}: beyond {limit}")


def _need(condition: Any, message: str) -> None:
    if not condition:
        raise ValueError(message)
