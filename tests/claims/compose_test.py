"""Everything composes: plain dict trees; jit, vmap and grad of each pure function; NNX, treescope and penzai.

For each function: it runs under jit; vmap over stacked arguments is a loop over them; its gradient is the
difference quotient, in float64 (so a stop_gradient or an integer detour on the way would show).
"""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from tests.helpers import lm_models as M
from tests.helpers.bounds import assert_same
from tests.train import loop_test as F
from tracr_jax.config import LossConfig, OptimConfig
from tracr_jax.intervene import ResidualEdit, detach_and_roll, project, subspace_basis
from tracr_jax.lm.generate import generate_ids
from tracr_jax.lm.gpt2 import GPT2, GPT2Config
from tracr_jax.lm.llama import Llama, LlamaConfig
from tracr_jax.measure.variables.reading import best_values, held_values, margins, one_hot
from tracr_jax.teacher import compile_program, make_forward
from tracr_jax.teacher.variables import variable_layout
from tracr_jax.train import losses as L
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import (
    Frozen,
    StepShape,
    TrainParams,
    init_adapter,
    init_state,
    make_train_step,
)
from tracr_jax.types import Adapter

LAYOUT = variable_layout(F.VARIABLES)
LAYERS, B, S, D, WIDTH = 3, 2, 4, 6, 5

SMALL = {
    "gpt2": GPT2(GPT2Config(vocab_size=11, n_positions=8, n_embd=4, n_layer=2, n_head=2), dtype="float64"),
    "llama": Llama(
        LlamaConfig(
            vocab_size=11,
            hidden_size=4,
            intermediate_size=6,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=2,
            max_position_embeddings=8,
        ),
        dtype="float64",
    ),
}


def rng(seed):
    return np.random.default_rng(seed)


def normal(seed, *shape):
    return jnp.asarray(rng(seed).standard_normal(shape))


def ints(seed, high, *shape):
    return jnp.asarray(rng(seed).integers(0, high, shape), jnp.int32)


def adapter(seed):
    return Adapter(normal(seed, D, WIDTH), normal(seed + 100, D))


def like(model, seed):
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([0.5 * normal(seed + 10 * i, *x.shape) for i, x in enumerate(leaves)])


def run_small(family, params, ids):
    out = SMALL[family].apply(params, ids)
    return out.logits, out.hidden


def shifted(params, ids, amount):
    """The model under an edit that is itself differentiable."""
    edit = ResidualEdit(0, lambda h: h + amount[None, None])
    return SMALL["gpt2"].apply(params, ids, edit=edit).logits


# name -> (function, seed -> arguments); the first argument is the one to differentiate.
SMOOTH = {
    "gpt2": (functools.partial(run_small, "gpt2"), lambda s: (like(SMALL["gpt2"], s), ints(s, 11, B, S))),
    "llama": (functools.partial(run_small, "llama"), lambda s: (like(SMALL["llama"], s), ints(s, 11, B, S))),
    "edit": (
        lambda amount, params, ids: shifted(params, ids, amount),
        lambda s: (normal(s, 4), like(SMALL["gpt2"], s), ints(s, 11, B, S)),
    ),
    "unembed": (
        lambda h, p: SMALL["gpt2"].unembed(p, h),
        lambda s: (normal(s, 3, 4), like(SMALL["gpt2"], s)),
    ),
    "apply_adapter": (L.apply_adapter, lambda s: (adapter(s), normal(s, LAYERS, B, S, WIDTH))),
    "cosine_alignment": (
        L.cosine_alignment,
        lambda s: (adapter(s), normal(s, LAYERS, B, S, WIDTH), normal(s + 1, LAYERS, B, S, D)),
    ),
    "variable_alignment": (
        functools.partial(L.variable_alignment, layout=LAYOUT),
        lambda s: (adapter(s), normal(s, LAYERS, B, S, WIDTH), F.teacher(1.0, ints(s, 40, B, S)).astype(float)),
    ),
    "weighted_cross_entropy": (
        L.weighted_cross_entropy,
        lambda s: (normal(s, B, S, 7), ints(s, 7, B, S), jnp.abs(normal(s + 1, B, S))),
    ),
    "retention_kl": (L.retention_kl, lambda s: (normal(s, B, S, 7), normal(s + 1, B, S, 7))),
    "subspace": (
        lambda rows, h: project(h, subspace_basis(rows)),
        lambda s: (normal(s, 2, WIDTH), normal(s + 1, B, S, WIDTH)),
    ),
    "margins": (functools.partial(margins, layout=LAYOUT), lambda s: (normal(s, B, S, D),)),
}
DISCRETE = {
    "greedy": (
        functools.partial(generate_ids, SMALL["gpt2"], num_tokens=3),
        lambda s: (like(SMALL["gpt2"], s), ints(s, 11, B, S), jnp.asarray([2, 4])),
    ),
    "best_values": (functools.partial(best_values, layout=LAYOUT), lambda s: (normal(s, B, S, D),)),
    "held_values": (functools.partial(held_values, layout=LAYOUT), lambda s: (normal(s, B, S, D),)),
    "one_hot": (functools.partial(one_hot, layout=LAYOUT), lambda s: (ints(s, 3, B, S, 2) - 1,)),
    "item_positions": (functools.partial(L.item_positions, pad_id=0), lambda s: (ints(s, 3, B, S),)),
    "answer_positions": (
        functools.partial(L.answer_positions, count=2),
        lambda s: (ints(s, 11, B, S), ints(s, 2, B, S).astype(float)),
    ),
    "detach_and_roll": (
        lambda rows, h: detach_and_roll(subspace_basis(rows), block=0).fn(h),
        lambda s: (normal(s, 2, WIDTH), normal(s + 1, B, S, WIDTH)),
    ),
}


