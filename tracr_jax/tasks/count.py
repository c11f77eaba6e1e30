"""How many x are there? Source: docs/method.md §1.2, §2, §3, §7.

Differs from the original: numbers are split into digits on every tokenizer, because the teacher writes one digit
per position (docs/differences.md B15; `as_coded_merges` leaves 10..40 single tokens), the vocabulary holds only
the digits that occur (`numbers`), length_ood holds only lengths beyond the training's (C25), and replace_y comes
from test items (C28). `as_coded_sets` and `as_coded_exactness` restore the rest.
"""

# tracr types every value of a program as int | float | str | bool | None, whatever it can be here.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportOptionalOperand=false

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import EvalSet, Item, TokenMap
from tracr_jax.tasks.digits import one_digit_per_token, write_digits, zero
from tracr_jax.tasks.split import EVALUATION, distinct_set, draw, pick, rng, split_of
from tracr_jax.teacher.compile import default_exactness

YES, NO, COUNT = "yes", "no", "count"
# To the program all the same; each with its space one token, also of the bundled model.
_OTHERS = "abcdefghjklmnoprstuvwy"
_LONGEST = 120  # words in length_ood, or three times as many as in training
_HEAD, _TAIL = "What is the number of 'X' in this text? ", "\nAnswer:"


def count_program(digits: int, *, max_seq_len: int) -> rasp.SOp:
    """From `count` on, the digits of the number of `yes` so far."""
    total = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.indices, lambda key, query: key == YES)).named(
        "yes_count"
    )
    parts = [rasp.Map(_digit(d), total).named(f"final_{d + 1}_digit") for d in range(digits)]
    return write_digits(
        parts, marker=COUNT, max_seq_len=max_seq_len, no_digits=zero("no_digits"), no_result=zero("no_result")
    )


def _digit(d: int) -> Callable[[int], int]:
    return lambda n: n // 10**d % 10


