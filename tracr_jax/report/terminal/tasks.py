"""`tracr-jax tasks` in the terminal."""

from collections.abc import Iterable

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.runs.listing import Listed, Refused


def print_tasks(console: Console, tasks: Iterable[Listed | Refused]) -> None:
    """One row for each, with the reason where there is none; readable from 60 columns on."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("task", overflow="fold")
    table.add_column("layers", justify="right")
    table.add_column("width", justify="right")
    table.add_column("a question and its answer", overflow="fold")
    for t in tasks:
        if isinstance(t, Refused):
            table.add_row(Text(t.name), "–", "–", Text(t.reason, "dim"))
            continue
        question = Text(" ".join(t.example.prompt.split())).append(f" {t.example.label}", style="bold")
        table.add_row(Text(t.name), str(t.layers), str(t.width), question)
    console.print(table)
