"""Everything a run is made of, built and checked before a step is taken or a file written.

The order: language model -> tokenizer with the task's merges -> length of the longest item -> teacher of that
length -> bridge -> batches. Each check that fails is one line with the numbers and what to change.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from tracr_jax.bridge import Bridge, BridgeReport
from tracr_jax.config import RunConfig
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.losses import VariableLayout
from tracr_jax.tasks.base import Task
from tracr_jax.tasks.batches import Batches
from tracr_jax.teacher import Teacher
from tracr_jax.train import StepShape
from tracr_jax.types import Residuals

_CHECKED_ITEMS = 500  # training items on which the bridge is proved before a run


@dataclass(frozen=True)
class Setup:
    """The parts of a run; arrays are on the host or the default device."""

    config: RunConfig
    task: Task
    lm: LoadedLM
    tokenizer: Tokenizer  # with the task's merges
    teacher: Teacher
    phi: Any  # teacher weights for `residuals`, an argument of the step
    residuals: Callable[[Any, Int[np.ndarray, "B T"]], Residuals]
    bridge: Bridge
    bridge_report: BridgeReport
    batches: Batches
    layout: VariableLayout
    shape: StepShape
    valid_text: Int[np.ndarray, "W U"]  # held-out windows of the retention corpus

    @property
    def sequence_length(self) -> int:
        """S: tokens of the longest training or in-distribution item, answer included."""
        return self.batches.S