@pytest.mark.parametrize("name", [*SMOOTH, *DISCRETE])
def test_jit_and_vmap(name, x64):
    fn, make = (SMOOTH | DISCRETE)[name]
    one, two = make(1), make(2)
    alone = jax.jit(fn)
    apart = [alone(*one), alone(*two)]
    assert any(not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, apart), strict=True))
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two)
    together = jax.jit(jax.vmap(fn))(*stacked)
    for i, want in enumerate(apart):
        chex.assert_trees_all_close(jax.tree.map(lambda x, i=i: x[i], together), want, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradient_is_the_difference_quotient(name, x64):
    fn, make = SMOOTH[name]
    first, *rest = make(3)
    flat, unflatten = ravel_pytree(first)
    shapes = jax.tree.leaves(jax.eval_shape(fn, first, *rest))
    weights = [normal(50 + i, *x.shape) for i, x in enumerate(shapes)]

    @jax.jit
    def scalar(x):
        leaves = jax.tree.leaves(fn(unflatten(x), *rest))
        return sum(jnp.sum(w * y) for w, y in zip(weights, leaves, strict=True))

    direction = normal(99, *flat.shape)
    direction = direction / jnp.linalg.norm(direction)
    slope = jnp.vdot(jax.jit(jax.grad(scalar))(flat), direction)
    step = 1e-5
    quotient = (scalar(flat + step * direction) - scalar(flat - step * direction)) / (2 * step)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, quotient, rtol=1e-6)


def test_a_teacher_composes_and_takes_no_gradient():
    from tracr.rasp import rasp

    n = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k == "x")).named("n")
    teacher = compile_program(n, vocab={"x", "y"}, max_seq_len=4)
    phi, residuals = make_forward(teacher)
    ids = jnp.asarray([[teacher.encode("xxyx")], [teacher.encode("yyxy")]])
    together = jax.jit(jax.vmap(residuals, in_axes=(None, 0)))(phi, ids)
    for i in range(2):
        np.testing.assert_array_equal(together[i], residuals(phi, ids[i]))
    assert not np.array_equal(together[0], together[1])
    grads = jax.grad(lambda p: jnp.sum(residuals(p, ids[0])))(phi)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))


