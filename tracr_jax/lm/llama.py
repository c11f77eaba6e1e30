"""The Llama family (Llama, SmolLM2, Qwen2, Qwen3, Mistral) as a thin linen module that returns every hidden state.

RMSNorm, rotary positions in Hugging Face's rotate-half order (scaled as rotary.py says), grouped key/value heads,
SwiGLU, tied or untied head; biases and norms of heads as the member of the family has them. As in gpt2.py, blocks
run under `nn.scan` or as a readable loop.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from tracr_jax.errors import UserError
from tracr_jax.lm.attention import KVCache, init_kv_cache, make_attention, write_kv
from tracr_jax.lm.base import LanguageModel, read_logits, unembedded
from tracr_jax.lm.blocks import run_blocks
from tracr_jax.lm.config_json import check_keys, check_size, check_sizes
from tracr_jax.lm.lora import Dense
from tracr_jax.lm.rotary import RotaryScaling, frequencies, read_rotary
from tracr_jax.types import Array, LMOutput, Params


@dataclass(frozen=True)
class _Member:
    """What sets one member of the family apart.

    title: its name for people and, with ForCausalLM, for transformers. silent: what transformers assumes where
    config.json is silent. switches: the fields of LlamaConfig that this member has beside those that all have.
    """

    title: str
    silent: Mapping[str, Any] = field(default_factory=dict)
    switches: tuple[str, ...] = ()


MEMBERS: Mapping[str, _Member] = {
    "llama": _Member("Llama", {"max_position_embeddings": 2048}, ("attention_bias", "mlp_bias")),
    "qwen2": _Member("Qwen2", {"max_position_embeddings": 32768, "num_key_value_heads": 32}),
    "qwen3": _Member(
        "Qwen3",
        {"max_position_embeddings": 32768, "num_key_value_heads": 32, "head_dim": 128},
        ("attention_bias",),
    ),
    "mistral": _Member(
        "Mistral",
        {"max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096},
        ("sliding_window",),
    ),
}
# Of the fields, those that only some members have.
_SWITCHES = ("attention_bias", "mlp_bias", "sliding_window")


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes, under Hugging Face's names. The defaults are SmolLM2-135M's.

    model_type: a key of MEMBERS. attention_bias: all four projections of the attention have biases; Qwen2's query,
    key and value have them always. sliding_window: the longest text, because no window is computed.
    """

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
    rope_scaling: RotaryScaling | None = None
    sliding_window: int | None = None
    model_type: str = "llama"

    def __post_init__(self):
        check_sizes(self, blocks="num_hidden_layers")
        title = MEMBERS[self.model_type].title
        if self.num_attention_heads % self.num_key_value_heads:
            raise UserError(
                f"{title}: num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.num_key_value_heads}"
            )
        if self.head_dim % 2:
            raise UserError(f"{title}: head_dim {self.head_dim} is odd; rotary positions need pairs")
        if self.rope_scaling is not None and (self.head_dim == 2 or self.rope_theta == 1):
            raise UserError(f"{title}: rotary scaling needs head_dim above 2 and a rope_theta other than 1")
        for name in set(_SWITCHES) - set(MEMBERS[self.model_type].switches):
            if getattr(self, name):
                raise UserError(f"{title}: there is no {name}, got {getattr(self, name)!r}")

    @property
    def qkv_bias(self) -> bool:
        """Whether query, key and value projections have biases."""
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def head_norms(self) -> bool:
        """Whether each head of query and key is normalised."""
        return self.model_type == "qwen3"

    @classmethod
    def _own_fields(cls, kind: str) -> list[str]:
        """The fields that a member of the family has."""
        return [k for k in cls.__dataclass_fields__ if k not in _SWITCHES or k in MEMBERS[kind].switches]

    @classmethod
    def from_hf(cls, config: dict[str, Any]) -> "LlamaConfig":
        """From config.json; an architecture detail that this module does not have is a UserError."""
        kind = config.get("model_type", "llama")
        member, own = MEMBERS[kind], cls._own_fields(kind)
        rotary = ("rope_parameters", "partial_rotary_factor", "original_max_position_embeddings")
        windows = ("use_sliding_window", "sliding_window", "max_window_layers", "layer_types")
        windows = () if kind == "mistral" else windows  # whose layer_types transformers does not run either
        # Qwen2's biases and Mistral's lack of them are fixed; transformers does not read the key.
        read = (*own, *rotary, *windows, "attention_bias")
        no_mlp_bias = {} if "mlp_bias" in own else {"mlp_bias": (False, None)}
        check_keys(config, read=read, fixed={"hidden_act": ("silu", "swish")} | no_mlp_bias)
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
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
            "initializer_range": 0.02,
            **member.silent,
        }
        given = silent | {k: config[k] for k in own if k in config}
        if given["num_key_value_heads"] is None:
            given["num_key_value_heads"] = heads
        if given["head_dim"] is None and kind in ("llama", "mistral"):
            given["head_dim"] = config["hidden_size"] // heads
        check_size("max_position_embeddings", given["max_position_embeddings"])
        base, scaling = read_rotary(config, max_positions=given["max_position_embeddings"])
        if kind != "mistral":
            longest = given["max_position_embeddings"] * (1.0 if scaling is None else scaling.limit_factor)
            _refuse_windows(config, longest=int(longest))
        return cls(**given | {"rope_theta": base, "rope_scaling": scaling})

    def to_hf(self) -> dict[str, Any]:
        """The config.json that Hugging Face reads."""
        fields = {k: getattr(self, k) for k in self._own_fields(self.model_type) if k != "rope_scaling"}
        scaling = {} if self.rope_scaling is None else self.rope_scaling.to_hf()
        if scaling:  # for transformers 4, which does not read rope_parameters
            fields["rope_scaling"] = scaling
        return {
            "architectures": [f"{MEMBERS[self.model_type].title}ForCausalLM"],
            "hidden_act": "silu",
            **fields,
            "rope_parameters": {"rope_theta": self.rope_theta, "rope_type": "default"} | scaling,
        }


