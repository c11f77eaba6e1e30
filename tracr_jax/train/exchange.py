"""Exchange training: every operation of the program is learnt on states that mix the variables of several rows.

The published method cuts what is not the result once, before the answer. Here the same is done before every block
that reads an aligned state: in an extra set of rows each variable's coordinates become those of another row, every
variable from a row of its own, and the target is what the teacher's next layer makes of exactly that mixture. No
variable then predicts another, so a block can only compute its output from the variables that the program reads.

Of the exchanged rows some are mixed at every layer, so that all operations are learnt at once and without errors
from the layers below; the others are mixed at one layer and run freely from there on, the teacher too: without
them each block adds a little noise to what it only carries, and the chain decays.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tracr_jax.config import ExchangeConfig, LossConfig
from tracr_jax.intervene import LayerEdit
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import first_blocks
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
    answer_terms,
    at_least_float32,
    positions_of,
    read_beside,
    retention,
    rows_of,
    unconstrained,
)  # fmt: skip
from tracr_jax.train.variable_losses import distance_loss, reading_loss
from tracr_jax.train.writes import (
    attention_sinks,
    deinterleave,
    interleave,
    make_edit,
    make_write,
    mean_squares,
    noisy_places,
)
from tracr_jax.types import Array, Batch, Codes, Params

_BELOW = 0.3  # weight of the layers up to the exchange in a row that runs freely from there on
_CLEAN_POWER = 0.3  # `ExchangeConfig.rare_power` of clean rows, which hold what the task's items hold


class Lesson(NamedTuple):
    """What the teacher says of a batch, BOS dropped; states are one-hots of value classes (`Reserved.classes`)."""

    mix: Mix
    own: Float[Array, "L1 B S C"]  # the rows as they are
    mixed: Float[Array, "L1 B S C"]  # with their variables exchanged: what is written
    target: Float[Array, "L1 B S C"]  # what each layer makes of the mixture before it
    begins: Bool[Array, "L1 B S"]  # where the teacher sees the token at which an answer begins


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
    keep_rows: RowsFn = unconstrained,
) -> LossFn:
    """The loss of exchange training of one program, a function of the same arguments as `make_loss_fn`'s.

    Every row of the batch runs twice in one pass: as it is and exchanged. Clean rows are aligned at layer 0 only
    and supervised; exchanged rows are aligned at all layers above, and supervised if mixed at every layer.

    Args:
      model: the language model.
      residuals: (φ, teacher ids, edit=None) -> r_0..r_L.
      teacher: the compiled program.
      reserved: the directions of each variable.
      marker: the teacher direction of the token at which the answer begins.
      losses: weights of retention and of the answer's positions.
      config: see `ExchangeConfig`.
      shape: static facts of the run.
      seed: with the step, decides the mixtures and the noise.
      keep_rows: see `tracr_jax.train.mesh.keep_rows`.

    Returns:
      The loss function. Its terms: "supervised" and "supervised_exchanged" (nats per answer token), "alignment"
      (nats) and "distance" (sigma²), each of clean plus exchanged rows and a mean over layers and variables,
      "alignment_parts" (exchanged rows, one per variable of `reserved`), "size", "retention", "answer_accuracy",
      "sinks" (share of the tokens, over layers, that are in none of the three as attention sinks), and
      "alignment_lower" and "distance_lower" of the rows that answer nothing (`StepShape.aligned_only`).
    """
    fixed = {"reserved": reserved, "marker": marker, "keep_rows": keep_rows}
    teach = _make_teach(residuals, teacher, config=config, **fixed)
    owner = variable_of(teacher)[shape.result_rows[0]]
    result = reserved.coordinates(teacher.variables[owner].name)
    states = shape.layers.states(shape.depth)
    align_lower = _make_align_lower(model, residuals, teacher, shape=shape, config=config, **fixed)

    def loss_fn(
        params: TrainParams,
        frozen: Frozen,
        batches: Batches,
        progress: jax.typing.ArrayLike = 0.0,
        step: jax.typing.ArrayLike = 0,
    ) -> tuple[jax.Array, Metrics]:
        (codes,), (phi,), (whole,) = params.adapters, frozen.teachers, batches
        assert isinstance(codes, Codes)
        key, noise_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), step))
        count = len(whole.ids) - shape.aligned_only
        batch = rows_of(whole, slice(count), keep_rows)
        where, answers, weights = L.answer_positions(batch.ids, batch.answer_mask, count=shape.max_answers)
        lesson, item = teach(phi, batch, key), L.item_positions(batch.ids, pad_id=shape.pad_id)
        written = noisy_places(reserved, codes, lesson.mixed, noise_key, noise=config.noise)
        write = make_write(reserved, codes, written, lesson.mix, item, states=states)
        answer = reserved.basis(codes)[:, result]
        edit = make_edit(write, answer, item, top=states[-1], keep_rows=keep_rows)
        asked = lesson.mix.source[owner]  # whose answer the written result is
        both, at = jax.tree.map(lambda x: keep_rows(interleave(x, x)), (batch.ids, positions_of(batch)))
        read = {"edit": edit, "logit_positions": interleave(where, where[asked]), "positions": at}
        out, text = read_beside(model, params.lm, both, batch.text_ids, losses, **read)

        terms = _answers(out.logits, answers, weights, lesson.mix, asked)
        hidden, mask = shape.aligned(out.hidden), batch.answer_mask
        terms |= _align(reserved, codes, hidden, lesson, item, mask, losses=losses, config=config)
        if shape.aligned_only:
            lower = rows_of(whole, slice(count, None), keep_rows)
            terms |= align_lower(params.lm, codes, phi, lower, jax.random.fold_in(key, 5))
        total = _total(terms, config)
        if text is not None:
            terms["retention"], priced = retention(model, frozen.lm, batch.text_ids, text.logits, losses, progress)
            total += priced
        return total, terms | {"loss": total}

    return loss_fn


def _total(terms: Metrics, config: ExchangeConfig) -> Array:
    """The loss without the language's term."""
    read, far = (terms[name] + terms.get(f"{name}_lower", 0.0) for name in ("alignment", "distance"))
    total = terms["supervised"] + terms["supervised_exchanged"] + config.size_weight * terms["size"]
    return total + config.read_weight * read + config.distance_weight * far


