"""The Llama family (SmolLM2, Llama 2 and others) as a thin Flax linen module that returns every hidden state.

RMSNorm, rotary positions in Hugging Face's rotate-half order, grouped key/value heads, SwiGLU, tied or untied
head. Rotary scaling is not supported. As in gpt2.py, blocks run under `nn.scan` or as a readable loop.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tracr_jax.errors import UserError
from tracr_jax.lm.attention import KVCache, init_kv_cache, make_attention, write_kv
from tracr_jax.lm.base import LanguageModel, read_logits
from tracr_jax.lm.blocks import run_blocks
from tracr_jax.lm.config_json import check_size, check_sizes
from tracr_jax.types import LMOutput, Params


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes, under Hugging Face's names. The defaults are SmolLM2-135M's."""

    vocab_size: int = 49152
    hidden_size: int = 576
    intermediate_size: int = 1536
    num_hidden_layers: int = 30
    num_attention_heads: int = 9
    num_key_value_heads: int = 3
    head_dim: int = 64
    max_position_embeddings: int = 8192
    rms_norm_eps: float = 1e-5
    rope_theta: float = 100000.0
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = True
    initializer_range: float = 0.041666666666666664

    def __post_init__(self):
        check_sizes(self, blocks="num_hidden_layers")
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"Llama: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"Llama: head_dim {self.head_dim} is odd; rotary positions need pairs")

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "LlamaConfig":
        """From config.json; an architecture detail that this module does not have is a UserError."""
        if config.get("hidden_act", "silu") != "silu":
            raise UserError(f"config.json: hidden_act = {config['hidden_act']!r} is not supported, only 'silu'")
        # transformers 5 keeps the base inside rope_parameters; before, it stood beside rope_scaling.
        rope = config.get("rope_parameters") or {}
        scaling = config.get("rope_scaling") or rope
        kind = scaling.get("rope_type", scaling.get("type", "default"))
        if kind != "default" or rope.get("partial_rotary_factor", 1.0) != 1.0:
            raise UserError(f"config.json: rotary scaling {scaling} is not supported, only plain rotary positions")
        need = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        missing = [k for k in need if config.get(k) is None]
        if missing:
            raise UserError(f"config.json: {', '.join(missing)} missing")
        for name in need:
            check_size(name, config[name])
        heads = config["num_attention_heads"]
        # What Hugging Face assumes where config.json is silent, which is not what SmolLM2 says.
        silent = {
            "num_key_value_heads": heads,
            "head_dim": config["hidden_size"] // heads,
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6,
            "rope_theta": rope.get("rope_theta", 10000.0),
            "tie_word_embeddings": False,
            "initializer_range": 0.02,
        }
        given = {k: config[k] for k in cls.__dataclass_fields__ if config.get(k) is not None}
        return cls(**(silent | given))

    def to_hf(self) -> dict[str, Any]:
        """The config.json that Hugging Face reads."""
        fields = {k: getattr(self, k) for k in self.__dataclass_fields__}
        rope = {"rope_theta": self.rope_theta, "rope_type": "default"}
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_act": "silu",
            **fields,
            "rope_parameters": rope,
        }


