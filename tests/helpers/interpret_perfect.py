"""A language model that follows the program by construction: the compiled teacher in a rotated residual stream."""

import dataclasses
import functools
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tracr_jax.config import DataConfig, RunConfig
from tracr_jax.intervene import ResidualEdit
from tracr_jax.lm.load import write_random_gpt2
from tracr_jax.runs.build import Setup, build
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.train.step import TrainParams
from tracr_jax.types import Adapter, LMOutput

CONFIG = RunConfig(data=DataConfig(batch=2, text_batch=1, text_length=8))
DYCK = Dyck(pairs=("()", "[]"), min_length=4, max_length=10)


@functools.cache
def random_setup(blocks: int = 8) -> Setup:
    """Small dyck on a random GPT-2."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", folder)
        lm = write_random_gpt2(f"{folder}/lm", num_blocks=blocks, width=32, heads=2)
        return build(dataclasses.replace(CONFIG, task="small"), task=DYCK, lm=lm)


@dataclasses.dataclass(frozen=True, eq=False)
class PerfectLM:
    """Block b is teacher layer b, block L does nothing, and the head reads the result's two directions.

    Its states are the teacher's times an orthonormal matrix E, so that A = E reads them exactly.
    """

    setup: Setup
    rotation: Any  # E [D, d], d = D
    answers: tuple[int, int]  # LM tokens of False and True

    max_positions = 64

    @property
    def num_blocks(self):
        return self.setup.teacher.num_layers + 1

    @property
    def width(self):
        return self.setup.teacher.width

    def with_blocks(self, count):
        return self

    def apply(self, params, ids, *, edit=None, logit_positions=None):
        depth, e = self.setup.teacher.num_layers, self.rotation
        teacher_ids = jnp.asarray(self.setup.bridge.lookup)[ids]
        teacher_ids = jnp.pad(teacher_ids, ((0, 0), (1, 0)), constant_values=self.setup.teacher.bos_id)

        def change(x):
            return jnp.concatenate([x[:, :1], edit.fn(x[:, 1:] @ e) @ e.T], axis=1)

        inner = None if edit is None else ResidualEdit(edit.block, change)
        hidden = self.setup.residuals(params["phi"], teacher_ids, edit=inner)[:, :, 1:] @ e
        last = hidden[-1]
        if edit is not None:
            last = jnp.where(jnp.asarray(edit.block) == depth, edit.fn(last), last)
        if logit_positions is not None:
            last = jnp.take_along_axis(last, logit_positions[:, :, None], axis=1)
        result = (last @ e.T)[..., np.asarray(self.setup.teacher.result_indices())]
        logits = jnp.full((*last.shape[:-1], self.setup.tokenizer.vocab_size), -100.0)
        return LMOutput(logits.at[..., np.asarray(self.answers)].set(result), hidden)


@functools.cache
def perfect() -> tuple[Setup, TrainParams]:
    """The setup with the perfect model, and its parameters with the adapter that reads it."""
    setup = random_setup()
    width = setup.teacher.width
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0].astype(np.float32)
    items = [setup.task.train_item(i, seed=0) for i in range(40)]
    token = {i.label: setup.bridge.split(i)[1][0] for i in items}
    values = setup.teacher.variable("final_result").values
    model = PerfectLM(setup, jnp.asarray(rotation), tuple(token["yes" if v else "no"] for v in values))
    params = {"phi": setup.phi}
    lm = dataclasses.replace(setup.lm, model=model, params=params)
    return dataclasses.replace(setup, lm=lm), TrainParams(params, Adapter(jnp.asarray(rotation), jnp.zeros(width)))


def with_random_adapter(params: TrainParams) -> TrainParams:
    """The same model with an adapter that reads nothing."""
    shape = params.adapter.weight.shape
    rows = np.random.default_rng(5).standard_normal(shape).astype(np.float32) / shape[1] ** 0.5
    return TrainParams(params.lm, Adapter(jnp.asarray(rows), jnp.zeros(shape[0])))
