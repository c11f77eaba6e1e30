"""The loop: resuming is bit for bit, a number that is not finite stops it, one program is compiled."""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.bounds import assert_same
from tracr_jax.config import LossConfig, OptimConfig
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.lm.gpt2 import GPT2, GPT2Config
from tracr_jax.teacher.model import Variable
from tracr_jax.teacher.variables import variable_layout
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.interrupt import InterruptedRunError, requests_to_stop, training
from tracr_jax.train.loop import fit
from tracr_jax.train.metrics import JsonLines, TensorBoard, read_lines, spent
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import (
    Frozen,
    StepShape,
    TrainParams,
    init_adapter,
    init_state,
    make_loss_fn,
    make_train_step,
)
from tracr_jax.types import Batch

MODEL = GPT2(GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=4, n_head=3))
DEPTH, WIDTH = 2, 6
STEPS = 6


def teacher(phi, ids):
    """A stand-in: token class in three directions, its parity in the next two, a fraction in the last."""
    classes = jax.nn.one_hot(ids % 3, 3)
    parity = jax.nn.one_hot(ids % 2, 2)
    number = (ids[..., None] % 5) / 5.0
    return jnp.stack([jnp.concatenate([classes, parity * (i > 0), number], -1) for i in range(DEPTH + 1)]) * phi


def batch_at(step):
    rng = np.random.default_rng((7, step))
    ids = rng.integers(1, 40, size=(4, 8)).astype(np.int32)
    mask = np.zeros((4, 8), np.float32)
    mask[:, 5] = 1
    return (Batch(ids, mask, rng.integers(0, 40, size=(4, 9)), rng.integers(0, 40, size=(2, 6))),)


VARIABLES = (
    Variable("class", "categorical", (0, 1, 2), (0, 1, 2), 0),
    Variable("final_result", "categorical", (3, 4), (False, True), 0),
    Variable("n", "numerical", (5,), (), 0),
)


def parts(alignment="variable"):
    optimizer = make_optimizer(OptimConfig(learning_rate=1e-2, warmup_steps=2), steps=STEPS)
    step = make_train_step(
        MODEL,
        teacher,
        optimizer,
        config=LossConfig(alignment=alignment),
        shape=StepShape(DEPTH, (3, 4), pad_id=0, max_answers=1),
        layout=variable_layout(VARIABLES),
    )
    lm = MODEL.init(jax.random.key(0))
    adapter = init_adapter(jax.random.key(1), width=24, directions=WIDTH)
    return step, init_state(TrainParams(lm, (adapter,)), optimizer), Frozen(lm, (jnp.ones(()),))


def run(folder, *, until, state=None, batches=batch_at, every=2):
    step, start, frozen = parts()
    checkpoints = Checkpoints(folder / "checkpoints")
    if state == "resume":
        start = checkpoints.restore(start)
    writer = JsonLines(folder / "metrics.jsonl", keep_below=int(start.step))
    try:
        return fit(
            jax.jit(step, donate_argnums=0),
            start,
            frozen,
            batches,
            steps=until,
            writer=writer,
            checkpoints=checkpoints,
            checkpoint_every=every,
            progress=False,
        )
    finally:
        writer.close()
        checkpoints.close()


def test_resume_equals_the_straight_run_bit_for_bit(tmp_path):
    (tmp_path / "a").mkdir()
    straight = run(tmp_path / "a", until=STEPS)
    (tmp_path / "b").mkdir()
    run(tmp_path / "b", until=3, every=3)
    resumed = run(tmp_path / "b", until=STEPS, state="resume")
    chex.assert_trees_all_equal(straight, resumed)
    a, b = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(tmp_path / x / "metrics.jsonl")]
        for x in "ab"
    )
    assert [line["step"] for line in a] == list(range(STEPS))
    assert a == b


def interrupted_at(number, *, by=signal.SIGINT):
    """Batches of which one arrives with Ctrl-C, or another signal."""

    def batches(step):
        if step == number:
            os.kill(os.getpid(), by)
        return batch_at(step)

    return batches


def test_what_a_step_lacks_is_said():
    options = {"shape": StepShape(DEPTH, (3, 4), pad_id=0, max_answers=1)}
    optimizer = make_optimizer(OptimConfig(), steps=STEPS)
    for losses, message in (
        (LossConfig(retention_growth=8.0), "retention_growth 8 needs steps="),
        (LossConfig(), "variable alignment needs layout="),
        (LossConfig(alignment="exchange", hook_offset=-1), "alignment exchange has a loss of its own"),
    ):
        with pytest.raises(UserError, match=message):
            make_train_step(MODEL, teacher, optimizer, config=losses, **options)


