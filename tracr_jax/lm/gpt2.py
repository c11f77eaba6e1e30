"""The GPT-2 family as a thin Flax linen module that returns every hidden state.

Blocks run under `nn.scan` over stacked weights (12 blocks compile in 10 s instead of 69 s as a loop);
`scan_layers=False` gives the readable loop. Both compute the same numbers.
"""

from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from tracr_jax.errors import UserError
from tracr_jax.lm.attention import KVCache, init_kv_cache, make_attention, write_kv
from tracr_jax.lm.base import LanguageModel, read_logits, unembedded
from tracr_jax.lm.blocks import run_blocks
from tracr_jax.lm.config_json import check_keys, check_sizes
from tracr_jax.lm.lora import Dense
from tracr_jax.types import Array, LMOutput, Params

# transformers' attribute_map: names that other families have.
_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}

POSITIONS = "wpe"  # the table of learnt positions among the parameters


@dataclass(frozen=True)
class GPT2Config:
    """Sizes, under Hugging Face's names."""

    vocab_size: int = 50257
    n_positions: int = 1024
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    n_inner: int | None = None
    layer_norm_epsilon: float = 1e-5

    def __post_init__(self):
        check_sizes(self, blocks="n_layer")
        if self.n_embd % self.n_head:
            raise UserError(f"GPT-2: n_embd {self.n_embd} is not a multiple of n_head {self.n_head}")

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "GPT2Config":
        """From config.json; an architecture detail that this module does not have is a UserError."""
        fixed = {
            "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
            "scale_attn_weights": (True,),
            "scale_attn_by_inverse_layer_idx": (False,),
            "reorder_and_upcast_attn": (False,),
            "tie_word_embeddings": (True,),
        }
        fields = cls.__dataclass_fields__
        check_keys(config, read=(*fields, *_ALIASES), fixed=fixed)
        # An alias wins over the name itself, as in transformers, which sets it later.
        given = {k: config[k] for k in fields if k in config}
        return cls(**given | {name: config[alias] for alias, name in _ALIASES.items() if alias in config})

    def to_hf(self) -> dict[str, Any]:
        """The config.json that Hugging Face reads."""
        return {
            "architectures": ["GPT2LMHeadModel"],
            "model_type": "gpt2",
            "activation_function": "gelu_new",
            **{k: getattr(self, k) for k in self.__dataclass_fields__},
            "n_ctx": self.n_positions,
            "attn_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "resid_pdrop": 0.0,
            "tie_word_embeddings": True,
        }


SIZES = {
    "openai-community/gpt2": GPT2Config(),
    "openai-community/gpt2-medium": GPT2Config(n_embd=1024, n_layer=24, n_head=16),
    "openai-community/gpt2-large": GPT2Config(n_embd=1280, n_layer=36, n_head=20),
    "openai-community/gpt2-xl": GPT2Config(n_embd=1600, n_layer=48, n_head=25),
}


class _Block(nn.Module):
    config: GPT2Config
    dtype: Any

    @nn.compact
    def __call__(self, h, context, cache: KVCache | None):
        c, (attention, positions) = self.config, context

        def dense(width, name):
            return Dense(width, name=name, dtype=self.dtype, kernel_init=nn.initializers.normal(0.02))

        x = _layer_norm(c, self.dtype, "ln_1")(h)
        x = dense(3 * c.n_embd, "c_attn")(x)
        q, k, v = (y.reshape(*h.shape[:2], c.n_head, -1) for y in jnp.split(x, 3, axis=-1))
        if cache is not None:
            cache = write_kv(cache, k, v, positions)
            k, v = cache.key, cache.value
        h = h + dense(c.n_embd, "c_proj")(attention(q, k, v).reshape(h.shape))
        x = _layer_norm(c, self.dtype, "ln_2")(h)
        x = jax.nn.gelu(dense(c.n_inner or 4 * c.n_embd, "c_fc")(x), approximate=True)  # HF's gelu_new
        return h + dense(c.n_embd, "mlp_c_proj")(x), cache


def _layer_norm(config, dtype, name):
    # use_fast_variance: E[x²] − E[x]² loses the digits that parity with PyTorch needs.
    return nn.LayerNorm(config.layer_norm_epsilon, name=name, dtype=dtype, use_fast_variance=False)


class _Module(nn.Module):
    config: GPT2Config
    scan_layers: bool
    remat: bool
    dtype: Any
    parts: int = 1

    @nn.compact
    def __call__(self, ids, *, edit=None, logit_positions=None, cache=None, positions=None, packing=None):
        c = self.config
        wte = nn.Embed(c.vocab_size, c.n_embd, name="wte", embedding_init=nn.initializers.normal(0.02))
        wpe = nn.Embed(c.n_positions, c.n_embd, name=POSITIONS, embedding_init=nn.initializers.normal(0.01))
        here = wpe.embedding[: ids.shape[1]][None] if positions is None else wpe(positions)
        h = (wte(ids) + here).astype(self.dtype)
        cached = None if cache is None else cache.key.shape[2]
        attention = make_attention(ids.shape[1], positions=positions, cached=cached, packing=packing)
        h, inputs, cache = run_blocks(
            lambda name: _Block(c, self.dtype, name=name),
            h,
            (attention, positions),
            num_blocks=c.n_layer,
            scan=self.scan_layers,
            remat=self.remat,
            parts=self.parts,
            params=self.variables.get("params"),
            cache=cache,
            edit=edit,
        )
        final = _layer_norm(c, self.dtype, "ln_f")(h)
        logits = read_logits(final, wte.embedding, logit_positions=logit_positions, packing=packing)
        return LMOutput(logits, jnp.concatenate([inputs, final[None]])), cache


@dataclass(frozen=True)
class GPT2(LanguageModel):
    """A GPT-2 without its parameters; see `LanguageModel` for the methods."""

    config: GPT2Config

    module = _Module
    learnt_positions = True

    @property
    def title(self) -> str:
        """The family's name."""
        return "GPT-2"

    @property
    def positions_field(self) -> str:
        """The field that bounds a text."""
        return "n_positions"

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.config.n_layer

    def with_blocks(self, count: int) -> "GPT2":
        """The same family with `count` blocks."""
        return replace(self, config=replace(self.config, n_layer=count))

    @property
    def width(self) -> int:
        """Width d of the residual stream."""
        return self.config.n_embd

    def unembed(self, params: Params, hidden: Float[Array, "*B d"]) -> Float[Array, "*B V"]:
        """Logits of states after the final norm."""
        return unembedded(hidden, params["wte"]["embedding"])

    def init_cache(self, batch: int, length: int) -> KVCache:
        """Empty cache of `length` positions."""
        c = self.config
        return init_kv_cache(
            blocks=c.n_layer,
            batch=batch,
            length=length,
            kv_heads=c.n_head,
            head_dim=c.n_embd // c.n_head,
            dtype=jnp.dtype(self.dtype),
        )
