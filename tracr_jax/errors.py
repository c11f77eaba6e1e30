"""The exceptions a user is meant to read: a single clear line, shown by the CLI without a traceback."""

import re


class UserError(ValueError):
    """Something the user can change: says what is wrong, where, the numbers, and what to do about it.

    Whatever a message quotes (a damaged file, a prompt), it is one line that a terminal can show.
    """

    def __init__(self, message: str):
        line = re.sub(r"\s*[\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", message)
        # Control characters would steer the terminal, halves of surrogate pairs cannot be printed.
        super().__init__("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line))


class TrainingDivergedError(UserError):
    """Training left numbers that are not finite."""


def describe(error: BaseException, *, most: int = 200) -> str:
    """An error as one short line: its type, and the first `most` characters of what it says."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:most]}" if text else type(error).__name__
