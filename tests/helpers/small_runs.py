"""Runs of a few steps, of random models."""

from typing import Any

from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import DataConfig, OptimConfig, RunConfig
from tracr_jax.runs.model import Injected

SMALL = RunConfig(
    steps=4,
    eval_items=4,
    checkpoint_every=2,
    data=DataConfig(batch=2, text_batch=1, text_length=8, text=str(SHORT_TEXT)),
    optim=OptimConfig(warmup_steps=0),
)


def trained(run: Injected) -> tuple[Any, list[Any]]:
    """All that training changes."""
    return run.params, [p.adapter for p in run.programs]
