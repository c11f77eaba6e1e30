"""Small random models of both families for the tests."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.lm.blocks import unstack_blocks
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


@functools.cache
def make(family, *, seed=0, **options):
    """A model and parameters in which nothing is zero or one; made by NumPy, which has nothing to compile.

    dtype "float64" makes the parameters float64 too, and needs the fixture `x64`.
    """
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(MODELS[family](CONFIGS[family]).init, jax.random.key(0))

    precise = options.get("dtype") == "float64"

    def draw(path, leaf):
        around = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(around + 0.2 * rng.standard_normal(leaf.shape), jnp.float64 if precise else leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    model = MODELS[family](CONFIGS[family], **options)
    return model, params if model.scan_layers else unstack_blocks(params)


def run(model, params, ids, **options):
    """`LanguageModel.apply`, jitted."""
    return jax.jit(functools.partial(model.apply, **options))(params, ids)


def ids(batch=3, length=10, *, seed=1):
    """Random token ids."""
    return jnp.asarray(np.random.default_rng(seed).integers(0, 61, (batch, length)), jnp.int32)
