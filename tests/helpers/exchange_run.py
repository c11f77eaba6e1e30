"""A run of exchange training of two steps on a small random GPT-2."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import interpret_parts as P
from tests.helpers.random_models import write_random_gpt2
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import DataConfig, ExchangeConfig, LossConfig, OptimConfig, RunConfig
from tracr_jax.injection import inject
from tracr_jax.runs.model import Injected

CONFIG = RunConfig(
    steps=2,
    eval_items=4,
    checkpoint_every=1,
    layer_offset=1,
    losses=LossConfig(alignment="exchange", hook_offset=-1, retention_weight=0.1),
    exchange=ExchangeConfig(directions=3, hand_on=True, merge_values=True),
    optim=OptimConfig(kind="muon", warmup_steps=0),
    data=DataConfig(
        batch=2,
        domain_items=2,
        domain_supervised=2,
        text_batch=2,
        text_length=8,
        answer_end=False,
        text=str(SHORT_TEXT),
    ),
)


@contextlib.contextmanager
def small_exchange_run(at: Path) -> Iterator[Injected]:
    """Made in the folder `at`/run; what is cached as long as it is used lies in `at` as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", str(at / "cache"))
        text = at / "text.txt"
        text.write_text("the number of this text is here\n" * 900)
        config = dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, text=str(text)))
        lm = write_random_gpt2(at / "lm", num_blocks=9, width=48, heads=2)
        yield inject(P.DYCK, lm=lm, config=config, folder=at / "run", progress=False)
