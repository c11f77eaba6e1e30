"""Several devices compute what one does: 8 virtual devices; for two processes see processes_test.py."""

import dataclasses
import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.helpers.bounds import assert_same
from tests.helpers.interpret_parts import DYCK, small_setup
from tests.helpers.texts import SHORT_TEXT
from tests.train.loop_test import VARIABLES, teacher
from tracr_jax.config import DataConfig, LossConfig, OptimConfig, RunConfig
from tracr_jax.data.batches import Batches
from tracr_jax.data.text import TextIds
from tracr_jax.errors import UserError
from tracr_jax.injection import inject
from tracr_jax.lm.gpt2 import GPT2, GPT2Config
from tracr_jax.lm.load import LoadedLM
from tracr_jax.runs.model import committed
from tracr_jax.teacher.variables import variable_layout
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.mesh import (
    batch_sharding,
    check_rows,
    gather,
    keep_rows,
    make_mesh,
    param_shardings,
    param_spec,
    put,
    put_params,
    replicated,
    sharded_batches,
    start_processes,
    state_shardings,
)
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import (
    Frozen,
    StepShape,
    TrainParams,
    TrainState,
    init_adapter,
    init_state,
    make_train_step,
)
from tracr_jax.types import Batch

MODEL = GPT2(GPT2Config(vocab_size=40, n_positions=16, n_embd=32, n_layer=4, n_head=4))
DEPTH, WIDTH = 2, 6
ROWS, FREE, TEXTS = 24, 8, 16
SHARED_RUN = RunConfig(
    task="small",
    eval_items=20,
    steps=2,
    data=DataConfig(batch=8, domain_items=8, text_batch=8, text_length=8, text=str(SHORT_TEXT)),
    optim=OptimConfig(kind="muon", warmup_steps=0),
)


def make_batch(seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, 40, size=(ROWS, 8)).astype(np.int32)
    mask = np.zeros((ROWS, 8), np.float32)
    mask[np.arange(ROWS), rng.integers(3, 7, ROWS)] = 1
    teacher_ids = rng.integers(0, 40, size=(ROWS, 9)).astype(np.int32)
    return Batch(ids, mask, teacher_ids, rng.integers(0, 40, size=(TEXTS, 6)).astype(np.int32))


def make_step(optimizer, **options):
    return make_train_step(
        MODEL,
        teacher,
        optimizer,
        config=LossConfig(),
        shape=StepShape(DEPTH, (3, 4), pad_id=0, max_answers=1, aligned_only=FREE),
        layout=variable_layout(VARIABLES),
        **options,
    )


def start(optimizer):
    shapes = jax.eval_shape(MODEL.init, jax.random.key(0))

    def draw(seed):
        rng = np.random.default_rng(seed)
        return jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes)

    adapter = init_adapter(jax.random.key(1), width=32, directions=WIDTH)
    return init_state(TrainParams(draw(0), (adapter,)), optimizer), Frozen(draw(2), (jnp.ones(()),))


def recorded(optimizer):
    """The optimiser, with the last gradient kept in its state."""
    record = optax.GradientTransformation(optax.tree.zeros_like, lambda grads, _, params: (grads, grads))
    return optax.chain(record, optimizer)


def spread(mesh, state, frozen):
    places = state_shardings(mesh, state)
    lm = put(frozen.lm, param_shardings(mesh, frozen.lm))
    return places, put(state, places), Frozen(lm, put(frozen.teachers, replicated(mesh)))


def test_eight_devices_compute_what_one_does():
    """Losses, gradients and updated weights, and the roll crosses devices.

    The work is shared, not repeated: a device has about an eighth of the floating-point operations.
    """
    # Muon and AdamW are compared in the main job below; here the work is the losses' alone.
    optimizer = recorded(optax.sgd(0.1, momentum=0.9))
    state, frozen = start(optimizer)
    mesh = make_mesh("data=4,fsdp=2")
    places, *wide = spread(mesh, state, frozen)
    batch = (jax.tree.map(jnp.asarray, make_batch(0)),)
    wide.append(put(batch, batch_sharding(mesh)))
    alone = jax.jit(make_step(optimizer))
    together = jax.jit(make_step(optimizer, keep_rows=keep_rows(mesh)), out_shardings=(places, replicated(mesh)))
    alone = alone.lower(state, frozen, batch).compile()
    together = together.lower(*wide).compile()
    expected, new = alone(state, frozen, batch), together(*wide)
    assert jax.tree.map(lambda x: x.sharding, new[0]) == places
    assert float(optax.tree.norm(expected[0].opt_state[0])) > 1e-2  # the gradient
    (expected, expected_terms), (new, terms) = jax.device_get((expected, new))
    assert_same(terms, expected_terms)
    assert_same(new, expected)
    one, each = (x.cost_analysis()["flops"] for x in (alone, together))
    assert each < 1.3 * one / 8


