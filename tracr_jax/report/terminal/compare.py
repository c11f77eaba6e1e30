"""`tracr-jax compare` in the terminal."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.measure.compare import Comparison, SetComparison

_WIDE = 100  # columns from which the counts of items have room


def print_comparison(console: Console, comparison: Comparison) -> None:
    """One row for each set; readable from 60 columns on."""
    console.print(f"{comparison.task}, exact match in %, on the same items", style="bold", markup=False)
    console.print(f"A  {comparison.first}\nB  {comparison.second}", markup=False, soft_wrap=True)
    wide = console.width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("set", overflow="fold")
    for name in ("items", "A", "B"):
        table.add_column(name, justify="right", no_wrap=True)
    for name in ("only A right", "only B right") if wide else ():
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("B − A (95 %)", justify="right", no_wrap=True, style="bold")
    table.add_column("p", justify="right", no_wrap=True)
    for name, one in comparison.sets.items():
        counts = [str(one.only_first), str(one.only_second)] if wide else []
        table.add_row(
            Text(name),
            str(one.items),
            *(f"{100 * s['accuracy']:.1f}" for s in (one.first, one.second)),
            *counts,
            _difference(one),
            "<0.001" if one.p < 0.001 else f"{one.p:.3f}",
        )
    console.print(table)
    console.print(
        "p: McNemar's exact test of each set alone; interval: 95 %, paired over items", style="dim", markup=False
    )


def _difference(one: SetComparison) -> str:
    return f"{100 * one.difference:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
