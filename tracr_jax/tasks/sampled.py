"""A task from little: a program, its vocabulary, where the tokens lie in the text, and one sampler.

Everything else that the contract of `base.py` asks for has a default here. Subclass `SampledTask` for a task with
text of its own; `StringTask` (strings.py) is one for programs on letters that needs no class at all.
"""

import abc
import functools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.tasks.base import EvalSet, Item, TokenMap
from tracr_jax.tasks.split import EVALUATION, Split, available_set, draw, pick, rng, split_of
from tracr_jax.teacher.compile import default_exactness

_LONGEST_OF = 512  # samples among which the longest prompts are looked for


class SampledTask(abc.ABC):
    """Defaults for a task whose items come from one sampler; a subclass adds name, marker and the rest."""

    name: str
    marker: Any
    result: str = "final_result"
    set_size: int = 200
    """Items promised by a default set; a set holds fewer where fewer exist."""

    @abc.abstractmethod
    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """The RASP program; its result is named `result`."""

    @abc.abstractmethod
    def vocab(self) -> frozenset:
        """Values of the teacher's input tokens."""

    @abc.abstractmethod
    def token_map(self) -> TokenMap:
        """Which pieces of text stand for which value."""

    @abc.abstractmethod
    def sample(self, r: np.random.Generator) -> Item:
        """One item of training's kind, of any split."""

    @abc.abstractmethod
    def teacher_label(self, item: Item) -> tuple[Any, ...]:
        """Values of the result at the answer's positions."""

    def mlp_exactness(self, max_seq_len: int) -> float:
        """Sharpness of the teacher's MLPs."""
        return default_exactness(max_seq_len)

    def keep_merge(self, left: str, right: str) -> bool:
        """All merges of the tokenizer."""
        return True

    def train_item(self, index: int, *, seed: int) -> Item:
        """A sample of the training split."""
        return draw(self.sample, seed, index, 1, accept=lambda i: split_of(i.prompt) == "train")

    def free_item(self, index: int, *, seed: int) -> Item:
        """A sample of the training split, from a stream of its own."""
        return draw(self.sample, seed, index, 2, accept=lambda i: split_of(i.prompt) == "train")

    def in_training(self, prompt: str) -> bool:
        """Whether training may draw this prompt; by default whatever lies in its split."""
        return split_of(prompt) == "train"

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """In distribution: "test" and "valid"."""
        return self._default_sets

    @functools.cached_property
    def _default_sets(self) -> dict[str, EvalSet]:
        def one(split: Split, stream: int, note: str) -> EvalSet:
            return available_set(split, self.set_size, pick(stream, self.sample), note=note, split=split)

        return {
            "test": one("test", 0, "In distribution."),
            "valid": one("valid", 2, "In distribution, for choosing settings."),
        }

    def longest_items(self) -> tuple[Item, ...]:
        """The longest prompts of a few hundred samples."""
        items = [self.sample(rng(EVALUATION + 4, i)) for i in range(_LONGEST_OF)]
        return tuple(sorted(items, key=lambda i: len(i.prompt) + len(i.label))[-16:])

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """The most frequent answer of a few hundred samples."""
        return {"most_frequent": lambda prompt: self._most_frequent}

    @functools.cached_property
    def _most_frequent(self) -> str:
        labels = [self.sample(rng(EVALUATION + 6, i)).label for i in range(_LONGEST_OF)]
        return max(sorted(set(labels)), key=labels.count)
