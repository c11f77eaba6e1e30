"""Tables for the terminal, made with rich."""

from collections.abc import Callable, Iterable

from rich import box
from rich.console import Console
from rich.table import Table

_ANY = 10_000  # columns: as wide as a table wants to be


def make_table(title: str = "") -> Table:
    """A table as all of them look: no frame, one space between columns, the title on the left."""
    return Table(
        title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1)
    )


def kept(names: Iterable[str], *, narrow: bool) -> int:
    """How many characters of variables' names stay on one line: all of the longest, up to 24, or narrow 18."""
    return min(18 if narrow else 24, max(map(len, names), default=0))


def fitting(console: Console, make: Callable[..., Table]) -> Table:
    """`make(narrow=False)` where the terminal has room for it, else the narrow one; rich would cut its numbers."""
    wide = make(narrow=False)
    needed = console.measure(wide, options=console.options.update_width(_ANY)).maximum
    return wide if needed <= console.width else make(narrow=True)