def _make_align_lower(
    model: LanguageModel,
    residuals: ResidualsFn,
    teacher: Teacher,
    *,
    reserved: Reserved,
    marker: int,
    config: ExchangeConfig,
    shape: StepShape,
    keep_rows: RowsFn,
) -> Callable[[Params, Codes, Any, Batch, Array], Metrics]:
    """(θ, codes, φ, rows, key) -> "alignment_lower" and "distance_lower" of rows that answer nothing.

    They are mixed at every layer, run through the blocks below the state of layer `ExchangeConfig.lower_layers`
    only, and not clean.
    """
    everywhere = dataclasses.replace(config, free_share=0.0, outside_share=0.0)
    teach = _make_teach(
        residuals, teacher, reserved=reserved, marker=marker, config=everywhere, keep_rows=keep_rows
    )
    states = shape.layers.states(shape.depth)[: config.lower_layers + 1]
    layers = slice(1, len(states))

    def align_lower(params: Params, codes: Codes, phi: Any, batch: Batch, key: Array) -> Metrics:
        key, noise_key = jax.random.split(key)
        lesson, item = teach(phi, batch, key), L.item_positions(batch.ids, pad_id=shape.pad_id)
        written = noisy_places(reserved, codes, lesson.mixed, noise_key, noise=config.noise)
        write = make_write(reserved, codes, written, lesson.mix, item, states=states)
        below, lm = first_blocks(model, params, states[-1] + 1)
        edit = LayerEdit(lambda h, i: keep_rows(write(h, i)))
        out = below.apply(lm, batch.ids, edit=edit, positions=positions_of(batch))
        hidden = at_least_float32(out.hidden[np.array(states)])[layers]
        holds = (item[None] & ~attention_sinks(hidden, item)).astype(hidden.dtype)
        reading, distance = _exchanged(reserved, codes, hidden, lesson, holds, layers=layers, config=config)
        return {"alignment_lower": jnp.mean(reading), "distance_lower": jnp.mean(distance)}

    return align_lower


