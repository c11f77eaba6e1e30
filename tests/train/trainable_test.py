"""What is trained, and what is not: gradients, steps, memory options and meshes, for every `--train`."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from tests.helpers import exchange_parts as E
from tests.helpers import interpret_parts as P
from tests.helpers import lm_models as M
from tests.helpers.bounds import assert_same
from tests.train import exchange_test as X
from tests.train import loop_test as F
from tracr_jax.config import LossConfig, OptimConfig, RunConfig
from tracr_jax.errors import UserError
from tracr_jax.lm.blocks import unstack_blocks
from tracr_jax.lm.lora import SCALE, init_pairs, joined, merged, split_pairs
from tracr_jax.presets import preset
from tracr_jax.runs.build import make_parts
from tracr_jax.teacher.variables import variable_layout
from tracr_jax.train.exchange import make_exchange_loss_fn
from tracr_jax.train.mesh import make_mesh, state_shardings
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import Frozen, StepShape, TrainParams, apply_gradients, init_state, make_loss_fn
from tracr_jax.train.trainable import beside_frozen, in_stacks, pair_key, split, whole
from tracr_jax.trained import TrainedPart, trained_part

PARTS = ("lora:2", "blocks:1-2", "embeddings", "adapter")


def drawn(model, seed, dtype="float32"):
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), dtype), shapes)


def loss_of(model):
    return make_loss_fn(
        model,
        F.teacher,
        config=LossConfig(answer_alignment=2.0),
        shape=StepShape(F.DEPTH, (3, 4), pad_id=0, max_answers=1, aligned_only=2),
        layout=variable_layout(F.VARIABLES),
    )


def adapters(dtype="float32"):
    return jax.tree.map(
        lambda x: x.astype(dtype), (F.init_adapter(jax.random.key(1), width=24, directions=F.WIDTH),)
    )


@functools.cache
def plain():
    """((gradient, terms), model, parameters, θ₀): of all parameters at once, in float64."""
    model = dataclasses.replace(F.MODEL, dtype="float64")
    params, original = drawn(model, 0, "float64"), drawn(model, 2, "float64")
    grad = jax.jit(jax.grad(loss_of(model), has_aux=True))
    found = grad(TrainParams(params, adapters("float64")), Frozen(original, (jnp.ones(()),)), F.batch_at(0))
    return found, model, params, original


def by_pairs(grads, pairs):
    """The gradient of pairs whose B is zero, from the kernels' gradient dW: s·Aᵀ·dW of B, and zero of A."""
    out = jax.tree.map(jnp.zeros_like, pairs)
    for name, pair in pairs["blocks"].items():
        product = jnp.einsum("nir,nio->nro", pair["lora_a"], grads["blocks"][name]["kernel"])
        out["blocks"][name]["lora_b"] = SCALE * product
    return out


@pytest.mark.parametrize("text", PARTS)
def test_a_partial_gradient_is_a_part_of_the_whole_one(text, x64):
    """To 1e-9 in float64; what is frozen is θ₀'s own array, has no gradient and no moments."""
    part = trained_part(text)
    (want, expected), model, params, original = plain()
    cut = in_stacks(part, params)
    trained, base = split(part, cut, key=jax.random.key(0))
    chex.assert_trees_all_equal(split_pairs(whole(part, trained, base))[0], params)
    assert all(any(x is y for y in jax.tree.leaves(cut)) for x in jax.tree.leaves(base))
    both = TrainParams(trained, adapters("float64"))
    frozen = Frozen(in_stacks(part, original), (jnp.ones(()),), base)
    grads, terms = jax.jit(jax.grad(beside_frozen(loss_of(model)), has_aux=True))(both, frozen, F.batch_at(0))
    assert_same(terms["loss"], expected["loss"])
    assert_same(grads.adapters, want.adapters)
    chex.assert_trees_all_equal_shapes(grads.lm, trained)
    if part.kind == "lora":
        expected = by_pairs(want.lm, trained)
    else:
        expected = split(part, in_stacks(part, want.lm), key=jax.random.key(0))[0]
    if part.kind != "adapter":
        assert_same(grads.lm, expected)
        assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(grads.lm)) > 1e-4
    opt_state = make_optimizer(OptimConfig(kind="muon"), steps=3).init(both)
    moments = [x.size for x in jax.tree.leaves(opt_state) if x.ndim]
    # Beside two moments, Muon keeps three coefficients.
    assert sum(moments) <= 2 * sum(x.size for x in jax.tree.leaves(both)) + 3


@pytest.mark.parametrize(("text", "kind"), [("lora:2", "adamw"), *((text, "muon") for text in PARTS)])
def test_an_optimizer_moves_all_that_is_trained(text, kind):
    part = trained_part(text)
    trained, _ = split(part, in_stacks(part, drawn(F.MODEL, 0)), key=jax.random.key(0))
    optimizer = make_optimizer(OptimConfig(kind=kind, learning_rate=1e-2, warmup_steps=0), steps=3)
    start = init_state(TrainParams(trained, adapters()), optimizer)
    rng = np.random.default_rng(0)
    grads = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape), x.dtype), start.params)
    state, _ = jax.jit(functools.partial(apply_gradients, optimizer=optimizer))(start, grads)
    moved = jax.tree.map(lambda a, b: bool(np.any(np.asarray(a) != b)), state.params, start.params)
    assert all(jax.tree.leaves(moved))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state.params))


