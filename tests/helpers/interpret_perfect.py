"""A language model that follows the program by construction: the compiled teacher in a rotated residual stream."""

import dataclasses
import functools
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.random_models import write_random_gpt2
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import DataConfig, LossConfig, RunConfig
from tracr_jax.intervene import ResidualEdit, each_edit, edited, on_part
from tracr_jax.lm.base import LanguageModel
from tracr_jax.runs.build import build
from tracr_jax.runs.model import Injected, untouched
from tracr_jax.runs.program import Program
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.types import Adapter, LMOutput

# Its head reads both directions of the result.
CONFIG = RunConfig(
    eval_items=20,
    losses=LossConfig(result_span="rows"),
    data=DataConfig(batch=2, text_batch=1, text_length=8, text=str(SHORT_TEXT)),
)
DYCK = Dyck(pairs=("()", "[]"), min_length=4, max_length=10)


@functools.cache
def random_run(blocks: int = 8) -> Injected:
    """Small dyck on a random GPT-2."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", folder)
        lm = write_random_gpt2(f"{folder}/lm", num_blocks=blocks, width=32, heads=2)
        return untouched(build(dataclasses.replace(CONFIG, task="small"), task=DYCK, lm=lm))


@LanguageModel.register
@dataclasses.dataclass(frozen=True, eq=False)
class PerfectLM:
    """Block b is teacher layer b, block L does nothing, and the head reads the result's two directions.

    Its states are the teacher's times an orthonormal matrix E, so that A = E reads them exactly.
    """

    program: Program
    rotation: Any  # E [D, d], d = D
    answers: tuple[int, int]  # LM tokens of False and True
    max_positions: int = 64

    @property
    def num_blocks(self):
        return self.program.teacher.num_layers + 1

    @property
    def width(self):
        return self.program.teacher.width

    def with_blocks(self, count):
        return self

    def apply(self, params, ids, *, edit=None, logit_positions=None):
        depth, e = self.program.teacher.num_layers, self.rotation
        teacher_ids = jnp.asarray(self.program.bridge.lookup)[ids]
        teacher_ids = jnp.pad(teacher_ids, ((0, 0), (1, 0)), constant_values=self.program.teacher.bos_id)

        def change(fn, x):
            return jnp.concatenate([x[:, :1], fn(x[:, 1:] @ e) @ e.T], axis=1)

        own = tuple(e for e in each_edit(edit) if not _at(e, depth))  # no layer of the teacher
        inner = on_part(own, change) if own else None
        hidden = self.program.residuals(params["phi"], teacher_ids, edit=inner)[:, :, 1:] @ e
        last = edited(edited(hidden[-1], edit, depth, before=True), edit, depth, before=False)
        if logit_positions is not None:
            last = jnp.take_along_axis(last, logit_positions[:, :, None], axis=1)
        result = (last @ e.T)[..., np.asarray(self.program.teacher.result_indices())]
        logits = jnp.full((*last.shape[:-1], self.program.tokenizer.vocab_size), -100.0)
        return LMOutput(logits.at[..., np.asarray(self.answers)].set(result), hidden)


def _at(edit, block):
    return isinstance(edit, ResidualEdit) and isinstance(edit.block, int) and edit.block == block


@functools.cache
def perfect() -> Injected:
    """The run of the perfect model, with the adapter that reads it."""
    return perfect_of(random_run())


def perfect_of(run: Injected, **options) -> Injected:
    """The perfect model of a run's program, a yes-or-no question, with the adapter that reads it."""
    program, width = run.program, run.program.teacher.width
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((width, width)))[0].astype(np.float32)
    items = [program.task.train_item(i, seed=0) for i in range(40)]
    token = {i.label: program.bridge.split(i)[1][0] for i in items}
    values = program.teacher.variable("final_result").values
    answers = tuple(token["yes" if v else "no"] for v in values)
    model = PerfectLM(program, jnp.asarray(rotation), answers, **options)
    params = {"phi": program.phi}
    base = dataclasses.replace(run.original, model=model, params=params)
    program = program.trained(Adapter(jnp.asarray(rotation), jnp.zeros(width)))
    return dataclasses.replace(run, model=model, params=params, programs=(program,), base=base)


def with_random_adapter(run: Injected) -> Injected:
    """The same model with an adapter that reads nothing."""
    shape = run.adapter.weight.shape
    rows = np.random.default_rng(5).standard_normal(shape).astype(np.float32) / shape[1] ** 0.5
    program = run.program.trained(Adapter(jnp.asarray(rows), jnp.zeros(shape[0])))
    return dataclasses.replace(run, programs=(program,))
