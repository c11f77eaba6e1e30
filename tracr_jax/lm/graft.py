"""A frozen language model with a module beside it, whose output a linear map adds to the residual stream.

The module reads the same tokens as the model and gives K numbers for each position, x; with the map W [K, d] the
output h of one block becomes h + |h| x W, where |h| is the root mean square of h: the norm that follows takes the
state's size out again, so that one learning rate fits all models. Where x is zero the model computes what it does
alone. This room knows nothing of programs: `tracr_jax.runs.graft` makes the module of one.

Parameters hold the map and what the module computes with under "graft", beside those of the model; without them
(the original model's) the model is alone.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from tracr_jax.intervene import Edit, ResidualEdit
from tracr_jax.lm.attention import KVCache
from tracr_jax.lm.base import LanguageModel
from tracr_jax.types import Array, LMOutput, Params

KEY, MAP, BESIDE = "graft", "map", "beside"


@dataclass(frozen=True, eq=False)
class Beside:
    """The module: causal, so that what it gives for a position depends on the tokens up to it only."""

    read: Callable[[Any, Int[Array, "B S"]], Float[Array, "B S K"]]
    """The function (weights, ids) -> K numbers for each position."""
    weights: Any
    """Its own; never trained."""
    size: int
    """K."""
    block: int
    """The block (0-based) to whose output the map adds."""


class GraftCache(NamedTuple):
    """The model's own cache, and all tokens so far: the module has none and reads them again at each step."""

    own: KVCache
    ids: Int[Array, "B C"]


@dataclass(frozen=True)
class Grafted(LanguageModel):
    """A language model with a module beside it."""

    alone: LanguageModel = field(kw_only=True)
    """The model without the module."""
    beside: Beside = field(kw_only=True)

    one_pass = False  # the module reads each sequence from its beginning

    @classmethod
    def of(cls, model: LanguageModel, beside: Beside) -> "Grafted":
        """A model with a module beside it."""
        options = (model.scan_layers, model.remat, model.dtype, model.parts)
        return cls(model.config, *options, alone=model, beside=beside)

    @functools.cached_property
    def _own(self) -> LanguageModel:
        """The model alone, with the memory options of this one."""
        return replace(self.alone, remat=self.remat, parts=self.parts)

    @property
    def title(self) -> str:
        """The family's name."""
        return self.alone.title

    @property
    def learnt_positions(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether each position has an embedding of its own."""
        return self.alone.learnt_positions

    @property
    def positions_field(self) -> str:
        """The field that bounds a text."""
        return self.alone.positions_field

    @property
    def num_blocks(self) -> int:
        """N."""
        return self.alone.num_blocks

    @property
    def width(self) -> int:
        """Width d of the residual stream."""
        return self.alone.width

    @property
    def linen(self) -> nn.Module:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The module of the model alone; what stands beside it is no linen module."""
        return self._own.linen

    def with_blocks(self, count: int) -> "Grafted":
        """The same with the first `count` blocks; without the map where its block is not among them."""
        return Grafted.of(self._own.with_blocks(count), self.beside)

    def start(self, params: Params) -> Params:
        """Parameters of the model alone as those of this one, with a map that adds nothing yet."""
        none = jnp.zeros((self.beside.size, self.width), jnp.float32)
        return self.with_map(params, none)

    def with_map(self, params: Params, weight: Float[Array, "K d"]) -> Params:
        """Parameters of the model alone as those of this one, with a given map."""
        return params | {KEY: {MAP: weight, BESIDE: self.beside.weights}}

    def init(self, key: jax.Array) -> Params:
        """Random parameters of the model, and a map that adds nothing yet."""
        return self.start(self.alone.init(key))

    def apply(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        *,
        edit: Edit | None = None,
        logit_positions: Int[Array, "B K"] | None = None,
        positions: Int[Array, "B S"] | None = None,
    ) -> LMOutput:
        """As of the model alone; the module runs first, and `edit` sees what the map added."""
        rest, added = self._split(params, ids)
        read = {"logit_positions": logit_positions, "positions": positions}
        return self._own.apply(rest, ids, edit=self._edit(added, edit), **read)

    def unembed(self, params: Params, hidden: Float[Array, "*B d"]) -> Float[Array, "*B V"]:
        """Logits of states after the final norm."""
        return self.alone.unembed(params, hidden)

    def init_cache(self, batch: int, length: int) -> GraftCache:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Empty cache for `length` positions."""
        return GraftCache(self.alone.init_cache(batch, length), jnp.zeros((batch, length), jnp.int32))

    def apply_cached(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        params: Params,
        ids: Int[Array, "B S"],
        cache: GraftCache,
        *,
        positions: Int[Array, "B S"],
        edit: Edit | None = None,
    ) -> tuple[LMOutput, GraftCache]:
        """As of the model alone."""
        seen = cache.ids.at[jnp.arange(len(ids))[:, None], positions].set(ids)
        rest, added = self._split(params, seen)
        if added is not None:
            added = jnp.take_along_axis(added, positions[:, :, None], axis=1)
        out, own = self._own.apply_cached(rest, ids, cache.own, positions=positions, edit=self._edit(added, edit))
        return out, GraftCache(own, seen)

    def _split(self, params: Params, ids: Int[Array, "B S"]) -> tuple[Params, Float[Array, "B S d"] | None]:
        """(parameters of the model alone, what is added to the residual stream)."""
        if KEY not in params:
            return params, None
        graft = params[KEY]
        return without_map(params), self.beside.read(graft[BESIDE], ids) @ graft[MAP]

    def _edit(self, added: Float[Array, "B S d"] | None, edit: Edit | None) -> Edit | None:
        if added is None or self.beside.block >= self.num_blocks:  # of a model cut below it
            return edit
        graft = ResidualEdit(self.beside.block, lambda h: h + _size(h) * added)
        return (graft, *edit) if isinstance(edit, tuple) else graft if edit is None else (graft, edit)


def _size(h: Float[Array, "B S d"]) -> Float[Array, "B S 1"]:
    """The root mean square of each state."""
    return jnp.sqrt(jnp.mean(jnp.square(h.astype(jnp.float32)), axis=-1, keepdims=True))


def without_map(params: Params) -> Params:
    """Parameters of the model alone."""
    return {name: x for name, x in params.items() if name != KEY}


def alone(model: LanguageModel) -> LanguageModel:
    """A model without what stands beside it."""
    return model.alone if isinstance(model, Grafted) else model
