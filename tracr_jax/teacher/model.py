"""What a compiled program is: sizes, labels, variables and sparse weights.

Implements docs/method.md §1.1 and docs/teacher.md §2: tracr's transformer with every weight as (row, column,
value) triples. Biases are zero in compiled models and are only made by `densify`.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tracr_jax.errors import UserError

Direction = tuple[str, Any]  # (variable name, value); the value is None for a single-coordinate direction


class Coo(NamedTuple):
    """A sparse matrix (in, out): entries at (row, col), each place at most once, sorted by row then column."""

    row: Int[np.ndarray, " n"]
    col: Int[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    shape: tuple[int, int]

    @classmethod
    def of(cls, entries: Sequence[Any], shape: tuple[int, int]) -> "Coo":
        """From (rows, columns, values): sums entries that share a place, and drops those that cancel."""
        row, col, value = entries
        row, col = np.asarray(row, np.int64), np.asarray(col, np.int64)
        place, where = np.unique(row * shape[1] + col, return_inverse=True)
        total = np.zeros(len(place))
        np.add.at(total, where, np.asarray(value, np.float64))
        keep = total != 0.0
        place = place[keep]
        return cls((place // shape[1]).astype(np.int32), (place % shape[1]).astype(np.int32), total[keep], shape)

    def dense(self, dtype: Any = np.float64) -> np.ndarray:
        """The full matrix."""
        out = np.zeros(self.shape, dtype)
        out[self.row, self.col] = self.value
        return out


class Grid(NamedTuple):
    """Hidden units relu(x_i + y_j - 1) of a two-argument map: columns[i, j] reads first[i] and second[j]."""

    first: Int[np.ndarray, " a"]
    second: Int[np.ndarray, " b"]
    columns: Int[np.ndarray, "a b"]


@dataclass(frozen=True)
class Variable:
    """A named variable of the program and its directions in the residual stream.

    `writer_layer` is the first l for which r_l holds the value (0: the embedding writes it); the directions are
    contiguous and in tracr's order, one per value for a categorical variable, one in all for a numerical one.
    """

    name: str
    kind: str  # "categorical" or "numerical"
    indices: tuple[int, ...]
    values: tuple[Any, ...]  # beside indices; () for a numerical variable
    writer_layer: int


@dataclass(frozen=True, eq=False)
class Teacher:
    """A compiled program. Weights are host arrays under Haiku's module names, without biases."""

    num_layers: int
    width: int
    num_heads: int
    key_size: int
    mlp_hidden_size: int
    max_seq_len: int  # without BOS
    mlp_exactness: float
    bos: Any
    pad: Any
    directions: tuple[Direction, ...]
    vocab: Mapping[Any, int]  # token value -> id, BOS and PAD included
    result: str  # full name of the result variable, "final_result_1"
    variables: tuple[Variable, ...]
    weights: Mapping[str, Coo]
    pairs: Mapping[int, Int[np.ndarray, "p 2"]] = field(default_factory=dict)  # layer -> units that form one step
    grids: Mapping[int, tuple[Grid, ...]] = field(default_factory=dict)  # layer -> two-argument maps

    @property
    def residual_labels(self) -> list[str]:
        """Give tracr's labels: `name:value`, or `name` where there is no value. Split at the first colon."""
        return [name if value is None else f"{name}:{value}" for name, value in self.directions]

    @property
    def bos_id(self) -> int:
        """Token id of BOS."""
        return self.vocab[self.bos]

    @property
    def pad_id(self) -> int:
        """Token id of PAD."""
        return self.vocab[self.pad]

    def variable(self, name: str) -> Variable:
        """The variable of that name, see `find_variable`."""
        return self.variables[find_variable(self.variables, name)]

    def result_indices(self, name: str = "final_result") -> tuple[int, ...]:
        """Residual directions of the result variable, one per value."""
        return self.variable(name).indices

    def encode(self, tokens) -> list[int]:
        """BOS and the ids of a token sequence.

        Raises:
          UserError: a token is not in the vocabulary, or the sequence is longer than the position table.
        """
        tokens = list(tokens)
        unknown = [t for t in tokens if t not in self.vocab]
        if unknown:
            raise UserError(f"teacher: token {unknown[0]!r} is not in its vocabulary {list(self.vocab)}")
        if len(tokens) > self.max_seq_len:
            raise UserError(
                f"teacher: {len(tokens)} tokens, its position table holds {self.max_seq_len}; "
                "compile it with a larger max_seq_len"
            )
        return [self.bos_id, *(self.vocab[t] for t in tokens)]

    def densify(self, dtype: Any = np.float32) -> dict[str, dict[str, np.ndarray]]:
        """Parameters exactly as tracr's: {module: {"w", "b"}} and {"token_embed", "pos_embed": {"embeddings"}}."""
        out = {}
        for name, coo in self.weights.items():
            if name.endswith("_embed"):
                out[name] = {"embeddings": coo.dense(dtype)}
            else:
                out[name] = {"w": coo.dense(dtype), "b": np.zeros(coo.shape[1], dtype)}
        return out


def find_variable(variables: Sequence[Variable], name: str) -> int:
    """Index of the variable of that name, or of the one whose name is that and tracr's counter.

    Source: docs/differences.md D37.

    Raises:
      UserError: no variable or several answer to it.
    """
    found = [i for i, v in enumerate(variables) if v.name == name]
    found = found or [i for i, v in enumerate(variables) if without_counter(v.name) == name]
    if len(found) != 1:
        known = ", ".join(v.name for v in variables)
        many = (
            f"{len(found)} variables ({', '.join(variables[i].name for i in found)}) are" if found else "none is"
        )
        raise UserError(f"of the program's variables {many} named {name!r}; it has {known}")
    return found[0]


def without_counter(name: str) -> str:
    """A variable's name as the program says it, without the number that tracr puts after it."""
    head, _, counter = name.rpartition("_")
    return head if counter.isdigit() and head else name


def list_variables(directions: Collection[Direction], writers: dict[str, int]) -> tuple[Variable, ...]:
    """Group sorted directions by name; variables that no layer writes come from the embedding."""
    groups: dict[str, list[tuple[int, Any]]] = defaultdict(list)
    for i, (name, value) in enumerate(directions):
        groups[name].append((i, value))
    out = []
    for name, members in groups.items():
        numerical = members[0][1] is None
        values = () if numerical else tuple(v for _, v in members)
        kind = "numerical" if numerical else "categorical"
        out.append(Variable(name, kind, tuple(i for i, _ in members), values, writers.get(name, 0)))
    return tuple(out)
