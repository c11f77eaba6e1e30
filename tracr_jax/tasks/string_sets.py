"""Which strings an evaluation set of a `StringTask` holds: as many of each answer, in turn."""

import itertools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from tracr_jax.tasks import mistakes
from tracr_jax.tasks.language import Language, Letters, told_before
from tracr_jax.tasks.split import EVALUATION, rng

FEWEST_MADE = 20  # strings that a generator made of a common answer; fewer would be items again and again
_FEW = 10  # items of the other answers in a set where one has fewer
_NAMED = 5  # missing answers that a note names


def shares(language: Language, classes: Sequence[Any], size: int) -> dict[str, float]:
    """Shares of all strings for the sets "test" and "valid": more than usual, where an answer has few strings."""
    rare = [c for c in classes if c is not None and (language.complete or not language.common(c))]
    every = language.asked if language.complete else 10**9
    few = min((len(language.found[c]) for c in rare), default=every)
    wanted = size / len(classes)
    return {"test": min(max(wanted / few, 0.1), 0.3), "valid": min(max(wanted / few / 5, 0.02), 0.1)}


def chosen_strings(
    classes: Sequence[Any],
    wanted: int,
    *,
    language: Language,
    stream: int,
    offered: Iterable[Letters],
    fits: Callable[[Letters], bool],
    answers: Callable[[Sequence[Letters]], Sequence[Any]],
) -> dict[Any, list[Letters]]:
    """At most `wanted` strings of each answer.

    What random drawing misses comes from the search, and so does everything where that met all there is. Of an
    answer that random drawing meets, half are strings that the task's own generator made, where it makes such.

    Args:
      classes: the answers; (None,) takes strings of any answer, as they are offered.
      wanted: of each.
      language: the strings that the search found.
      stream: the evaluation stream that chooses among them.
      offered: strings drawn at random.
      fits: whether a string may be in the set.
      answers: of strings.
    """
    chosen: dict[Any, dict[Letters, None]] = {c: {} for c in classes}

    def offer(letters: Letters, most: int = wanted) -> None:
        if fits(letters):
            answer = answers([letters])[0] if classes != (None,) else None
            if answer in chosen and len(chosen[answer]) < most:
                chosen[answer][letters] = None

    for c in classes:
        if c is None or c not in language.found:
            continue
        source, most = language.found[c], wanted
        if language.common(c) and not language.complete:
            source, most = _made(c, language), -(-wanted // 2)
        for k in rng(EVALUATION + stream, 1).permutation(len(source)):
            offer(source[k], most)
    if not (language.complete and classes != (None,)):
        waiting = [c for c in classes if c is None or (c in language.found and language.common(c))]
        if classes != (None,):
            offered = told_before(offered, lambda drawn: answers([*filter(fits, drawn)]))
        for letters in offered:
            if all(len(chosen[c]) >= wanted for c in waiting):
                break
            offer(letters)
    return {c: _alternated(list(of), frozenset(_made(c, language))) for c, of in chosen.items()}


def _alternated(strings: list[Letters], made: Collection[Letters]) -> list[Letters]:
    """Those made and the others in turn, so that every beginning holds as many of both, while there are some."""
    ours, others = [s for s in strings if s in made], [s for s in strings if s not in made]
    pairs = itertools.zip_longest(ours, others)
    return [s for pair in pairs for s in pair if s is not None]


def _made(answer: Any, language: Language) -> Sequence[Letters]:
    """The generator's strings of an answer that random drawing meets."""
    made = language.made.get(answer, ())
    return made if len(made) >= FEWEST_MADE and language.common(answer) else ()


def in_turn(chosen: Mapping[Any, Sequence[Letters]], size: int) -> list[Letters]:
    """The strings one answer after the other, so that every beginning is balanced, and nearly as many of each."""
    parts = [of for of in chosen.values() if of]
    most = max(min(map(len, parts)), _FEW)
    return [of[i] for i in range(most) for of in parts if i < len(of)][:size]


def without(chosen: Mapping[Any, Sequence[Letters]]) -> str:
    """The sentence of a set's note about the answers that no item has; empty where every answer is there."""
    missing = [mistakes.shown(c) for c, of in chosen.items() if not of]
    some = ", ".join(missing[:_NAMED]) + (", …" if len(missing) > _NAMED else "")
    return f" No item has the answer {some}." if missing else ""
