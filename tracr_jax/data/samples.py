"""Fixed samples of evaluation sets, and their items as padded rows, for all that reads a trained model."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tracr_jax.data.bridge import Bridge
from tracr_jax.errors import UserError
from tracr_jax.tasks.base import EvalSet, Item, Task

ROWS = 100  # items in one forward pass, or the whole sample where that is less
LONG = 64  # widths of rows that exceed the teacher's table are rounded up to this
FINE = 8  # and those of rows that go through many passes, as under noise and swaps, to this
_ROUND = 16


def sample_of(chosen: EvalSet, items: int | None) -> list[Item]:
    """The first `items` items of a set (None: all): a fixed sample, since items are pure in their index.

    Raises:
      UserError: `items` is less than one.
    """
    check_items(items)
    return [chosen.item(i) for i in range(chosen.size if items is None else min(chosen.size, items))]


def check_items(items: int | None) -> None:
    """Refuse a sample of nothing.

    Raises:
      UserError: `items` is less than one.
    """
    if items is not None and items < 1:
        raise UserError(f"items of each set must be at least 1, got {items}")


def reported_sets(task: Task) -> dict[str, EvalSet]:
    """The sets that are reported, by name: all but "valid", which is for choosing settings."""
    return {name: chosen for name, chosen in task.eval_sets().items() if name != "valid"}


def reported_samples(task: Task, items: int | None) -> dict[str, list[Item]]:
    """`sample_of` every set that is reported, by name."""
    return {name: sample_of(chosen, items) for name, chosen in reported_sets(task).items()}


def round_up(length: int, *, to: int = _ROUND, most: int | None = None) -> int:
    """Lengths are rounded up so that few programs are compiled; not beyond `most` where they fit."""
    rounded = -(-length // to) * to
    return rounded if most is None else max(length, min(rounded, most))


def padded_rows(
    bridge: Bridge, items: Sequence[Item], *, batch: int, length: int
) -> tuple[Int[np.ndarray, "B S"], Float[np.ndarray, "2 B S"]]:
    """Padded items and two masks: their own positions, and the positions that emit the answer."""
    ids = np.full((batch, length), bridge.tokenizer.eos_id, np.int32)
    masks = np.zeros((2, batch, length), np.float32)
    for row, item in enumerate(items):
        prompt, label = bridge.split(item)
        ids[row, : len(prompt) + len(label)] = prompt + label
        masks[0, row, : len(prompt) + len(label)] = 1
        masks[1, row, len(prompt) - 1 : len(prompt) - 1 + len(label)] = 1
    return ids, masks