def test_a_run_on_another_device_than_the_first_is_read_there():
    params = {"bias": np.ones(3, np.float32)}
    with jax.default_device(jax.devices()[2]):
        lm = committed(LoadedLM(name="lm", model=None, params=params, tokenizer=None, source=""))  # pyright: ignore
        placed = gather(put_params(params, make_mesh()), make_mesh())
        assert lm.params["bias"].devices() == placed["bias"].devices() == {jax.devices()[2]}


def test_without_a_mesh_all_lies_on_the_default_device_and_nothing_is_copied():
    mesh, params = make_mesh(), {"blocks": {"kernel": jnp.arange(24.0).reshape(2, 3, 4)}, "bias": jnp.ones(3)}
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1}
    assert mesh.devices.item() == jax.devices()[0]
    with jax.default_device(jax.devices()[3]):
        assert make_mesh().devices.item() == jax.devices()[3]
    placed = put_params(params, mesh)
    for there in (placed, gather(placed, mesh)):
        for x, y in zip(jax.tree.leaves(there), jax.tree.leaves(params), strict=True):
            assert x.unsafe_buffer_pointer() == y.unsafe_buffer_pointer()


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_state_is_cut_and_moments_lie_as_their_parameters(kind):
    def gpt2():  # the real sizes, of which nothing is computed
        params = GPT2(GPT2Config()).init(jax.random.key(0))
        adapter = init_adapter(jax.random.key(1), width=768, directions=90)
        return init_state(TrainParams(params, (adapter,)), make_optimizer(OptimConfig(kind=kind), steps=9))

    state = jax.eval_shape(gpt2)
    for text, fsdp in [("data=4,fsdp=2", 2), ("fsdp=8", 8), ("data=8", 1)]:
        mesh = make_mesh(text)
        places = state_shardings(mesh, state)
        total, held = 0, 0
        for x, place in zip(jax.tree.leaves(state), jax.tree.leaves(places), strict=True):
            total += x.size
            held += np.prod(place.shard_shape(x.shape), dtype=int)
        assert 1 / fsdp <= held / total < 1.01 / fsdp
        kernel = places.params.lm["blocks"]["c_fc"]["kernel"]
        moments = [
            place
            for path, place in jax.tree_util.tree_leaves_with_path(places.opt_state)
            if "['c_fc']['kernel']" in jax.tree_util.keystr(path)
        ]
        assert len(moments) == {"adamw": 2, "muon": 1}[kind]
        assert all(m == kernel for m in moments)
        assert kernel.shard_shape((12, 768, 3072)) == (12, 768, 3072 // fsdp)  # not the axis of the scan


def test_which_axis_is_cut():
    cases = {
        ((4, 32, 128), True): (None, None, "fsdp"),
        ((4, 128, 32), True): (None, "fsdp"),
        ((4, 32, 32), True): (None, None, "fsdp"),
        ((4, 33, 129), True): ("fsdp",),
        ((3, 33, 129), True): (),
        ((50257, 768), False): (None, "fsdp"),  # the vocabulary is odd
        ((4, 128), True): (),
        ((128,), False): (),
        ((), False): (),
    }
    assert {k: tuple(param_spec(k[0], stacked=k[1], fsdp=4)) for k in cases} == cases


def test_a_checkpoint_goes_on_over_other_devices(tmp_path):
    optimizer = make_optimizer(OptimConfig(kind="muon"), steps=9)
    state, frozen = start(optimizer)
    state = TrainState(jnp.int32(3), *state[1:])
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    try:
        checkpoints.save(spread(make_mesh("data=4,fsdp=2"), state, frozen)[1])
        checkpoints.wait()
        for mesh in (make_mesh("data=2,fsdp=4"), make_mesh("data=8")):
            places, like, _ = spread(mesh, jax.tree.map(jnp.zeros_like, state), frozen)
            restored = checkpoints.restore(like)
            assert jax.tree.map(lambda x: x.sharding, restored) == places
            chex.assert_trees_all_equal(jax.device_get(restored), jax.device_get(state))
        alone = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
        chex.assert_trees_all_equal(alone, state)
    finally:
        checkpoints.close()


def test_gathered_parameters_are_whole_on_one_device():
    mesh = make_mesh("data=2,fsdp=4")
    params = {"blocks": {"kernel": np.arange(96.0, dtype=np.float32).reshape(3, 4, 8)}, "bias": np.ones(3)}
    got = gather(put(params, param_shardings(mesh, params)), mesh)
    chex.assert_trees_all_equal(jax.device_get(got), jax.tree.map(lambda x: x.astype(np.float32), params))
    assert all(x.devices() == {jax.devices()[0]} for x in jax.tree.leaves(got))


def test_a_part_of_the_batches_is_those_rows():
    whole_batches = small_setup().batches
    batch = whole_batches.batch_at(5)
    part = whole_batches.part([1, 3], [0]).batch_at(5)
    for x, y in zip(batch[:3], part[:3], strict=True):
        np.testing.assert_array_equal(x[[1, 3]], y)
    np.testing.assert_array_equal(batch.text_ids[[0]], part.text_ids)


@pytest.mark.parametrize("shift", [0, 5])
def test_spread_batches_are_the_batches(tmp_path, shift):
    data, program = dataclasses.replace(SHARED_RUN.data, shift=shift), small_setup().program
    text = TextIds.build("the number of this text\n" * 90, program.tokenizer, cache=tmp_path)
    batches = Batches(program.task, program.bridge, text, data, seed=1)
    mesh = make_mesh("data=4,fsdp=2")
    wide = sharded_batches(batches, mesh, data)(3)
    chex.assert_trees_all_equal(jax.device_get(wide), batches.batch_at(3))
    rows = [*wide[:3], *([wide.starts] if shift else [])]
    assert {x.sharding.shard_shape(x.shape)[0] for x in rows} == {2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data=4,fsdp=4", r"needs 4 x 4 = 16 devices, there are 8 .*product is 8"),
        ("data=4", "needs 4 x 1 = 4 devices"),
        ("data=8,data=8", "an axis appears twice"),
        ("model=8", "'model=8' is not one of data=NUMBER, fsdp=NUMBER"),
        ("data=0,fsdp=8", "'data=0' is not one of"),
        ("8", "'8' is not one of"),
    ],
)
def test_a_mesh_that_is_none(text, message):
    with pytest.raises(UserError, match=message):
        make_mesh(text)


