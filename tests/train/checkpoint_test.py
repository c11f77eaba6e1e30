"""A run's checkpoints are opened to be read without a word from orbax, and still cannot be changed."""

import logging

import chex
import jax.numpy as jnp

from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.step import TrainParams, TrainState
from tracr_jax.types import Adapter


def state(step):
    params = TrainParams({"w": jnp.full((2, 3), float(step))}, (Adapter(jnp.ones((4, 3)), jnp.zeros(4)),))
    return TrainState(jnp.int32(step), params, {"mean": jnp.zeros(3)})


def write(folder, *steps):
    checkpoints = Checkpoints(folder)
    for step in steps:
        checkpoints.save(state(step))
    checkpoints.close()


def test_reading_is_quiet_and_other_warnings_pass(tmp_path, caplog):
    write(tmp_path / "run", 1, 2)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        checkpoints = Checkpoints(tmp_path / "run", read_only=True)
        params = checkpoints.restore_params(state(0).params)
        checkpoints.close()
        assert [r.getMessage() for r in caplog.records] == []
        logging.getLogger("absl").warning("Given directory is read only=elsewhere")
    assert len(caplog.records) == 1
    chex.assert_trees_all_equal(params, state(2).params)


def test_a_read_only_folder_takes_no_checkpoint_and_loses_none(tmp_path):
    write(tmp_path / "run", 1, 2)
    before = sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*"))
    checkpoints = Checkpoints(tmp_path / "run", keep=1, read_only=True)
    checkpoints.save(state(3))
    checkpoints.wait()
    assert checkpoints.latest() == 2
    checkpoints.close()
    assert sorted(p.relative_to(tmp_path) for p in tmp_path.rglob("*")) == before
