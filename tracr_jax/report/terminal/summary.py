"""What `tracr-jax interpret` shows in the terminal."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.report.swaps import outside
from tracr_jax.report.terminal.scorecard import scorecard_table


def print_interpretation(console: Console, result: dict[str, Any], *, result_name: str) -> None:
    """Three tables: decoded variables, answers under noise, swaps."""
    console.print(scorecard_table(result["scorecard"], result=result_name))
    console.print(noise_table(result["noise"]))
    console.print(swap_table(result["swaps"]))
    if "used" in result["swaps"]:
        console.print(used_line(result["swaps"]), markup=False)
    omitted = {o["variable"] for o in result["swaps"]["left_out"] if o["layer"] is None}
    seconds = ", ".join(f"{k} {v:.0f} s" for k, v in result["about"]["seconds"].items())
    console.print(f"{len(omitted)} variables not swapped, reasons in interpretation.json; {seconds}", markup=False)


def used_line(swapped: dict[str, Any]) -> str:
    """How many variables the answer follows at all their layers, and what no variable holds."""
    used, count = swapped["used"], len(swapped["swapped"])
    line = (
        f"{len(used)} of {count} variables are used at all their layers: of the pairs that flip the program's "
        "answer, on bases that the model answers rightly, it follows the swap more often than every control"
    )
    if "used_by_program" in swapped:  # not in files of earlier versions
        line += f" (in the compiled program itself {len(swapped['used_by_program'])})"
    moved, total = outside(swapped["cells"])
    if total:
        line += f"; everything that no variable holds, exchanged, moves {moved} of {total} answers"
    errors = {k: e for k, e in swapped.get("causal_abstraction_error", {}).items() if e is not None}
    if errors:
        line += "; causal abstraction error " + ", ".join(f"{e:.3f} ({k})" for k, e in errors.items())
    return line


def noise_table(noise: dict[str, Any]) -> Table:
    """Exact match by strength, one row for each kind of noise."""
    trials = f"{noise['prompts']} prompts, {len(noise['seeds'])} seeds"
    table = _table(f"exact match under noise on block {noise['block']}, %, {trials}")
    table.add_column("noise in", no_wrap=True)
    for strength in noise["strengths"]:
        table.add_column(f"length {strength:g}", justify="right")
    names = {
        "result": f"result subspace (rank {noise['rank']})",
        "complement": "its complement",
        "random": "random subspace, same rank",
    }
    for kind, points in noise["kinds"].items():
        table.add_row(names[kind], *(_interval(p) for p in points))
    return table


def swap_table(swapped: dict[str, Any]) -> Table:
    """For each variable and layer how often the answer after the swap is the program's, and after the controls."""
    table = _table(f"answer after a swap = the program's, %, {swapped['pairs']} pairs each")
    table.add_column("variable", overflow="fold")
    table.caption = (
        "at: layer; still: with no swap at all; random, rest, other: a random direction, all but the variable's "
        "subspace, or another variable's swapped instead; ceiling: the same swap in the compiled teacher"
    )
    table.caption_justify = "left"
    # Short heads, so that the longest names fit 80 columns. How many pairs flip is left to the JSON: "still" is
    # right where they do not.
    for column in ("at", "match (95 %)", "still", "random", "rest", "other", "ceiling"):
        table.add_column(column, justify="right", no_wrap=True)
    for cell in sorted(swapped["cells"], key=lambda c: (c["layer"], c["variable"])):
        controls = cell["controls"]
        table.add_row(
            Text(cell["variable"]),
            str(cell["layer"]),
            _interval(cell["match"], digits=0),
            *(
                "–" if share is None else f"{100 * share['accuracy']:.0f}"
                for share in (
                    cell["unmoved"],
                    *(controls[k] for k in ("random", "complement", "other")),
                    cell["ceiling"],
                )
            ),
        )
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))


def _interval(share: dict[str, Any], *, digits: int = 1) -> str:
    return f"{100 * share['accuracy']:.{digits}f} ({100 * share['low']:.0f}–{100 * share['high']:.0f})"