def test_ctrl_c_without_checkpoints_says_that_nothing_is_saved(tmp_path):
    (step, start, frozen), writer = parts(), JsonLines(tmp_path / "lines")
    with (
        contextlib.closing(writer),
        pytest.raises(InterruptedRunError, match=r"stopped after \d steps, which are not saved"),
    ):
        fit(jax.jit(step), start, frozen, interrupted_at(2), steps=STEPS, writer=writer, progress=False)


@pytest.mark.parametrize("by", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_a_request_saves_the_step_under_way_and_the_run_goes_on_bit_for_bit(tmp_path, by):
    for name in "abc":
        (tmp_path / name).mkdir()
    straight = run(tmp_path / "a", until=STEPS)
    before = signal.getsignal(by)
    with pytest.raises(KeyboardInterrupt) as stop:
        run(tmp_path / "b", until=STEPS, every=100, batches=interrupted_at(2, by=by))
    assert isinstance(stop.value, InterruptedRunError)
    # Batches are made one ahead: the step under way is 1 or 2.
    assert stop.value.steps in (2, 3)
    assert str(stop.value) == f"stopped after {stop.value.steps} steps, which are saved"
    assert [p.name for p in (tmp_path / "b" / "checkpoints").iterdir()] == [str(stop.value.steps)]
    assert len(read_lines(tmp_path / "b" / "metrics.jsonl")) == stop.value.steps
    assert signal.getsignal(by) is before
    chex.assert_trees_all_equal(straight, run(tmp_path / "b", until=STEPS, state="resume"))


def test_the_second_ctrl_c_ends_at_once_and_another_handler_stays():
    def twice():
        with requests_to_stop() as asked:
            assert training()
            os.kill(os.getpid(), signal.SIGINT)
            while not asked():
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)  # of which several are one
            time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt) as stop:
        twice()
    assert type(stop.value) is KeyboardInterrupt
    assert not training()
    heard = []
    before = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        with requests_to_stop() as asked:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert (heard, asked()) == ([1], False)
    finally:
        signal.signal(signal.SIGINT, before)


def test_losses_fall_and_frozen_sets_stay(tmp_path):
    step, state, frozen = parts()
    before = jax.tree.map(np.array, frozen)
    step = jax.jit(step, donate_argnums=0)
    first = None
    for i in range(30):
        state, terms = step(state, frozen, batch_at(i % 3))
        first = first if first is not None else {k: float(terms[k]) for k in ("alignment", "supervised")}
    assert float(terms["alignment"]) < 0.8 * first["alignment"]
    assert float(terms["supervised"]) < first["supervised"]
    chex.assert_trees_all_equal(before, jax.tree.map(np.array, frozen))


def test_retention_grows_by_an_equal_ratio_per_step():
    config = LossConfig(retention_weight=0.3, retention_growth=4.0)
    _, state, frozen = parts()
    lm = jax.tree.map(lambda x: 3 * x, state.params.lm)  # at θ₀ itself the KL is 0
    loss = make_loss_fn(
        MODEL,
        teacher,
        config=config,
        shape=StepShape(DEPTH, (3, 4), pad_id=0, max_answers=1),
        layout=variable_layout(VARIABLES),
    )
    totals, terms = zip(
        *(loss(state.params._replace(lm=lm), frozen, batch_at(0), x) for x in (0.0, 0.5, 1.0)), strict=True
    )
    kl = float(terms[0]["retention"])
    assert kl > 0.1
    np.testing.assert_allclose(totals[1] - totals[0], 0.3 * (2 - 1) * kl, rtol=1e-3)
    np.testing.assert_allclose(totals[2] - totals[1], 0.3 * (4 - 2) * kl, rtol=1e-3)


@pytest.mark.parametrize("alignment", ["variable", "cosine"])
def test_rows_that_are_only_aligned_count_as_if_the_whole_model_had_run_on_them(alignment):
    # Without the roll, rows do not meet: two of four rows may be aligned only, and then need fewer blocks.
    batch = batch_at(0)
    batch[0].answer_mask[2:] = 0
    adapter = init_adapter(jax.random.key(1), width=24, directions=WIDTH)
    params = TrainParams(MODEL.init(jax.random.key(0)), (adapter,))
    frozen = Frozen(MODEL.init(jax.random.key(2)), (jnp.ones(()),))
    grads = []
    for free in (0, 2):
        loss = make_loss_fn(
            MODEL,
            teacher,
            config=LossConfig(alignment=alignment, hook=False),
            shape=StepShape(DEPTH, (3, 4), pad_id=0, max_answers=1, aligned_only=free),
            layout=variable_layout(VARIABLES),
        )
        grads.append(jax.jit(jax.value_and_grad(lambda p, f=loss: f(p, frozen, batch)[0]))(params))
    assert_same(*grads)


