"""Rotary positions: what a config.json says about them, and the angles that follow.

transformers keeps the parameters in three places, by its version: `rope_theta` beside a dict `rope_scaling`
(version 4), or all in one dict `rope_parameters` (version 5). The precedence here is that of version 5, which
reads both: a filled `rope_scaling` before `rope_parameters`; the base inside that dict before the one beside it.
Source: transformers' modeling_rope_utils.py; yarn: arXiv 2309.00071.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from tracr_jax.errors import UserError
from tracr_jax.lm.config_json import check_number, check_size
from tracr_jax.types import Array

DEFAULT_BASE = 10000.0

_YARN = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate")
# Kind -> the parameters it must have and those it may have, besides the base.
_PARAMETERS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "yarn": (("factor", "original_max_position_embeddings"), _YARN),
}
# What another kind needs, left behind, is ignored as transformers ignores it.
_KNOWN = {name for must, may in _PARAMETERS.values() for name in (*must, *may)} | {"short_factor", "long_factor"}


@dataclass(frozen=True)
class RotaryScaling:
    """How rotary frequencies are changed for longer texts, under Hugging Face's names; None where not said."""

    rope_type: str
    factor: float
    original_max_position_embeddings: int | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    attention_factor: float | None = None
    beta_fast: float | None = None
    beta_slow: float | None = None
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self):
        if self.rope_type not in _PARAMETERS or self.rope_type == "default":
            known = ", ".join(_PARAMETERS)
            raise UserError(f"rotary scaling {self.rope_type!r:.60} is not supported; supported are {known}")
        must, may = _PARAMETERS[self.rope_type]
        for f in dataclasses.fields(self):
            value, name = getattr(self, f.name), f"{f.name} of rotary scaling {self.rope_type!r}"
            if f.name == "truncate":
                if not isinstance(value, bool):
                    raise UserError(f"{name} must be true or false, got {value!r:.60}")
            elif f.name in must and value is None:
                raise UserError(f"{name} is missing")
            elif f.name in (*must, *may) and value is not None:
                (check_size if f.name == "original_max_position_embeddings" else check_number)(name, value)
        if self.rope_type == "llama3" and not (self.high_freq_factor or 0) > (self.low_freq_factor or 0):
            raise UserError(
                f"high_freq_factor {self.high_freq_factor} of rotary scaling must be above low_freq_factor "
                f"{self.low_freq_factor}"
            )

    @property
    def limit_factor(self) -> float:
        """How many times longer than `max_position_embeddings` a text may be."""
        # The other kinds state the lengthened context in max_position_embeddings itself.
        return max(1.0, self.factor) if self.rope_type in ("linear", "dynamic") else 1.0

    @property
    def attention_scale(self) -> float:
        """What cosine and sine are multiplied by."""
        if self.rope_type != "yarn":
            return 1.0
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._mscale(self.mscale) / self._mscale(self.mscale_all_dim)
        return self._mscale(1.0)

    def _mscale(self, weight: float) -> float:
        return 0.1 * weight * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0

    def to_hf(self) -> dict[str, Any]:
        """The entries of `rope_parameters`, without the base."""
        must, may = _PARAMETERS[self.rope_type]
        given = {name: getattr(self, name) for name in (*must, *may)}
        return {"rope_type": self.rope_type} | {k: v for k, v in given.items() if v is not None}


