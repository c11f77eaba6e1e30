"""The optimiser of a run: Muon or AdamW on the model, AdamW on the adapters. Source: docs/method.md §5."""

from typing import Any

import jax
import optax
from optax import contrib

from tracr_jax.config import OptimConfig
from tracr_jax.lm.lora import A, B
from tracr_jax.types import Adapter, Codes, Params


def make_optimizer(config: OptimConfig, *, steps: int) -> optax.GradientTransformation:
    """One schedule for the model and one for the adapter, behind a common norm limit; see `OptimConfig.kind`."""

    def adamw(peak):
        return optax.adamw(
            _schedule(config, peak, steps), b1=config.b1, b2=config.b2, weight_decay=config.weight_decay
        )

    def muon(peak):
        return contrib.muon(
            _schedule(config, peak, steps),
            ns_steps=config.muon_iterations,
            weight_decay=config.weight_decay,
            adam_b1=config.b1,
            adam_b2=config.b2,
            adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=_block_matrices,
            consistent_rms=0.2,  # updates as large as Adam's, so that one rate serves both
        )

    groups = optax.partition(
        {
            "lm": {"adamw": adamw, "muon": muon}[config.kind](config.learning_rate),
            "adapter": adamw(config.adapter_learning_rate),
            "fixed": optax.set_to_zero(),
        },
        lambda params: type(params)("lm", tuple(map(_adapter_groups, params.adapters))),
    )
    return optax.chain(optax.clip_by_global_norm(config.clip_norm), groups) if config.clip_norm else groups


def _adapter_groups(adapter: Adapter | Codes) -> Any:
    """The optimiser's group of each array of an adapter: reserved directions are never trained."""
    groups: Any = ("fixed", "adapter", "adapter")
    return Codes(*groups) if isinstance(adapter, Codes) else "adapter"


def _block_matrices(params: Params) -> Any:
    """Which axes are in and out of each matrix of a block, stacked over blocks or not; None for other tensors.

    A low-rank pair is two matrices. AdamW would move their elements five times as far at the same rate.
    """

    def axes(path, x):
        inside = any(getattr(k, "key", "").startswith("block") for k in path)
        matrix = inside and path[-1].key in ("kernel", A, B)
        return contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1) if matrix else None

    return jax.tree_util.tree_map_with_path(axes, params)


def _schedule(config, peak, steps):
    warm = config.warmup_steps
    # Step 0 already moves: the warm-up starts at peak / (warm + 1), not at 0.
    if config.schedule == "constant":
        return optax.linear_schedule(peak / (warm + 1), peak, warm) if warm else peak
    end = max(steps, warm + 1)
    return optax.warmup_cosine_decay_schedule(
        peak / (warm + 1), peak, warm, end, end_value=peak * config.final_rate
    )
