"""`tracr-jax sweep` in the terminal."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from rich.console import Console

from tracr_jax.report.sweep import by_method
from tracr_jax.report.terminal import make_table

_WIDE = 80  # columns from which the spread over seeds has room


def print_sweep(console: Console, found: Mapping[str, Any]) -> None:
    """One row for each method and weight, over its seeds; readable from 60 columns on."""
    where = f" on {found['set']}" if found["set"] else ""  # no run that is finished says which is hardest
    console.print(f"{found['task']} in {found['lm']}: exact match in %{where}", style="bold", markup=False)
    rows = make_table()
    rows.add_column("method", overflow="fold")
    for name in ("retention", "seeds", "right, %", "KL, nats/token"):
        rows.add_column(name, justify="right", no_wrap=True)
    wide = console.width >= _WIDE
    for (method, weight), points in by_method(found["points"]).items():
        right = _spread([100 * p["accuracy"]["accuracy"] for p in points], "{:.1f}", wide=wide)
        kl = _spread([p["kl"] for p in points], "{:.3f}", wide=wide)
        rows.add_row(method, f"{weight:g}", str(len(points)), right, kl)
    console.print(rows)
    spread = "mean (smallest to largest)" if wide else "mean"
    console.print(
        f"{len(found['points'])} of {found['runs']} runs; {spread} over seeds; KL to the original on "
        "held-out text",
        style="dim",
        markup=False,
    )
    for run in found.get("failed", ()):
        console.print(f"{run['folder']} failed: {run['why']}", style="red", markup=False)


def _spread(values: Sequence[float], form: str, *, wide: bool) -> str:
    mean, low, high = (form.format(f(values)) for f in (fmean, min, max))
    return f"{mean} ({low} to {high})" if wide and len(values) > 1 else mean
