"""A small run whose model is known: with its switch on, its states are the teacher's own."""

import dataclasses
import functools
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from tests.helpers.random_models import write_random_gpt2
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import DataConfig, Fidelity, RunConfig
from tracr_jax.lm.base import LanguageModel
from tracr_jax.runs.build import Setup, build
from tracr_jax.runs.model import Injected, untouched
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.types import Adapter, LMOutput

CONFIG = RunConfig(eval_items=20, data=DataConfig(batch=4, text_batch=1, text_length=8, text=str(SHORT_TEXT)))


class FewSets(Dyck):
    """Dyck with fewer evaluation sets: the oracle takes its time on the long ones."""

    def eval_sets(self):
        return {n: s for n, s in super().eval_sets().items() if n in ("test", "valid", "near_miss", "length_ood")}


DYCK = FewSets(pairs=("()", "[]"), min_length=2, max_length=8)


@functools.cache
def small_setup(task=DYCK, blocks=8, as_coded=False) -> Setup:
    """A task on a random GPT-2; `as_coded`: a teacher that is not its program is no error."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", folder)
        # Short: tokenising the bundled text would be most of the time.
        text = Path(folder) / "text.txt"
        text.write_text("the number of this text is here\n" * 900)
        data, fidelity = dataclasses.replace(CONFIG.data, text=str(text)), Fidelity(as_coded=as_coded)
        config = dataclasses.replace(CONFIG, task="small", data=data, fidelity=fidelity)
        lm = write_random_gpt2(f"{folder}/lm", num_blocks=blocks, width=16, heads=2)
        return build(config, task=task, lm=lm)


@functools.cache
def small_run(*which) -> Injected:
    """`small_setup` as if trained for no step."""
    return untouched(small_setup(*which))


@LanguageModel.register
@dataclasses.dataclass(frozen=True, eq=False)
class TeacherLM:
    """params["on"] = 1: hidden states are the teacher's; 0: a random vector for each token, and nothing else."""

    lookup: Any
    phi: Any
    residuals: Any
    bos: int
    width: int
    table: int
    max_positions: int = 128
    num_blocks: int = 0  # nothing to cut

    def with_blocks(self, count):
        return self

    def apply(self, params, ids):
        table = ids[:, : self.table]  # beyond it the teacher has no states: zeros
        bos = jnp.full((ids.shape[0], 1), self.bos)
        states = self.residuals(self.phi, jnp.concatenate([bos, jnp.asarray(self.lookup)[table]], axis=1))[
            :, :, 1:
        ]
        states = jnp.pad(states, ((0, 0), (0, 0), (0, ids.shape[1] - table.shape[1]), (0, 0)))
        noise = jax.random.normal(jax.random.key(0), (len(self.lookup), self.width))[ids]
        hidden = jnp.where(params["on"], states, noise[None])
        return LMOutput(jnp.zeros((*ids.shape, len(self.lookup))), hidden)


@functools.cache
def known_run() -> Injected:
    """The trained model shows the teacher's states, the untouched one the tokens; the adapter is 1."""
    run = small_run()
    program, d = run.program, run.program.teacher.width
    table = program.teacher.max_seq_len
    model = TeacherLM(program.bridge.lookup, program.phi, program.residuals, program.teacher.bos_id, d, table)
    base = dataclasses.replace(run.original, model=model, params={"on": jnp.array(False)})
    program = program.trained(Adapter(jnp.eye(d), jnp.zeros(d)))
    return dataclasses.replace(run, model=model, params={"on": jnp.array(True)}, programs=(program,), base=base)
