"""The optimiser's groups: embeddings at a rate of their own, everything else as without it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from tests.helpers import lm_models as M
from tracr_jax.config import OptimConfig
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import TrainParams

EMBEDDINGS = {
    "gpt2": {("wte", "embedding"), ("wpe", "embedding")},
    "llama": {("embed_tokens", "embedding"), ("lm_head", "kernel")},
}


def updates(params, *, kind, rate):
    config = OptimConfig(kind=kind, learning_rate=1e-2, embedding_rate=rate, warmup_steps=0, clip_norm=0.0)
    optimizer = make_optimizer(config, steps=3)
    both = TrainParams(params, ())
    gradient = jax.tree.map(lambda x: jnp.cos(x) + 0.1, both)
    found, _ = optimizer.update(gradient, optimizer.init(both), both)
    return flatten_dict(found.lm)


@pytest.mark.parametrize("family", M.CONFIGS)
@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_embeddings_move_at_their_share_of_the_rate(family, kind):
    params = M.make(family)[1]
    if family == "llama":  # as an untied one has
        params = params | {"lm_head": {"kernel": jnp.ones((32, 61))}}
    whole, tenth, none = (updates(params, kind=kind, rate=rate) for rate in (1.0, 0.1, 0.0))
    slow = {path for path in whole if not np.array_equal(whole[path], tenth[path])}
    assert slow == EMBEDDINGS[family]
    for path, update in whole.items():
        assert np.any(update)
        if path in slow:
            np.testing.assert_allclose(tenth[path], 0.1 * update, rtol=1e-5)
            assert not np.any(none[path])
        else:
            np.testing.assert_array_equal(none[path], update)


def test_embeddings_that_stay_have_no_part_in_the_limit_of_the_norm():
    """Adam's first step is the same at every scale: its moments tell."""
    params = M.make("gpt2")[1]
    config = OptimConfig(kind="adamw", embedding_rate=0.0, warmup_steps=0, weight_decay=0.0)
    both = TrainParams(params, ())

    def moments(large):
        optimizer = make_optimizer(config, steps=3)
        gradient = jax.tree_util.tree_map_with_path(
            lambda path, x: jnp.full_like(x, large if path[1].key in ("wte", "wpe") else 1e-4), both
        )
        state = optimizer.update(gradient, optimizer.init(both), both)[1]
        return [np.abs(x).max() for x in jax.tree.leaves(state) if getattr(x, "ndim", 0)]

    np.testing.assert_allclose(moments(100.0), moments(0.0), rtol=1e-6)
