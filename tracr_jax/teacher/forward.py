"""The teacher's residual stream r_0..r_L under jit, from its sparse weights, and the dense form it must equal.

Implements docs/method.md §1.1 and docs/teacher.md §3c, §4. Per layer: gathers of the directions that are read,
small dense matrices, one gather that puts the written directions in place. Differences from tracr's dense float32
forward: steps are computed as clip(z + 1, 0, 1) and not as a difference of two large relus, the same function
without its rounding error (1.9 against 1.6e-7 for dyck 40), and every product has the highest precision.
`dense_residuals` is the literal form. `last_state` runs the same layers in NumPy: compiling one forward pass takes
longer than running it on some hundred inputs.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.errors import UserError
from tracr_jax.intervene import Edit, check_blocks, edited
from tracr_jax.teacher.model import Coo, Grid, Teacher
from tracr_jax.types import EXACT, Array, Residuals

Phi = Any  # a plain tree of arrays


def make_forward(teacher: Teacher, *, dtype: Any = jnp.float32) -> tuple[Phi, Callable[..., Residuals]]:
    """Weights φ and the function (φ, ids [B, T], BOS first, edit=None) -> r_0..r_L [L+1, B, T, D].

    φ is a tree of arrays to be passed as a jit argument; the structure (which directions are read and written) is
    static. No gradient flows into φ. An id outside the vocabulary gives NaN, visibly, where tracr gives a wrong
    state silently (docs/teacher.md §5.4). An edit of block l - 1 replaces r_l, as in the LM; layers l.. read it.

    Raises (when called):
      UserError: T exceeds the position table.
    """
    phi, runs = _parts(teacher)
    phi = jax.tree.map(lambda x: jnp.asarray(x, dtype), phi)
    limit = teacher.max_seq_len + 1

    def residuals(phi: Phi, ids: Int[Array, "B T"], *, edit: Edit | None = None) -> Residuals:
        chex.assert_rank(ids, 2)
        chex.assert_type(ids, int)
        if ids.shape[1] > limit:
            raise UserError(
                f"teacher: {ids.shape[1]} positions, its table holds {limit} with BOS; compile a longer one"
            )
        check_blocks(edit, len(runs))
        phi = jax.lax.stop_gradient(phi)
        # A negative id would be counted from the end of the vocabulary.
        tokens = phi["tokens"].at[ids].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        x = tokens + phi["positions"][None, : ids.shape[1]]
        states = [x]
        for i, (run, weights) in enumerate(zip(runs, phi["layers"], strict=True)):
            x = edited(run(weights, edited(x, edit, i, before=True)), edit, i, before=False)
            states.append(x)
        return jnp.stack(states)

    return phi, residuals


def last_state(teacher: Teacher) -> Callable[[Int[np.ndarray, "B T"]], Float[np.ndarray, "B T D"]]:
    """The function ids (BOS first) -> r_L that NumPy computes in float32 from the layers of `make_forward`.

    Ids and T must be within the teacher's tables.
    """
    states = _in_numpy(teacher)

    def run(ids: Int[np.ndarray, "B T"]) -> Float[np.ndarray, "B T D"]:
        for x in states(ids):
            last = x
        return last

    return run


def all_states(teacher: Teacher) -> Callable[[Int[np.ndarray, "B T"]], Float[np.ndarray, "L1 B T D"]]:
    """The function ids (BOS first) -> r_0..r_L, as `last_state`: for a few texts sooner than what is compiled."""
    states = _in_numpy(teacher)
    return lambda ids: np.stack(list(states(ids)))


def _in_numpy(teacher: Teacher) -> Callable[[Int[np.ndarray, "B T"]], Iterator[Float[np.ndarray, "B T D"]]]:
    phi, runs = _parts(teacher)
    phi = jax.tree.map(lambda x: np.asarray(x, np.float32), phi)

    def states(ids):
        x = phi["tokens"][ids] + phi["positions"][None, : ids.shape[1]]
        yield x
        for layer, weights in zip(runs, phi["layers"], strict=True):
            x = layer(weights, x)
            yield x

    return states


def dense_residuals(
    params: Mapping[str, Mapping[str, Array]], ids: Int[Array, "B T"], *, num_heads: int
) -> Residuals:
    """r_0..r_L as docs/method.md §1.1 writes them, from parameters under tracr's names (`Teacher.densify`)."""
    b, t = ids.shape
    x = params["token_embed"]["embeddings"][ids] + params["pos_embed"]["embeddings"][:t][None]
    states = [x]

    def linear(x, name):
        return jnp.matmul(x, params[name]["w"], precision=EXACT) + params[name]["b"][None, None]

    for i in range(1 + max(int(n.split("/")[1].removeprefix("layer_")) for n in params if "/" in n)):
        at = f"transformer/layer_{i}"
        q, k, v = (linear(x, f"{at}/attn/{n}").reshape(b, t, num_heads, -1) for n in ("query", "key", "value"))
        mixed = _attend(q, k, v, key_size=q.shape[-1])
        x = x + linear(mixed.reshape(b, t, -1), f"{at}/attn/linear")
        x = x + linear(jax.nn.relu(linear(x, f"{at}/mlp/linear_1")), f"{at}/mlp/linear_2")
        states.append(x)
    return jnp.stack(states)


