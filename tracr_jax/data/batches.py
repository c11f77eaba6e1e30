"""The batch of a step, a pure function of (seed, step): resuming needs no state. Source: docs/method.md §5, §6,
§8.

Differs from the original: lazy (it tokenises a million items twice up front, docs/differences.md C29), S derived
from the longest item (A1), and items of the program's whole domain can be added to each batch.
"""

import copy
import functools
import hashlib
import json
from collections.abc import Sequence

import numpy as np

from tracr_jax.config import OURS, DataConfig, Fidelity
from tracr_jax.data.bridge import Bridge
from tracr_jax.data.encode import place, sequence_length
from tracr_jax.data.text import Mode, TextIds
from tracr_jax.errors import UserError
from tracr_jax.tasks.base import Item, Task
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.types import Batch

_ORDER, _WORDS, _SHIFT = 3, 4, 5  # keep these random numbers apart from those of items
_COMPARED = 20  # items that the program is asked with other words
_ASKING = 2  # words before the answer that stay: they say that an answer is due ("Answer" and its line)


def check_varied(task: Task, data: DataConfig) -> None:
    """Refuse varied items of a task that has none, or of a run without domain items."""
    if data.varied and not hasattr(task, "varied_item"):
        raise UserError(f"--varied: task {task.name} has no varied_item; leave the option out")
    if data.varied and not data.domain_items:
        raise UserError("--varied: domain items are varied, and --domain-items is 0; give some")


def items_at(task: Task, data: DataConfig, *, seed: int, step: int) -> tuple[list[Item], list[Item]]:
    """The items of a step that are supervised, and those that are only aligned; pure in (seed, step)."""
    first, domain_first = step * data.batch, step * data.domain_items
    check_varied(task, data)
    make = task.varied_item if data.varied else task.free_item  # type: ignore[attr-defined]
    domain = [make(domain_first + k, seed=seed) for k in range(data.domain_items)]
    supervised = [task.train_item(first + k, seed=seed) for k in range(data.batch)]
    supervised += domain[: data.domain_supervised]
    # The hook gives each row the complement of the one before: where a task's items take turns (no, yes, no,
    # yes), a fixed order would tell the answer, and a model learns that instead of the program.
    order = np.random.default_rng((seed, step, _ORDER)).permutation(len(supervised)).tolist()
    return [supervised[k] for k in order], domain[data.domain_supervised :]


def batch_length(task: Task, bridge: Bridge, data: DataConfig, *, fidelity: Fidelity = OURS) -> int:
    """S: tokens of the longest training item, answer included; or the original's length under its switch.

    Raises:
      UserError: the switch is on, and the task is none of the original's.
    """
    if not fidelity.as_coded_length:
        tokenizer, separator = bridge.tokenizer, bridge.separator
        return sequence_length(task, tokenizer, answer_end=data.answer_end, separator=separator)
    if not hasattr(task, "as_coded_length"):
        raise UserError(f"task {task.name} has no as_coded_length: only the original's tasks have one")
    return task.as_coded_length  # type: ignore[attr-defined]


