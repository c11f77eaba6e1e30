"""What `tracr-jax interpret` shows in the terminal."""

import functools
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.report.swaps import floor_of, outside
from tracr_jax.report.terminal import fitting, kept, make_table
from tracr_jax.report.terminal.scorecard import scorecard_table
from tracr_jax.report.words import interval, several, tenths, whole

_SHORT = {"random": "random", "complement": "rest", "other": "other"}  # controls, as the heads of columns


def print_interpretation(console: Console, result: dict[str, Any], *, result_name: str) -> None:
    """Three tables: decoded variables, answers under noise, swaps."""
    for make in (
        functools.partial(scorecard_table, result["scorecard"], result=result_name),
        functools.partial(noise_table, result["noise"]),
        functools.partial(swap_table, result["swaps"]),
    ):
        console.print(fitting(console, make))
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


def noise_table(noise: dict[str, Any], *, narrow: bool = False) -> Table:
    """Exact match by strength, one row for each kind of noise; narrow, the intervals below."""
    trials = f"{noise['prompts']} prompts, {several(len(noise['seeds']), 'seed')}"
    rows = make_table(f"exact match under noise on block {noise['block']}, %, {trials}")
    rows.add_column("noise in", overflow="fold")
    for strength in noise["strengths"]:
        rows.add_column(f"length\n{strength:g}", justify="right", no_wrap=True)
    names = {
        "result": f"the result (rank {noise['rank']})",
        "complement": "all but the result",
        "random": "as many random directions",
    }
    gap = "\n" if narrow else " "
    for kind, points in noise["kinds"].items():
        rows.add_row(names[kind], *(tenths(p["accuracy"]) + gap + _interval(p) for p in points))
    return rows


def swap_table(swapped: dict[str, Any], *, narrow: bool = False) -> Table:
    """For each variable and layer how often the answer after the swap is the program's, and after the controls.

    Narrow, the best of the controls alone.
    """
    rows = make_table(f"answer after a swap = the program's, %, {swapped['pairs']} pairs each")
    names = [c["variable"] for c in swapped["cells"]]
    rows.add_column("variable", overflow="fold", min_width=kept(names, narrow=narrow))
    ceiling = "ceiling: the same swap in the compiled teacher"
    rows.caption = (
        f"at: layer; control: the best of all controls; {ceiling}"
        if narrow
        else "at: layer; still: with no swap at all; random, rest, other: a random direction, all but the "
        f"variable's subspace, or another variable's swapped instead; {ceiling}"
    )
    rows.caption_justify = "left"
    # Short heads, so that the longest names fit 80 columns. How many pairs flip is left to the JSON: "still" is
    # right where they do not.
    for column in ("at", "match (95 %)", *(["control"] if narrow else ["still", *_SHORT.values()]), "ceiling"):
        rows.add_column(column, justify="right", no_wrap=True)
    for cell in sorted(swapped["cells"], key=lambda c: (c["layer"], c["variable"])):
        each = [cell["unmoved"], *(cell["controls"][k] for k in _SHORT)]
        shown = [floor_of(cell)] if narrow else each
        rows.add_row(
            Text(cell["variable"]),
            str(cell["layer"]),
            f"{whole(cell['match']['accuracy'])} {_interval(cell['match'])}",
            *("–" if share is None else whole(share["accuracy"]) for share in (*shown, cell["ceiling"])),
        )
    return rows


def _interval(share: dict[str, Any]) -> str:
    return f"({interval(share['low'], share['high'])})"
