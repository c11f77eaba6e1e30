"""The text of a prompt about a string of letters: a question, the letters, and where the answer begins.

Without a question the prompt is the letters and a colon: a program that reads every position, or counts positions,
then reads nothing else. There every letter must be one token and nothing may stand between two of them, so a blank
stands before letters of the alphabet, whose tokens hold it, and none before digits and signs, whose do not.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tracr_jax.errors import UserError

ASK, OTHER = "?", "other"
_TAIL, _BARE_TAIL = "\nAnswer:", " :"
_WORD = r"[^\W\d_]+"


@dataclass(frozen=True)
class Prompt:
    """The form of a task's prompts."""

    question: str
    """Stands before the letters; empty for the letters alone."""

    @property
    def bare(self) -> bool:
        """Whether there are no words."""
        return not self.question

    def text(self, letters: Sequence[str]) -> str:
        """The prompt about some letters."""
        if self.bare:
            return f"{joined(letters)}{_BARE_TAIL}"
        return f"{self.question} {' '.join(letters)}{_TAIL}"

    def letters(self, prompt: str) -> tuple[str, ...]:
        """The letters that a prompt asks about."""
        if self.bare:
            return tuple(re.findall(rf"{_WORD}|\S", prompt.removesuffix(_BARE_TAIL)))
        return tuple(prompt.removeprefix(self.question).removesuffix(_TAIL).split())

    def check(self, letters: Sequence[str], who: str) -> None:
        """Refuse letters that the prompt cannot hold; `who` begins the message.

        Raises:
          UserError: the first of them, or a question that the program would read as part of the string.
        """
        taken = (ASK, OTHER, ":", *_TAIL.strip().split(":")[:1])
        wrong = [c for c in letters if not isinstance(c, str) or c.split() != [c] or c in taken]
        if wrong:
            raise UserError(
                f"{who}: the letter {wrong[0]!r} must be a text without spaces, other than "
                f"{', '.join(map(repr, taken))}, which the prompt has itself"
            )
        unclear = [c for c in letters if not (is_word(c) or len(c) == 1)]
        if self.bare and unclear:
            raise UserError(f"{who}: without a question each letter is a word or one sign, got {unclear[0]!r}")
        words = [w for w in self.question.split() if w in letters]
        if words or ":" in self.question:
            raise UserError(
                f"{who}: the question {self.question!r} contains {words[0] if words else ':'!r}, which "
                "the program would read as part of the string; write the question without it"
            )


def joined(texts: Iterable[str]) -> str:
    """Texts that can be read again: a blank before each of letters only, none before a digit or a sign."""
    return "".join(f" {t}" if is_word(t) else t for t in texts).strip()


def is_word(text: str) -> bool:
    """Whether it is of letters only."""
    return bool(re.fullmatch(_WORD, text))


def as_text(value: Any) -> str:
    """A value of the program as it stands in an answer."""
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
