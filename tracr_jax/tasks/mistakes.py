"""What a mistake in a task is, and when it is said: as it is made, or, of a file with several, when it is used."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

from tracr_jax.errors import UserError
from tracr_jax.teacher.meaning import positional_lookahead
from tracr_jax.teacher.oracle import Oracle

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


def without_value(letters: Sequence[str]) -> str:
    """What is said of a program that gives nothing, or a mixture, where the answer to these letters is asked."""
    return (
        f"the program has no value at the answer of {' '.join(letters)!r}: nothing is selected, or different "
        "values at once, or a function fails, as 1 / 0; give its Aggregate a default, or its functions a value "
        "for every input"
    )


def looks_ahead(oracle: Oracle, *, length: int) -> str:
    """The end of a line about a program whose selectors of positions select later ones; "" where none does."""
    names = positional_lookahead(oracle, length=length)
    return f"; {names[0]} selects later positions, of which a causal network sees none" if names else ""
