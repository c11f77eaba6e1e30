"""Low-rank updates of a model's projections (LoRA, arXiv 2106.09685): W + s·A·B beside the frozen W.

Every projection of the blocks may hold a pair of matrices beside its kernel: A [in, r], uniform as a new layer's
weights, and B [r, out], zero at first. The model computes x·W + s·(x·A)·B, so that neither a sum of the size of W
nor its gradient is ever formed. Parameters with pairs are parameters like any others; `merged` makes plain ones.

A merge is done in float64 by single multiplications and additions, never by a matrix product, whose order of
summation differs between machines: the same pairs on the same weights give the same bits everywhere. `unmerged`
can then take them off again to the bit, given the few bits that the rounding of the sum lost (`lost_bits`).
"""

from collections.abc import Mapping
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.dtypes import promote_dtype
from flax.traverse_util import flatten_dict, unflatten_dict

from tracr_jax.types import Params

A, B = "lora_a", "lora_b"
SCALE = 2.0
"""s, the same for every rank: LoRA's alpha is 2 r."""


class Dense(nn.Module):
    """Flax's dense layer, which adds its low-rank pair where its parameters hold one.

    Not a subclass of `nn.Dense`: a layer that calls its parent's method is called twice to tools that watch Flax
    modules (penzai).
    """

    features: int
    use_bias: bool = True
    dtype: Any = None
    kernel_init: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, inputs: jax.Array) -> jax.Array:
        """x·W + b, and s·(x·A)·B."""
        kernel = self.param("kernel", self.kernel_init, (inputs.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32) if self.use_bias else None
        x, w, b = promote_dtype(inputs, kernel, bias, dtype=self.dtype)
        y = jax.lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ())))
        y = y if b is None else y + jnp.reshape(b, (1,) * (y.ndim - 1) + (-1,))
        if not self.has_variable("params", A):
            return y
        one, two = (self.get_variable("params", name).astype(y.dtype) for name in (A, B))
        return y + SCALE * ((x @ one) @ two)


def init_pairs(params: Params, *, rank: int, key: jax.Array) -> Params:
    """The pairs of every projection of the blocks, in a tree of their own; with them the model computes the same.

    Args:
      params: of the model, for their shapes.
      rank: r.
      key: of A's initial values, uniform in ±1/√in.
    """
    kernels = {path: x for path, x in _flat(params).items() if _is_projection(path)}
    out = {}
    for (path, kernel), one in zip(kernels.items(), jax.random.split(key, len(kernels)), strict=True):
        *stack, fan_in, fan_out = kernel.shape
        bound = fan_in**-0.5
        shape = (*stack, fan_in, rank)
        out[(*path[:-1], A)] = jax.random.uniform(one, shape, kernel.dtype, minval=-bound, maxval=bound)
        out[(*path[:-1], B)] = jnp.zeros((*stack, rank, fan_out), kernel.dtype)
    return unflatten_dict(out)


def _flat(params: Params) -> dict[tuple[str, ...], Any]:
    return cast(Any, flatten_dict(params))


def _is_projection(path: tuple[str, ...]) -> bool:
    return path[0].startswith("block") and path[-1] == "kernel"


def split_pairs(params: Params) -> tuple[Params, Params]:
    """(the parameters without pairs, the pairs alone); the latter is empty where there are none."""
    flat = _flat(params)
    rest, pairs = ({k: x for k, x in flat.items() if (k[-1] in (A, B)) == own} for own in (False, True))
    return unflatten_dict(rest), unflatten_dict(pairs)


def merged(params: Params) -> Params:
    """Plain parameters that compute the same: each pair is added to its kernel, which becomes a NumPy array."""
    plain, pairs = map(_flat, split_pairs(params))
    for path in {k[:-1] for k in pairs}:
        w, a, b = (np.asarray(x) for x in (plain[(*path, "kernel")], pairs[(*path, A)], pairs[(*path, B)]))
        stacks = zip(*(x.reshape(-1, *x.shape[-2:]) for x in (w, a, b)), strict=True)
        plain[(*path, "kernel")] = np.stack([added(*one) for one in stacks]).reshape(w.shape)
    return unflatten_dict(plain)


def added(w: np.ndarray, a: np.ndarray, b: np.ndarray, *, scale: float = SCALE) -> np.ndarray:
    """W + s·A·B of one projection, [in, out], rounded to W's type."""
    return (w.astype(np.float64) + _product(a, b, scale)).astype(w.dtype)


def _product(a: np.ndarray, b: np.ndarray, scale: float) -> np.ndarray:
    """s·A·B in float64, rank by rank: the products are exact, and the sum has one order."""
    a, b = (x.astype(np.float64) for x in (a, b))
    total, term = np.zeros((a.shape[0], b.shape[1])), np.empty((a.shape[0], b.shape[1]))
    for column, row in zip(a.T, b, strict=True):
        np.multiply(column[:, None], row[None], out=term)
        total += term
    return scale * total


def lost_bits(w: np.ndarray, a: np.ndarray, b: np.ndarray, *, scale: float = SCALE) -> np.ndarray:
    """Which bits of the float32 W differ when the pair is added and subtracted again, [in, out] uint32.

    Nearly all are 0: a sum in the binade of W gives W back exactly. They compress to a few per cent of W.
    """
    back = _subtracted(added(w, a, b, scale=scale), a, b, scale)
    return w.astype(np.float32).view(np.uint32) ^ back.view(np.uint32)


def unmerged(m: np.ndarray, a: np.ndarray, b: np.ndarray, bits: np.ndarray, *, scale: float = SCALE) -> np.ndarray:
    """W of `added(W, a, b)`, to the bit; `bits` from `lost_bits`."""
    return (_subtracted(m, a, b, scale).view(np.uint32) ^ bits).view(np.float32)


def _subtracted(m, a, b, scale):
    return np.ascontiguousarray((m.astype(np.float64) - _product(a, b, scale)).astype(np.float32))


def joined(trained: Mapping[str, Any], frozen: Mapping[str, Any]) -> Params:
    """The union of two trees that share no leaf: what is trained, and what stays as it was."""
    out = dict(frozen)
    for key, value in trained.items():
        if key in frozen and not isinstance(frozen[key], Mapping):
            raise ValueError(f"both trees have a leaf {key!r}")
        out[key] = joined(value, frozen[key]) if key in frozen else value
    return out