def _rotate(x: Float[Array, "B S heads head_dim"], angles: Float[Array, "b S half"]):
    """Turn the pairs (x[i], x[i + head_dim/2]) by their angle: Hugging Face's rotate-half order."""
    cos, sin = (f(angles)[:, :, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


class _Block(nn.Module):
    config: LlamaConfig
    dtype: Any

    @nn.compact
    def __call__(self, h, context, cache: KVCache | None):
        c, (attention, angles, positions) = self.config, context

        def dense(width, name, bias):
            init = nn.initializers.normal(c.initializer_range)
            return nn.Dense(width, name=name, use_bias=bias, dtype=self.dtype, kernel_init=init)

        def heads(x, count, name):
            x = dense(count * c.head_dim, name, c.attention_bias)(x)
            return x.reshape(*x.shape[:2], count, c.head_dim)

        x = _rms_norm(c, self.dtype, "input_layernorm")(h)
        q = _rotate(heads(x, c.num_attention_heads, "q_proj"), angles)
        k = _rotate(heads(x, c.num_key_value_heads, "k_proj"), angles)
        v = heads(x, c.num_key_value_heads, "v_proj")
        if cache is not None:
            cache = write_kv(cache, k, v, positions)
            k, v = cache.key, cache.value
        mixed = attention(q, k, v).reshape(*h.shape[:2], -1)
        h = h + dense(c.hidden_size, "o_proj", c.attention_bias)(mixed)
        x = _rms_norm(c, self.dtype, "post_attention_layernorm")(h)
        gate = jax.nn.silu(dense(c.intermediate_size, "gate_proj", c.mlp_bias)(x))
        x = gate * dense(c.intermediate_size, "up_proj", c.mlp_bias)(x)
        return h + dense(c.hidden_size, "down_proj", c.mlp_bias)(x), cache


def _rms_norm(config, dtype, name):
    return nn.RMSNorm(config.rms_norm_eps, name=name, dtype=dtype, use_fast_variance=False)


class _Module(nn.Module):
    config: LlamaConfig
    scan_layers: bool
    remat: bool
    dtype: Any

    @nn.compact
    def __call__(self, ids, *, edit=None, logit_positions=None, cache=None, positions=None, packing=None):
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        embed = nn.Embed(c.vocab_size, c.hidden_size, name="embed_tokens", embedding_init=init)
        h = embed(ids).astype(self.dtype)
        here = jnp.arange(ids.shape[1])[None] if positions is None else positions
        # Angles in float32 whatever the compute dtype: bfloat16 cannot hold a position above 256.
        pairs = jnp.arange(0, c.head_dim, 2, dtype=jnp.float32) / c.head_dim
        frequencies = (1.0 / c.rope_theta**pairs)[None, None]
        angles = here[:, :, None].astype(jnp.float32) * frequencies
        cached = None if cache is None else cache.key.shape[2]
        attention = make_attention(ids.shape[1], positions=positions, cached=cached, packing=packing)
        h, inputs, cache = run_blocks(
            lambda name: _Block(c, self.dtype, name=name),
            h,
            (attention, angles, positions),
            num_blocks=c.num_hidden_layers,
            scan=self.scan_layers,
            remat=self.remat,
            cache=cache,
            edit=edit,
        )
        final = _rms_norm(c, self.dtype, "norm")(h)
        if c.tie_word_embeddings:
            head = embed.embedding
        else:
            head = self.param("lm_head", init, (c.vocab_size, c.hidden_size), jnp.float32)
        logits = read_logits(final, head, logit_positions=logit_positions, packing=packing)
        return LMOutput(logits, jnp.concatenate([inputs, final[None]])), cache


@dataclass(frozen=True)
class Llama(LanguageModel):
    """A Llama without its parameters; see `LanguageModel` for the methods."""

    config: LlamaConfig

    title = "Llama"
    positions_field = "max_position_embeddings"
    module = _Module

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.config.num_hidden_layers

    def with_blocks(self, count: int) -> Self:
        """The same family with `count` blocks."""
        return replace(self, config=replace(self.config, num_hidden_layers=count))

    @property
    def width(self) -> int:
        """Width d of the residual stream."""
        return self.config.hidden_size

    def unembed(self, params: Params, hidden: Float[Array, "*B d"]) -> Float[Array, "*B V"]:
        """Logits of states after the final norm."""
        tied = self.config.tie_word_embeddings
        head = params["embed_tokens"]["embedding"] if tied else params["lm_head"]
        return jnp.einsum("...d,vd->...v", hidden, head.astype(hidden.dtype))

    def init_cache(self, batch: int, length: int) -> KVCache:
        """Empty cache of `length` positions."""
        c = self.config
        return init_kv_cache(
            blocks=c.num_hidden_layers,
            batch=batch,
            length=length,
            kv_heads=c.num_key_value_heads,
            head_dim=c.head_dim,
            dtype=jnp.dtype(self.dtype),
        )
