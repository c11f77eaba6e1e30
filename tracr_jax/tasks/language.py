"""Which strings of letters have which answer, found by asking the program a fixed number of times.

A rare answer (properly nested brackets among all strings of brackets) is not met by drawing at random. The search
draws first, then changes and joins the strings that it has found. It counts evaluations and not seconds, so that
the same strings are found on every machine: items stay pure functions of their index.
"""

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.progress import report
from tracr_jax.tasks import mistakes
from tracr_jax.tasks.prompt import as_text
from tracr_jax.teacher.graph import PROGRAM_ERRORS
from tracr_jax.teacher.oracle import Oracle

Letters = tuple[str, ...]
COMMON = 0.05  # an answer with at least this share of random strings is drawn at random, else from the found ones
_WANTED = 400  # strings of each answer after which the search ends
_TOGETHER = 100  # strings that are asked together, where that is known before
_KNOWN = 100_000  # answers that are kept


@dataclass(frozen=True)
class Language:
    """Strings of lengths low..high by their answer."""

    found: dict[Any, tuple[Letters, ...]]
    """Different strings of each answer, in the order of the search; answers sorted by their text."""
    share: dict[Any, float]
    """Share of each answer among the strings that were drawn at random, 0 where only the search met it."""
    complete: bool
    """Whether every string of these lengths was asked."""
    asked: int
    """Evaluations of the program."""
    made: dict[Any, tuple[Letters, ...]]
    """Of `found` the strings that the task's own generator made."""

    def common(self, answer: Any) -> bool:
        """Whether drawing at random meets this answer often enough."""
        return self.share[answer] >= COMMON


