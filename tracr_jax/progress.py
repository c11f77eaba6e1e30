"""How far a long piece of work is: one line in the terminal that is readable from 60 columns on.

Whoever works reports (`report`); whether and where it is shown is decided once, around it (`showing`). Without
that, as in a library call or a test, a report does nothing.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task
from rich.text import Text

Say = Callable[[str], None]
"""Receives one line before each stage of a piece of work."""

_BAR = 24  # columns of the drawn bar, where there is room for it
_current: ContextVar["_Shown | None"] = ContextVar("progress", default=None)


def report(what: str, done: int, of: int, terms: Sequence[str] = ()) -> None:
    """Say that `done` of `of` steps of a piece of work are done; of the terms the last ones are dropped first."""
    shown = _current.get()
    if shown is not None:
        shown.update(what, done, of, terms)


@contextlib.contextmanager
def showing(enabled: bool = True, *, console: Console | None = None, keep: bool = False) -> Iterator[None]:
    """Draw what is reported in the block, one piece of work at a time.

    Args:
      enabled: False draws nothing.
      console: where; by default standard output.
      keep: leave the last line standing.
    """
    if not enabled or _current.get() is not None:  # one line for all
        yield
        return
    shown = _Shown(console, keep=keep)
    token = _current.set(shown)
    try:
        yield
    finally:
        _current.reset(token)
        shown.progress.stop()


def fitted(width: int, parts: Sequence[str]) -> str:
    """As many of the parts, from the left and two blanks apart, as fit the width."""
    line = ""
    for part in parts:
        longer = f"{line}  {part}" if line else part
        if len(longer) > width:
            break
        line = longer
    return line or parts[0][:width]


def line(width: int, what: str, done: int, of: int, *, left: float | None, terms: Sequence[str] = ()) -> str:
    """What is done, steps, time left, then the terms, and a bar where that leaves room for one."""
    parts = [what, f"{done}/{of}", _clock(left), *terms]
    text = fitted(width, parts)
    if all(parts) and text.endswith(parts[-1]) and len(text) + _BAR + 2 <= width:
        filled = round(_BAR * done / max(of, 1))
        return f"{text}  {'━' * filled}{'╌' * (_BAR - filled)}"
    return text


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-:-- left"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02} left" if hours else f"{minutes}:{rest:02} left"


class _Line(ProgressColumn):
    max_refresh = 0.25

    def __init__(self, console: Console | None):
        super().__init__()
        self._console = console or Console()

    def render(self, task: Task) -> Text:
        text = line(
            self._console.width - 1,
            task.description,
            int(task.completed),
            int(task.total or 0),
            left=task.time_remaining,
            terms=task.fields["terms"],
        )
        return Text(text, no_wrap=True, overflow="ellipsis")


class _Shown:
    def __init__(self, console: Console | None, *, keep: bool):
        self.progress = Progress(_Line(console), console=console, transient=not keep, refresh_per_second=4)
        self._what, self._task = "", None

    def update(self, what: str, done: int, of: int, terms: Sequence[str]) -> None:
        if what != self._what or self._task is None:
            if self._task is not None:
                self.progress.remove_task(self._task)
            self._what, self._task = what, self.progress.add_task(what, total=of, terms=())
            self.progress.start()
        self.progress.update(self._task, completed=done, total=of, terms=tuple(terms))
