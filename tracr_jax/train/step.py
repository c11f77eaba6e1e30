"""The training step, a pure function. Source: docs/method.md §4 and §5.

One step takes (state, frozen, batches): `state` is what is trained, `frozen` the original model θ₀ and the
teachers φ, both arguments of the compiled program and not constants in it. A model holds n programs, usually one:
adapters, teachers and batches are tuples with one entry for each, and the loss is the sum of the programs' losses.
`make_train_step` returns a pure function; compile it with `jax.jit(step, donate_argnums=0)`, or compose it with
anything else.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Int

from tracr_jax.config import LayerMap, LossConfig
from tracr_jax.errors import UserError
from tracr_jax.intervene import ResidualEdit, detach_and_roll, result_basis
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import first_blocks
from tracr_jax.teacher.variables import VariableLayout
from tracr_jax.train import losses as L
from tracr_jax.types import Adapter, Array, Batch, Codes, Hidden, LMOutput, Params, Residuals

Metrics = dict[str, jax.Array]
RowsFn = Callable[..., jax.Array]  # (x, axis=0) -> x, sharded over devices; see `tracr_jax.train.mesh.keep_rows`
Batches = Sequence[Batch]  # of one step, one for each program
LossFn = Callable[..., tuple[jax.Array, Metrics]]  # (params, frozen, batches, progress, step) -> (loss, terms)
ResidualsFn = Callable[..., Residuals]  # (φ, teacher ids [B, T]) -> r_0..r_L


class TrainParams(NamedTuple):
    """What is trained: the language model θ, or a part of it, and the adapter of each program, the newest last."""

    lm: Params
    adapters: tuple[Adapter | Codes, ...]


class TrainState(NamedTuple):
    """Everything that changes from step to step, and all that a checkpoint holds."""

    step: Int[Array, ""]
    params: TrainParams
    opt_state: optax.OptState


class Frozen(NamedTuple):
    """What is not trained: the original model θ₀, the teacher φ of each program, and the frozen part of θ."""

    lm: Params
    teachers: tuple[Any, ...]
    base: Params | None = None  # None: all of θ is trained; see `tracr_jax.train.trainable`


class StepShape(NamedTuple):
    """The static facts of a run that the step needs."""

    depth: int  # L, layers of the teacher
    result_rows: tuple[int, ...]  # teacher directions of the result variable
    pad_id: int
    max_answers: int  # K, the largest number of answer tokens in an item
    aligned_only: int = 0  # the last rows of a batch: aligned, without the answer's loss
    layers: LayerMap = LayerMap()

    @property
    def top(self) -> int:
        """The last aligned hidden state."""
        return self.layers.top(self.depth)

    def aligned(self, hidden: Hidden) -> Float[Array, "L1 B S d"]:
        """The hidden states that r_0..r_L are read from."""
        if not self.layers.blocks:  # a slice is no copy
            return hidden[self.layers.offset : self.top + 1 : self.layers.stride]
        return hidden[np.array(self.layers.states(self.depth))]


def init_adapter(key: jax.Array, *, width: int, directions: int) -> Adapter:
    """Uniform in ±1/√d for weight and bias, as the original initialises it (docs/method.md §5)."""
    bound = width**-0.5
    w, b = jax.random.split(key)
    return Adapter(
        jax.random.uniform(w, (directions, width), jnp.float32, minval=-bound, maxval=bound),
        jax.random.uniform(b, (directions,), jnp.float32, minval=-bound, maxval=bound),
    )


def init_state(params: TrainParams, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0. Copies the parameters, so that donating the state leaves the caller's arrays (θ₀) alive."""
    params = jax.tree.map(lambda x: jnp.array(x, copy=True), params)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def apply_gradients(
    state: TrainState, grads: TrainParams, *, optimizer: optax.GradientTransformation
) -> tuple[TrainState, Float[Array, ""]]:
    """(the next state, the global norm of the gradients before any clipping)."""
    with jax.numpy_dtype_promotion("standard"):  # optax raises its decay rates to the power of integers
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), optax.tree.norm(grads)  # pyright: ignore[reportArgumentType]


