"""What a mistake in a task is, and when it is said: as it is made, or, of a file with several, when it is used."""

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextvars import ContextVar
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.tasks.prompt import ASK, OTHER, as_text
from tracr_jax.teacher.meaning import positional_lookahead
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.undefined import only_answer

_CALLS = 1_000  # of generate(), by which one string must have had a right length
_LATER = ContextVar("mistakes_said_later", default=False)


@contextlib.contextmanager
def mistakes_said_later() -> Iterator[None]:
    """In the block a task with a mistake can be made: of a file with several tasks the others are still there."""
    token = _LATER.set(True)
    try:
        yield
    finally:
        _LATER.reset(token)


def mistake_of(check: Callable[[], None]) -> str:
    """What is wrong, where that is to be said later; "" where nothing is.

    Raises:
      UserError: what is wrong, outside of such a block.
    """
    try:
        check()
    except UserError as e:
        if _LATER.get():
            return str(e)
        raise
    return ""


def wrong_fields(task: Any) -> str:
    """Which field of a task on strings has a value of another kind than it takes; or empty."""
    kinds = {"name": str, "question": str, "min_length": int, "max_length": int, "skipped": int, "set_size": int}
    for name, kind in kinds.items():
        if type(value := getattr(task, name)) is not kind:
            return f"{name} must be {'a text' if kind is str else 'a whole number'}, got {value!r}"
    for name in ("build", "generate", "truth"):
        if not (callable(value := getattr(task, name)) or (value is None and name != "build")):
            return f"{name} must be a function, got {value!r}"
    if not isinstance(task.letters, Sequence):
        return f"letters must be a list of texts, got {task.letters!r}"
    if not (isinstance(task.rules, Mapping) and all(map(callable, task.rules.values()))):
        return f"rules must be a dictionary of functions, got {task.rules!r}"
    return "" if task.set_size > 0 else f"set_size must be at least 1, got {task.set_size}"


def takes_lengths(generate: Callable[..., Any] | None) -> bool:
    """Whether a user's generator takes the fewest and most letters as well: generate(r, low, high)."""
    try:
        inspect.signature(generate or print).bind(None, 1, 2)
    except (TypeError, ValueError):  # other arguments, or a function in C that does not say them
        return False
    return generate is not None


def maker(
    generate: Callable[..., Any], low: int, high: int, *, sized: bool, letters: Sequence[str], who: str
) -> Callable[[np.random.Generator], tuple]:
    """The user's own generator, whose strings are of these letters, and some of `low` to `high`.

    sized: it takes these two as well.
    It raises a UserError where it fails, gives other letters, or none of its first 1,000 strings is so long:
    the search passes over strings of other lengths, and would end without one that it asked for.
    """
    wrong: set[int] | None = set()  # lengths so far; None once one was right
    calls = 0

    def make(r: np.random.Generator) -> tuple:
        nonlocal wrong, calls
        try:
            string = tuple(generate(r, low, high) if sized else generate(r))
        except Exception as e:
            raise UserError(f"{who}: generate() must give a list of letters, and failed ({describe(e)})") from e
        if others := [c for c in string if c not in letters]:
            raise UserError(f"{who}: generate() gave {string!r}, and {others[0]!r} is none of the task's letters")
        if wrong is not None:
            wrong = None if low <= len(string) <= high else {*wrong, len(string)}
            calls += 1
            if wrong and calls == _CALLS:
                asked = f"{low} to {high}" if sized else f"min_length={low} to max_length={high}"
                raise UserError(
                    f"{who}: generate() gave {calls} strings of {min(wrong)} to {max(wrong)} letters, none of "
                    f"{asked}; make strings of these lengths, or change the lengths"
                )
        return string

    return make


def true_answer(truth: Callable[..., Any], letters: Sequence[str], *, form: Callable[[Any], Any], who: str) -> Any:
    """What the user's own function says of some letters, as `form` makes it an answer; a UserError if it fails."""
    try:
        return form(truth(list(letters)))
    except UserError as e:
        raise UserError(f"{who}: of {' '.join(letters)!r} {e}") from e
    except Exception as e:
        raise UserError(f"{who}: truth() failed on {' '.join(letters)!r} ({describe(e)})") from e


