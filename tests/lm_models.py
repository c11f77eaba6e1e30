"""Small random models of both families for the tests."""

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.lm.gpt2 import GPT2, GPT2Config
from tracr_jax.lm.llama import Llama, LlamaConfig

GPT2_TINY = GPT2Config(vocab_size=61, n_positions=24, n_embd=32, n_layer=4, n_head=4)
LLAMA_TINY = LlamaConfig(
    vocab_size=61,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=24,
    rope_theta=10000.0,
    initializer_range=0.2,
)
CONFIGS = {"gpt2": GPT2_TINY, "llama": LLAMA_TINY}
MODELS = {"gpt2": GPT2, "llama": Llama}


def make(family, *, seed=0, **options):
    """A model and parameters in which nothing is zero or one (biases, norms)."""
    model = MODELS[family](CONFIGS[family], **options)
    params = MODELS[family](CONFIGS[family]).init(jax.random.key(seed))
    rng = np.random.default_rng(seed)
    params = jax.tree.map(lambda x: x + 0.1 * jnp.asarray(rng.standard_normal(x.shape), x.dtype), params)
    if not model.scan_layers:
        from tracr_jax.lm.blocks import unstack_blocks

        params = unstack_blocks(params)
    return model, params


def ids(batch=3, length=10, *, seed=1):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 61, (batch, length)), jnp.int32)
