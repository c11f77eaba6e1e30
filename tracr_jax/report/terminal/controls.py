"""`tracr-jax controls` in the terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from tracr_jax.report.controls import COLUMNS, HOW, cells
from tracr_jax.report.terminal import make_table


def print_controls(console: Console, found: Mapping[str, Any]) -> None:
    """One row for each model; readable from 60 columns on."""
    rows = make_table()
    rows.add_column("model", overflow="fold")
    for name in COLUMNS:
        rows.add_column(name, justify="right")
    for name, row in found["rows"].items():
        rows.add_row(name, *cells(row))
    console.print(rows)
    console.print(HOW, style="dim", markup=False)