def test_rows_that_devices_cannot_share():
    mesh = make_mesh("data=8")
    good = DataConfig(batch=6, domain_items=10, domain_supervised=2, text_batch=16)
    check_rows(mesh, good)
    for bad, message in [
        (DataConfig(batch=6, text_batch=8), "--batch plus --domain-supervised is 6, which 8 devices.*make it 8"),
        (
            DataConfig(batch=8, domain_items=9, text_batch=8),
            "--domain-items less --domain-supervised is 9.*make it 16",
        ),
        (DataConfig(batch=8, text_batch=4), "--text-batch is 4.*make it 8"),
    ]:
        with pytest.raises(UserError, match=message):
            check_rows(mesh, bad)
    even = DataConfig(batch=8, domain_items=0, domain_supervised=0, text_batch=16)
    check_rows(make_mesh(), even, parts=4)
    with pytest.raises(UserError, match=r"--batch.* is 8, which 8 devices in 2 parts.*make it 16"):
        check_rows(mesh, even, parts=2)
    with pytest.raises(UserError, match="needs 4 x 1 = 4 devices"):
        inject(DYCK, config=RunConfig(mesh="data=4"), progress=False)


@pytest.mark.parametrize("cluster", ["", "host:1", "host:1,2,2", "host,2,0"])
def test_a_cluster_that_is_none(cluster):
    with pytest.raises(UserError, match=rf"^cluster {re.escape(repr(cluster))}: give auto, or HOST"):
        start_processes(cluster)
