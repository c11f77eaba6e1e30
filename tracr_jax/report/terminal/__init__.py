"""Tables for the terminal, made with rich."""

from rich import box
from rich.console import Console
from rich.table import Table


def table(title: str = "") -> Table:
    """A table as all of them look: no frame, one space between columns, the title on the left."""
    return Table(
        title=title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1)
    )


def fitting(console: Console, wide: Table, narrow: Table) -> Table:
    """The wide table where the terminal has room for it; rich would cut its numbers."""
    return wide if console.measure(wide).maximum <= console.width else narrow
