"""The text of a prompt about a string of letters: a question, the letters, and where the answer begins."""

from collections.abc import Sequence
from dataclasses import dataclass

ASK, OTHER = "?", "other"
_TAIL = "\nAnswer:"


@dataclass(frozen=True)
class Prompt:
    """The form of a task's prompts."""

    question: str
    """Stands before the letters."""

    def text(self, letters: Sequence[str]) -> str:
        """The prompt about some letters."""
        return f"{self.question} {' '.join(letters)}{_TAIL}"

    def letters(self, prompt: str) -> tuple[str, ...]:
        """The letters that a prompt asks about."""
        return tuple(prompt.removeprefix(self.question).removesuffix(_TAIL).split())
