"""Llama: sizes, configurations, and that rotary positions only see distances."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models as M
from tests.helpers.bounds import assert_same
from tracr_jax.errors import UserError
from tracr_jax.lm.blocks import unstack_blocks
from tracr_jax.lm.llama import Llama, LlamaConfig, _rotate
from tracr_jax.lm.rotary import RotaryScaling


def test_parameter_count_of_smollm2():
    shapes = jax.eval_shape(Llama(LlamaConfig()).init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 134515008


def test_rotated_products_depend_on_the_distance_only():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.standard_normal((1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def product(at_q, at_k):
        turned = [
            _rotate(x, jnp.full((1, 1, 4), at) * jnp.array([[[1.0, 0.3, 0.1, 0.03]]]))
            for x, at in ((q, at_q), (k, at_k))
        ]
        return float(jnp.sum(turned[0] * turned[1]))

    np.testing.assert_allclose(product(9.0, 5.0), product(4.0, 0.0), rtol=1e-4)
    assert abs(product(9.0, 5.0) - product(9.0, 6.0)) > 1e-3


def test_what_a_silent_config_means():
    sizes = dict(vocab_size=9, hidden_size=32, intermediate_size=8, num_hidden_layers=2, num_attention_heads=4)
    config = LlamaConfig.from_hf({"model_type": "llama", **sizes})
    assert (config.num_key_value_heads, config.head_dim, config.rope_theta) == (4, 8, 10000.0)
    assert config.tie_word_embeddings is False
    assert config.rms_norm_eps == 1e-6


def test_config_survives_hf_form():
    assert LlamaConfig.from_hf(M.LLAMA_TINY.to_hf()) == M.LLAMA_TINY


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "factor of rotary scaling 'yarn'"),
        ({"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 0}, "sliding window of 8"),
        # As transformers takes it where the size is not said.
        (
            {
                "model_type": "qwen2",
                "use_sliding_window": True,
                "max_window_layers": 0,
                "max_position_embeddings": 8192,
            },
            "sliding window of 4096",
        ),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"hidden_size": None}, "hidden_size missing"),
    ],
)
def test_unsupported_configs_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        LlamaConfig.from_hf(M.LLAMA_TINY.to_hf() | change)


@pytest.mark.parametrize(("kind", "scaling"), [("qwen3", None), ("qwen2", RotaryScaling("dynamic", 4.0))])
def test_members_and_dynamic_scaling_in_every_pass(kind, scaling):
    """Scanned, looped, with a cache and beside other texts; dynamic scaling goes by the length of each text."""
    config = dataclasses.replace(M.LLAMA_TINY, model_type=kind, rope_scaling=scaling, max_position_embeddings=8)
    config = config if scaling else dataclasses.replace(config, max_position_embeddings=24)
    model = Llama(config)
    params = jax.jit(model.init)(jax.random.key(0))
    ids, others = M.ids(2, 14), M.ids(4, 9, seed=3)
    out, other = M.run(model, params, ids), M.run(model, params, others)
    first, second = jax.jit(model.apply_beside)(params, ids, others)
    assert_same(first.hidden, out.hidden)
    assert_same(second.hidden, other.hidden)
    looped = M.run(Llama(config, scan_layers=False), unstack_blocks(params), ids)
    assert_same(looped.hidden, out.hidden)
    positions = jnp.broadcast_to(jnp.arange(14), (2, 14))
    cached, _ = jax.jit(model.apply_cached)(params, ids, model.init_cache(2, 14), positions=positions)
    assert_same(cached.hidden, out.hidden)
    if scaling:
        plain = Llama(dataclasses.replace(config, rope_scaling=None, max_position_embeddings=24))
        assert np.abs(M.run(plain, params, ids).hidden - out.hidden).max() > 1e-3
        assert_same(M.run(plain, params, ids[:, :8]).hidden, M.run(model, params, ids[:, :8]).hidden)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mistral", "sliding_window": 6}, "Mistral: 30 tokens, but sliding_window is 6"),
        ({"model_type": "mistral", "sliding_window": 99}, "Mistral: 30 tokens, but max_position_embeddings is 24"),
        ({"rope_scaling": RotaryScaling("linear", 1.2)}, "max_position_embeddings times the factor .* is 28"),
        ({"rope_scaling": RotaryScaling("yarn", 4.0, 6)}, "max_position_embeddings is 24"),
    ],
)
def test_a_text_that_is_too_long(change, message):
    model = Llama(dataclasses.replace(M.LLAMA_TINY, **change))
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.apply, jax.eval_shape(model.init, jax.random.key(0)), M.ids(1, 30))


def test_what_a_member_does_not_have_is_refused():
    for change in ({"attention_bias": True}, {"mlp_bias": True}, {"sliding_window": 8}):
        with pytest.raises(UserError, match=f"Qwen2: there is no {next(iter(change))}"):
            dataclasses.replace(M.LLAMA_TINY, model_type="qwen2", **change)