def test_two_seeds_train_at_once():
    """A vmapped step over stacked states is one step for each."""
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=2), steps=4)
    step = make_train_step(
        F.MODEL,
        F.teacher,
        optimizer,
        config=LossConfig(retention_weight=0.0),
        shape=StepShape(F.DEPTH, (3, 4), pad_id=0, max_answers=1),
        # Not LAYOUT: JAX keeps what it made of NumPy constants while float64 was on.
        layout=variable_layout(F.VARIABLES),
    )
    keys = [jax.random.key(s) for s in (0, 1)]
    states = [
        init_state(TrainParams(F.MODEL.init(k), (init_adapter(k, width=24, directions=F.WIDTH),)), optimizer)
        for k in keys
    ]
    frozen, batch = Frozen(states[0].params.lm, (jnp.float32(1.0),)), F.batch_at(0)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b]), *states)
    together, terms = jax.jit(jax.vmap(step, in_axes=(0, None, None)))(stacked, frozen, batch)
    alone = jax.jit(step)
    for i, state in enumerate(states):
        after, loss = alone(state, frozen, batch)
        mine = jax.tree.map(lambda x, i=i: x[i], together.params)
        chex.assert_trees_all_close(mine, after.params, rtol=1e-3, atol=1e-4)
        assert_same(terms["loss"][i], loss["loss"])
    assert abs(float(terms["loss"][0] - terms["loss"][1])) > 1e-3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_parameters_are_plain_dicts_of_arrays(family, scan_layers):
    model, _ = M.make(family, scan_layers=scan_layers)
    params = jax.eval_shape(model.init, jax.random.key(0))

    def walk(tree):
        for value in tree.values():
            assert type(value) in (dict, jax.ShapeDtypeStruct)
            if type(value) is dict:
                walk(value)

    assert type(params) is dict
    walk(params)
    assert set(params) >= ({"blocks"} if scan_layers else {f"block_{i}" for i in range(model.num_blocks)})


def test_to_nnx():
    """An NNX module with our parameters in it: the same logits, and nnx.grad works on it."""
    from flax import nnx

    model, params = M.make("gpt2")
    ids = M.ids(2, 5)
    net = nnx.jit(lambda: nnx.bridge.lazy_init(nnx.bridge.ToNNX(model.linen, rngs=nnx.Rngs(0)), ids))()
    nnx.update(net, params)
    out, _ = nnx.jit(lambda net, ids: net(ids))(net, ids)
    ours = M.run(model, params, ids)
    assert_same(out.logits, ours.logits)
    assert_same(out.hidden, ours.hidden)

    def loss(logits):
        return jnp.mean(jax.nn.logsumexp(logits, axis=-1))

    theirs = nnx.jit(nnx.grad(lambda net: loss(net(ids)[0].logits)))(net)
    grads = jax.jit(jax.grad(lambda p: loss(model.apply(p, ids).logits)))(params)
    assert_same(nnx.to_pure_dict(nnx.state(theirs, nnx.Param)), grads)


def test_treescope_draws_parameters_and_states():
    """Flax brings treescope along; a notebook shows any tree of ours with it."""
    import treescope

    model, params = M.make("gpt2")
    shown = treescope.render_to_text({"params": params, "adapter": Adapter(*(jnp.ones((2, 3)), jnp.ones(2)))})
    for word in ("c_attn", "float32(4, 32, 96)", "Adapter", "float32(2, 3)"):
        assert word in shown
    out = M.run(model, params, M.ids(1, 3))
    assert "float32(5, 1, 3, 32)" in treescope.render_to_text(out)


@pytest.mark.parity
@pytest.mark.filterwarnings("default")  # penzai's own imports warn
def test_penzai_sees_every_parameter():
    """Unflaxify knows no scan and no tied head: it takes a Llama in the loop form with a head of its own."""
    from penzai import pz
    from penzai.toolshed.unflaxify import ArgsAndKwargs, unflaxify_apply

    model = Llama(dataclasses.replace(M.LLAMA_TINY, tie_word_embeddings=False), scan_layers=False)
    params = jax.jit(model.init)(jax.random.key(0))
    ids = M.ids(2, 5)
    layer = unflaxify_apply(model.linen, {"params": params}, ids)
    run = jax.jit(lambda p: model.apply(p, ids).logits)
    assert_same(layer(ArgsAndKwargs.capture(ids))[0].logits, run(params))
    # Silence every MLP there, and here.
    found = pz.select(layer).at_instances_of(pz.Parameter).where(lambda p: "down_proj" in str(p.label))
    assert len(found.get_sequence()) == model.num_blocks
    for p in found.get_sequence():
        p.value = jnp.zeros_like(p.value)
    silent = jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.zeros_like(x) if any(k.key == "down_proj" for k in path) else x, params
    )
    logits = layer(ArgsAndKwargs.capture(ids))[0].logits
    assert_same(logits, run(silent))
    assert np.max(np.abs(logits - run(params))) > 0.1