_WINDOW = 4096  # that of Qwen2 and Qwen3, where it is switched on and not said


def _refuse_windows(config: Mapping[str, Any], *, longest: int) -> None:
    """Refuse a sliding window of some blocks only, where a text can outgrow it."""
    window = config.get("sliding_window", _WINDOW) if config.get("use_sliding_window") else None
    blocks, types = config["num_hidden_layers"], config.get("layer_types")
    if types is None:
        # Blocks from max_window_layers on; 28 is what transformers assumes.
        sliding = window is not None and config.get("max_window_layers", 28) < blocks
    elif (
        not isinstance(types, list) or len(types) != blocks or set(types) - {"full_attention", "sliding_attention"}
    ):
        raise UserError(
            f"config.json: layer_types {types!r:.60} must name full_attention for each of {blocks} blocks"
        )
    else:
        sliding = "sliding_attention" in types
    if sliding and not (isinstance(window, int) and window >= longest):
        raise UserError(
            f"config.json: a sliding window of {window} in some blocks is not supported where texts may have "
            f"{longest} tokens; set max_position_embeddings to the window, or use_sliding_window to false"
        )


def _rotate(x: Float[Array, "B S heads head_dim"], angles: Float[Array, "b S half"], scale: float = 1.0):
    """Turn the pairs (x[i], x[i + head_dim/2]) by their angle, rotate-half order, and stretch them by `scale`."""
    cos, sin = ((f(angles)[:, :, None] * scale).astype(x.dtype) for f in (jnp.cos, jnp.sin))
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
            return Dense(width, name=name, use_bias=bias, dtype=self.dtype, kernel_init=init)

        def heads(x, count, name):
            x = dense(count * c.head_dim, f"{name}_proj", c.qkv_bias)(x)
            x = x.reshape(*x.shape[:2], count, c.head_dim)
            return _rms_norm(c, self.dtype, f"{name}_norm")(x) if c.head_norms and name != "v" else x

        x = _rms_norm(c, self.dtype, "input_layernorm")(h)
        scale = 1.0 if c.rope_scaling is None else c.rope_scaling.attention_scale
        q = _rotate(heads(x, c.num_attention_heads, "q"), angles, scale)
        k = _rotate(heads(x, c.num_key_value_heads, "k"), angles, scale)
        v = heads(x, c.num_key_value_heads, "v")
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
    parts: int = 1

    @nn.compact
    def __call__(self, ids, *, edit=None, logit_positions=None, cache=None, positions=None, packing=None):
        c = self.config
        init = nn.initializers.normal(c.initializer_range)
        embed = nn.Embed(c.vocab_size, c.hidden_size, name="embed_tokens", embedding_init=init)
        h = embed(ids).astype(self.dtype)
        here = jnp.arange(ids.shape[1])[None] if positions is None else positions
        # Angles in float32 whatever the compute dtype: bfloat16 cannot hold a position above 256.
        angles = here[:, :, None].astype(jnp.float32) * _frequencies(c, ids.shape[1], positions, packing)
        cached = None if cache is None else cache.key.shape[2]
        attention = make_attention(ids.shape[1], positions=positions, cached=cached, packing=packing)
        h, inputs, cache = run_blocks(
            lambda name: _Block(c, self.dtype, name=name),
            h,
            (attention, angles, positions),
            num_blocks=c.num_hidden_layers,
            scan=self.scan_layers,
            remat=self.remat,
            parts=self.parts,
            params=self.variables.get("params"),
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


def _frequencies(c, tokens, positions, packing):
    """Frequencies that broadcast against [B, S, half]; dynamic scaling takes them from the length of the text."""
    length: Any = tokens
    if packing is not None:  # each sequence its own
        length = packing.join([jnp.full(shape, shape[1]) for shape in packing.shapes])
    elif positions is not None:
        length = jnp.max(positions) + 1
    found = frequencies(
        c.rope_theta, c.head_dim, c.rope_scaling, length=length, max_positions=c.max_position_embeddings
    )
    return found[None, None] if found.ndim == 1 else found


@dataclass(frozen=True)
class Llama(LanguageModel):
    """A member of the Llama family without its parameters; see `LanguageModel` for the methods."""

    config: LlamaConfig

    module = _Module

    @property
    def title(self) -> str:
        """The member's name."""
        return MEMBERS[self.config.model_type].title

    @property
    def positions_field(self) -> str:
        """The field that bounds a text."""
        if self.max_positions == self.config.sliding_window:
            return "sliding_window"
        return "max_position_embeddings" + ("" if self._lengthened == 1 else " times the factor of rotary scaling")

    @property
    def max_positions(self) -> int:
        """The longest sequence; linear and dynamic rotary scaling lengthen it by their factor."""
        longest = int(self.config.max_position_embeddings * self._lengthened)
        return longest if self.config.sliding_window is None else min(longest, self.config.sliding_window)

    @property
    def _lengthened(self) -> float:
        scaling = self.config.rope_scaling
        return 1.0 if scaling is None else scaling.limit_factor

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.config.num_hidden_layers

    def with_blocks(self, count: int) -> "Llama":
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
        return unembedded(hidden, head)

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
