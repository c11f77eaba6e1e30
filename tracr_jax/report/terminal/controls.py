"""`tracr-jax controls` in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from tracr_jax.report.controls import COLUMNS, HOW, cells


def print_controls(console: Console, found: Mapping[str, Any]) -> None:
    """One row for each model; readable from 60 columns on."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("model", overflow="fold")
    for name in COLUMNS:
        table.add_column(name, justify="right")
    for name, row in found["rows"].items():
        table.add_row(name, *cells(row))
    console.print(table)
    console.print(HOW, style="dim", markup=False)
