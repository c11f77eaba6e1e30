"""A small program with reserved directions on a random model that is wide and deep enough to hold them."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tests.helpers import interpret_parts as P
from tracr_jax.config import ExchangeConfig, LayerMap
from tracr_jax.lm.gpt2 import GPT2
from tracr_jax.train.mixing import draw_mix, mixed_states, mixed_targets, variable_of
from tracr_jax.train.reserved import Reserved, directions, reserve
from tracr_jax.train.step import StepShape
from tracr_jax.types import Codes

WIDTH, BLOCKS = 64, 10
LAYERS = 6  # of the small program's teacher
LAYER_MAP = LayerMap(1, 1, (2,))
STATES = LAYER_MAP.states(LAYERS)


class Parts(NamedTuple):
    """What the exchange takes of a set-up."""

    model: Any
    params: Any
    program: Any
    shape: StepShape

    @property
    def teacher(self):
        return self.program.teacher

    @property
    def oracle(self):
        return self.program.oracle


@functools.cache
def setup() -> Parts:
    """Dyck with two types on a random GPT-2 of 10 blocks."""
    small = P.small_setup()
    config = dataclasses.replace(small.lm.model.config, n_embd=WIDTH, n_layer=BLOCKS, n_head=4)
    model = GPT2(config)
    rng = np.random.default_rng(5)

    def draw(path, leaf):
        around = 1.0 if getattr(path[-1], "key", "") == "scale" else 0.0
        return jnp.asarray(around + 0.1 * rng.standard_normal(leaf.shape), jnp.float32)

    params = jax.tree_util.tree_map_with_path(draw, jax.eval_shape(model.init, jax.random.key(0)))
    return Parts(model, params, small.program, small.shape._replace(layers=LAYER_MAP))


@functools.cache
def reserved(**options) -> Reserved:
    """Its variables; options as of `reserve`."""
    return reserve(setup().teacher, setup().oracle, ExchangeConfig(**{"directions": 3} | options))


def trained(r: Reserved, *, width: int = WIDTH, seed: int = 0) -> Codes:
    """Codes as after some training: moved centroids, readouts of different sharpness."""
    rng = np.random.default_rng(seed)
    codes = r.init(directions(seed, width=width, count=r.total))
    moved = tuple(c + 0.2 * rng.standard_normal(c.shape).astype(np.float32) for c in codes.centroids)
    moved = tuple(c if c.shape[1] > 2 else start for c, start in zip(moved, codes.centroids, strict=True))
    return Codes(codes.basis, moved, codes.sharpness + rng.uniform(-0.5, 0.5, codes.sharpness.shape))


def mix_of(seed, *, rows, free):
    """A plan for so many rows, of which this share is free."""
    config = ExchangeConfig(free_share=free, sparsest=0.5)
    teacher = setup().teacher
    return draw_mix(
        jax.random.key(seed), variables=len(teacher.variables), rows=rows, layers=LAYERS, config=config
    )


@jax.jit
def passes(phi, ids, mix):
    """Teacher states as they are, mixed, and what the layers make of the mixture."""
    s = setup()
    own = s.program.residuals(phi, ids)
    mixed = mixed_states(own, mix, variable_of(s.teacher))
    return own, mixed, mixed_targets(s.program.residuals, phi, ids, mixed, mix)
