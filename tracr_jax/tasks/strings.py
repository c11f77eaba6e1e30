"""A task from nothing but a program that is true or false of a string of letters.

The letters stand in the prompt one by one, the answer is yes or no, and the labels are the program's own answers.
Serves to try a program out in a few lines; for real text write a task of your own, with `tasks/dyck.py` as the
example. Not one of the paper's tasks.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import EvalSet, Item, TokenMap
from tracr_jax.tasks.split import distinct_set, draw, split_of
from tracr_jax.teacher.compile import default_exactness
from tracr_jax.teacher.oracle import Oracle

ASK, OTHER = "?", "other"


@dataclass(frozen=True)
class StringTask:
    """Whether a RASP program holds for the letters before the question mark of the teacher's input."""

    name: str
    build: Callable[[], rasp.SOp]
    """Makes the program: True or False at every position, from what stands there and before; reads `rasp.tokens`,
    whose values are the letters, "other" for the words of the prompt, and "?" where the answer is asked."""
    letters: tuple[str, ...]
    """Two or more pieces of text, each one token of the language model."""
    question: str = "What is the text"
    """Stands before the letters; contains no colon, and none of them as a word of its own."""
    min_length: int = 2
    """Fewest letters in training."""
    max_length: int = 10
    """Most letters in training; the set "longer" goes to twice as many."""

    result = "final_result"
    marker = ASK

    def __post_init__(self):
        if not 1 <= self.min_length <= self.max_length or len(self.letters) < 2:
            raise UserError(
                f"task {self.name}: needs two letters or more and 1 <= min_length <= max_length, got "
                f"{len(self.letters)}, {self.min_length} and {self.max_length}"
            )

    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """The program's answer at the question mark, False elsewhere."""
        answer = rasp.SequenceMap(lambda m, t: bool(m) if t == ASK else False, self.build(), rasp.tokens)
        return answer.named(self.result)

    def vocab(self) -> frozenset:
        """The letters, the rest and the question mark."""
        return frozenset({*self.letters, OTHER, ASK})

    def mlp_exactness(self, max_seq_len: int) -> float:
        """Sharpness of the teacher's MLPs."""
        return default_exactness(max_seq_len)

    def token_map(self) -> TokenMap:
        """Letters stand for themselves, the colon of "Answer:" asks."""
        return TokenMap({**{c: c for c in self.letters}, ":": ASK}, fill=OTHER)

    def keep_merge(self, left: str, right: str) -> bool:
        """All merges."""
        return True

    def item(self, letters: tuple[str, ...]) -> Item:
        """The question about some letters, with the program's answer."""
        return Item(f"{self.question} {' '.join(letters)}\nAnswer:", "yes" if self._holds(letters) else "no")

    def _holds(self, letters: tuple[str, ...]) -> bool:
        values = self._oracle([*letters, ASK]).values[self._oracle.result]
        return bool(values[-1])

    @functools.cached_property
    def _oracle(self) -> Oracle:
        return Oracle(self.program(max_seq_len=self.max_length))

    def _draw(self, r: np.random.Generator, low: int, high: int) -> Item:
        return self.item(
            tuple(self.letters[k] for k in r.integers(0, len(self.letters), int(r.integers(low, high + 1))))
        )

    def _short(self, r: np.random.Generator) -> Item:
        return self._draw(r, self.min_length, self.max_length)

    def train_item(self, index: int, *, seed: int) -> Item:
        """As many of each answer, in turn."""
        label = ("yes", "no")[index % 2]
        return draw(self._short, seed, index, 1, accept=lambda i: i.label == label and self.in_training(i.prompt))

    def free_item(self, index: int, *, seed: int) -> Item:
        """Any letters, never of the test or valid split."""
        return draw(self._short, seed, index, 2, accept=lambda i: self.in_training(i.prompt))

    def in_training(self, prompt: str) -> bool:
        """Whether `train_item` may return this prompt."""
        return split_of(prompt) == "train"

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """Both answers in turn: as in training, and up to twice as long."""
        return self._sets

    @functools.cached_property
    def _sets(self) -> dict[str, EvalSet]:
        low, high = self.min_length, self.max_length
        return {
            "test": self._balanced("test", 0, low, high, "In distribution, half yes, half no."),
            "valid": self._balanced("valid", 2, low, high, "In distribution, for choosing settings."),
            "longer": self._balanced(
                "longer", 4, high + 1, 2 * high, "Longer than in training, half yes, half no."
            ),
        }

    def _balanced(self, name: str, stream: int, low: int, high: int, note: str, *, size: int = 200) -> EvalSet:
        def pick(label: str, stream: int) -> Callable[[int], Item]:
            def one(i: int) -> Item:
                # 2**32 keeps evaluation streams apart from every training seed that fits 32 bits.
                return draw(
                    lambda r: self._draw(r, low, high), 2**32 + stream, i, accept=lambda x: x.label == label
                )

            return one

        split = None if name == "longer" else "valid" if name == "valid" else "test"
        parts = [
            distinct_set(name, size // 2, pick(label, stream + k), note=note, split=split)
            for k, label in enumerate(("yes", "no"))
        ]
        return EvalSet(name, size, lambda i: parts[i % 2].item(i // 2), note)

    def longest_items(self) -> tuple[Item, ...]:
        """Each letter as often as there is room."""
        return tuple(self.item((c,) * self.max_length) for c in self.letters)

    def teacher_label(self, item: Item) -> tuple[bool]:
        """True for yes."""
        return (item.label == "yes",)

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """A predictor that knows nothing."""
        return {"always_no": lambda prompt: "no"}
