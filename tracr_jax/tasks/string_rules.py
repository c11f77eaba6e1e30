"""Trivial baselines of a `StringTask`: what is right without the program, from a string's length or its ends."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracr_jax.tasks.language import Letters, random_string
from tracr_jax.tasks.split import EVALUATION, rng

_STRINGS = 200  # of each length
_EVEN = 1e-9  # shares that differ by less are equal


def trivial_rules(
    answer: str,
    *,
    letters: Sequence[str],
    shortest: int,
    labels: Callable[[list[Letters]], Sequence[str]],
    copied: Callable[[Letters], str],
    trained: Mapping[Any, Sequence[Letters]],
) -> dict[str, Callable[[Letters], str]]:
    """The baselines that a form of answer has, from a string to a label.

    Args:
      answer: "yes/no", "value" or "sequence".
      letters: the alphabet.
      shortest: fewest letters.
      labels: of strings.
      copied: a string as if it were the answer.
      trained: for yes or no, strings of training by their answer.
    """
    if answer == "value":
        return {}
    usual = usual_of_length(labels, letters=letters, shortest=shortest)
    of_length = {"of_length": lambda string: usual(len(string))}
    if answer == "sequence":
        return {"copied": copied, **of_length}
    ends = usual_of_ends(trained)
    by_ends = {"ends_and_parity": lambda string: "yes" if ends(string) else "no"}
    return {"always_no": lambda string: "no", **of_length, **by_ends}


def usual_of_length(
    labels: Callable[[list[Letters]], Sequence[str]], *, letters: Sequence[str], shortest: int
) -> Callable[[int], str]:
    """The most frequent label of 200 random strings of a length, whatever length it is; of equals the first.

    Args:
      labels: of strings.
      letters: the alphabet.
      shortest: fewest letters; shorter strings have no label.
    """

    @functools.cache
    def usual(length: int) -> str:
        if length < shortest:
            return ""
        r = rng(EVALUATION + 6, length)
        found = Counter(labels([random_string(r, letters, length, length) for _ in range(_STRINGS)]))
        return min(found, key=lambda label: (-found[label], label))

    return usual


def usual_of_ends(found: Mapping[bool, Sequence[Letters]]) -> Callable[[Letters], bool]:
    """The usual answer of strings with the same first and last letter and as even a length.

    found: strings of each answer. Both answers weigh the same, as in training; of equals, False.
    """
    weight: dict[Any, float] = {}
    for answer, strings in found.items():
        for s in strings:
            weight[_ends(s)] = weight.get(_ends(s), 0.0) + (1 if answer else -1) / len(strings)
    return lambda letters: weight.get(_ends(letters), 0.0) > _EVEN


def _ends(letters: Letters) -> tuple[str, str, int] | None:
    return (letters[0], letters[-1], len(letters) % 2) if letters else None
