"""What every language model of this package is and offers; the list of families is in load.py.

A model is a frozen dataclass around a configuration and a linen module: it holds no parameters. Parameters are
plain nested dicts of arrays: blocks stacked on a leading axis N (`scan_layers=True`), or one dict per block.
"""

import abc
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Float, Int

from tracr_jax.errors import UserError
from tracr_jax.intervene import Edit
from tracr_jax.lm.attention import KVCache
from tracr_jax.lm.packing import Packing
from tracr_jax.types import Array, LMOutput, Params


@dataclass(frozen=True)
class LanguageModel(abc.ABC):
    """A causal language model with access to its residual stream; it holds no parameters.

    A family adds `title`, `positions_field` and `module`, its sizes, `unembed` and `init_cache`.
    """

    config: Any
    """Frozen dataclass; its fields carry Hugging Face's names."""
    scan_layers: bool = True
    """Whether block parameters are stacked under "blocks", or one dict per block: "block_0", "block_1"."""
    remat: bool = False
    """Whether a block is computed again for its gradient."""
    dtype: str = "float32"
    parts: int = 1
    """In how many parts, one after the other, each block takes the rows of a pass that is to be differentiated."""

    one_pass: ClassVar[bool] = True  # whether several groups of sequences can go through the blocks together
    learnt_positions: ClassVar[bool] = False  # whether each position has an embedding of its own
    module: ClassVar[Callable[..., nn.Module]]  # (config, scan_layers, remat, dtype, parts) -> module

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """The family's name, for error messages."""

    @property
    @abc.abstractmethod
    def positions_field(self) -> str:
        """The configuration's name of the longest sequence."""

    @property
    @abc.abstractmethod
    def num_blocks(self) -> int:
        """N."""

    @abc.abstractmethod
    def with_blocks(self, count: int) -> "LanguageModel":
        """The same family with another number of blocks, see `tracr_jax.lm.blocks.first_blocks`."""

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Width d of the residual stream."""

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
        """The module, (ids) -> (LMOutput, cache), for tools that want one, such as `flax.nnx.bridge.ToNNX`."""
        return type(self).module(self.config, self.scan_layers, self.remat, jnp.dtype(self.dtype), self.parts)

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
        positions: Int[Array, "B S"] | None = None,
    ) -> LMOutput:
        """Logits and hidden[0..N]; logits at every position, or only at `logit_positions` [B, K] -> [B, K, V].

        positions: where each token stands in the model's positions, `position_ids` of transformers; 0..S-1 unless
        given. Each token still sees those before it in its row.

        Raises:
          UserError: there are more than `max_positions` tokens, or (outside jit) an id is beyond the vocabulary.
        """
        self._check(ids)
        read = {"edit": edit, "logit_positions": logit_positions, "positions": positions}
        return self.linen.apply({"params": params}, ids, **read)[0]  # pyright: ignore

    def apply_beside(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        others: Int[Array, "C U"],
        *,
        edit: Edit | None = None,
        logit_positions: Int[Array, "B K"] | None = None,
        positions: Int[Array, "B S"] | None = None,
    ) -> tuple[LMOutput, LMOutput]:
        """`apply` to `ids`, and to other sequences without edit and with all logits, in one pass if it can be."""
        self._check(ids)
        self._check(others)
        if self.parts > 1 or not self.one_pass:  # several parts are to take less memory at a time
            read = {"edit": edit, "logit_positions": logit_positions, "positions": positions}
            return self.apply(params, ids, **read), self.apply(params, others)
        (rows, length), (more, other_length) = ids.shape, others.shape
        packing = Packing(((rows, length), (more, other_length)))
        out, _ = self.linen.apply(  # pyright: ignore
            {"params": params},
            packing.join([ids, others]),
            edit=packing.edit_first(edit),
            logit_positions=logit_positions,
            positions=packing.positions(positions),
            packing=packing,
        )
        first, second = map(LMOutput, out.logits, packing.split(out.hidden, axis=1))
        return first, second

    def _check(self, ids: Int[Array, "B S"]) -> None:
        check_ids(ids, self.vocab_size)
        if ids.shape[1] > self.max_positions:
            limit = f"{self.positions_field} is {self.max_positions}"
            raise UserError(f"{self.title}: {ids.shape[1]} tokens, but {limit}; shorten the text")

    @abc.abstractmethod
    def unembed(self, params: Params, hidden: Float[Array, "*B d"]) -> Float[Array, "*B V"]:
        """Logits of states that already passed the final norm (hidden[N])."""

    @abc.abstractmethod
    def init_cache(self, batch: int, length: int) -> KVCache:
        """Empty key/value cache for `length` positions."""

    def apply_cached(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        cache: KVCache,
        *,
        positions: Int[Array, "B S"],
        edit: Edit | None = None,
    ) -> tuple[LMOutput, KVCache]:
        """Process `ids` standing at `positions`, attending to the cache and to themselves.

        Rows may stand at different positions: each key is written at its own position, and a query at
        position p sees the keys at positions <= p of its row. A prompt padded on the right is therefore
        prefilled as it is: the pads' keys lie at later positions and are overwritten as decoding goes on.
        """
        check_ids(ids, self.vocab_size)
        return self.linen.apply({"params": params}, ids, edit=edit, cache=cache, positions=positions)  # pyright: ignore


def check_ids(ids: Any, vocab_size: int) -> None:
    """Refuse ids for which there is no embedding: JAX would answer with NaN.

    ids: of any shape; those of a traced function, or on other hosts, cannot be seen and pass.
    Raises: UserError.
    """
    if isinstance(ids, Tracer) or not getattr(ids, "is_fully_addressable", True):
        return
    seen = np.asarray(ids)
    bad = seen[(seen < 0) | (seen >= vocab_size)]
    if bad.size:
        raise UserError(f"token id {bad[0]}, but the model has embeddings for 0 to {vocab_size - 1} only")


def unembedded(states: Float[Array, "*B d"], head: Float[Array, "V d"]) -> Float[Array, "*B V"]:
    """Logits, in float32 at least: bfloat16 has steps of 1/4 at 32, and ties between tokens."""
    exact = jnp.promote_types(states.dtype, jnp.float32)
    return jnp.einsum("...d,vd->...v", states, head.astype(states.dtype), preferred_element_type=exact)


def read_logits(
    final: Float[Array, "B S d"],
    head: Float[Array, "V d"],
    *,
    logit_positions: Int[Array, "rows K"] | None,
    packing: Packing | None,
) -> Any:
    """Logits of states after the final norm, at `logit_positions` or everywhere.

    Of a packed pass a list, one for each group; the positions are the first group's.
    """
    first, *others = [final] if packing is None else packing.split(final)
    if logit_positions is not None:
        first = jnp.take_along_axis(first, logit_positions[:, :, None], axis=1)
    each = [unembedded(x, head) for x in (first, *others)]
    return each[0] if packing is None else each