def explore(
    answers: Callable[[Sequence[Letters]], Sequence[Any]],
    letters: Sequence[str],
    *,
    low: int,
    high: int,
    budget: int,
    seeds: Sequence[Letters] = (),
    also: Sequence[Letters] = (),
    generate: Callable[[np.random.Generator], Letters] | None = None,
) -> Language:
    """Ask for the answers of strings of `low` to `high` letters.

    Args:
      answers: of strings, hashable.
      letters: the alphabet.
      low: fewest letters.
      high: most letters.
      budget: evaluations; all strings are asked where there are no more than this.
      seeds: strings, shorter ones too, from which the search may start; with `generate` every other string is
        then one of the search.
      also: strings of these lengths that are asked after the random ones.
      generate: the task's own generator of strings that random drawing misses. A third of the evaluations is
        then for random strings, else half.
    """
    asked: dict[Letters, Any] = {}

    def ask(strings: Iterable[Letters]) -> None:
        new = [s for s in dict.fromkeys(strings) if s not in asked]
        for start in range(0, len(new), _TOGETHER):
            part = new[start : start + _TOGETHER]
            before = len(asked) // _TOGETHER
            asked.update(zip(part, answers(part), strict=True))
            if len(asked) // _TOGETHER > before:
                report(f"strings of {low} to {high} letters", len(asked), budget)

    if sum(len(letters) ** n for n in range(low, high + 1)) <= budget:
        ask(_every(letters, low, high))
        return _language(asked, _share_by_length(asked), complete=True)

    r = np.random.default_rng([17, low, high, len(letters)])
    strings = [random_string(r, letters, low, high) for _ in range(budget // (3 if generate else 2))]
    ask([*strings, *also])
    drawn = [asked[s] for s in strings]
    share = {a: drawn.count(a) / len(drawn) for a in set(drawn)}
    count = _by_answer(asked)
    likely = max(count, key=lambda a: len(count[a]))
    tries, size = 0, 1
    made: set[Letters] = set()

    while True:
        # As if every new string had the likely answer: so several are asked together, and where one has another
        # answer, what follows it is drawn again.
        supposed = {**count, likely: list(count[likely])}
        new: dict[Letters, tuple[Any, int]] = {}  # and what `r` and `tries` were after each
        while len(new) < size and len(asked) + len(new) < budget and tries < 20 * budget:
            if (parents := _wanted(supposed, share)) is None:
                break
            tries += 1
            own = generate is not None and (not seeds or tries % 2 == 1)
            string = generate(r) if generate and own else _changed(r, letters, _Joined([*parents, seeds]))
            if low <= len(string) <= high and string not in asked and string not in new:
                made |= {string} if own else set()
                new[string] = r.bit_generator.state, tries
                supposed[likely].append(string)
        if not new:
            return _language(asked, share, complete=False, made=made)
        for (string, behind), a in zip(new.items(), answers(list(new)), strict=True):
            asked[string] = a
            count.setdefault(a, []).append(string)
            if generate:  # which need not depend on `r` alone: nothing is drawn again
                if _wanted(count, share) is None:
                    return _language(asked, share, complete=False, made=made)
            elif a != likely:
                r.bit_generator.state, tries = behind
                size = 1
                break
        else:
            size = min(2 * size, _TOGETHER)
        report(f"strings of {low} to {high} letters", len(asked), budget)


def _every(letters: Sequence[str], low: int, high: int) -> Iterator[Letters]:
    """All strings of `low` to `high` letters, shorter ones first."""
    for n in range(low, high + 1):
        for k in range(len(letters) ** n):
            yield tuple(letters[int(k // len(letters) ** i % len(letters))] for i in range(n))


def _by_answer(asked: Mapping[Letters, Any]) -> dict[Any, list[Letters]]:
    count: dict[Any, list[Letters]] = {}
    for string, a in asked.items():
        count.setdefault(a, []).append(string)
    return count


def _wanted(count: Mapping[Any, Sequence[Letters]], share: Mapping[Any, float]) -> list[Sequence[Letters]] | None:
    """The strings that are changed, by answer; None where drawing meets every answer that there is."""
    rare = [a for a in count if share.get(a, 0.0) < COMMON and len(count[a]) < _WANTED]
    return None if not rare and len(count) > 1 else [count[a] for a in rare or count]


def _share_by_length(asked: Mapping[Letters, Any]) -> dict[Any, float]:
    """The share of each answer, every length alike, as strings are drawn."""
    lengths = {n: [a for s, a in asked.items() if len(s) == n] for n in {len(s) for s in asked}}
    return {a: float(np.mean([of.count(a) / len(of) for of in lengths.values()])) for a in set(asked.values())}


def written(
    oracle: Oracle, prompts: Sequence[Sequence[Any]], counts: Sequence[int], *, letters: Sequence[str]
) -> list[list[Any]]:
    """The values that a program writes after prompts, each of which it reads when the next is due.

    Args:
      oracle: of the program.
      prompts: its tokens before the answer.
      counts: how many values each answer has; one ends at None, which is no token.
      letters: a value whose text is one of them is read as that letter.
    """
    tokens, values = [list(p) for p in prompts], [[] for _ in prompts]
    for step in range(max(counts)):
        due = [k for k, count in enumerate(counts) if step < count and None not in values[k]]
        found = oracle.evaluate([tokens[k] for k in due], names=[oracle.result])
        for k, one in zip(due, found, strict=True):
            value = one.values[oracle.result][-1]
            values[k].append(value)
            tokens[k].append(text if (text := as_text(value)) in letters else value)
    return values


def written_or_refused(
    oracle: Oracle,
    prompts: Sequence[Sequence[Any]],
    counts: Sequence[int],
    strings: Sequence[Letters],
    *,
    letters: Sequence[str],
    who: str,
    check: Callable[[Sequence[Letters], Sequence[Any]], str] | None,
) -> list[list[Any]]:
    """`written`, every value of which is one.

    Args:
      oracle: of the program.
      prompts: its tokens before each answer.
      counts: how many values each answer has.
      strings: the letters of each prompt.
      letters: the alphabet.
      who: begins messages.
      check: what is wrong with the first value of each string; or empty.

    Raises:
      UserError: a function of the program fails, a string has no answer, or `check` refuses one.
    """
    try:
        values = written(oracle, prompts, counts, letters=letters)
    except UserError:
        raise
    except PROGRAM_ERRORS as e:
        raise UserError(f"{who}: {mistakes.fails(e)}") from e
    if missing := [s for s, found in zip(strings, values, strict=True) if None in found]:
        ahead = mistakes.looks_ahead(oracle, length=max(map(len, strings)))
        raise UserError(f"{who}: {mistakes.without_value(missing[0])}{ahead}")
    if check and (problem := check(strings, [first for first, *_ in values])):
        raise UserError(f"{who}: {problem}")
    return values


def regular_strings(letters: Sequence[str], low: int, high: int, *, most: int) -> list[Letters]:
    """Strings that chance does not make, and a threshold may need: one letter, then two in turn or in halves."""
    lengths = dict.fromkeys((high, high - 1, (low + high) // 2, low))
    lengths = [n for n in lengths if low <= n]
    one = ((c,) * n for n in lengths for c in letters)
    pairs = ((n, c, d) for n in lengths for c, d in itertools.permutations(letters, 2))
    two = (s for n, c, d in pairs for s in (((c, d) * n)[:n], (c,) * (n // 2) + (d,) * (n - n // 2)))
    return list(itertools.islice(itertools.chain(one, two), most))


class AskedOnce:
    """A function of strings, and what else it takes, that is not called again for those it was called for."""

    def __init__(self, ask: Callable[..., Sequence[Any]]):
        self._ask, self._known = ask, {}

    def __call__(self, strings: Sequence[Letters], *more: Any) -> list[Any]:
        """One answer for each string."""
        keys = [(s, *more) for s in strings]
        if len(self._known) + len(keys) > _KNOWN:
            self._known = {}
        if new := list(dict.fromkeys(key for key in keys if key not in self._known)):
            self._known.update(zip(new, self._ask([s for s, *_ in new], *more), strict=True))
        return [self._known[key] for key in keys]


def told_before(strings: Iterable[Letters], tell: Callable[[list[Letters]], Any]) -> Iterator[Letters]:
    """The same strings; `tell` hears of some together, before the first of them is given."""
    strings = iter(strings)
    while some := list(itertools.islice(strings, _TOGETHER)):
        tell(some)
        yield from some


def _language(
    asked: dict[Letters, Any], share: dict[Any, float], *, complete: bool, made: Collection[Letters] = ()
) -> Language:
    found = {a: tuple(of) for a, of in sorted(_by_answer(asked).items(), key=lambda x: str(x[0]))}
    own = {a: tuple(s for s in of if s in made) for a, of in found.items()}
    return Language(found, {a: share.get(a, 0.0) for a in found}, complete, len(asked), own)


def random_string(r: np.random.Generator, letters: Sequence[str], low: int, high: int) -> Letters:
    """Length uniform, then each letter uniform."""
    drawn: list[int] = r.integers(0, len(letters), int(r.integers(low, high + 1))).tolist()
    return tuple(letters[k] for k in drawn)


class _Joined(Sequence[Letters]):
    """Several lists as one, without a copy."""

    def __init__(self, lists: Sequence[Sequence[Letters]]):
        self._lists = lists

    def __len__(self) -> int:
        return sum(map(len, self._lists))

    def __getitem__(self, at):
        for one in self._lists:
            if at < len(one):
                return one[at]
            at -= len(one)
        raise IndexError(at)


def _changed(r: np.random.Generator, letters: Sequence[str], parents: Sequence[Letters]) -> Letters:
    """A found string joined with another, put into another, or with some letters replaced, added or left out."""
    picked = [list(parents[int(k)]) for k in r.integers(0, len(parents), 3)]
    one, other = picked[0], min(picked[1:], key=len)  # a short one fits into more
    kind = int(r.integers(4))
    at = int(r.integers(len(one) + 1))
    if kind == 0:
        one = one + other
    elif kind == 1:
        one = one[:at] + other + one[at:]
    elif kind == 2:
        for _ in range(int(r.integers(1, 3))):
            one[int(r.integers(len(one)))] = letters[int(r.integers(len(letters)))]
    elif r.random() < 0.5:
        pair = r.integers(0, len(letters), 2)
        end = int(r.integers(at, len(one) + 1))
        one = [*one[:at], letters[int(pair[0])], *one[at:end], letters[int(pair[1])], *one[end:]]
    else:
        one = one[:at] + one[at + int(r.integers(1, 3)) :]
    return tuple(one)
