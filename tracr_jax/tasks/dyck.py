"""Are these brackets matched, each type by itself (shuffle-dyck)? Source: docs/method.md §1.2, §2, §3, §7.

Differs from the original: test prompts are never in train (docs/differences.md C24), length_ood holds only lengths
beyond the training's (C25), the teacher is sharp enough for its counts (docs/teacher.md §3a).
`as_coded_exactness`, `as_coded_split` and `as_coded_sets` restore these. The sets that parity or mere counting
solves (C23) are kept under their names, beside sets that they do not solve.
"""

# tracr types every value of a program as int | float | str | bool | None, whatever it can be here.
# pyright: reportArgumentType=false, reportOperatorIssue=false, reportOptionalOperand=false

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import EvalSet, Item, TokenMap
from tracr_jax.tasks.brackets import (
    any_kind,
    balanced_brackets,
    bracket_runs,
    ends_fit,
    exchange_two,
    is_matched,
    nested_brackets,
    random_brackets,
    replace_one,
)
from tracr_jax.tasks.split import EVALUATION, Split, distinct_set, draw, pick, rng, split_of
from tracr_jax.teacher.compile import default_exactness

COMPUTE, OTHER = "compute", " "
_NEW_PAIR = "<>"
_LONGEST = 90  # brackets in the sets of long strings, or three times as many as in training
_NEW_NOTE = (
    "As test with a fourth type <>, unknown to the teacher. One in twelve has none, and leaving every <> out "
    "answers all: see order_miss_new_token."
)
_HEAD, _TAIL = "Are parenthesis here correctly matched? ", "\nAnswer:"
_OTHER_HEAD = "Does every bracket below close one of its own kind that was opened before? "
# The questions of `varied_item`; no evaluation set asks one of them but the first.
WORDINGS = (
    _HEAD,
    "Do they match? ",
    "Is each bracket closed? ",
    "Look at this line. Is it balanced? ",
    "I wonder, are these all right? ",
    "Can you see if the marks in this row go together? ",
    "Here is some text. Does everything that opens also close? ",
    "Say yes if this is in order and no if it is not. ",
    "A question about signs, to be answered with yes or no. Are these well formed? ",
    "My friend wrote this down. Is it a good one, with nothing left open at the end? ",
)


def dyck_program(pairs: tuple[str, ...]) -> rasp.SOp:
    """True at `compute` tokens before which every type of bracket is balanced, False elsewhere."""
    diffs, negatives = [], []
    for opener, closer in pairs:
        opens = _count_token(opener).named(f"{opener}_start_counts")
        closes = _count_token(closer).named(f"{closer}_end_counts")
        diff = (opens - closes).named(f"{opener}{closer}_diffs")
        # How often this type has been overdrawn so far; the query plays no part.
        below = rasp.SelectorWidth(rasp.Select(diff, rasp.tokens, lambda key, query: key < 0))
        diffs.append(diff)
        negatives.append(below.named(f"{opener}{closer}_negative_counters"))
    overdrawn = _any_nonzero(negatives).named("aggregated_negatives")
    still_open = _any_nonzero(diffs, name="aggregated_diffs_tmp").named("aggregated_diffs")
    matched = rasp.SequenceMap(lambda n, d: n == 0 and d == 0, overdrawn, still_open).named("unfiltered_result")
    answer = rasp.SequenceMap(lambda m, token: m if token == COMPUTE else False, matched, rasp.tokens)
    return answer.named("final_result")


def _count_token(token: str) -> rasp.SOp:
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == token))


def _any_nonzero(sops: list[rasp.SOp], *, name: str | None = None) -> rasp.SOp:
    """1 where any is not zero, two at a time."""
    if len(sops) == 1:
        return rasp.Map(lambda x: int(x != 0), sops[0])
    out = sops[0]
    for i, sop in enumerate(sops[1:]):
        out = rasp.SequenceMap(lambda x, y: int(x != 0 or y != 0), out, sop)
        if name and i < len(sops) - 2:
            out = out.named(f"{name}_{i}")
    return out


