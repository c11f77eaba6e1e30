"""What the compiled network holds at BOS, and whether one of its heads takes that for a position of the input.

Heads take BOS for the place where nothing stands: its score is half that of a selected position, its value is 0.
But tracr's steps of a number write there what they make of 0, and several SelectorWidths of a layer clean it more
often than they wrote (docs/teacher.md §5.2). Where a head reads that, as a key or as its default, the network is
not the program. BOS sees only itself, so its state is one vector.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float

from tracr_jax.teacher.blocks import Head
from tracr_jax.teacher.model import Coo, Teacher

_NOTHING = 1e-6  # rounding


def state_at_bos(teacher: Teacher) -> Float[np.ndarray, " D"]:
    """The last state r_L at BOS, in float64: what every reader finds, since no variable is overwritten."""
    weights = teacher.weights
    embedded = weights["token_embed"], weights["pos_embed"]
    x = _times(_row(teacher.bos_id, embedded[0]), embedded[0]) + _times(_row(0, embedded[1]), embedded[1])
    for layer in range(teacher.num_layers):
        at = f"transformer/layer_{layer}"
        x = x + _times(_times(x, weights[f"{at}/attn/value"]), weights[f"{at}/attn/linear"])
        hidden = np.maximum(_times(x, weights[f"{at}/mlp/linear_1"]), 0.0)
        x = x + _times(hidden, weights[f"{at}/mlp/linear_2"])
    return x


def read_at_bos(teacher: Teacher, heads: Mapping[str, Head], *, selects: Callable[[str], bool]) -> str | None:
    """The first variable whose head finds at BOS what is no position's; `selects` says which never find nothing.

    Args:
      teacher: the compiled program.
      heads: of each Aggregate and SelectorWidth.
      selects: whether the selector of this variable selects something at every position.
    """
    state = state_at_bos(teacher)
    at = {d: float(x) for d, x in zip(teacher.directions, state, strict=True)}
    for label, head in heads.items():
        keys = np.array([at[d] for d in head.keys[:-1]])  # the last is BOS itself
        if np.any(np.abs(head.qk[:, :-1] @ keys) > _NOTHING):
            return label
        moved = [source for source, _ in head.moves if source != head.keys[-1]]
        if any(abs(at[d]) > _NOTHING for d in moved) and not selects(label):
            return label
    return None


def _times(x: Float[np.ndarray, " n"], w: Coo) -> Float[np.ndarray, " m"]:
    # Of a matrix without entries NumPy makes integers.
    return np.bincount(w.col, x[w.row] * w.value, minlength=w.shape[1]).astype(np.float64)


def _row(i: int, w: Coo) -> Float[np.ndarray, " n"]:
    out = np.zeros(w.shape[0])
    out[i] = 1.0
    return out
