"""Every number of the original's training step (tests/golden), in float32 and in float64.

The golden arrays were made by the original PyTorch code; see tests/golden/README.md for the formulas.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import golden_data as G
from tracr_jax.config import OptimConfig
from tracr_jax.intervene import ResidualEdit, detach_and_roll, project, subspace_basis
from tracr_jax.lm.gpt2 import GPT2
from tracr_jax.presets import PAPER_FIXED
from tracr_jax.train.losses import (
    answer_positions,
    apply_adapter,
    cosine_alignment,
    retention_kl,
    weighted_cross_entropy,
)
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import (
    Frozen,
    StepShape,
    TrainParams,
    init_state,
    make_loss_fn,
    make_train_step,
)

PRECISIONS = ["float32", "float64"]
SCALAR = {"float32": 5e-6, "float64": 1e-9}
PAPER = PAPER_FIXED.losses
ROWS = tuple(G.TEACHER["final_result_dims"])
SHAPE = StepShape(depth=G.DEPTH, result_rows=ROWS, pad_id=G.PAD, max_answers=3)


@pytest.fixture(params=PRECISIONS)
def precision(request):
    if request.param == "float64":
        request.getfixturevalue("x64")
    return request.param


def parts(precision):
    model = GPT2(G.lm_config(), dtype=precision)
    params = TrainParams(G.lm_params("lm", dtype=precision), (G.adapter(dtype=precision),))
    frozen = Frozen(G.lm_params("lm_original", dtype=precision), (G.teacher_weights(dtype=precision),))
    return model, params, frozen, G.batch(dtype=precision)


def paper_loss(model, config=PAPER):
    return make_loss_fn(model, G.dense_teacher, config=config, shape=SHAPE)


def test_losses_are_the_originals(precision):
    model, params, frozen, batch = parts(precision)
    want = G.NUMBERS[precision]
    loss, terms = jax.jit(paper_loss(model))(params, frozen, (batch,))
    rtol = SCALAR[precision]
    np.testing.assert_allclose(terms["retention"], want["kl_loss"], rtol=rtol)
    np.testing.assert_allclose(terms["supervised"], want["supervised_loss"], rtol=rtol)
    np.testing.assert_allclose(terms["alignment"], want["algorithm_loss"], rtol=rtol)
    np.testing.assert_allclose(loss, want["total_loss"], rtol=rtol)
    per_layer = 1e-5 if precision == "float32" else 1e-9
    np.testing.assert_allclose(terms["alignment_parts"], want["algorithm_loss_per_layer"], rtol=per_layer)


def test_supervised_loss_without_the_hook_and_through_the_whole_space(precision):
    """With all rows the projector is the identity (D > d) and the hook does nothing (docs/differences.md B14)."""
    model, params, _, batch = parts(precision)
    want = G.NUMBERS[precision]
    where, targets, weights = answer_positions(batch.ids, batch.answer_mask, count=SHAPE.max_answers)

    def loss(edit):
        out = model.apply(params.lm, batch.ids, edit=edit, logit_positions=where)
        return weighted_cross_entropy(out.logits, targets, weights)

    np.testing.assert_allclose(loss(None), want["supervised_loss_no_roll"], rtol=SCALAR[precision])
    whole = detach_and_roll(jnp.eye(48, dtype=precision), block=G.DEPTH)
    np.testing.assert_allclose(loss(whole), want["supervised_loss_full_projection"], rtol=SCALAR[precision])


def test_gradient_norms_of_every_loss(precision):
    model, params, frozen, batch = parts(precision)
    loss_fn = paper_loss(model)
    tolerance = 2e-5 if precision == "float32" else 1e-9

    names = {"retention": "kl", "supervised": "supervised", "alignment": "algorithm", "loss": "total"}

    def losses(p):
        terms = loss_fn(p, frozen, (batch,))[1]
        return jnp.stack([terms[term] for term in names])

    # One forward pass and one compilation serve all four.
    grads = jax.jit(jax.jacrev(losses))(params)
    for i, golden in enumerate(names.values()):
        got = [float(jnp.sqrt(sum(jnp.sum(x[i] ** 2) for x in jax.tree.leaves(g)))) for g in grads]
        want = G.NUMBERS[precision][f"grad_norm_{golden}"]
        np.testing.assert_allclose(got, [want["model"], want["adapter"]], rtol=tolerance, err_msg=golden)


def golden_tree(prefix, dtype):
    tensors = {k.removeprefix(prefix): G.ARRAYS[k] for k in G.ARRAYS if k.startswith(prefix)}
    weight, bias = tensors.pop("adapter.weight"), tensors.pop("adapter.bias")
    return TrainParams(G.from_hf_names(tensors, dtype=dtype), (type(G.adapter(dtype=dtype))(weight, bias),))


def test_every_gradient():
    model, params, frozen, batch = parts("float32")
    grads = jax.jit(jax.grad(paper_loss(model), has_aux=True))(params, frozen, (batch,))[0]
    want = golden_tree("grad/", "float32")

    def close(path, got, want):
        limit = 1e-4 * float(np.abs(want).max())
        np.testing.assert_allclose(got, want, atol=limit, rtol=0, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(close, grads, want)


def optimizer(lr, adapter_lr):
    config = OptimConfig(
        learning_rate=lr, adapter_learning_rate=adapter_lr, schedule="constant", warmup_steps=0, clip_norm=0.0
    )
    return make_optimizer(config, steps=10)


def test_parameters_after_one_step():
    model, params, frozen, batch = parts("float32")
    opt = optimizer(1e-6, 1e-4)
    step = make_train_step(model, G.dense_teacher, opt, config=PAPER, shape=SHAPE)
    state, _ = jax.jit(step)(init_state(params, opt), frozen, (batch,))
    want, grads = golden_tree("after1/", "float32"), golden_tree("grad/", "float32")

    def close(path, got, want, before, grad, lr):
        # The first AdamW step is lr · sign(g): where g is nearly 0 its sign is rounding.
        certain = np.abs(grad) > 1e-6
        moved, expected = (np.asarray(got) - before)[certain], (want - before)[certain]
        np.testing.assert_allclose(moved, expected, atol=lr * 0.02 + 3e-7, err_msg=jax.tree_util.keystr(path))

    for field, lr in (("lm", 1e-6), ("adapters", 1e-4)):
        trees = (getattr(t, field) for t in (state.params, want, params, grads))
        jax.tree_util.tree_map_with_path(lambda *x, lr=lr: close(*x, lr), *trees)


@pytest.mark.parametrize(
    ("name", "lr", "adapter_lr"),
    [
        ("trajectory_as_coded_lr1e-6_adapter1e-4", 1e-6, 1e-4),
        ("trajectory_large_lr1e-3_adapter1e-2", 1e-3, 1e-2),
    ],
)
def test_trajectories(precision, name, lr, adapter_lr):
    model, params, frozen, batch = parts(precision)
    opt = optimizer(lr, adapter_lr)
    step = jax.jit(make_train_step(model, G.dense_teacher, opt, config=PAPER, shape=SHAPE))
    state = init_state(params, opt)
    for want in G.NUMBERS[name][precision]:
        state, terms = step(state, frozen, (batch,))
        got = [terms[k] for k in ("loss", "retention", "supervised", "alignment")]
        rtol = SCALAR[precision]
        np.testing.assert_allclose(got, want, rtol=rtol)


def test_logits_hidden_states_and_the_hook():
    model, params, frozen, batch = parts("float32")
    basis = subspace_basis(params.adapters[0].weight[np.array(ROWS)])
    hooked = model.apply(params.lm, batch.ids, edit=detach_and_roll(basis, block=G.DEPTH))
    np.testing.assert_allclose(hooked.hidden, G.ARRAYS["sup_hidden_states"], atol=2e-5)
    np.testing.assert_allclose(hooked.logits, G.ARRAYS["sup_logits_hooked"], atol=2e-5)
    plain = model.apply(params.lm, batch.ids)
    np.testing.assert_allclose(plain.logits, G.ARRAYS["sup_logits_plain"], atol=2e-5)
    np.testing.assert_allclose(plain.hidden[G.DEPTH + 1], G.ARRAYS["hook_input"], atol=2e-5)
    np.testing.assert_allclose(hooked.hidden[G.DEPTH + 1], G.ARRAYS["hook_output"], atol=2e-5)
    text = model.apply(params.lm, batch.text_ids)
    np.testing.assert_allclose(text.logits, G.ARRAYS["unsup_logits"], atol=2e-5)
    original = model.apply(frozen.lm, batch.text_ids)
    np.testing.assert_allclose(original.logits, G.ARRAYS["unsup_logits_original"], atol=2e-5)


def test_projector_is_the_pseudo_inverse_form():
    """Q Qᵀ of docs/method.md §4.1, and Rᵀ(RRᵀ + 1e-7 I)⁻¹R of §11, are one projector for well-conditioned rows."""
    weight = G.adapter(dtype="float32").weight
    basis = subspace_basis(weight[np.array(ROWS)])
    full = np.asarray(project(jnp.eye(48), basis))
    np.testing.assert_allclose(full, G.ARRAYS["projection_final_result"], atol=1e-6)
    np.testing.assert_allclose(full, G.ARRAYS["causality_projection"], atol=1e-6)
    np.testing.assert_allclose(full @ full, full, atol=1e-6)
    assert np.linalg.matrix_rank(full, tol=1e-3) == len(ROWS)


def test_noise_inside_the_result_subspace():
    model, params, _, batch = parts("float32")
    basis = subspace_basis(params.adapters[0].weight[np.array(ROWS)])

    def noise(h):
        q = project(jnp.asarray(G.ARRAYS["causality_noise"]), basis)
        return h + 5.0 * q / (jnp.linalg.norm(q, axis=-1, keepdims=True) + 1e-7)

    out = model.apply(params.lm, batch.ids, edit=ResidualEdit(G.DEPTH, noise))
    np.testing.assert_allclose(out.logits, G.ARRAYS["causality_logits_in_subspace"], atol=5e-5)


def test_adapter_reading_of_an_example():
    model, params, _, batch = parts("float32")
    hidden = model.apply(params.lm, batch.ids[:1]).hidden[G.DEPTH]
    np.testing.assert_allclose(
        apply_adapter(params.adapters[0], hidden)[0], G.ARRAYS["decode_lm_ex0_mapped"], atol=2e-5
    )


def test_teacher_residuals_in_float64(x64):
    weights = G.teacher_weights(dtype="float64")
    got = G.dense_teacher(weights, G.ARRAYS["teacher_token_ids"])
    np.testing.assert_allclose(got, G.ARRAYS["teacher_residuals_from_float64"], atol=1e-6)


def test_validation_accuracy():
    model, params, _, batch = parts("float32")
    for ids, key in ((batch.ids, "sup"), (G.ARRAYS["val_input_ids"], "val_input_ids")):
        predicted = np.argmax(np.asarray(model.apply(params.lm, ids).logits[:, :-1]), axis=-1)
        mask = batch.answer_mask[:, :-1]
        got = ((predicted == ids[:, 1:]) * mask).sum() / mask.sum()
        np.testing.assert_allclose(got, G.NUMBERS["validation_accuracy"][key], rtol=1e-6)


def test_empty_answer_mask_gives_a_finite_step():
    """The original divides by zero here and loses all weights (docs/differences.md A1)."""
    model, params, frozen, batch = parts("float32")
    opt = optimizer(1e-6, 1e-4)
    step = jax.jit(make_train_step(model, G.dense_teacher, opt, config=PAPER, shape=SHAPE))
    state, terms = step(
        init_state(params, opt), frozen, (batch._replace(answer_mask=np.zeros_like(batch.answer_mask)),)
    )
    assert float(terms["supervised"]) == 0.0
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state.params, terms)))


def test_no_gradient_reaches_the_teacher():
    model, params, frozen, batch = parts("float32")
    loss_fn = paper_loss(model)
    grads = jax.jit(jax.grad(lambda f: loss_fn(params, f, (batch,))[0]))(frozen)
    assert all(not np.any(x) for x in jax.tree.leaves(grads))


def test_cosine_of_equal_and_opposite_states():
    a = G.adapter(dtype="float32")
    hidden = np.random.default_rng(0).normal(size=(2, 1, 3, 48)).astype(np.float32)
    read = apply_adapter(a, hidden)
    np.testing.assert_allclose(cosine_alignment(a, hidden, read), [0, 0], atol=1e-6)
    np.testing.assert_allclose(cosine_alignment(a, hidden, -read), [2, 2], atol=1e-6)
    here = np.array([[1.0, 0.0, 0.0]], np.float32)
    mixed = read.at[:, :, 1:].multiply(-1)
    np.testing.assert_allclose(cosine_alignment(a, hidden, mixed, weights=here), [0, 0], atol=1e-6)


def test_retention_reductions():
    _, _, _, batch = parts("float32")
    a, b = G.ARRAYS["unsup_logits"], G.ARRAYS["unsup_logits_original"]
    text, token = (float(retention_kl(a, b, reduction=r)) for r in ("text", "token"))
    np.testing.assert_allclose(text, token * batch.text_ids.shape[1], rtol=1e-6)
