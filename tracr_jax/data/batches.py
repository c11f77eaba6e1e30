"""The batch of a step, a pure function of (seed, step): resuming needs no state. Source: docs/method.md §5, §6,
§8.

Differs from the original: lazy (it tokenises a million items twice up front, docs/differences.md C29), S derived
from the longest item (A1), and free items (alignment without labels) can be added to each batch.
"""

import copy
from collections.abc import Sequence

import numpy as np

from tracr_jax.data.bridge import Bridge
from tracr_jax.data.encode import place, sequence_length
from tracr_jax.data.text import Mode, TextIds
from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.tasks.base import Item, Task
from tracr_jax.types import Batch

_ORDER = 3  # keeps the order's random numbers apart from those of items


class Batches:
    """Batches of fixed shapes; `batch_at` is pure in (seed, step).

    Args:
      task: where items come from.
      tokenizer: the LM's, with the task's merges.
      bridge: prompt form and teacher tokens.
      text: retention text.
      batch: supervised items per step.
      text_batch: retention texts per step.
      text_length: U.
      seed: with the step, decides everything.
      free_items: further items per step from the program's whole input space.
      free_supervised: how many of these stand among the supervised items; the others come last, and the step
        asks them nothing (`StepShape.free_rows`).
      answer_end: supervise one end-of-text after an answer.
      as_coded_mask: see `encode_item`.
      as_coded_length: S and cutting as in the original.
      as_coded_text: the first U tokens of each document in order, instead of windows anywhere.

    Raises:
      UserError: S exceeds the teacher's position table.
    """

    def __init__(
        self,
        task: Task,
        tokenizer: Tokenizer,
        bridge: Bridge,
        text: TextIds,
        *,
        batch: int,
        text_batch: int,
        text_length: int,
        seed: int,
        free_items: int = 0,
        free_supervised: int = 0,
        answer_end: bool = True,
        as_coded_mask: bool = False,
        as_coded_length: bool = False,
        as_coded_text: bool = False,
    ):
        if as_coded_length and not hasattr(task, "as_coded_length"):
            raise UserError(f"task {task.name} has no as_coded_length: only the original's tasks have one")
        self.S: int = (
            task.as_coded_length  # type: ignore[attr-defined]
            if as_coded_length
            else sequence_length(task, tokenizer, answer_end=answer_end, separator=bridge.separator)
        )
        self.T: int = self.S + 1
        self.U: int = text_length
        table = bridge.teacher.max_seq_len
        if table < self.S:
            raise UserError(
                f"items take S = {self.S} positions, the teacher's table holds {table}: compile it with "
                f"max_seq_len >= {self.S}"
            )
        self._task, self._tokenizer, self._bridge, self._text = task, tokenizer, bridge, text
        self._batch, self._text_batch, self._free = batch, text_batch, free_items
        self._free_asked = free_supervised
        self._only: tuple[int, ...] | None = None
        self._seed = seed
        self._form = {
            "answer_end": answer_end, "as_coded_mask": as_coded_mask, "as_coded_length": as_coded_length,
        }  # fmt: skip
        self._text_mode: Mode = "documents" if as_coded_text else "windows"
        self._labels: dict[str, list[int]] = {}

    def items_at(self, step: int) -> tuple[list[Item], list[Item]]:
        """The items of a step that are asked, and those that are only aligned."""
        first = step * self._batch
        free = [self._task.free_item(step * self._free + k, seed=self._seed) for k in range(self._free)]
        asked = [self._task.train_item(first + k, seed=self._seed) for k in range(self._batch)]
        asked += free[: self._free_asked]
        # The hook gives each row the complement of the one before: where a task's items take turns (no, yes, no,
        # yes), a fixed order would tell the answer, and a model learns that instead of the program.
        order = np.random.default_rng((self._seed, step, _ORDER)).permutation(len(asked)).tolist()
        return [asked[k] for k in order], free[self._free_asked :]

    def batch_at(self, step: int) -> Batch:
        """The step's batch on the host: ids and mask [B, S], teacher ids [B, S + 1], text ids [B2, U]."""
        asked, free = self.items_at(step)
        items = asked + free
        if self._only is not None:
            items = [items[r] for r in self._only]
        prompts = self._tokenizer.encode_batch([i.prompt for i in items])
        rows = [
            place(i, p, self._label(i.label), length=self.S, eos=self._tokenizer.eos_id, **self._form)
            for i, p in zip(items, prompts, strict=True)
        ]
        ids = np.stack([r[0] for r in rows])
        mask = np.stack([r[1] for r in rows])
        text = self._text.rows(self._seed, step, count=self._text_batch, length=self.U, mode=self._text_mode)
        return Batch(ids, mask, self._bridge.to_teacher(ids), text)

    def part(self, rows: Sequence[int], text_rows: Sequence[int]) -> "Batches":
        """The same batches, of which only some rows are made: what one process of several has of them.

        Args:
          rows: which of the B rows, in order; the others' items are drawn, but not encoded.
          text_rows: which of the retention texts, in order.
        """
        part = copy.copy(self)
        part._only, part._text = tuple(rows), self._text.part(text_rows)
        return part

    def _label(self, label: str) -> list[int]:
        # An answer's tokens do not depend on its prompt: `Bridge.split` refuses merges across the two.
        if label not in self._labels:
            self._labels[label] = self._tokenizer.encode(self._bridge.separator + label)
        return self._labels[label]
