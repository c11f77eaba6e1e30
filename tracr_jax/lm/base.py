"""What every language model of this package offers; the list of families is in load.py.

A model is a frozen dataclass around a configuration: it holds no parameters. Parameters are plain nested
dicts of arrays, blocks stacked on a leading axis N (`scan_layers=True`) or one dict per block (`False`).
"""

from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Int

from tracr_jax.intervene import Edit
from tracr_jax.types import LMOutput, Params


class LanguageModel(Protocol):
    """A causal language model with access to its residual stream."""

    @property
    def config(self) -> Any:
        """Frozen dataclass; its fields carry Hugging Face's names."""
        ...

    @property
    def scan_layers(self) -> bool:
        """Whether block parameters are stacked under "blocks", or one dict per block: "block_0", "block_1"."""
        ...

    @property
    def num_blocks(self) -> int:
        """N."""
        ...

    def with_blocks(self, count: int) -> "LanguageModel":
        """The same family with another number of blocks, see `lm.blocks.first_blocks`."""
        ...

    @property
    def width(self) -> int:
        """Width d of the residual stream."""
        ...

    @property
    def vocab_size(self) -> int:
        """V."""
        ...

    @property
    def max_positions(self) -> int:
        """Longest sequence the model accepts."""
        ...

    def init(self, key: jax.Array) -> Params:
        """Random parameters (float32)."""
        ...

    def apply(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        *,
        edit: Edit | None = None,
        logit_positions: Int[Array, "B K"] | None = None,
    ) -> LMOutput:
        """Run the model; logits at every position, or only at `logit_positions` [B, K] -> [B, K, V]."""
        ...

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
        ...

    def unembed(self, params: Params, hidden: Float[Array, "*B d"]) -> Float[Array, "*B V"]:
        """Logits of states that already passed the final norm (hidden[N])."""
        ...

    def init_cache(self, batch: int, length: int) -> Any:
        """Empty key/value cache for `length` positions."""
        ...

    def apply_cached(
        self,
        params: Params,
        ids: Int[Array, "B S"],
        cache: Any,
        *,
        positions: Int[Array, "B S"],
        edit: Edit | None = None,
    ) -> tuple[LMOutput, Any]:
        """Process `ids` standing at `positions`, attending to the cache and to themselves.

        Rows may stand at different positions: each key is written at its own position, and a query at
        position p sees the keys at positions <= p of its row. A prompt padded on the right is therefore
        prefilled as it is: the pads' keys lie at later positions and are overwritten as decoding goes on.
        """
        ...
