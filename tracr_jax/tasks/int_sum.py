"""The sum of two numbers, digit by digit with carries. Source: docs/method.md §1.2, §2, §3, §7.

Differs from the original: the teacher sees `=` (docs/differences.md A3: unmapped, its result is empty everywhere),
length_ood has no operand of the training's length (C21), cascading_overflow has a form without the pairs that are
trained on (C22), and the split is fixed (C28). `as_coded_equals`, `as_coded_sets` and `as_coded_exactness` restore
the original.
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
from tracr_jax.tasks.digits import one_digit_per_token, write_digits
from tracr_jax.tasks.split import EVALUATION, distinct_set, draw, pick, rng, split_of
from tracr_jax.teacher.compile import default_exactness

_DIGITS = "0123456789"
PLUS, EQUALS, SPACE = "+", "=", " "
_NO_DIGIT = -1
_FEWEST = 15  # numbers, of whose pairs the validation set gets one
_MOST_DIGITS = 6
_FEW = 20  # a set of fewer items is left out
_MOST_CASCADES = 45_000  # items of cascading_overflow, of which four digits have so many


def int_sum_program(digits: int, *, max_seq_len: int) -> rasp.SOp:
    """From `=` on, the digits of the sum of the two numbers before it (modulo 10^digits).

    Operands may have up to `digits` digits. Before the second number's end the values are undefined.
    """
    # Position 0 has nothing before it and looks at itself.
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == max(query - 1, 0))
    previous = rasp.Aggregate(before, rasp.tokens).named("previous_token")
    ended = rasp.SequenceMap(lambda p, t: p in _DIGITS and t not in _DIGITS, previous, rasp.tokens)
    ended = ended.named("number_ended")
    ends = rasp.SelectorWidth(rasp.Select(ended, rasp.tokens, lambda key, query: key)).named("numbers_ended")
    number_id = rasp.SequenceMap(lambda n, e: n if e else 0, ends, ended).named("number_id")
    both_known = rasp.Map(lambda n: n > 1, ends).named("both_known")
    nothing = rasp.Map(lambda token: 0, previous).named("nothing")

    results, carry = [], None
    for i in range(1, digits + 1):
        # A Map of the tokens alone would do, but tracr then spends a layer more: it folds attention and MLP into
        # one layer only if no MLP comes as early as the attention (hence also `nothing` made from `previous`).
        values = rasp.SequenceMap(lambda p, t: _value(t), previous, rasp.tokens)
        first = _operand(i, 1, values, number_id, ended, both_known)
        later = rasp.SequenceMap(lambda n, t: _value(t) if n > 0 else 0, ends, rasp.tokens)
        second = _operand(i, 2, later, number_id, ended, both_known)
        total = rasp.SequenceMap(lambda x, y: x + y, first, second).named(f"operands_{i}_added")
        total = rasp.Map(lambda x: max(x, 0), total).named(f"operands_{i}_sum")
        if carry is not None:
            total = rasp.SequenceMap(lambda x, c: x + c, total, carry).named(f"carried_{i}_sum")
        results.append(rasp.Map(lambda x: x % 10, total).named(f"final_{i}_digit"))
        carry = rasp.Map(lambda x: x // 10, total).named(f"carry_{i}")
    return write_digits(results, marker=EQUALS, max_seq_len=max_seq_len, no_digits=nothing, no_result=nothing)


def _value(token: str) -> int:
    return int(token) if token in _DIGITS else 0


def _operand(i, number, values, number_id, ended, both_known) -> rasp.SOp:
    """Digit i (1 = units) of an operand, at every position after both have ended."""
    name = f"{'first' if number == 1 else 'second'}_{i}"

    # Where the number is shorter than i the end looks at itself: it is no digit, so its value is 0.
    def back(key: int, query: int) -> bool:
        return key == (query - i if query >= i else query)

    shifted = rasp.Aggregate(rasp.Select(rasp.indices, rasp.indices, back), values.named(f"{name}_values"))
    kept = rasp.SequenceMap(lambda v, e: v if e else _NO_DIGIT, shifted.named(f"{name}_shifted"), ended)
    at_end = rasp.Select(number_id, both_known, lambda key, query: query and key == number)
    return rasp.Aggregate(at_end, kept.named(f"{name}_at_end")).named(f"{name}_digit")


@dataclass(frozen=True)
class IntSum:
    """Addition of two non-negative whole numbers."""

    digits: int = 3
    """Digits that the program can write."""
    limit: int = 450
    """Training operands are smaller than this."""
    as_coded_equals: bool = False
    """Leave `=` unmapped, so that the teacher never writes an answer (docs/differences.md A3)."""
    as_coded_exactness: bool = False
    """tracr's default sharpness, 100."""
    as_coded_sets: bool = False
    """Add the original's form of sets that were mended, as `<name>_as_coded`."""

    name = "int_sum"
    result = "final_result"
    marker = EQUALS
    as_coded_length = 15
    as_coded_table = 16

    def __post_init__(self):
        largest = 2 * (self.limit - 1)
        if self.limit < _FEWEST or not 1 <= self.digits <= _MOST_DIGITS:
            raise UserError(
                f"int_sum: needs a limit of {_FEWEST} or more, for test items, and 1 to {_MOST_DIGITS} digits; "
                f"got limit={self.limit} and digits={self.digits}"
            )
        if largest >= 10**self.digits:
            raise UserError(
                f"int_sum: sums up to {largest} do not fit {self.digits} digits; lower limit or raise digits"
            )

    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """The program of `int_sum_program`."""
        return int_sum_program(self.digits, max_seq_len=max_seq_len)

    def vocab(self) -> frozenset:
        """Digits, +, = and space."""
        return frozenset({*_DIGITS, PLUS, EQUALS, SPACE})

    def mlp_exactness(self, max_seq_len: int) -> float:
        """Sharpness of the teacher's MLPs."""
        return 100.0 if self.as_coded_exactness else default_exactness(max_seq_len)

    def token_map(self) -> TokenMap:
        """Digits and `=`; everything else is a plus."""
        pieces = {c: c for c in _DIGITS}
        if not self.as_coded_equals:
            pieces[EQUALS] = EQUALS
        return TokenMap(pieces, fill=PLUS)

    def keep_merge(self, left: str, right: str) -> bool:
        """No token holds two digits."""
        return one_digit_per_token(left, right)

    def train_item(self, index: int, *, seed: int) -> Item:
        """Both operands uniform below the limit."""
        return draw(self._below_limit, seed, index, 1, accept=lambda i: split_of(i.prompt) == "train")

    def free_item(self, index: int, *, seed: int) -> Item:
        """Any operands whose sum the program can write; no pair of an evaluation set of such sums."""
        top = 10**self.digits

        def make(r: np.random.Generator) -> Item:
            total = int(r.integers(0, top))
            i = int(r.integers(0, total + 1))
            return self.item(i, total - i)

        return draw(make, seed, index, 2, accept=lambda i: self.in_training(i.prompt))

    def in_training(self, prompt: str) -> bool:
        """Whether training may draw this prompt: operands below the limit, or a sum that the program can write.

        Of the latter no sum of whole hundreds (with other `digits`, of that power of ten): these are the set
        cascading_overflow_unseen.
        """
        operands = _operands(prompt)
        if not all(o.isdigit() and o == str(int(o)) for o in operands) or split_of(prompt) != "train":
            return False
        a, b = map(int, operands)
        top, step = 10**self.digits, 10 ** (self.digits - 1)
        return (a < self.limit and b < self.limit) or (a + b < top and (a + b) % step != 0)

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """In distribution first, then the original's sets and their mended forms."""
        return _sets(self)

    def longest_items(self) -> tuple[Item, ...]:
        """Operands and sums with the most digits."""
        top = self.limit - 1
        return (self.item(top, top), self.item(top, 0), self.item(0, top))

    def teacher_label(self, item: Item) -> tuple[int, ...]:
        """The digits of the sum; empty for a decimal fraction."""
        return tuple(int(c) for c in item.label) if item.label.isdigit() else ()

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """Predictors that do not add."""

        def without_carry(prompt: str) -> str:
            a, b = _operands(prompt)
            if not (a.isdigit() and b.isdigit()):
                return ""
            width = max(len(a), len(b))
            pairs = zip(a.zfill(width), b.zfill(width), strict=True)
            return str(int("".join(str((int(x) + int(y)) % 10) for x, y in pairs)))

        return {
            "most_frequent": lambda prompt: str(self.limit - 1),
            "larger_operand": lambda prompt: max(_operands(prompt), key=float),
            "sum_without_carry": without_carry,
        }

    def item(self, i: int, j: int) -> Item:
        """The question i + j with its answer."""
        return Item(f"{i} + {j} =", str(i + j))

    def _below_limit(self, r: np.random.Generator) -> Item:
        i, j = r.integers(0, self.limit, 2)
        return self.item(int(i), int(j))