@dataclass(frozen=True)
class Count:
    """Counting one of two words."""

    digits: int = 3
    """Digits that the program can write."""
    numbers: int = 10
    """The teacher's vocabulary holds 0 .. numbers - 1 (the original: 120)."""
    min_words: int = 5
    """Fewest words in training."""
    max_words: int = 40
    """Most words in training."""
    as_coded_merges: bool = False
    """Leave numbers of several digits single tokens: the teacher's digits then do not match
    (docs/differences.md B15)."""
    as_coded_exactness: bool = False
    """The original's sharpness, 10,000."""
    as_coded_sets: bool = False
    """Add the original's form of sets that were mended, as `<name>_as_coded`."""

    name = "count"
    result = "final_result"
    marker = COUNT
    as_coded_length = 47
    as_coded_table = 120

    def __post_init__(self):
        if not 1 <= self.min_words <= self.max_words:
            raise UserError(f"count: needs 1 <= min_words <= max_words, got {self.min_words} and {self.max_words}")
        if self.digits < 1 or self.max_words >= 10**self.digits - 1:
            raise UserError(
                f"count: {self.digits} digits write no number above {self.max_words} words, as of longer texts; "
                "raise digits or lower max_words"
            )
        if self.numbers < 10:
            raise UserError(f"count: an answer has ten digits, numbers must be 10 or more, got {self.numbers}")

    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """The program of `count_program`."""
        return count_program(self.digits, max_seq_len=max_seq_len)

    def vocab(self) -> frozenset:
        """Numbers, yes for an x, no for everything else, and `count`."""
        return frozenset({*map(str, range(self.numbers)), YES, NO, COUNT})

    def mlp_exactness(self, max_seq_len: int) -> float:
        """Sharpness of the teacher's MLPs."""
        return 10_000.0 if self.as_coded_exactness else default_exactness(max_seq_len)

    def token_map(self) -> TokenMap:
        """An x is a yes, the colon of "Answer:" asks, digits stand for themselves."""
        return TokenMap({**{c: c for c in "0123456789"}, "x": YES, ":": COUNT}, fill=NO)

    def keep_merge(self, left: str, right: str) -> bool:
        """No token holds two digits."""
        return self.as_coded_merges or one_digit_per_token(left, right)

    def train_item(self, index: int, *, seed: int) -> Item:
        """Length uniform, each word x or y alike, at least one y."""
        return draw(self._words, seed, index, 1, accept=self._trainable)

    def free_item(self, index: int, *, seed: int) -> Item:
        """Any share of x, from one word on, more often many; every other item has other letters than y in between.

        Never x alone and never a z, so that x_only and replace_y stay unseen.
        """

        def make(r: np.random.Generator) -> Item:
            n, share = int(r.integers(1, self.max_words + 1, 2).max()), r.random()
            return self._scattered(r, np.full(n, share), "y" if index % 2 else _OTHERS)

        return draw(make, seed, index, 2, accept=self._may_be_free)

    def varied_item(self, index: int, *, seed: int) -> Item:
        """As `free_item`, with more high counts: in turn free items, mostly x, a run of x in others, two shares.

        Free items count above half of `max_words` in one row of four, and seldom where nearly every word is x.
        """
        if index % 4 == 0:
            return self.free_item(index // 4, seed=seed)

        def make(r: np.random.Generator) -> Item:
            n = int(r.integers(1, self.max_words + 1, 4).max())
            cut = np.arange(n) < r.integers(0, n + 1)  # the first of two parts of the text
            first, then = ((s := r.random(4).max(), s), (1.0, 0.0), tuple(r.random(2)))[index % 4 - 1]
            if index // 4 % 2:
                first, then = then, first
            others = "y" if r.random() < 0.5 else _OTHERS
            return self._scattered(r, np.where(cut, first, then), others)

        return draw(make, seed, index, 4, accept=self._may_be_free)

    def in_training(self, prompt: str) -> bool:
        """Whether training may draw this prompt: x among words of one kind, y or other letters, never x alone."""
        words = _words_of(prompt)
        inside = prompt == f"{_HEAD}{' '.join(words)}{_TAIL}" and 1 <= len(words) <= self.max_words
        return inside and set(words) <= {"x", *_OTHERS} and set(words) != {"x"} and split_of(prompt) == "train"

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """In distribution first, then the original's sets and their mended forms."""
        return _sets(self)

    def longest_items(self) -> tuple[Item, ...]:
        """All words, counts of one and of most digits; each other word of free items, whatever its tokens are."""
        n = self.max_words
        counts = tuple(self.item(["x"] * k + ["y"] * (n - k)) for k in (0, n // 2, n - 1))
        return (*counts, *(self.item(["x"] * 10 + [w] * (n - 10)) for w in _OTHERS))

    def teacher_label(self, item: Item) -> tuple[int, ...]:
        """The digits of the count."""
        return tuple(int(c) for c in item.label)

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """Predictors that do not look at the words."""
        return {
            "most_frequent": lambda prompt: _most_frequent(self.min_words, self.max_words),
            "half_the_words": lambda prompt: str(len(_words_of(prompt)) // 2),
            "all_words": lambda prompt: str(len(_words_of(prompt))),
        }

    def item(self, words: list[str]) -> Item:
        """The question about a text with its answer."""
        return Item(f"{_HEAD}{' '.join(words)}{_TAIL}", str(words.count("x")))

    def _may_be_free(self, item: Item) -> bool:
        return set(_words_of(item.prompt)) != {"x"} and split_of(item.prompt) == "train"

    def _trainable(self, item: Item) -> bool:
        return "y" in _words_of(item.prompt) and split_of(item.prompt) == "train"

    def _scattered(self, r: np.random.Generator, shares: np.ndarray, others: str) -> Item:
        """Each word an x with its share, otherwise one of the others."""
        words = [others[k] for k in r.integers(0, len(others), len(shares))]
        drawn = zip(r.random(len(shares)), shares, words, strict=True)
        return self.item(["x" if u < share else word for u, share, word in drawn])

    def _words(self, r: np.random.Generator) -> Item:
        return self._of_length(r, self.min_words, self.max_words)

    def _of_length(self, r: np.random.Generator, low: int, high: int) -> Item:
        n = int(r.integers(low, high + 1))
        return self.item(["xy"[k] for k in r.integers(0, 2, n)])


def _words_of(prompt: str) -> list[str]:
    return prompt.removeprefix(_HEAD).removesuffix(_TAIL).split(" ")


@functools.cache
def _most_frequent(low: int, high: int) -> str:
    """The most probable count when the length is uniform and every word a fair coin."""
    total = np.zeros(high + 1)
    row = np.ones(1)
    for n in range(1, high + 1):
        row = np.convolve(row, [0.5, 0.5])
        if n >= low:
            total[: n + 1] += row
    return str(int(total.argmax()))


@functools.lru_cache(maxsize=8)
def _sets(task: Count) -> dict[str, EvalSet]:
    longest = min(max(_LONGEST, 3 * task.max_words), 10**task.digits - 1)  # what the program can write

    def with_y(make: Callable[[np.random.Generator], Item]):
        """In-distribution texts have a y."""

        def again(r: np.random.Generator) -> Item:
            item = make(r)
            while "y" not in _words_of(item.prompt):
                item = make(r)
            return item

        return again

    def replaced(index: int) -> Item:
        return task.item(["z" if w == "y" else w for w in _words_of(test.item(index).prompt)])

    in_distribution = with_y(task._words)
    test = distinct_set("test", 4000, pick(0, in_distribution), note="In distribution: words x and y alike.")
    out = [
        test,
        distinct_set(
            "valid", 400, pick(1, in_distribution), split="valid", note="In distribution, for choosing settings."
        ),
        EvalSet(
            "x_only", task.max_words, lambda i: task.item(["x"] * (_shuffled(task.max_words)[i])),
            f"Only x, from 1 to the longest: {task.max_words} items.",
        ),
        EvalSet("replace_y", test.size, replaced, "The test items with z for y."),
        distinct_set(
            "length_ood", 4000, pick(2, lambda r: task._of_length(r, task.max_words + 1, longest)), split=None,
            note=f"As test, {task.max_words + 1}..{longest} words.",
        ),
    ]  # fmt: skip
    if task.as_coded_sets:

        def as_coded(r: np.random.Generator) -> Item:
            return task._of_length(r, task.min_words, longest)

        out.append(
            distinct_set(
                "length_ood_as_coded", 4000, pick(3, with_y(as_coded)),
                split=None,
                note=f"The original's: {task.min_words}..{longest} words, nearly a third of them in distribution.",
            )
        )  # fmt: skip
    return {s.name: s for s in out}


@functools.cache
def _shuffled(n: int) -> tuple[int, ...]:
    """1..n in a fixed random order, so that a sample of the first items covers all lengths."""
    return tuple(int(k) + 1 for k in rng(EVALUATION + 99).permutation(n))
