"""Some rows of each batch: what one process of several makes of it. The whole is never there."""

from collections.abc import Sequence

from tracr_jax.tasks.base import Item
from tracr_jax.tasks.batches import Batches


class BatchesPart(Batches):
    """The given rows of `batches`, row for row the same; items are drawn by index, the others are not encoded.

    Args:
      batches: the whole batches.
      rows: which of the B rows, in order.
      text_rows: which of the retention texts, in order.
    """

    def __init__(self, batches: Batches, rows: Sequence[int], text_rows: Sequence[int]):
        vars(self).update(vars(batches))
        self._whole, self._rows = batches, tuple(rows)
        self._text = batches._text.part(text_rows)

    def items_at(self, step: int) -> tuple[list[Item], list[Item]]:
        """The items of these rows, those that are asked and those that are only aligned."""
        asked, free = self._whole.items_at(step)
        own = [r for r in self._rows if r < len(asked)]
        rest = [r - len(asked) for r in self._rows if r >= len(asked)]
        return [asked[r] for r in own], [free[r] for r in rest]