def _operands(prompt: str) -> tuple[str, str]:
    a, b = prompt.removesuffix(" =").split(" + ")
    return a, b


@functools.lru_cache(maxsize=8)
def _sets(task: IntSum) -> dict[str, EvalSet]:
    def between(low: int, high: int):
        def make(r: np.random.Generator) -> Item:
            i, j = r.integers(low, high, 2)
            return task.item(int(i), int(j))

        return make

    def decimals(r: np.random.Generator) -> Item:
        # In hundredths, so that the label is exact; .01 to .99 as in the original.
        whole, parts = r.integers(0, task.limit + 1, 2), r.integers(1, 100, 2)
        a, b = (int(x) * 100 + int(y) for x, y in zip(whole, parts, strict=True))
        text = [f"{v // 100}.{v % 100:02d}" for v in (a, b, a + b)]
        return Item(f"{text[0]} + {text[1]} =", text[2])

    # A fixed shuffle: a sample of the first items covers all targets.
    top, step = 10**task.digits, 10 ** (task.digits - 1)
    ends = np.cumsum(np.arange(step, top, step))  # where the pairs of each target end in the list of all
    order = rng(EVALUATION + 99).permutation(int(ends[-1]))[:_MOST_CASCADES].tolist()
    cascade = [_cascade(task, k, ends, step) for k in order]
    unseen = [item for item in cascade if not task.in_training(item.prompt)]
    sums = f"{step}, {2 * step}, .. {top - step}"
    than = "in training, and than " if len(str(task.limit - 1)) == task.digits else ""
    grid = task.limit**2
    size = min(4000, grid // 20)
    out = [
        distinct_set("test", size, pick(0, task._below_limit), note="In distribution: operands below the limit."),
        distinct_set(
            "valid", min(400, grid // 200), pick(1, task._below_limit),
            note="In distribution, for choosing settings.", split="valid",
        ),
        distinct_set(
            "length_ood", 4000, pick(2, between(top, top * 9 // 2)), split=None,
            note=f"Operands {top}..{top * 9 // 2 - 1}: one digit more than {than}the program can write.",
        ),
        _listed("cascading_overflow", cascade, f"The original's: sums {sums}; overlaps with training."),
        _listed(
            "cascading_overflow_unseen", unseen,
            "cascading_overflow without pairs that may be trained on in this order (b + a may be).",
        ),
        distinct_set(
            "decimals", 4000, pick(3, decimals), split=None,
            note="Operands with two decimals, which the program cannot read.",
        ),
    ]  # fmt: skip
    half = top // 2
    if (size := min(4000, max(0, half - task.limit) ** 2 * 8 // 100)) >= _FEW:
        # Larger operands whose sums still fit: the program can do these. Free items have such operands too, one of
        # two mostly; these pairs are in the test split, so that no item has them.
        out.append(
            distinct_set(
                "larger_operands", size, pick(4, between(task.limit, half)),
                note=f"Both operands {task.limit}..{half - 1}, larger than the training grid's: pairs that no "
                "item has in this order (b + a may occur).",
            )
        )  # fmt: skip
    if task.as_coded_sets:
        out.append(
            distinct_set(
                "length_ood_as_coded", 4000, pick(5, between(0, top * 9 // 2)), split=None,
                note=f"The original's: operands 0..{top * 9 // 2 - 1}, partly of training size.",
            )
        )  # fmt: skip
    return {s.name: s for s in out}


def _cascade(task: IntSum, k: int, ends: np.ndarray, step: int) -> Item:
    """Pair k of all whose sum is a multiple of step: of each sum in turn, by the first operand."""
    which = int(np.searchsorted(ends, k, side="right"))
    target = (which + 1) * step
    a = k - (int(ends[which]) - target)
    return task.item(a, target - a)


def _listed(name: str, items: list[Item], note: str) -> EvalSet:
    return EvalSet(name, len(items), items.__getitem__, note)
