"""Llama: sizes, configurations, and that rotary positions only see distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models as M
from tracr_jax.errors import UserError
from tracr_jax.lm.llama import Llama, LlamaConfig, _rotate


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
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rotary scaling"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rotary scaling"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"num_key_value_heads": 3}, "not a multiple"),
        ({"hidden_size": None}, "hidden_size missing"),
    ],
)
def test_unsupported_configs_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        LlamaConfig.from_hf(M.LLAMA_TINY.to_hf() | change)