def yes_or_no(value: Any) -> bool:
    """The answer that truth() gives; a UserError where it is neither True nor False: every text would be a yes."""
    if value is None or value not in (0, 1):
        raise UserError(f"truth() gave {value!r}, neither True nor False; compare it with something")
    return bool(value)


def without_value(letters: Sequence[str]) -> str:
    """What is said of a program that gives nothing, or a mixture, where the answer to these letters is asked."""
    return (
        f"the program has no value at the answer of {' '.join(letters)!r}: nothing is selected, or different "
        "values at once, or a function fails, as 1 / 0; give its Aggregate a default, or its functions a value "
        "for every input"
    )


def fails(error: BaseException) -> str:
    """What is said of a program one of whose functions fails on an input that occurs."""
    return (
        f"a function of the program fails ({describe(error)}); it is given every token, {OTHER!r} for words and "
        f"{ASK!r} at the answer among them: let it have a value for each"
    )


def looks_ahead(oracle: Oracle, *, length: int) -> str:
    """The end of a line about a program whose selectors of positions select later ones; "" where none does."""
    names = positional_lookahead(oracle, length=length)
    return f"; {names[0]} selects later positions, of which a causal network sees none" if names else ""


def wrong_letters(task: Any) -> str:
    """What is wrong with the letters, the lengths or the form of answer of a task on strings; or empty."""
    letters, low, high = task.letters, task.min_length, task.max_length
    if task.answer not in ("yes/no", "value", "sequence"):
        return f"answer must be 'yes/no', 'value' or 'sequence', got {task.answer!r}"
    if not 1 <= low <= high:
        return f"needs 1 <= min_length <= max_length, got {low} and {high}"
    if twice := [c for k, c in enumerate(letters) if c in letters[:k]]:
        return f"the letter {twice[0]!r} is given twice; give each once"
    if len(letters) < 2:
        return f"needs two letters or more, got {len(letters)}"
    return "" if 0 <= task.skipped < low else f"of {low} letters and more, {task.skipped} cannot be skipped"


def always(program: rasp.SOp, *, vocab: Collection[str], length: int) -> str:
    """The answer, where by the values that it can have it is the same for all strings; or empty."""
    try:
        values = only_answer(
            rasp.Map(bool, program, simplify=False).named("answer"), vocab=vocab, max_seq_len=length
        )
    except UserError:
        return ""  # said where it is compiled, as the answer at the question mark
    return shown(values[0]) if values else ""


def words_count(strings: Sequence[Sequence[str]], alone: Sequence, among: Sequence, *, before: int) -> str:
    """What is said where answers differ with so many words before the letters, and 2 behind; or empty."""
    for letters, one, other in zip(strings, alone, among, strict=True):
        if other != one:
            return (
                f"the program depends on the words of the prompt: of {' '.join(letters)!r} it says {shown(one)} "
                f"alone and {shown(other)} with {before} words before and 2 behind; let it look at letters only "
                f"(words are {OTHER!r} in rasp.tokens, and count in rasp.indices)"
            )
    return ""


def differs(letters: Sequence[str], answer: Any, true: Any) -> str:
    """What is said where the program and truth() differ."""
    return f"of {' '.join(letters)!r} the program says {shown(answer)}, truth() {shown(true)}"


def shown(answer: Any) -> str:
    """An answer in a message."""
    return repr(" ".join(map(as_text, answer)) if isinstance(answer, tuple) else as_text(answer))


def no_truth_value(strings: Sequence[Sequence[str]], values: Sequence[Any]) -> str:
    """Which value of a program is no yes or no: every number but 0, and every letter, would be a yes; or empty."""
    for letters, value in zip(strings, values, strict=True):
        if value is not None and value not in (0, 1):  # True and False are 1 and 0
            return (
                f"of {' '.join(letters)!r} the program's value is {value!r}, neither True nor False; give "
                'answer="value" if that is the answer (or "sequence", for one at each letter), or compare it with '
                "something"
            )
    return ""
