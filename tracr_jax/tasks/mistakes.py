"""When a task's mistake is said: as it is made, or, of a file with several tasks, when that task is used."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from tracr_jax.errors import UserError

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