@pytest.mark.parametrize("options", [{"remat": True}, {"parts": 2}])
def test_memory_options_change_no_step(options, x64):
    """Gradients and terms to 1e-9 in float64: hook, unlabelled rows, retention, variables and all."""
    want, model, params, original = plain()
    grad = jax.jit(jax.grad(loss_of(dataclasses.replace(model, **options)), has_aux=True))
    found = grad(TrainParams(params, adapters("float64")), Frozen(original, (jnp.ones(()),)), F.batch_at(0))
    assert_same(found, want)


@pytest.mark.soak
def test_exchange_training_by_low_rank_and_in_parts():
    """Every row twice, written before every block: in parts it is the same gradient of every pair."""
    s, r, static = X.parts()
    batch, codes = (X.batch_of(s, count=4),), (E.trained(r),)
    pairs = init_pairs(s.params, rank=2, key=jax.random.key(0))
    pairs = jax.tree.map(lambda x: x + 0.1, pairs)
    frozen, found = Frozen(s.params, (s.program.phi,), s.params), []
    for model in (s.model, dataclasses.replace(s.model, parts=2)):
        loss = beside_frozen(make_exchange_loss_fn(model, s.program.residuals, s.teacher, **static))
        grads = jax.jit(jax.grad(loss, has_aux=True))
        found.append(grads(TrainParams(pairs, codes), frozen, batch, 0.0, 3))
    assert_same(found[1], found[0])
    assert all(np.any(x) for x in jax.tree.leaves(found[0][0].lm))


@pytest.mark.parametrize("text", PARTS)
def test_a_run_holds_no_second_copy_of_what_is_frozen(text):
    setup = P.small_setup()
    setup = dataclasses.replace(setup, config=dataclasses.replace(setup.config, train=text))
    state, frozen, _ = make_parts([setup])
    kept = {id(x) for x in jax.tree.leaves(frozen.lm)}
    assert all(id(x) in kept for x in jax.tree.leaves(frozen.base))
    assert kept.isdisjoint(id(x) for x in jax.tree.leaves(state.params))  # the step donates these
    numbers = sum(x.size for x in jax.tree.leaves((state.params.lm, frozen.base)))
    assert numbers >= sum(x.size for x in jax.tree.leaves(setup.lm.params))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_pairs_compute_nothing_at_first_and_are_merged(family):
    """At every projection; merged the states are the same, of scanned parameters and of the loop's."""
    model, params = M.make(family)
    pairs = init_pairs(params, rank=3, key=jax.random.key(0))
    kernels = [x for k, x in jax.tree_util.tree_leaves_with_path(params["blocks"]) if k[-1].key == "kernel"]
    assert len(jax.tree.leaves(pairs)) == 2 * len(kernels)
    ids = M.ids(2, 5)
    assert_same(M.run(model, joined(pairs, params), ids), M.run(model, params, ids))
    pairs = jax.tree.map(lambda x: x + 0.1 * jax.random.normal(jax.random.key(x.size), x.shape), pairs)
    beside = joined(pairs, params)
    chex.assert_trees_all_equal_shapes(merged(beside), params)
    assert_same(M.run(model, merged(beside), ids), M.run(model, beside, ids))
    chex.assert_trees_all_equal(merged(unstack_blocks(beside)), unstack_blocks(merged(beside)))


def test_the_key_of_pairs_is_no_other_key_of_a_run():
    of_run = jax.random.key(3)
    # The adapter's two, a random model's, and those of the steps of exchange training.
    keys = [*jax.random.split(of_run), *jax.random.split(of_run, 500)]
    keys += [jax.random.fold_in(of_run, step) for step in range(3000)]
    assert not any((jax.random.key_data(pair_key(3)) == jax.random.key_data(k)).all() for k in keys)


def test_moments_and_pairs_lie_over_a_mesh():
    part, mesh = TrainedPart("lora", rank=4), make_mesh("data=2,fsdp=4")
    trained, _ = split(part, drawn(F.MODEL, 0), key=jax.random.key(0))
    state = init_state(TrainParams(trained, adapters()), make_optimizer(OptimConfig(kind="muon"), steps=3))
    places = state_shardings(mesh, state)
    pair = places.params.lm["blocks"]["c_attn"]
    assert pair["lora_a"].spec == PartitionSpec(None, "fsdp")
    assert pair["lora_b"].spec == PartitionSpec(None, None, "fsdp")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"train": "lora"}, "train 'lora' is none of all, program, blocks:FIRST-LAST, lora:RANK"),
        ({"train": "lora:0"}, "train 'lora:0' is none"),
        ({"train": "blocks:4-2"}, "the first block, 4, comes after the last, 2"),
        ({"accumulate": 0}, "accumulate must be at least 1"),
        ({"accumulate": 3}, "accumulate 3: --batch plus --domain-supervised is 32; make it 33"),
    ],
)
def test_what_makes_no_sense_is_refused(options, said):
    with pytest.raises(UserError, match=said):
        RunConfig(**options)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="without alignment the adapter has no loss"):
        dataclasses.replace(preset("finetune"), train="adapter")


@pytest.mark.parametrize(("top", "blocks"), [(0, 3), (1, 4), (2, 4), (7, 4)])
def test_a_program_trains_its_blocks_and_two_above(top, blocks):
    """As many as h_top needs and two more, or all four that there are; embeddings of tokens, not of positions."""
    part = trained_part("program").of_program(top)
    params = in_stacks(part, drawn(F.MODEL, 0))
    trained, frozen = split(part, params, key=jax.random.key(0))
    assert set(trained) == {"blocks_0", "wte"}
    assert jax.tree.leaves(trained["blocks_0"])[0].shape[0] == blocks
    assert not set(trained) & set(frozen)
    assert_same(whole(part, trained, frozen), drawn(F.MODEL, 0))
