"""What the families share: a frozen description around a linen module, with the calls of `LanguageModel`."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from tracr_jax.errors import UserError
from tracr_jax.intervene import Edit
from tracr_jax.lm.attention import KVCache
from tracr_jax.lm.packing import Packing
from tracr_jax.types import LMOutput, Params

# Far beyond any model: what is larger is damage.
_LARGEST, _DEEPEST, _NUMBER = 1 << 24, 10_000, 1e9


def check_sizes(config: Any, *, blocks: str) -> None:
    """Sizes are whole numbers from 1 on, other numbers finite and positive, switches true or false.

    Raises:
      UserError: the first field that is not.
    """
    for f in dataclasses.fields(config):
        value = getattr(config, f.name)
        if isinstance(f.default, bool):
            if not isinstance(value, bool):
                raise UserError(f"{f.name} must be true or false, got {value!r:.60}")
        elif isinstance(f.default, float):
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= _NUMBER:
                raise UserError(f"{f.name} must be a number above 0 and at most {_NUMBER:g}, got {value!r:.60}")
        elif value is not None or f.default is not None:
            check_size(f.name, value, largest=_DEEPEST if f.name == blocks else _LARGEST)


def check_size(name: str, value: Any, *, largest: int = _LARGEST) -> None:
    """One size of a model, see `check_sizes`."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= largest:
        raise UserError(f"{name} must be a whole number from 1 to {largest}, got {value!r:.60}")


def read_logits(
    final: Float[Array, "B S d"],
    head: Float[Array, "V d"],
    *,
    logit_positions: Int[Array, "B K"] | None,
    packing: Packing | None,
) -> Any:
    """Logits of states after the final norm, at `logit_positions` or everywhere.

    Of a packed pass a list, one for each group; the positions are the first group's.
    """
    first, *others = [final] if packing is None else packing.split(final)
    if logit_positions is not None:
        first = jnp.take_along_axis(first, logit_positions[:, :, None], axis=1)
    each = [jnp.einsum("bsd,vd->bsv", x, head.astype(x.dtype)) for x in (first, *others)]
    return each[0] if packing is None else each


@dataclass(frozen=True)
class Family:
    """A model without its parameters; a family adds its sizes, `unembed` and `init_cache`."""

    config: Any
    scan_layers: bool = True
    remat: bool = False
    dtype: str = "float32"

    title: ClassVar[str]  # for error messages
    positions_field: ClassVar[str]  # the configuration's name of the longest sequence
    module: ClassVar[Callable[..., nn.Module]]  # (config, scan_layers, remat, dtype) -> module

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def max_positions(self) -> int:
        """The longest sequence."""
        return getattr(self.config, self.positions_field)

    @functools.cached_property
    def linen(self) -> nn.Module:
        """The module, (ids) -> (LMOutput, cache); also for tools that want one, such as `nnx.bridge.ToNNX`."""
        return type(self).module(self.config, self.scan_layers, self.remat, jnp.dtype(self.dtype))

    def init(self, key: jax.Array) -> Params:
        """Random float32 parameters."""
        # Jitted: one program instead of a small one per tensor.
        return jax.jit(self.linen.init)(key, jnp.zeros((1, 2), jnp.int32))["params"]

    def apply(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        *,
        edit: Edit | None = None,
        logit_positions: Int[Array, "B K"] | None = None,
    ) -> LMOutput:
        """Logits and hidden[0..N]; a static length over `max_positions` is a UserError."""
        self._check_length(ids)
        return self.linen.apply({"params": params}, ids, edit=edit, logit_positions=logit_positions)[0]  # pyright: ignore

    def apply_beside(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        others: Int[Array, "C U"],
        *,
        edit: Edit | None = None,
        logit_positions: Int[Array, "B K"] | None = None,
    ) -> tuple[LMOutput, LMOutput]:
        """`apply` to `ids`, and to other sequences without edit and with all logits, in one pass."""
        self._check_length(ids)
        self._check_length(others)
        (rows, length), (more, other_length) = ids.shape, others.shape
        packing = Packing(((rows, length), (more, other_length)))
        out, _ = self.linen.apply(  # pyright: ignore
            {"params": params},
            packing.join([ids, others]),
            edit=packing.edit_first(edit),
            logit_positions=logit_positions,
            positions=packing.positions(),
            packing=packing,
        )
        first, second = map(LMOutput, out.logits, packing.split(out.hidden, axis=1))
        return first, second

    def _check_length(self, ids: Int[Array, "B S"]) -> None:
        if ids.shape[1] > self.max_positions:
            limit = f"{self.positions_field} is {self.max_positions}"
            raise UserError(f"{self.title}: {ids.shape[1]} tokens, but {limit}; shorten the text")

    def apply_cached(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        cache: KVCache,
        *,
        positions: Int[Array, "B S"],
        edit: Edit | None = None,
    ) -> tuple[LMOutput, KVCache]:
        """Process `ids` at `positions` on top of the cache."""
        return self.linen.apply({"params": params}, ids, edit=edit, cache=cache, positions=positions)  # pyright: ignore
