"""`tracr-jax compare` in the terminal."""

from rich.console import Console
from rich.text import Text

from tracr_jax.measure.compare import Comparison, SetComparison
from tracr_jax.report.terminal import make_table
from tracr_jax.report.words import tenths

_WIDE = 100  # columns from which the counts of items have room


def print_comparison(console: Console, comparison: Comparison) -> None:
    """One row for each set; readable from 60 columns on."""
    console.print(f"{comparison.task}, exact match in %, on the same items", style="bold", markup=False)
    console.print(f"A  {comparison.first}\nB  {comparison.second}", markup=False, soft_wrap=True)
    wide = console.width >= _WIDE
    rows = make_table()
    rows.add_column("set", overflow="fold")
    for name in ("items", "A", "B"):
        rows.add_column(name, justify="right", no_wrap=True)
    for name in ("only A right", "only B right") if wide else ():
        rows.add_column(name, justify="right", no_wrap=True)
    rows.add_column("B − A (95 %)", justify="right", no_wrap=True, style="bold")
    rows.add_column("p", justify="right", no_wrap=True)
    for name, one in comparison.sets.items():
        counts = [str(one.only_first), str(one.only_second)] if wide else []
        rows.add_row(
            Text(name),
            str(one.items),
            *(tenths(s["accuracy"]) for s in (one.first, one.second)),
            *counts,
            _difference(one),
            "<0.001" if one.p < 0.001 else f"{one.p:.3f}",
        )
    console.print(rows)
    console.print(
        "p: McNemar's exact test of each set alone; interval: 95 %, paired over items", style="dim", markup=False
    )


def _difference(one: SetComparison) -> str:
    return f"{100 * one.difference:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})"