def _parts(teacher: Teacher) -> tuple[dict[str, Any], list[Callable]]:
    """The weights φ (float64, NumPy), and for each layer the function that applies them."""
    parts = [_layer(teacher, i) for i in range(teacher.num_layers)]
    phi = {
        "tokens": teacher.weights["token_embed"].dense(),
        "positions": teacher.weights["pos_embed"].dense(),
        "layers": [weights for weights, _ in parts],
    }
    return phi, [run for _, run in parts]


# What follows takes the arrays of JAX or of NumPy.


def _attend(q, k, v, *, key_size: int):
    if isinstance(q, np.ndarray):
        return _attend_in_numpy(q, k, v, key_size=key_size)
    scores = jnp.einsum("bthk,bshk->bhts", q, k, precision=EXACT) / np.asarray(key_size**0.5, q.dtype)
    causal = np.tril(np.ones((1, 1, q.shape[1], q.shape[1]), bool))
    weights = jax.nn.softmax(jnp.where(causal, scores, -jnp.inf))
    return jnp.einsum("bhts,bshv->bthv", weights, v, precision=EXACT)


def _attend_in_numpy(q, k, v, *, key_size: int):
    q, k, v = (np.ascontiguousarray(x.transpose(0, 2, 1, 3)) for x in (q, k, v))  # b h t ·
    scores = q @ k.swapaxes(-1, -2) / np.float32(key_size**0.5)
    scores[..., ~np.tri(q.shape[2], dtype=bool)] = -np.inf
    scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
    scores[scores < np.finfo(np.float32).tiny] = 0.0  # as XLA does: subnormal numbers are some ten times slower
    return (scores / scores.sum(axis=-1, keepdims=True) @ v).transpose(0, 2, 1, 3)


def _read(x, index):
    # NumPy's own indexing leaves the last axis strided, which its products do not like.
    return np.take(x, index, axis=-1) if isinstance(x, np.ndarray) else x[..., index]