@pytest.mark.parametrize("offset", [-1, 0])
def test_the_hook_leaves_what_is_aligned_as_it_is(offset):
    """Also where it stands right on h_L: the complement that a row receives is another row's, and no reading."""
    adapter = init_adapter(jax.random.key(1), width=24, directions=WIDTH)
    params = TrainParams(MODEL.init(jax.random.key(0)), (adapter,))
    found = {}
    for hook in (True, False):
        loss = make_loss_fn(
            MODEL,
            teacher,
            config=LossConfig(hook=hook, hook_offset=offset),
            shape=StepShape(DEPTH, (3, 4), pad_id=0, max_answers=1),
            layout=variable_layout(VARIABLES),
        )
        found[hook] = jax.jit(loss)(params, Frozen(params.lm, (jnp.ones(()),)), batch_at(0))[1]
    assert_same(found[True]["alignment_parts"], found[False]["alignment_parts"])
    assert abs(found[True]["supervised"] - found[False]["supervised"]) > 1e-4


def test_nan_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    def poisoned(step):
        (batch,) = batch_at(step)
        return (batch._replace(answer_mask=batch.answer_mask * np.nan) if step == 5 else batch,)

    with pytest.raises(TrainingDivergedError, match=r"step 5: .*not finite.*checkpoint after 4 steps"):
        run(tmp_path, until=STEPS, batches=poisoned)
    kept = Checkpoints(tmp_path / "checkpoints", read_only=True)
    _, start, _ = parts()
    assert kept.latest() == 4
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(kept.restore(start)))
    kept.close()
    assert [line["step"] for line in read_lines(tmp_path / "metrics.jsonl")] == [0, 1, 2, 3, 4]


def test_the_step_is_compiled_once():
    step, state, frozen = parts()
    counted = jax.jit(chex.assert_max_traces(step, n=1))
    for i in range(3):
        state, _ = counted(state, frozen, batch_at(i))


def test_the_pure_step_runs_under_pmap():
    """Users have such scripts; the step must not depend on how it is mapped."""
    step, state, frozen = parts()
    alone, _ = jax.jit(step)(state, frozen, batch_at(0))
    twice = jax.tree.map(lambda x: jnp.stack([jnp.asarray(x)] * 2), (state, frozen, batch_at(0)))
    mapped, _ = jax.pmap(step)(*twice)
    for i in range(2):
        assert_same(jax.tree.map(lambda x, i=i: x[i], mapped), alone)


def test_torn_last_line_is_dropped_and_damage_elsewhere_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 0, "loss": 1}\n{"step": 1, "lo')
    assert read_lines(path) == [{"step": 0, "loss": 1}]
    path.write_text('{"step": 0, "loss"\n{"step": 1}\n')
    with pytest.raises(UserError, match="line 1: not JSON"):
        read_lines(path)
    path.write_text(json.dumps([1]) + "\n")
    with pytest.raises(UserError, match="not a metrics line"):
        read_lines(path)


def test_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(UserError, match="no checkpoints here"):
        Checkpoints(tmp_path / "nothing", read_only=True)


def test_tensorboard_makes_its_folder_with_the_first_step(monkeypatch, tmp_path):
    """A run is refused where its folder is not empty: what logs beside it must not be there first."""
    seen = []

    class SummaryWriter:
        def __init__(self, folder):
            Path(folder).mkdir(parents=True)

        def add_scalar(self, key, value, step):
            seen.append((key, float(value), step))

        def flush(self):
            pass

        close = flush

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    writer = TensorBoard(tmp_path / "run" / "tensorboard")
    writer.flush()
    assert not (tmp_path / "run").exists()
    for step in (0, 1):
        writer.write(step, {"loss": np.float32(1.5)})
    writer.close()
    assert (tmp_path / "run" / "tensorboard").is_dir()
    assert seen == [("loss", 1.5, 0), ("loss", 1.5, 1)]


def test_what_the_steps_of_some_lines_took():
    assert spent([]) == 0
    assert spent([{"step": 0, "seconds": 9.0}, {"step": 5, "seconds": 2.0}, {"step": 6, "seconds": 1.0}]) == 20.0