class Batches:
    """Batches of fixed shapes; `batch_at` is pure in (seed, step).

    Args:
      task: where items come from.
      bridge: the tokenizer with the task's merges, the form of a prompt, and teacher tokens.
      text: retention text.
      data: sizes, and what is supervised. The supervised domain items stand among the others; those that are only
        aligned come last, and the step computes no answer of them (`StepShape.aligned_only`).
      seed: with the step, decides everything.
      answers: K, the most tokens of an answer that the step computes (`StepShape.max_answers`); default any.
      fidelity: with `as_coded`, a text is the first U tokens of a document, the documents in order; for its other
        switches see `place`.

    Raises:
      UserError: S exceeds the teacher's position table, `data.varied` of a task without `varied_item`, or
        `data.other_words` of one whose program counts words.
    """

    def __init__(
        self,
        task: Task,
        bridge: Bridge,
        text: TextIds,
        data: DataConfig,
        *,
        seed: int,
        fidelity: Fidelity = OURS,
        answers: int | None = None,
    ):
        self._answers = answers
        self.S: int = batch_length(task, bridge, data, fidelity=fidelity)
        table = bridge.teacher.max_seq_len
        if table < self.S:
            raise UserError(
                f"items take S = {self.S} positions, the teacher's table holds {table}: compile it with "
                f"max_seq_len >= {self.S}"
            )
        check_varied(task, data)
        self._task, self._bridge, self._text, self._data, self._seed = task, bridge, text, data, seed
        self._fidelity = fidelity
        self._only: tuple[int, ...] | None = None
        self._text_mode: Mode = "documents" if fidelity.as_coded else "windows"
        self._labels: dict[str, list[int]] = {}
        if data.other_words:
            self._check_words()

    @functools.cached_property
    def digest(self) -> str:
        """Of what the batches are made of: the first of them, the tokenizer's vocabulary, the retention text.

        The text is left out where it has no digest of its own: each process streams a share of a hub's.
        """
        total = hashlib.blake2b(self._text.content.encode(), digest_size=8)
        total.update(json.dumps(self._bridge.tokenizer.vocabulary()).encode())
        first = self.batch_at(0)
        for x in first if self._text.content else first._replace(text_ids=None):
            if x is not None:
                total.update(np.ascontiguousarray(x).tobytes())
        return total.hexdigest()

    def items_at(self, step: int) -> tuple[list[Item], list[Item]]:
        """`items_at` of this task, data and seed."""
        return items_at(self._task, self._data, seed=self._seed, step=step)

    def batch_at(self, step: int) -> Batch:
        """The step's batch on the host: ids, mask [B, S], teacher ids [B, S + 1], text ids [B2, U], starts [B]."""
        supervised, aligned = self.items_at(step)
        items = supervised + aligned
        if self._only is not None:
            items = [items[r] for r in self._only]
        tokenizer, d = self._bridge.tokenizer, self._data
        prompts = tokenizer.encode_batch([i.prompt for i in items])
        labels = [self._label(i) for i in items]
        numbers = range(len(items)) if self._only is None else self._only
        if d.other_words:
            for k, row in enumerate(numbers):
                r = np.random.default_rng((self._seed, step, _WORDS, row))
                if r.random() < d.other_words:
                    prompts[k] = self._with_other_words(prompts[k], r, answer=len(labels[k]))
        form = {"length": self.S, "eos": tokenizer.eos_id, "answer_end": d.answer_end, "fidelity": self._fidelity}
        rows = [place(i, p, label, **form) for i, p, label in zip(items, prompts, labels, strict=True)]
        asked = [k for k, row in enumerate(numbers) if row < len(supervised)]
        self._check_answers([(items[k], int(rows[k][1].sum())) for k in asked])
        ids = np.stack([r[0] for r in rows])
        mask = np.stack([r[1] for r in rows])
        text = self._text.rows(self._seed, step, count=d.text_batch, length=d.text_length, mode=self._text_mode)
        return Batch(ids, mask, self._bridge.to_teacher(ids), text, self._starts(step, numbers))

    def _starts(self, step: int, rows: Sequence[int]) -> np.ndarray | None:
        """The model's position of the first token of these rows, or None where all rows begin at 0."""
        if not self._data.shift:
            return None
        r = np.random.default_rng((self._seed, step, _SHIFT))
        count = self._data.batch + self._data.domain_items
        return r.integers(0, self._data.shift + 1, count)[list(rows)].astype(np.int32)

    @functools.cached_property
    def _unread(self) -> np.ndarray:
        own = [*self._bridge.mapped, self._bridge.tokenizer.eos_id]
        return np.setdiff1d(np.arange(len(self._bridge.lookup)), own)

    def _with_other_words(self, prompt: list[int], r: np.random.Generator, *, answer: int) -> list[int]:
        """The prompt with random tokens in place of those that the program does not read.

        Those before the first that is read are another number too, as far as S goes. What the program answers is
        the same (`_check_words`). Without it a word that no row has is read as any value, and a count is one of
        prompts of one length (experiments/diary.md).
        """
        ids = np.array(prompt)
        unread = np.isin(ids, self._unread)
        before = 0 if unread.all() else int(np.argmin(unread))
        inside = before + np.flatnonzero(unread[before:])[:-_ASKING]
        ids[inside] = r.choice(self._unread, len(inside))
        room = max(0, self.S - len(ids) - answer - int(self._data.answer_end))
        count = int(r.integers(max(1, before // 2), before + room + 1)) if before else 0
        return [*r.choice(self._unread, count).tolist(), *ids[before:].tolist()]

    def _check_words(self) -> None:
        """Refuse other words where there are none, and for a program whose answer depends on their number."""
        task, prompts, rows = self._task, [], []
        items = [task.train_item(index, seed=self._seed) for index in range(_COMPARED)]
        for index, item in enumerate(items):
            prompt, answer = self._bridge.split(item)
            r = np.random.default_rng((self._seed, index))
            prompts.append(list(prompt))
            rows.append((self._with_other_words(prompt, r, answer=len(answer)), answer))
        if [changed for changed, _ in rows] == prompts:
            raise UserError(
                f"--other-words: the program of {task.name} reads every token of its prompts, there is none to "
                "replace; leave the option out"
            )
        oracle = Oracle(task.program(max_seq_len=self._bridge.teacher.max_seq_len))
        answers = self._bridge.program_answers(rows, oracle)
        for item, (changed, _), found in zip(items, rows, answers, strict=True):
            if list(found) != list(expected := task.teacher_label(item)):
                raise UserError(
                    f"--other-words: with {len(changed)} tokens in place of {len(self._bridge.split(item)[0])} "
                    f"the program of {task.name} says {found} of {item.prompt!r}, {expected} before: it counts "
                    "words that it does not read; leave the option out"
                )

    def _check_answers(self, rows: Sequence[tuple[Item, int]]) -> None:
        """The step computes K answer tokens of each row: those behind them would not be trained."""
        for item, count in rows:
            if self._answers is not None and count > self._answers:
                raise UserError(
                    f"the answer {item.label!r} takes {count} tokens, those of the task's longest_items at most "
                    f"{self._answers}: add an item with one as long to them, and begin again"
                )

    def part(self, rows: Sequence[int], text_rows: Sequence[int]) -> "Batches":
        """The same batches, of which only some rows are made: what one process of several has of them.

        Args:
          rows: which of the B rows, in order; the others' items are drawn, but not encoded.
          text_rows: which of the retention texts, in order.
        """
        part = copy.copy(self)
        part._only, part._text = tuple(rows), self._text.part(text_rows)
        return part

    def _label(self, item: Item) -> list[int]:
        # An answer's tokens are the same behind every prompt, as `Bridge.split` refuses merges across the two; but
        # not alone, where a normalizer puts something in front of every text.
        if item.label not in self._labels:
            self._labels[item.label] = self._bridge.split(item)[1]
        return self._labels[item.label]
