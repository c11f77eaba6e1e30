"""What a task is: a program, its vocabulary, the text around it, and its sets of items.

Source: docs/method.md §1, §2, §3, §6, §7. A user's own task is any object with these attributes; `tasks/dyck.py`
is the example to read. Items are made by index (never a million at once): `train_item(i)` is a pure function of i.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from tracr.rasp import rasp


@dataclass(frozen=True)
class Item:
    """One question: the prompt without trailing space, and the answer as text without leading space."""

    prompt: str
    label: str


@dataclass(frozen=True)
class TokenMap:
    """LM text -> teacher token. Each piece is mapped in all forms that are one LM token: `s`, ` s`, `s `.

    pieces: text piece -> teacher vocabulary value; fill: the value for every other token; words: whether a prompt
    may hold such tokens, or is refused where it does. Source: docs/method.md §3.
    """

    pieces: Mapping[str, Any]
    fill: Any
    words: bool = True


@dataclass(frozen=True)
class EvalSet:
    """A named set: item(i) for 0 <= i < size is pure in i. `note` is one sentence shown beside the numbers."""

    name: str
    size: int
    item: Callable[[int], Item]
    note: str


@runtime_checkable
class Task(Protocol):
    """A program with its text. Every attribute below is required; SampledTask has defaults for most."""

    name: str
    result: str  # name prefix of the program's result variable, "final_result"
    marker: str  # teacher token at which the answer begins ("compute", "=", "count")

    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """Build the program afresh (no module-level SOps: labels must not depend on what ran before)."""
        ...

    def vocab(self) -> frozenset:
        """Teacher vocabulary, without BOS and PAD."""
        ...

    def mlp_exactness(self, max_seq_len: int) -> float:
        """Sharpness of the teacher's MLPs; max(10⁴, 2P(P+1)) for P positions, unless an as-coded switch is on."""
        ...

    def token_map(self) -> TokenMap:
        """How LM tokens become teacher tokens."""
        ...

    def keep_merge(self, left: str, right: str) -> bool:
        """Whether the tokenizer keeps the merge of two pieces, given as text (Ġ already turned into a space)."""
        ...

    def train_item(self, index: int, *, seed: int) -> Item:
        """A training item, pure in (seed, index); never one whose prompt hashes into the valid or test split."""
        ...

    def free_item(self, index: int, *, seed: int) -> Item:
        """An item of the program's whole input space with its true label, pure in (seed, index).

        For alignment-only batches (the teacher is right on every token string); never a prompt of the valid or
        test split, so that a baseline may be given the same strings with their labels. No longer than
        `longest_items`.
        """
        ...

    def in_training(self, prompt: str) -> bool:
        """Whether `train_item` or `free_item` may return this prompt: a set's reported overlap with training."""
        ...

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """Sets by name: "test" and "valid" (in distribution, by hash), then all out-of-distribution sets."""
        ...

    def longest_items(self) -> tuple[Item, ...]:
        """Items that attain the largest token count of training and in-distribution sets (S is derived here)."""
        ...

    def teacher_label(self, item: Item) -> tuple[Any, ...]:
        """Values of the result variable at the answer positions, in order ((True,) for "yes"; the digits).

        Empty where the program cannot express the answer (a decimal fraction).
        """
        ...

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """Trivial predictors prompt -> label, shown beside every accuracy."""
        ...
