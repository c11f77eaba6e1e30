"""`tracr-jax tasks` in the terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from tracr_jax.report.terminal import make_table
from tracr_jax.runs.listing import Listed, Refused


def print_tasks(console: Console, tasks: Iterable[Listed | Refused]) -> None:
    """One row for each, with the reason where there is none; readable from 60 columns on."""
    rows = make_table()
    rows.add_column("task", overflow="fold")
    rows.add_column("layers", justify="right")
    rows.add_column("width", justify="right")
    rows.add_column("a question and its answer", overflow="fold")
    for t in tasks:
        if isinstance(t, Refused):
            rows.add_row(Text(t.name), "–", "–", Text(t.reason, "dim"))
            continue
        question = Text(" ".join(t.example.prompt.split())).append(f" {t.example.label}", style="bold")
        rows.add_row(Text(t.name), str(t.layers), str(t.width), question)
    console.print(rows)
