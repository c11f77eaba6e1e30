"""The one glossary of shapes, and the small structures that travel between modules.

| letter | meaning |
|---|---|
| B | batch: rows of items in one step |
| S | positions of an item (padded, fixed) |
| U | positions of a retention text |
| T | teacher positions: S + 1, with a BOS in front |
| N | blocks of the language model (LM) |
| d | width of the LM's residual stream |
| L | layers of the teacher |
| D | width of the teacher's residual stream |
| V | LM vocabulary |
| R | result rows: residual directions of the program's result variable |

An axis that differs from one array of a tuple to the next has a name that begins with _; axes that may also be 1,
or missing, are marked with #.

The paper's Greek: θ are the LM's parameters, θ₀ their frozen original, φ the teacher's, A = (W, b) the adapter.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

if TYPE_CHECKING:
    Array = jax.Array
else:  # what shapes are checked against in the tests: functions of arrays take NumPy's as well
    Array = jax.Array | np.ndarray

Params = Any  # a plain nested dict of arrays

# Of products that select, read or write values: unless it is told, a TPU computes float32 ones from bfloat16
# operands, a recent GPU from TF32. They are thin beside the model's own, which keep JAX's default.
EXACT = jax.lax.Precision.HIGHEST

# Residual streams, always [layer, batch, position, width].
Hidden = Float[Array, "N1 B S d"]  # N1 = N + 1 states h_0..h_N (or the first few of them)
Residuals = Float[Array, "L1 B T D"]  # L1 = L + 1 states r_0..r_L


class LMOutput(NamedTuple):
    """Everything a forward pass computes; jit removes what the caller does not use.

    hidden[i] is the input of block i (hidden[0] = token + position embedding); hidden[N] is taken after the
    final norm, as in Hugging Face's `output_hidden_states`.
    """

    logits: Float[Array, "B S V"]
    hidden: Hidden


class Batch(NamedTuple):
    """One training step's input: NumPy arrays on the host, JAX arrays inside the step."""

    ids: Int[Any, "B S"]
    answer_mask: Float[Any, "B S"]  # 1 where position s predicts an answer token s + 1
    teacher_ids: Int[Any, "B T"]  # BOS in front
    text_ids: Int[Any, "B2 U"]  # retention text; its batch size may differ from B
    starts: Int[Any, " B"] | None = None  # the model's position of each row's first token; None: 0


class Adapter(NamedTuple):
    """The affine map A: h -> W h + b, one for all layers and positions. W's rows are teacher directions."""

    weight: Float[Array, "D d"]
    bias: Float[Array, " D"]


class Codes(NamedTuple):
    """A reserved adapter among the trained parameters; see `tracr_jax.train.reserved.Reserved`."""

    basis: Float[Array, "d K"]  # orthonormal directions of the residual stream; never trained
    centroids: tuple[Float[Array, "_n _m _k"], ...]  # for each group of n variables: a point per class of values
    sharpness: Float[Array, " n"]  # logarithm, one for each of the n variables