@dataclass(frozen=True)
class Dyck:
    """Bracket matching with several types that may interleave."""

    pairs: tuple[str, ...] = ("()", "{}", "[]")
    """Types of brackets, opener and closer."""
    min_length: int = 5
    """Shortest bracket string in training."""
    max_length: int = 30
    """Longest bracket string in training."""
    as_coded_exactness: bool = False
    """tracr's default sharpness, 100: wrong for counts above 6 (docs/teacher.md §3a)."""
    as_coded_split: bool = False
    """Let training items fall into the test split, as duplicates do in the original (docs/differences.md C24)."""
    as_coded_sets: bool = False
    """Add the original's form of sets that were mended, as `<name>_as_coded`."""

    name = "dyck"
    result = "final_result"
    marker = COMPUTE
    as_coded_length = 37
    as_coded_table = 40

    def __post_init__(self):
        if not 1 <= self.min_length <= self.max_length:
            lengths = f"{self.min_length} and {self.max_length}"
            raise UserError(f"dyck: needs 1 <= min_length <= max_length, got {lengths}")
        signs = "".join(self.pairs)
        if not signs or any(len(pair) != 2 for pair in self.pairs) or len(set(signs)) < len(signs):
            raise UserError(f"dyck: pairs must be of different brackets, as ('()', '[]'), got {self.pairs!r}")

    def program(self, *, max_seq_len: int) -> rasp.SOp:
        """The program of `dyck_program`; its values do not depend on max_seq_len."""
        return dyck_program(self.pairs)

    def vocab(self) -> frozenset:
        """Brackets, space for everything else, and `compute`."""
        return frozenset({*"".join(self.pairs), OTHER, COMPUTE})

    def mlp_exactness(self, max_seq_len: int) -> float:
        """Sharpness of the teacher's MLPs."""
        return 100.0 if self.as_coded_exactness else default_exactness(max_seq_len)

    def token_map(self) -> TokenMap:
        """Brackets stand for themselves, the colon of "Answer:" asks."""
        return TokenMap({**{c: c for c in "".join(self.pairs)}, ":": COMPUTE}, fill=OTHER)

    def keep_merge(self, left: str, right: str) -> bool:
        """No merge with a bracket: each is one token, and so is the space before it."""
        brackets = set("".join(self.pairs))
        return not (left.replace(" ", "") in brackets or right.replace(" ", "") in brackets)

    def train_item(self, index: int, *, seed: int) -> Item:
        """Even indices: random brackets; odd ones: balanced."""
        make = self._random if index % 2 == 0 else self._balanced
        return draw(make, seed, index, 1, accept=self._may_train)

    def free_item(self, index: int, *, seed: int) -> Item:
        """Any bracket string, never one of the test or valid split: random, walks, near and order misses."""
        make = (self._random, self._walk, self._near_miss, self._order_miss)[index % 4]
        return draw(make, seed, index, 2, accept=lambda i: split_of(i.prompt) == "train")

    def varied_item(self, index: int, *, seed: int) -> Item:
        """As `free_item`, in one of the `WORDINGS` and of more kinds of strings, see `any_kind`.

        In a longer question the string is shorter: no prompt has more tokens than `longest_items`. A test item is
        drawn in no wording.
        """
        left = {head: self.max_length - max(0, len(head.split()) - 4) for head in WORDINGS}  # tokens, or fewer
        if not (heads := [head for head in WORDINGS if left[head] >= 6]):
            raise UserError(f"dyck: varied items need a max_length of 6 or more, got {self.max_length}")
        head = heads[int(rng(seed, index, 5).integers(len(heads)))]
        longest = left[head]
        plain = draw(
            lambda r: self.item(any_kind(r, index % 8, longest, self.pairs)),
            seed, index, 4, accept=lambda i: split_of(i.prompt) == "train",
        )  # fmt: skip
        return self.item(_string(plain.prompt), head=head)

    def in_training(self, prompt: str) -> bool:
        """Whether training may draw this prompt: any string of its lengths; an odd largest one is rounded up."""
        text = _string(prompt)
        inside = prompt == f"{_HEAD}{text}{_TAIL}" and set(text) <= set("".join(self.pairs))
        fits = inside and self.min_length <= len(text) <= self._longest()
        return fits and (self.as_coded_split or split_of(prompt) == "train")

    def eval_sets(self) -> Mapping[str, EvalSet]:
        """In distribution first, then the original's sets, then those that parity and counting do not solve."""
        return _sets(self)

    def longest_items(self) -> tuple[Item, ...]:
        """One string of each bracket at the largest length, and a balanced one."""
        n = self._longest()
        texts = [c * n for c in "".join(self.pairs)] + [p * (n // 2) for p in self.pairs]
        return tuple(self.item(t) for t in texts)

    def teacher_label(self, item: Item) -> tuple[bool]:
        """True for yes."""
        return (item.label == "yes",)

    def baselines(self) -> Mapping[str, Callable[[str], str]]:
        """Trivial baselines: always no, the length alone, the ends, or how many there are of each bracket."""
        brackets = "".join((*self.pairs, _NEW_PAIR))

        def body(prompt: str) -> str:
            return "".join(c for c in prompt if c in brackets)

        def counts(prompt: str) -> str:
            # Every type it sees, the unknown one too: an upper bound for what ignores order.
            text = body(prompt)
            return _yes(all(text.count(p[0]) == text.count(p[1]) for p in (*self.pairs, _NEW_PAIR)))

        return {
            "always_no": lambda prompt: "no",
            "even_length": lambda prompt: _yes(len(body(prompt)) % 2 == 0),
            "first_and_last": lambda prompt: _yes(ends_fit(body(prompt), (*self.pairs, _NEW_PAIR))),
            "counts_ignoring_order": counts,
        }

    # ---- strings

    def item(self, text: str, *, head: str = _HEAD, between: str = "") -> Item:
        """The question about a bracket string, with its true answer; `between` stands between two brackets."""
        pairs = (*self.pairs, _NEW_PAIR) if set(_NEW_PAIR) & set(text) else self.pairs
        return Item(f"{head}{between.join(text)}{_TAIL}", _yes(is_matched(text, pairs)))

    def _longest(self) -> int:
        # Balanced strings have even lengths, odd ones are rounded up.
        return self.max_length + self.max_length % 2

    def _may_train(self, item: Item) -> bool:
        return self.as_coded_split or split_of(item.prompt) == "train"

    def _random(self, r: np.random.Generator) -> Item:
        n = int(r.integers(self.min_length, self.max_length + 1))
        return self.item(random_brackets(r, n, self.pairs))

    def _balanced(self, r: np.random.Generator) -> Item:
        n = int(r.integers(self.min_length, self.max_length + 1))
        return self.item(balanced_brackets(r, n + n % 2, self.pairs))

    def _walk(self, r: np.random.Generator) -> Item:
        """A balanced string cut anywhere, every other one near its end: nothing is overdrawn, little is open."""
        n = int(r.integers(self.min_length, self.max_length + 1))
        low = self.min_length if r.integers(2) else max(self.min_length, n - 3)
        return self.item(balanced_brackets(r, n + n % 2, self.pairs)[: int(r.integers(low, n + 1))])

    def _even(self, r: np.random.Generator) -> str:
        return balanced_brackets(r, self._even_length(r), self.pairs)

    def _even_length(self, r: np.random.Generator) -> int:
        # 12 and more, unless training's lengths do not allow it.
        low = max(min(12, self._longest()), self.min_length + self.min_length % 2)
        return 2 * int(r.integers(low // 2, max(low, self.max_length) // 2 + 1))

    def _balanced_even(self, r: np.random.Generator) -> Item:
        return self.item(self._even(r))

    def _near_miss(self, r: np.random.Generator) -> Item:
        return self.item(replace_one(r, self._even(r), self.pairs))

    def _order_miss(self, r: np.random.Generator) -> Item:
        return self.item(exchange_two(r, self._even(r), self.pairs))


def _string(prompt: str) -> str:
    return prompt.removeprefix(_HEAD).removesuffix(_TAIL)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


Make = Callable[[np.random.Generator], Item]


def alternating(
    name: str, size: int, stream: int, makes: Sequence[Make], note: str, *, split: Split | None = "test"
) -> EvalSet:
    """As many of each maker as of the others, in turn, so that every beginning of the set is balanced."""
    parts = [
        distinct_set(name, -(-size // len(makes)), pick(stream + k, make), note=note, split=split)
        for k, make in enumerate(makes)
    ]
    return EvalSet(name, size, lambda i: parts[i % len(parts)].item(i // len(parts)), note)


def _unusual_sets(task: Dyck) -> list[EvalSet]:
    """Strings and texts that no training has on purpose, half of each with an opener and a closer exchanged."""
    pairs = task.pairs

    def both(make: Callable[[np.random.Generator], str], **how: str) -> tuple[Make, Make]:
        return lambda r: task.item(exchange_two(r, make(r), pairs), **how), lambda r: task.item(make(r), **how)

    def short(r: np.random.Generator) -> str:
        return balanced_brackets(r, 2 * int(r.integers(6, 9)), pairs)

    def with_new(r: np.random.Generator) -> str:
        while True:  # until it has brackets of the new type, and of a known one to be exchanged
            text = balanced_brackets(r, task._even_length(r), (*pairs, _NEW_PAIR))
            if set(_NEW_PAIR) < set(text):
                return text

    nested, runs = both(lambda r: nested_brackets(r, pairs)), both(lambda r: bracket_runs(r, pairs))
    asked, spaced, new = both(task._even, head=_OTHER_HEAD), both(short, between=" "), both(with_new)
    return [
        alternating("deep_one_type", 400, 20, nested, "One type, eight deep and more; half with two exchanged."),
        alternating(
            "long_runs", 400, 22, runs, "In runs of two and more of one bracket; half with two exchanged."
        ),
        alternating(
            "other_question", 400, 24, asked, "As order_miss_balanced, in a question of other words.", split=None
        ),
        alternating(
            "spaced", 400, 26, spaced, "12 to 16 brackets, a space between; half with two exchanged.", split=None
        ),
        alternating(
            "order_miss_new_token",
            4000,
            28,
            new,
            "As order_miss_balanced, with a balanced fourth type <> in every item: only known types are wrong.",
        ),
    ]  # fmt: skip


@functools.lru_cache(maxsize=8)
def _sets(task: Dyck) -> dict[str, EvalSet]:
    pairs = task.pairs

    def of_length(low: int, high: int, *, types: tuple[str, ...] = pairs, edit: Callable | None = None):
        """Two makers: random and balanced strings of these lengths; `edit` changes the balanced ones."""

        def random(r: np.random.Generator) -> Item:
            return task.item(random_brackets(r, int(r.integers(low, high + 1)), types))

        def balanced(r: np.random.Generator) -> Item:
            n = int(r.integers(low, high + 1))
            text = balanced_brackets(r, n + n % 2, types)
            return task.item(edit(r, text) if edit else text)

        return random, balanced

    def other_end(r: np.random.Generator, text: str) -> str:
        others = [c for c in "".join(pairs) if c != text[-1]]
        return text[:-1] + others[int(r.integers(len(others)))]

    above, longest = task._longest() + 1, max(_LONGEST, 3 * task.max_length)
    long, up_to = of_length(above, longest), of_length(15, longest)
    no_end = of_length(15, longest, edit=lambda r, text: text[:-1])
    wrong_end = of_length(15, longest, edit=other_end)
    four = of_length(task.min_length, task.max_length, types=(*pairs, _NEW_PAIR))
    usual = (task._random, task._balanced)
    # Streams are two apart: an alternating set uses two.
    out = [
        alternating("test", 4000, 0, usual, "In distribution: half random, half balanced."),
        alternating("valid", 400, 2, usual, "In distribution, for choosing settings.", split="valid"),
        distinct_set(
            "near_miss", 2000, pick(4, task._near_miss),
            note="Balanced, even length, one bracket replaced: all no.",
        ),
        alternating(
            "near_miss_balanced", 4000, 6, (task._near_miss, task._balanced_even),
            "Half near misses, half balanced strings of the same lengths.",
        ),
        alternating(
            "order_miss_balanced", 4000, 8, (task._order_miss, task._balanced_even),
            "Half balanced, half with an opener and a closer exchanged: counts match, order does not.",
        ),
        alternating("length_ood", 4000, 10, long, f"As test, lengths {above}..{longest} only.", split=None),
        distinct_set(
            "almost_balanced", 4000, pick(12, no_end[1]),
            note="The original's: balanced but for the missing last bracket. All odd and no: parity gives 100 %.",
        ),
        alternating(
            "almost_balanced_even", 4000, 14, (wrong_end[1], up_to[1]),
            "Half balanced, half with a wrong last bracket, all of even length.",
        ),
        alternating("ood_new_token", 4000, 16, four, _NEW_NOTE),
        *_unusual_sets(task),
    ]  # fmt: skip
    if task.as_coded_sets:
        spread = of_length(5, longest)
        out.append(
            distinct_set(
                "length_ood_as_coded", 4000, lambda i: spread[i % 2](rng(EVALUATION + 18, i)), split=None,
                note=f"The original's: lengths 5..{longest}, nearly a third of them in distribution.",
            )
        )  # fmt: skip
    known = set(_NEW_PAIR) & set("".join(pairs))  # then there is no new type to ask for
    return {s.name: s for s in out if not (known and s.name.endswith("_new_token"))}