def _matmul(x, w):
    if isinstance(x, np.ndarray):
        # In full: nothing may be read, as for a number that is 0 everywhere.
        return (x.reshape(math.prod(x.shape[:-1]), x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[-1])
    return jnp.matmul(x, w, precision=EXACT)


def _each(x, w):
    """One matrix for each of n: [B, T, n, i] and [n, i, o] -> [B, T, n, o]."""
    if isinstance(x, np.ndarray):
        return np.stack([_matmul(np.ascontiguousarray(x[:, :, n]), w[n]) for n in range(len(w))], axis=2)
    return jnp.einsum("btni,nio->btno", x, w, precision=EXACT)


def _relu(x):
    return np.maximum(x, 0) if isinstance(x, np.ndarray) else jax.nn.relu(x)


def _multiply(x, y, table):
    """relu(x_i + y_j - 1) of n pairs [B, T, n, a], [B, T, n, b] with a table [n, a·b, o] each -> [B, T, n, o]."""
    both = _relu(x[..., :, None] + y[..., None, :] - 1)
    return _each(both.reshape(*both.shape[:3], -1), table)


def _multiply_in_numpy(x, y, table):
    # Nearly always both are one-hot and one product is left; where more may be, all of that pair are computed.
    most_x, most_y = x.max(axis=-1, keepdims=True), y.max(axis=-1, keepdims=True)
    single = (np.sum(x + most_y - 1 > 0, axis=-1) <= 1) & (np.sum(most_x + y - 1 > 0, axis=-1) <= 1)
    unit = x.argmax(axis=-1) * y.shape[-1] + y.argmax(axis=-1)
    out = _relu(most_x + most_y - 1) * table[np.arange(len(table)), unit]
    for n, some in enumerate(np.moveaxis(~single, -1, 0)):
        if some.any():
            out[some, n] = _multiply(x[some, n][:, None, None], y[some, n][:, None, None], table[[n]])[:, 0, 0]
    return out


def _layer(teacher: Teacher, layer: int) -> tuple[dict, Callable]:
    """One layer's small matrices (float64), and the function that applies them."""
    at = f"transformer/layer_{layer}"
    w = {n: teacher.weights[f"{at}/attn/{n}"] for n in ("query", "key", "value", "linear")}
    heads, attn = _attention(w, heads=teacher.num_heads, key_size=teacher.key_size)
    fst, snd = teacher.weights[f"{at}/mlp/linear_1"], teacher.weights[f"{at}/mlp/linear_2"]
    pairs = teacher.pairs.get(layer, np.zeros((0, 2), np.int32))
    units, mlp = _mlp(fst, snd, pairs, teacher.grids.get(layer, ()))

    def run(weights, x):
        return mlp(weights["mlp"], attn(weights["attn"], x))

    return {"attn": heads, "mlp": units}, run


def _attention(w: dict[str, Coo], *, heads: int, key_size: int) -> tuple[dict, Callable]:
    width = w["query"].shape[0]
    found = []
    for h in range(heads):
        low, high = h * key_size, (h + 1) * key_size
        if not np.any((w["linear"].row >= low) & (w["linear"].row < high)):
            continue  # writes nothing
        query, key, value = (_columns(w[n], low, high) for n in ("query", "key", "value"))
        linear = _columns(_transposed(w["linear"]), low, high)
        scores = query[1] @ key[1].T
        moved = value[1] @ linear[1].T
        a, b = np.nonzero(moved)
        found.append((query[0], key[0], scores, value[0][a], linear[0][b], moved[a, b]))
    if not found:
        return {}, lambda weights, x: x
    queries, keys, moves = (max(len(f[i]) for f in found) for i in (0, 1, 3))
    qi, ki, vi = (np.zeros((len(found), n), np.int32) for n in (queries, keys, moves))
    qk, ov = np.zeros((len(found), queries, keys)), np.zeros((len(found), moves))
    sources, targets = [], []
    for h, (q, k, scores, source, to, weight) in enumerate(found):
        qi[h, : len(q)], ki[h, : len(k)], vi[h, : len(source)] = q, k, source
        qk[h, : len(q), : len(k)] = scores
        ov[h, : len(source)] = weight
        sources += [h * moves + i for i in range(len(to))]
        targets += to.tolist()
    place, mix = _placement(sources, targets, count=len(found) * moves, width=width)
    weights = {"qk": qk, "ov": ov} | ({} if mix is None else {"mix": mix})

    def run(weights, x):
        q = _each(_read(x, qi), weights["qk"])
        v = _read(x, vi) * weights["ov"][None, None]
        mixed = _attend(q, _read(x, ki), v, key_size=key_size)
        return x + _place(mixed.reshape(*x.shape[:2], -1), place, weights.get("mix"))

    return weights, run


def _mlp(fst: Coo, snd: Coo, pairs: np.ndarray, grids: tuple[Grid, ...]) -> tuple[dict, Callable]:
    """Steps and plain units share one output matrix; maps of two arguments are batched by their shape."""
    if not len(snd.row):
        return {}, lambda weights, x: x
    width = fst.shape[0]
    special = np.zeros(fst.shape[1], bool)
    special[pairs.ravel()] = True
    for grid in grids:
        special[grid.columns] = True
    active = np.zeros(fst.shape[1], bool)
    active[snd.row] = True
    plain = np.flatnonzero(active & ~special)
    weights: dict[str, np.ndarray] = {}
    steps = np.concatenate([pairs[:, 0], plain]).astype(np.int64)
    # The second unit of a step is relu(z), the first relu(z + 1): only z is needed.
    read, w1 = _columns_of(fst, np.concatenate([pairs[:, 1], plain]).astype(np.int64))
    written, w2 = _columns_of(_transposed(snd), steps)
    count = len(pairs)
    sources, targets = list(range(len(written))), written.tolist()
    if len(steps):
        weights |= {"in": w1, "out": w2.T}
    shapes: dict[tuple[int, int], list[Grid]] = {}
    for grid in grids:
        shapes.setdefault(grid.columns.shape, []).append(grid)
    products = []
    for (a, b), members in shapes.items():
        outs = [_columns_of(_transposed(snd), g.columns.ravel().astype(np.int64)) for g in members]
        most = max(len(to) for to, _ in outs)
        table = np.zeros((len(members), a * b, most))
        base = len(written) + sum(len(p[0]) * p[3] for p in products)
        for n, (to, matrix) in enumerate(outs):
            table[n, :, : len(to)] = matrix.T
            sources += [base + n * most + i for i in range(len(to))]
            targets += to.tolist()
        xi, yi = (np.stack([getattr(g, side) for g in members]) for side in ("first", "second"))
        weights[f"table_{a}_{b}"] = table
        products.append((xi, yi, f"table_{a}_{b}", most))
    total = len(written) + sum(len(p[0]) * p[3] for p in products)
    place, mix = _placement(sources, targets, count=total, width=width)
    weights |= {} if mix is None else {"mix": mix}

    def run(weights, x):
        outs, xp = [], np if isinstance(x, np.ndarray) else jnp
        if "in" in weights:
            z = _matmul(_read(x, read), weights["in"])
            z = xp.concatenate([xp.clip(z[..., :count] + 1, 0, 1), _relu(z[..., count:])], axis=-1)
            outs.append(_matmul(z, weights["out"]))
        for xi, yi, name, _ in products:
            multiply = _multiply_in_numpy if isinstance(x, np.ndarray) else _multiply
            outs.append(multiply(_read(x, xi), _read(x, yi), weights[name]).reshape(*x.shape[:2], -1))
        return x + _place(xp.concatenate(outs, axis=-1), place, weights.get("mix"))

    return weights, run


def _placement(sources, targets, *, count: int, width: int):
    """Gather index [width] that puts outputs in place (`count` = nothing); a matrix where two share a place."""
    place = np.full(width, count, np.int32)
    if len(set(targets)) < len(targets):
        mix = np.zeros((count, width))
        mix[sources, targets] = 1.0
        return place, mix
    place[targets] = sources
    return place, None


def _place(out, place, mix):
    if mix is not None:
        return _matmul(out, mix)
    if isinstance(out, np.ndarray):
        written = np.zeros((*out.shape[:-1], len(place)), out.dtype)
        at = np.flatnonzero(place < out.shape[-1])
        written[..., at] = out[..., place[at]]
        return written
    return out.at[..., place].get(mode="fill", fill_value=0)


def _transposed(coo: Coo) -> Coo:
    return Coo.of((coo.col, coo.row, coo.value), (coo.shape[1], coo.shape[0]))


def _columns(coo: Coo, low: int, high: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows that columns low..high-1 use, and the dense block [rows, high - low]."""
    return _columns_of(coo, np.arange(low, high))


def _columns_of(coo: Coo, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    position = np.full(coo.shape[1], -1)
    position[columns] = np.arange(len(columns))
    keep = position[coo.col] >= 0
    rows, where = np.unique(coo.row[keep], return_inverse=True)
    block = np.zeros((len(rows), len(columns)))
    block[where, position[coo.col[keep]]] = coo.value[keep]
    return rows, block
