"""Exchange training: every operation of the program is learnt on states that mix the variables of several rows.

The published method cuts what is not the result once, before the answer. Here the same is done before every block
that reads an aligned state: in an extra set of rows each variable's coordinates become those of another row, every
variable from a row of its own, and the target is what the teacher's next layer makes of exactly that mixture. No
variable then predicts another, so a block can only compute its output from the variables that the program reads.

Of the exchanged rows some are mixed at every layer, so that all operations are learnt at once and without errors
from the layers below; the others are mixed at one layer and run freely from there on, the teacher too: without
them each block adds a little noise to what it only carries, and the chain decays.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from tracr_jax.config import ExchangeConfig, LossConfig
from tracr_jax.intervene import LayerEdit, project
from tracr_jax.lm.base import LanguageModel
from tracr_jax.teacher.model import Teacher
from tracr_jax.train import losses as L
from tracr_jax.train.mixing import Mix, draw_mix, mixed_states, mixed_targets, variable_of
from tracr_jax.train.reserved import Reserved
from tracr_jax.train.step import (
    Batches,
    Frozen,
    LossFn,
    Metrics,
    ResidualsFn,
    RowsFn,
    StepShape,
    TrainParams,
    anywhere,
    retention,
    wide,
)  # fmt: skip
from tracr_jax.types import Batch, Codes

_BELOW = 0.3  # weight of the layers up to the exchange in a row that runs freely from there on
_CLEAN_POWER = 0.3  # `ExchangeConfig.rare_power` of clean rows, which hold what the task's items hold


def reading_loss(
    reserved: Reserved,
    read: Float[Array, "l B S C"],
    target: Float[Array, "l B S C"],
    weights: Float[Array, "l B S"],
    *,
    layers: slice,
    rare_power: float,
    own: Float[Array, "l B S C"] | None = None,
    changed_weight: float = 1.0,
) -> Float[Array, " V"]:
    """Cross-entropy (nats) of every variable: weighted mean over rows and positions, then over its layers.

    Of all these l layers, those before the variable is written count as 0, as the recipe was measured; one that is
    aligned until its last reader only weighs as much as if it were aligned to the end.

    Args:
      reserved: the variables.
      read: logits of the classes, from `Reserved.readout`.
      target: the classes as one-hots, from `Reserved.classes`.
      weights: of each position.
      layers: which of the teacher's layers these l are.
      rare_power: values weigh by their frequency to the power of minus this.
      own: the row's own classes; where the target differs, a position weighs `changed_weight`.
      changed_weight: see `own`.
    """
    out = []
    for g, alive, factor in _groups(reserved, layers):
        z, r, o = (reserved.group(x, g) for x in (read, target, target if own is None else own))
        held = alive * weights[..., None] * (jnp.max(r, axis=-1) > 0.5)
        hot = (r > 0.5) * held[..., None]
        count = jnp.maximum(jnp.sum(hot, axis=(1, 2), keepdims=True), 1.0)
        w = jnp.sum(hot * count**-rare_power, axis=-1) * _changed(r, o, changed_weight)
        out.append(factor * _mean(-jnp.sum(r * jax.nn.log_softmax(z), axis=-1), w))
    return jnp.concatenate(out)


def distance_loss(
    reserved: Reserved,
    codes: Codes,
    hidden: Float[Array, "l B S d"],
    target: Float[Array, "l B S C"],
    weights: Float[Array, "l B S"],
    *,
    layers: slice,
    own: Float[Array, "l B S C"] | None = None,
    changed_weight: float = 1.0,
) -> Float[Array, " V"]:
    """Squared distance to the target's centroid in units of sigma, mean over directions; else as `reading_loss`.

    Its gradient reaches the states only: the centroids stay where reading and writing put them.
    """
    places, held = reserved.encode(jax.lax.stop_gradient(codes), target)
    error = jnp.square((hidden @ reserved.basis(codes) - places) / reserved.sigma)
    out = []
    for g, alive, factor in _groups(reserved, layers):
        r, o = (reserved.group(x, g) for x in (target, target if own is None else own))
        part = slice(g.coordinate, g.coordinate + g.n * g.k)
        each = error[..., part].reshape(*error.shape[:-1], g.n, g.k)
        w = alive * weights[..., None] * held[..., part][..., :: g.k]
        out.append(factor * _mean(jnp.mean(each, axis=-1), w * _changed(r, o, changed_weight)))
    return jnp.concatenate(out)


def _groups(reserved: Reserved, layers: slice):
    for g in reserved.groups:
        alive = reserved.alive[layers, g.variable : g.variable + g.n]
        from_first = np.maximum.accumulate(alive, axis=0).sum(axis=0)
        factor = from_first / np.maximum(alive.sum(axis=0), 1)
        yield g, jnp.asarray(alive, jnp.float32)[:, None, None], jnp.asarray(factor, jnp.float32)


def _changed(target, own, weight):
    return 1.0 + (weight - 1.0) * (jnp.max(jnp.abs(own - target), axis=-1) > 0.5)


def _mean(loss: Float[Array, "l B S n"], weights: Float[Array, "l B S n"]) -> Float[Array, " n"]:
    total = jnp.maximum(jnp.sum(weights, axis=(1, 2)), 1e-6)
    return jnp.mean(jnp.sum(loss * weights, axis=(1, 2)) / total, axis=0)


class Written(NamedTuple):
    """What is put before the blocks of the exchanged rows, layer by layer."""

    places: Float[Array, "L1 B S X"]  # coordinates, noise included
    held: Float[Array, "L1 B S X"]  # 1 where they are put


def make_edit(
    reserved: Reserved,
    codes: Codes,
    written: Written,
    mix: Mix,
    *,
    states: Sequence[int],
    result: str,
    keep_rows: RowsFn,
) -> LayerEdit:
    """The edit of a pass over clean and exchanged rows side by side; see `interleave`.

    Clean rows are cut before the block that reads the last aligned state: the result's coordinates stay, all else
    is that of another row, and no gradient passes. In exchanged rows the coordinates of what the plan exchanges
    are written before every block that reads an aligned state; the rest of the state stays, without gradient.

    Args:
      reserved: the variables.
      codes: their codes; the gradient of what is written reaches the centroids.
      written: what is written.
      mix: which rows are written at which layer.
      states: the LM state of each teacher layer.
      result: name of the result variable.
      keep_rows: see `tracr_jax.train.mesh.keep_rows`.
    """
    q = reserved.basis(codes)
    answer = q[:, reserved.coordinates(result)]
    top = states[-1]
    layer_of = np.full(top + 1, -1)
    layer_of[list(states)] = np.arange(len(states))

    def cut(h):
        h = jax.lax.stop_gradient(h)
        inside = project(h, answer.astype(h.dtype))
        return inside + jnp.roll(h - inside, 1, axis=0)

    def write(h, layer):
        h = jax.lax.stop_gradient(h)
        change = written.held[layer] * (written.places[layer] - h @ q.astype(h.dtype))
        return h + (change @ q.T).astype(h.dtype)

    def fn(h, i):
        clean, exchanged = apart(h)
        layer = jnp.where(i <= top, jnp.asarray(layer_of)[jnp.minimum(i, top)], -1)
        here = (layer >= 0) & mix.at(layer)
        clean = jnp.where(i == top, cut(clean), clean)
        exchanged = jnp.where(here[:, None, None], write(exchanged, jnp.maximum(layer, 0)), exchanged)
        return keep_rows(interleave(clean, exchanged))

    return LayerEdit(fn)


def interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    """Rows a0, b0, a1, b1, …: each device keeps its rows of both."""
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def apart(x: jax.Array, axis: int = 0) -> tuple[jax.Array, jax.Array]:
    """The inverse of `interleave`, rows on `axis`."""
    x = x.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    return jnp.take(x, 0, axis=axis + 1), jnp.take(x, 1, axis=axis + 1)


def make_exchange_loss_fn(
    model: LanguageModel,
    residuals: ResidualsFn,
    teacher: Teacher,
    *,
    reserved: Reserved,
    marker: int,
    losses: LossConfig,
    config: ExchangeConfig,
    shape: StepShape,
    seed: int = 0,
    keep_rows: RowsFn = anywhere,
) -> LossFn:
    """The loss of exchange training of one program, a function of the same arguments as `make_loss_fn`'s.

    Every row of the batch runs twice in one pass: as it is and exchanged. Clean rows are aligned at layer 0 only,
    and asked; exchanged rows are aligned at all layers above, and asked where they are mixed at every layer.

    Args:
      model: the language model.
      residuals: (φ, teacher ids, edit=None) -> r_0..r_L.
      teacher: the compiled program.
      reserved: which variables stand where.
      marker: the teacher direction of the token at which the answer begins.
      losses: weights of retention and of the answer's positions.
      config: see `ExchangeConfig`.
      shape: static facts of the run.
      seed: with the step, decides the mixtures and the noise.
      keep_rows: see `tracr_jax.train.mesh.keep_rows`.

    Returns:
      The loss function. Its terms: "supervised" and "supervised_exchanged" (nats per answer token), "alignment"
      (nats) and "distance" (sigma²), each of clean plus exchanged rows and a mean over layers and variables,
      "alignment_parts" (exchanged rows, one per variable of `reserved`), "size", "retention", "answer_accuracy".
    """
    names = [v.name for v in teacher.variables]
    owner = variable_of(teacher)
    result = names[owner[shape.result_rows[0]]]
    states = shape.layers.states(shape.depth)
    alive = reserved.by_coordinate(reserved.alive)[:, None, None].astype(np.float32)

    def teach(phi: Any, batch: Batch, key: Array) -> tuple[Mix, tuple[jax.Array, ...], jax.Array]:
        """(the plan; classes of rows as they are, mixed, and after each layer; where an answer begins)."""
        mix = draw_mix(key, variables=len(names), rows=len(batch.ids), layers=teacher.num_layers, config=config)
        own = wide(jax.lax.stop_gradient(residuals(phi, batch.teacher_ids)))
        mixed = mixed_states(own, mix, owner)
        target = wide(jax.lax.stop_gradient(mixed_targets(residuals, phi, batch.teacher_ids, mixed, mix)))
        # BOS has no position in the language model.
        classes = tuple(keep_rows(reserved.classes(x[:, :, 1:]), axis=1) for x in (own, mixed, target))
        return mix, classes, target[:, :, 1:, marker] > 0.5

    def align(codes: Codes, hidden, own, target, item, answer_mask, begins, mix) -> tuple[jax.Array, ...]:
        """(reading of clean rows, of exchanged rows, distance of both), [V] each."""
        clean, exchanged = apart(wide(hidden), axis=1)
        readout, low, high = reserved.readout(codes), slice(0, 1), slice(1, None)
        weights = (item * (1 + (losses.answer_alignment - 1) * answer_mask))[None]
        beyond = jnp.arange(1, len(own))[:, None] > mix.layer[None]
        share = jnp.where(beyond, 1.0, _BELOW)[:, :, None]
        weights_x = share * item[None] * (1 + (config.marker_weight - 1) * begins[high])
        first, later = (L.apply_adapter(readout, x) for x in (clean[low], exchanged[high]))
        changed = {"own": own[high], "changed_weight": config.changed_weight, "layers": high}
        read = reading_loss(reserved, first, own[low], weights, layers=low, rare_power=_CLEAN_POWER)
        read_x = reading_loss(reserved, later, target[high], weights_x, rare_power=config.rare_power, **changed)
        far = distance_loss(reserved, codes, clean[low], own[low], weights, layers=low)
        far_x = distance_loss(reserved, codes, exchanged[high], target[high], weights_x, **changed)
        return read, read_x, far + far_x

    def loss_fn(
        params: TrainParams,
        frozen: Frozen,
        batches: Batches,
        progress: jax.typing.ArrayLike = 0.0,
        step: jax.typing.ArrayLike = 0,
    ) -> tuple[jax.Array, Metrics]:
        (codes,), (phi,), (batch,) = params.adapters, frozen.teachers, batches
        assert isinstance(codes, Codes)
        key, noise_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        ids, mask = keep_rows(batch.ids), keep_rows(batch.answer_mask)
        where, answers, weights = L.answer_positions(ids, mask, count=shape.max_answers)
        mix, (own, mixed, target), begins = teach(phi, batch, key)
        places, held = reserved.encode(codes, mixed)
        places += config.noise * reserved.sigma * jax.random.normal(noise_key, places.shape)
        written = Written(places, held * jnp.asarray(alive))
        edit = make_edit(reserved, codes, written, mix, states=states, result=result, keep_rows=keep_rows)
        asked = mix.source[names.index(result)]  # whose answer the written result is
        both = keep_rows(interleave(ids, ids))
        read = {"edit": edit, "logit_positions": interleave(where, where[asked])}
        if losses.retention_weight:
            out, text = model.apply_beside(params.lm, both, batch.text_ids, **read)
        else:
            out, text = model.apply(params.lm, both, **read), None

        terms: Metrics = {}
        logits, logits_x = apart(wide(out.logits))
        terms["supervised"] = L.weighted_cross_entropy(logits, answers, weights)
        right = jnp.sum((jnp.argmax(logits, axis=-1) == answers) * weights)
        terms["answer_accuracy"] = right / jnp.maximum(jnp.sum(weights), 1.0)
        weights_x = weights[asked] * ~mix.free[:, None]
        terms["supervised_exchanged"] = L.weighted_cross_entropy(logits_x, answers[asked], weights_x)
        hidden = shape.aligned(out.hidden)
        item = L.item_positions(ids, pad_id=shape.pad_id).astype(jnp.float32)
        reading, reading_x, far = align(codes, hidden, own, target, item, mask, begins, mix)
        terms["alignment"], terms["distance"] = jnp.mean(reading + reading_x), jnp.mean(far)
        terms["alignment_parts"] = reading_x
        total = terms["supervised"] + terms["supervised_exchanged"]
        total += config.read_weight * terms["alignment"] + config.distance_weight * terms["distance"]
        if config.size_weight:
            over = jnp.mean(jnp.square(wide(hidden)), axis=-1) / reserved.sigma**2 - 1.0
            terms["size"] = jnp.mean(jax.nn.relu(over))
            total += config.size_weight * terms["size"]
        if text is not None:
            kl, priced = retention(model, frozen.lm, batch.text_ids, text.logits, losses, progress)
            terms["retention"] = kl
            total += priced
        terms["loss"] = total
        return total, terms

    return loss_fn