def _make_teach(
    residuals: ResidualsFn,
    teacher: Teacher,
    *,
    reserved: Reserved,
    marker: int,
    config: ExchangeConfig,
    keep_rows: RowsFn,
) -> Callable[[Any, Batch, Array], Lesson]:
    """(φ, batch, key) -> the lesson of a step."""
    owner = variable_of(teacher)
    count, layers = len(teacher.variables), teacher.num_layers

    def teach(phi: Any, batch: Batch, key: Array) -> Lesson:
        mix = draw_mix(key, variables=count, rows=len(batch.ids), layers=layers, config=config)
        own = at_least_float32(jax.lax.stop_gradient(residuals(phi, batch.teacher_ids)))
        mixed = mixed_states(own, mix, owner)
        target = at_least_float32(
            jax.lax.stop_gradient(mixed_targets(residuals, phi, batch.teacher_ids, mixed, mix))
        )
        # BOS has no position in the language model.
        own, mixed, then = (keep_rows(reserved.classes(x[:, :, 1:]), axis=1) for x in (own, mixed, target))
        return Lesson(mix, own, mixed, then, target[:, :, 1:, marker] > 0.5)

    return teach


def _answers(
    logits: Float[Array, "B_twice K V"],
    answers: Int[Array, "B K"],
    weights: Float[Array, "B K"],
    mix: Mix,
    asked: Int[Array, " B"],
) -> Metrics:
    """The answer terms of clean rows, and "supervised_exchanged", of rows that answer as the row `asked` does."""
    logits_c, logits_x = deinterleave(at_least_float32(logits))
    terms = answer_terms(logits_c, answers, weights)
    weights_x = weights[asked] * (~mix.free[:, None]).astype(weights.dtype)
    return terms | {"supervised_exchanged": L.weighted_cross_entropy(logits_x, answers[asked], weights_x)}


def _align(
    reserved: Reserved,
    codes: Codes,
    hidden: Float[Array, "L1 B_twice S d"],
    lesson: Lesson,
    item: Bool[Array, "B S"],
    answer_mask: Float[Array, "B S"],
    *,
    losses: LossConfig,
    config: ExchangeConfig,
) -> Metrics:
    """Terms "alignment", "distance", "alignment_parts", "size" and "sinks"; `item`: where a row holds a token."""
    own = lesson.own
    clean, exchanged = deinterleave(at_least_float32(hidden), axis=1)
    low, high = slice(0, 1), slice(1, None)
    both = interleave(item, item)
    holds = (both[None] & ~attention_sinks(hidden, both)).astype(own.dtype)
    holds_c, holds_x = deinterleave(holds, axis=1)
    over = jax.nn.relu(mean_squares(hidden) / reserved.sigma**2 - 1.0)
    weights = holds_c[low] * (1 + (losses.answer_alignment - 1) * answer_mask)[None]
    beyond = jnp.arange(1, len(own))[:, None] > lesson.mix.layer[None]
    share = jnp.where(beyond, 1.0, _BELOW)[:, :, None]
    first = L.apply_adapter(reserved.readout(codes), clean[low])
    read = reading_loss(reserved, first, own[low], weights, layers=low, rare_power=_CLEAN_POWER)
    far = distance_loss(reserved, codes, clean[low], own[low], weights, layers=low)
    weights_x = share * holds_x[high]
    read_x, far_x = _exchanged(reserved, codes, exchanged[high], lesson, weights_x, layers=high, config=config)
    return {
        "alignment": jnp.mean(read + read_x),
        "distance": jnp.mean(far + far_x),
        "alignment_parts": read_x,
        "size": jnp.sum(holds * over) / jnp.sum(holds),
        "sinks": 1.0 - jnp.mean(jnp.sum(holds, axis=(1, 2))) / jnp.sum(both, dtype=own.dtype),
    }


def _exchanged(
    reserved: Reserved,
    codes: Codes,
    hidden: Float[Array, "l B S d"],
    lesson: Lesson,
    weights: Float[Array, "l B S"],
    *,
    layers: slice,
    config: ExchangeConfig,
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    """`reading_loss` and `distance_loss` of exchanged rows at these layers; where an answer begins weighs more."""
    weights = weights * (1 + (config.marker_weight - 1) * lesson.begins[layers].astype(weights.dtype))
    target, read = lesson.target[layers], L.apply_adapter(reserved.readout(codes), hidden)
    changed = {"own": lesson.own[layers], "changed_weight": config.changed_weight, "layers": layers}
    return (
        reading_loss(reserved, read, target, weights, rare_power=config.rare_power, **changed),
        distance_loss(reserved, codes, hidden, target, weights, **changed),
    )
