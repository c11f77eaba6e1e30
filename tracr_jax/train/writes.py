"""What is written into the states of the exchanged rows, and what is left as it is: attention sinks.

Source: docs/method.md §4.7.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from tracr_jax.intervene import LayerEdit, project
from tracr_jax.train.mixing import Mix
from tracr_jax.train.reserved import Reserved
from tracr_jax.train.step import RowsFn, at_least_float32
from tracr_jax.types import EXACT, Array, Codes

_SINK = 4.0  # times the median root mean square; in the bundled model no state is above twice


class Written(NamedTuple):
    """What is put before the blocks of the exchanged rows, layer by layer."""

    places: Float[Array, "L1 B S X"]  # coordinates, noise included
    held: Float[Array, "L1 B S X"]  # 1 where they are put


Write = Callable[[Array, int | Array], Array]
"""(the states of exchanged rows, the block that reads them) -> what it reads."""


def make_write(
    reserved: Reserved,
    codes: Codes,
    written: Written,
    mix: Mix,
    item: Bool[Array, "B S"],
    *,
    states: Sequence[int],
) -> Write:
    """What the blocks of exchanged rows read: the coordinates of what the plan exchanges are written.

    That is before every block that reads an aligned state; the rest of the state stays, without gradient, or where
    the plan says so becomes that of the row before. Attention sinks stay as they are, in their rows.

    Args:
      reserved: the variables.
      codes: their codes; the gradient of what is written reaches the centroids.
      written: what is written.
      mix: which rows are written at which layer.
      item: where a row holds a token and no padding.
      states: the LM state of each teacher layer.
    """
    q = reserved.basis(codes)
    alive = _alive(reserved)
    top = states[-1]
    layer_of = np.full(top + 1, -1)
    layer_of[list(states)] = np.arange(len(states))

    def at_layer(h, layer):
        h = jax.lax.stop_gradient(h)
        places = jnp.matmul(h, q.astype(h.dtype), precision=EXACT)
        change = written.held[layer] * (written.places[layer] - places)
        sinks = attention_sinks(h, item)
        change = jnp.where(sinks[..., None], 0, change)
        h_new = h + jnp.matmul(change, q.T, precision=EXACT).astype(h.dtype)
        if mix.outside is None:
            return h_new
        beside = h - jnp.matmul(places * alive[layer], q.T, precision=EXACT).astype(h.dtype)
        return h_new + jnp.where(mix.outside[:, None, None], _from_before(beside, sinks) - beside, 0)

    def write(h, i):
        layer = jnp.where(i <= top, jnp.asarray(layer_of)[jnp.minimum(i, top)], -1)
        here = (layer >= 0) & mix.at(layer)
        return jnp.where(here[:, None, None], at_layer(h, jnp.maximum(layer, 0)), h)

    return write


def make_edit(
    write: Write,
    answer: Float[Array, "d k"],
    item: Bool[Array, "B S"],
    *,
    top: int,
    keep_rows: RowsFn,
) -> LayerEdit:
    """The edit of a pass over clean and exchanged rows side by side; see `interleave`.

    Clean rows are cut before the block that reads the last aligned state: the result's coordinates stay, all else
    is that of another row, and no gradient passes. Attention sinks stay as they are, in their rows.

    Args:
      write: what is written into exchanged rows.
      answer: the result's directions.
      item: where a row holds a token and no padding.
      top: the last aligned state.
      keep_rows: see `tracr_jax.train.mesh.keep_rows`.
    """

    def cut(h):
        h = jax.lax.stop_gradient(h)
        inside = project(h, answer.astype(h.dtype))
        return inside + _from_before(h - inside, attention_sinks(h, item))

    def fn(h, i):
        clean, exchanged = deinterleave(h)
        clean = jnp.where(i == top, cut(clean), clean)
        return keep_rows(interleave(clean, write(exchanged, i)))

    return LayerEdit(fn)


def _from_before(x: Float[Array, "B S d"], sinks: Bool[Array, "B S"]) -> Float[Array, "B S d"]:
    """Each row of the row before it; attention sinks stay in their rows."""
    apart = sinks | jnp.roll(sinks, 1, axis=0)
    return jnp.where(apart[..., None], x, jnp.roll(x, 1, axis=0))


def interleave(a: Array, b: Array) -> Array:
    """Rows a0, b0, a1, b1, …: each device keeps its rows of both."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def deinterleave(x: Array, axis: int = 0) -> tuple[Array, Array]:
    """The inverse of `interleave`, rows on `axis`."""
    x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    return jnp.take(x, 0, axis=axis + 1), jnp.take(x, 1, axis=axis + 1)


def noisy_places(
    reserved: Reserved, codes: Codes, classes: Float[Array, "L1 B S C"], key: Array, *, noise: float
) -> Written:
    """The coordinates of these classes with noise (in units of sigma), where their variables are alive."""
    places, held = reserved.encode(codes, classes)
    places += noise * reserved.sigma * jax.random.normal(key, places.shape, places.dtype)
    return Written(places, held * _alive(reserved))


def mean_squares(h: Float[Array, "*rows S d"]) -> Float[Array, "*rows S"]:
    """The mean square of each state."""
    return jnp.mean(jnp.square(at_least_float32(h)), axis=-1)


def attention_sinks(h: Float[Array, "*layers B S d"], item: Bool[Array, "B S"]) -> Bool[Array, "*layers B S"]:
    """Where a state is so large that it holds no variable, without gradient; layer by layer.

    Pretrained models keep such states at the first token or two, for attention that wants to read nothing. In
    SmolLM2 their root mean square is 979 and that of the others 4 to 8: unless they are left out, they are all of
    a squared loss, and what is written there is lost.

    Args:
      h: states.
      item: where a row holds a token; what is large is told by the median of these.
    """
    size = jax.lax.stop_gradient(mean_squares(h))
    seen = jnp.where(jnp.broadcast_to(item, size.shape), size, jnp.nan)
    usual = jnp.nanmedian(seen, axis=(-2, -1), keepdims=True)
    return size > _SINK**2 * usual


def _alive(reserved: Reserved) -> Float[Array, "L1 1 1 X"]:
    """1 for the coordinates of the variables that a layer's state holds."""
    return jnp.asarray(reserved.by_coordinate(reserved.alive)[:, None, None].astype(np.float32))