def read_rotary(config: Mapping[str, Any], *, max_positions: int) -> tuple[float, RotaryScaling | None]:
    """Base and scaling of a config.json, by transformers' precedence.

    Args:
      config: the content of config.json.
      max_positions: `max_position_embeddings`, which transformers puts where the original length is not said.

    Raises:
      UserError: a parameter is missing or no number, or something here changes the angles and is not supported.
    """
    given = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(given, Mapping):
        raise UserError(f"rope_scaling and rope_parameters must be objects, got {given!r:.60}")
    unknown = sorted(set(given) - _KNOWN - {"rope_type", "type", "rope_theta", "partial_rotary_factor"})
    if unknown:
        raise UserError(f"rotary parameter {unknown[0]} = {given[unknown[0]]!r:.60} is not supported")
    for where in (given, config):
        part = where.get("partial_rotary_factor")
        if part is not None and part != 1.0:
            raise UserError(f"partial_rotary_factor = {part!r:.60} is not supported, only 1.0")
    base = given.get("rope_theta", config.get("rope_theta", DEFAULT_BASE))
    check_number("rope_theta", base)
    kind = given.get("rope_type", given.get("type", "default"))
    if kind == "default":
        return base, None
    if not isinstance(kind, str) or kind not in _PARAMETERS:
        known = ", ".join(_PARAMETERS)
        raise UserError(f"rotary scaling {kind!r:.60} is not supported; supported are {known}")
    must, may = _PARAMETERS[kind]
    used = {k: given[k] for k in (*must, *may) if k in given}
    if "original_max_position_embeddings" in must:
        used.setdefault("original_max_position_embeddings", max_positions)
        if "original_max_position_embeddings" in config:  # beside the dict it wins, as in Phi-3's files
            used["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    if kind == "yarn" and "factor" in used and used["factor"] is None:
        check_size("original_max_position_embeddings", used["original_max_position_embeddings"])
        used["factor"] = max_positions / used["original_max_position_embeddings"]
    if "factor" not in used:
        raise UserError(f"factor of rotary scaling {kind!r} is missing")
    return base, RotaryScaling(kind, **used)


def frequencies(
    base: float, head_dim: int, scaling: RotaryScaling | None, *, length: Any, max_positions: int
) -> Float[Array, "*b half"]:
    """Radians per position of each pair, in float32.

    Args:
      base: rope_theta.
      head_dim: twice the number of pairs.
      scaling: None for plain rotary positions.
      length: tokens of the text, [*b], which only dynamic scaling looks at.
      max_positions: `max_position_embeddings`.
    """
    pairs = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    if scaling is not None and scaling.rope_type == "dynamic":
        times = jnp.maximum(jnp.asarray(length, jnp.float32), max_positions) / max_positions
        growth = scaling.factor * times - (scaling.factor - 1)
        longer_base = (base * growth ** (head_dim / (head_dim - 2)))[..., None]
        return 1.0 / longer_base ** jnp.expand_dims(pairs, range(growth.ndim))
    plain = 1.0 / base**pairs
    if scaling is None:
        return plain
    if scaling.rope_type == "linear":
        return plain / scaling.factor
    if scaling.rope_type == "llama3":
        return _llama3(plain, scaling)
    return _yarn(plain, scaling, base=base, head_dim=head_dim)


def _llama3(plain: Float[Array, " half"], s: RotaryScaling) -> Float[Array, " half"]:
    """Wavelengths beyond the original text are stretched, those well within it kept, those between mixed."""
    original, low, high = s.original_max_position_embeddings, s.low_freq_factor, s.high_freq_factor
    assert isinstance(original, int)  # checked when it was made, as are the others
    assert isinstance(low, int | float)
    assert isinstance(high, int | float)
    wavelength = 2 * math.pi / plain
    smooth = (original / wavelength - low) / (high - low)
    mixed = (1 - smooth) * plain / s.factor + smooth * plain
    stretched = jnp.where(wavelength > original / low, plain / s.factor, plain)
    between = (wavelength >= original / high) & (wavelength <= original / low)
    return jnp.where(between, mixed, stretched)


def _yarn(plain: Float[Array, " half"], s: RotaryScaling, *, base: float, head_dim: int) -> jax.Array:
    """Pairs that turn often within the original text are kept, those that turn seldom are stretched."""
    original = s.original_max_position_embeddings
    assert isinstance(original, int)  # checked when it was made

    def pair_that_turns(times):
        return head_dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_that_turns(s.beta_fast or 32), pair_that_turns(s.beta_slow or 1)
    if s.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    keep = 1 - jnp.clip((jnp.arange(head_dim // 2, dtype=jnp.float32) - low) / width, 0, 1)
    return plain / s.factor * (1 - keep) + plain * keep
