"""The optimiser of a run: Muon or AdamW on the model, AdamW on the adapters. Source: docs/method.md §5."""

from collections.abc import Hashable
from typing import Any

import jax
import optax
from optax import contrib

from tracr_jax.config import OptimConfig
from tracr_jax.lm.lora import A, B
from tracr_jax.train.codes import is_fixed
from tracr_jax.train.trainable import is_embedding
from tracr_jax.types import Adapter, Codes, Params


def make_optimizer(config: OptimConfig, *, steps: int) -> optax.GradientTransformation:
    """Schedules for the model, its embeddings and the adapter, under one limit of the norm; see `OptimConfig`."""

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

    make = {"adamw": adamw, "muon": muon}[config.kind]
    rate, embedding_rate = config.learning_rate, config.embedding_rate
    groups: dict[Hashable, optax.GradientTransformation] = {
        "lm": make(rate),
        "adapter": adamw(config.adapter_learning_rate),
        "fixed": optax.set_to_zero(),
    }
    if embedding_rate != 1:  # else no group of its own: the optimiser's state keeps its form
        groups["embeddings"] = make(embedding_rate * rate) if embedding_rate else groups["fixed"]

    def labels(params):
        lm = "lm" if embedding_rate == 1 else _model_groups(params.lm)
        return type(params)(lm, tuple(map(_adapter_groups, params.adapters)))

    parts: list[optax.GradientTransformation] = [optax.partition(groups, labels)]
    if config.clip_norm:
        parts.insert(0, optax.clip_by_global_norm(config.clip_norm))
    if not embedding_rate:  # what is not moved has no part in the norm either
        moved = {k: g if g is groups["fixed"] else optax.identity() for k, g in groups.items()}
        parts.insert(0, optax.partition(moved, labels))
    return optax.chain(*parts) if len(parts) > 1 else parts[0]


def _model_groups(params: Params) -> Any:
    """The optimiser's group of each array of the model."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "embeddings" if is_embedding(tuple(k.key for k in path)) else "lm", params
    )


def _adapter_groups(adapter: Adapter | Codes) -> Any:
    """The optimiser's group of each array of an adapter.

    Reserved directions are never trained, nor are fixed centroids, which have no gradient and would only decay.
    """
    if isinstance(adapter, Adapter):
        return "adapter"
    centroids = tuple("fixed" if is_fixed(c.shape[1]) else "adapter" for c in adapter.centroids)
    return Codes("fixed", centroids, "adapter")  # pyright: ignore[reportArgumentType]


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