def unconstrained(x: Array, axis: int = 0) -> Array:
    """No sharding constraint: rows on one device, or wherever the compiler places them."""
    return x


def at_least_float32(x: Array) -> Array:
    """Losses are computed in float32 at least, whatever the model computes in."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def rows_of(batch: Batch, part: slice, keep_rows: RowsFn) -> Batch:
    """Some rows of a batch, spread over devices as all of them were, and its text."""
    # Unless constrained, rows sliced from a sharded batch would be replicated on every device.
    rows = jax.tree.map(lambda x: keep_rows(x[part]), batch._replace(text_ids=None))
    return rows._replace(text_ids=batch.text_ids)


def positions_of(batch: Batch) -> Int[Array, "B S"] | None:
    """The model's positions of the rows' tokens; None where they begin at 0."""
    if batch.starts is None:
        return None
    return batch.starts[:, None] + jnp.arange(batch.ids.shape[1])[None]


def read_beside(
    model: LanguageModel, params: Params, ids: Array, text_ids: Array, config: LossConfig, **read: Any
) -> tuple[LMOutput, LMOutput | None]:
    """(the forward pass over the items, that over the retention text, or None where its weight is 0)."""
    if config.retention_weight:
        return model.apply_beside(params, ids, text_ids, **read)
    return model.apply(params, ids, **read), None


def answer_terms(
    logits: Float[Array, "B K V"], targets: Int[Array, "B K"], weights: Float[Array, "B K"]
) -> Metrics:
    """Terms "supervised" (nats per answer token) and "answer_accuracy" (share of tokens whose argmax is right)."""
    right = jnp.sum((jnp.argmax(logits, axis=-1) == targets).astype(weights.dtype) * weights)
    return {
        "supervised": L.weighted_cross_entropy(logits, targets, weights),
        "answer_accuracy": right / jnp.maximum(jnp.sum(weights), 1.0),
    }


def retention(
    model: LanguageModel,
    original: Params,
    text_ids: Int[Array, "B2 U"],
    logits: Float[Array, "B2 U V"],
    config: LossConfig,
    progress: jax.typing.ArrayLike,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """(the KL to the original model on text, the same times its weight at this point of the run)."""
    before = jax.lax.stop_gradient(model.apply(original, text_ids).logits)
    kl = L.retention_kl(at_least_float32(logits), at_least_float32(before), reduction=config.retention_reduction)
    return kl, kl * (config.retention_weight * config.retention_growth**progress)


def make_loss_fn(
    model: LanguageModel,
    residuals: ResidualsFn,
    *,
    config: LossConfig,
    shape: StepShape,
    layout: VariableLayout | None = None,
    keep_rows: RowsFn = unconstrained,
) -> LossFn:
    """The total loss of one program, docs/method.md §4.5: (params, frozen, batches, progress, step) -> (loss,
    terms).

    The function takes parameters, teachers and batches of one program, tuples of length one; see `sum_losses`.
    progress: share of the run that is done, 0 to 1; only LossConfig.retention_growth depends on it.
    step: for losses that draw something; this one draws nothing.

    terms: "alignment" (cosine: sum over layers; variable: weighted mean over variables, nats), "supervised"
    (nats per answer token), "retention" (nats; see LossConfig.retention_reduction), "answer_accuracy" (share of
    answer tokens whose argmax is right in the hooked pass), "alignment_parts" ([L+1] or one per variable).
    """
    if config.alignment == "exchange":
        raise UserError("alignment exchange has a loss of its own, tracr_jax.train.exchange.make_exchange_loss_fn")
    if config.alignment == "variable" and layout is None:
        raise UserError("variable alignment needs layout=, see tracr_jax.teacher.variables.variable_layout")

    def loss_fn(
        params: TrainParams,
        frozen: Frozen,
        batches: Batches,
        progress: jax.typing.ArrayLike = 0.0,
        step: jax.typing.ArrayLike = 0,
    ):
        (adapter,), (phi,), (batch,) = params.adapters, frozen.teachers, batches
        assert isinstance(adapter, Adapter)
        chex.assert_rank([batch.ids, batch.answer_mask, batch.teacher_ids, batch.text_ids], 2)
        chex.assert_equal_shape([batch.ids, batch.answer_mask])
        edit = _hook(adapter, config, shape) if config.hook else None
        asked = len(batch.ids) - shape.aligned_only
        upper = rows_of(batch, slice(asked), keep_rows)
        where, targets, weights = L.answer_positions(upper.ids, upper.answer_mask, count=shape.max_answers)
        read = {"edit": edit, "logit_positions": where, "positions": positions_of(upper)}
        out, text = read_beside(model, params.lm, upper.ids, batch.text_ids, config, **read)
        terms = answer_terms(at_least_float32(out.logits), targets, weights)
        total = terms["supervised"]

        if config.alignment != "none":
            target = jax.lax.stop_gradient(residuals(phi, batch.teacher_ids))
            target = at_least_float32(target[:, :, 1:])  # BOS has no position in the language model
            hidden = shape.aligned(out.hidden)
            if shape.aligned_only:
                # These rows have no loss above h_L: the blocks after it need not run.
                below, lm = first_blocks(model, params.lm, shape.top + 1)
                lower = rows_of(batch, slice(asked, None), keep_rows)
                free = shape.aligned(below.apply(lm, lower.ids, positions=positions_of(lower)).hidden)
                pieces = [keep_rows(x, axis=1) for x in (hidden, free)]
                hidden = keep_rows(jnp.concatenate(pieces, axis=1), axis=1)
            terms |= alignment_terms(
                adapter, at_least_float32(hidden), target, batch, config=config, pad_id=shape.pad_id, layout=layout
            )
            total = total + config.alignment_weight * terms["alignment"]

        if text is not None:
            terms["retention"], priced = retention(model, frozen.lm, batch.text_ids, text.logits, config, progress)
            total = total + priced
        terms["loss"] = total
        return total, terms

    return loss_fn


def _hook(adapter: Adapter, config: LossConfig, shape: StepShape) -> ResidualEdit:
    """The subspace is recomputed from the current adapter at every step, without gradient (4.1)."""
    rows = np.array(shape.result_rows)
    basis = result_basis(jax.lax.stop_gradient(adapter.weight[rows]), span=config.result_span)
    # Before the block that reads h_L, another state is read; h_L is aligned as it was.
    return detach_and_roll(basis, block=shape.top, before=config.hook_offset < 0)


def alignment_terms(
    adapter: Adapter,
    hidden: Hidden,
    residuals: Residuals,
    batch: Batch,
    *,
    config: LossConfig,
    pad_id: int,
    layout: VariableLayout | None = None,
) -> Metrics:
    """Terms "alignment" and "alignment_parts" of `make_loss_fn`.

    Args:
      adapter: the affine map.
      hidden: the aligned states of all rows, [L+1, B, S, d].
      residuals: the teacher's r_0..r_L at the same positions, [L+1, B, S, D] (BOS already dropped).
      batch: its ids and answer mask weigh the positions.
      config: which loss, and the weight of padding and of answers.
      pad_id: the token that pads the rows on the right.
      layout: variables of the teacher, for variable alignment.
    """
    chex.assert_equal_shape_prefix([hidden, residuals], 3)
    here = None
    if not config.align_padding:
        here = L.item_positions(batch.ids, pad_id=pad_id).astype(hidden.dtype)
    if config.answer_alignment != 1:
        answers = 1 + (config.answer_alignment - 1) * batch.answer_mask.astype(hidden.dtype)
        here = answers if here is None else here * answers
    if config.alignment == "cosine":
        parts = L.cosine_alignment(adapter, hidden, residuals, weights=here)
        return {"alignment": jnp.sum(parts), "alignment_parts": parts}
    assert layout is not None
    parts = L.variable_alignment(adapter, hidden, residuals, layout=layout, weights=here)
    return {
        "alignment": jnp.mean(parts * jnp.asarray(layout.weights, parts.dtype)),
        "alignment_parts": parts,
    }


def sum_losses(losses: Sequence[LossFn], *, names: Sequence[str]) -> LossFn:
    """The sum of the losses of n programs on one model, a function of the same arguments as each of them.

    Args:
      losses: of `make_loss_fn`, in the order of injection; only the newest should hold the retention.
      names: of the programs.

    Returns:
      A function of n adapters, n teachers and n batches. Its terms are those of the newest program; the others'
      have "NAME." in front; "loss" is the sum.
    """

    def loss_fn(
        params: TrainParams,
        frozen: Frozen,
        batches: Batches,
        progress: jax.typing.ArrayLike = 0.0,
        step: jax.typing.ArrayLike = 0,
    ):
        parts, all_terms = [], {}
        for i, (loss, name) in enumerate(zip(losses, names, strict=True)):
            own = TrainParams(params.lm, (params.adapters[i],))
            part, terms = loss(own, Frozen(frozen.lm, (frozen.teachers[i],)), (batches[i],), progress, step)
            parts.append(part)
            newest = i == len(losses) - 1
            all_terms |= terms if newest else {f"{name}.{key}": value for key, value in terms.items()}
        total = sum(parts[1:], start=parts[0])
        return total, all_terms | {"loss": total}

    return loss_fn


def make_train_step(
    model: LanguageModel,
    residuals: ResidualsFn,
    optimizer: optax.GradientTransformation,
    *,
    config: LossConfig,
    shape: StepShape,
    layout: VariableLayout | None = None,
    keep_rows: RowsFn = unconstrained,
    steps: int | None = None,
) -> Callable[[TrainState, Frozen, Batches], tuple[TrainState, Metrics]]:
    """A pure training step of one program, (state, frozen, batches) -> (state, terms), to be jitted by the caller.

    Args:
      model: the language model, for θ and for θ₀.
      residuals: (φ, teacher_ids [B, T]) -> r_0..r_L [L+1, B, T, D], from `tracr_jax.teacher.make_forward`.
      optimizer: see `make_optimizer`.
      config: which losses, and their weights.
      shape: static facts of the run.
      layout: variables of the teacher, for variable alignment.
      keep_rows: over several devices, `tracr_jax.train.mesh.keep_rows`.
      steps: of the whole run; needed if LossConfig.retention_growth is not 1.

    Returns:
      The step. Its terms are those of `make_loss_fn` and "grad_norm" (before any clipping).

    Raises:
      UserError: the losses need something that is not given.
    """
    if steps is None and config.retention_growth != 1:
        raise UserError(f"retention_growth {config.retention_growth:g} needs steps=, the length of the run")
    loss_fn = make_loss_fn(model, residuals, config=config, shape=shape, layout=layout, keep_rows=keep_rows)
    return make_step(loss_fn, optimizer, steps=steps or 1)


def make_step(
    loss_fn: LossFn, optimizer: optax.GradientTransformation, *, steps: int
) -> Callable[[TrainState, Frozen, Batches], tuple[TrainState, Metrics]]:
    """`make_train_step` from its loss and the steps of the whole run: one gradient, one update."""

    def train_step(state: TrainState, frozen: Frozen, batches: Batches) -> tuple[TrainState, Metrics]:
        progress = jnp.minimum(state.step / steps, 1.0)
        grads, terms = jax.grad(loss_fn, has_aux=True)(state.params, frozen, batches, progress, state.step)
        state, terms["grad_norm"] = apply_gradients(state, grads, optimizer=optimizer)
        return state, terms

    return train_step
