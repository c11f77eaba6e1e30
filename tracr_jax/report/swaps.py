"""The swap matrix in words: what beats its controls, and the program's result first."""

from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import Any

from tracr_jax.report.data import result_name, written_first
from tracr_jax.report.load import RunFiles
from tracr_jax.report.words import percent
from tracr_jax.stats import above, followed_above


def swaps_reading(run: RunFiles) -> str:
    """The result's match, and the mean over all cells, beside the best control and the ceiling."""
    cells = run.part("swaps")["cells"]
    own = result_swap(run)
    start = "After a swap"
    if own:
        match, control = own["match"]["accuracy"], floor_of(own)["accuracy"]
        start = (
            f"After a swap of the result itself, {own['variable']} at layer {own['layer']},"
            f"{_followed(match, control)}. Of all variables: after a swap"
        )
    match = fmean(c["match"]["accuracy"] for c in cells)
    control = fmean(floor_of(c)["accuracy"] for c in cells)
    ceiling = fmean(c["ceiling"]["accuracy"] for c in cells)
    telling = telling_cells(cells)
    beat, where = sum(map(beats_controls, telling)), f"{len(telling)} cells"
    if len(telling) < len(cells):
        where = f"the {where}, of {len(cells)}, in which the compiled program itself does"
    return (
        f"{start}{_followed(match, control)}, the compiled program itself in {percent(ceiling)}; "
        f"it beats every control in {beat} of {where}.{_followed_where_right(cells)}"
    )


def telling_cells(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Those in which the compiled program follows the swap above every control; all where that was not measured.

    In the others no model could: what is exchanged as a control says as much of the answer as the variable does.
    """
    programs = [c.get("followed", {}).get("program") for c in cells]
    return [c for c, found in zip(cells, programs, strict=True) if found is None or followed_above(found)]


def _followed_where_right(cells: Sequence[Mapping[str, Any]]) -> str:
    """What the answer follows of the pairs that can tell, and what the rest of the state does to it."""
    text = ""
    if known := [s["accuracy"] for s in measured(cells, "swap")]:
        text = (
            " Of the pairs that change the program's answer, on prompts that the model answers rightly, it "
            f"follows {percent(median(known))} at the median over cells, {percent(min(known))} in the lowest."
        )
    moved, total = outside(cells)
    if total:
        text += f" Exchanging everything that no variable holds moves {percent(moved / total)} of the answers."
    return text


def measured(cells: Sequence[Mapping[str, Any]], change: str) -> list[Mapping[str, Any]]:
    """How often the answer follows after a change, of each cell with a base that is right without it."""
    found = [c["followed"]["answer"].get(change) for c in cells if "followed" in c]
    return [s for s in found if s and s["total"]]


def outside(cells: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(answers that move when everything that no variable holds is exchanged, of how many); of 0: not measured.

    Files of earlier versions say only how many became what the swap of the variable predicts: the same where there
    are two answers.
    """
    return together([c["outside_moved"] for c in cells if c.get("outside_moved")] or measured(cells, "outside"))


def together(shares: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """(right, total) of all together."""
    right, total = (sum(s[key] for s in shares) for key in ("right", "total"))
    return right, total


def _followed(match: float, control: float) -> str:
    return (
        f" the model answers as the program predicts in {percent(match)} of the pairs, the best control in "
        f"{percent(control)}"
    )


def result_swap(run: RunFiles) -> Mapping[str, Any] | None:
    """The swap of the program's result, on the last layer where there is one."""
    name = result_name(run, [v["name"] for v in written_first(run.variables)])
    at = [c for c in run.part("swaps")["cells"] if c["variable"] == name]
    return max(at, key=lambda c: c["layer"], default=None)


def floor_of(cell: Mapping[str, Any]) -> Mapping[str, Any]:
    """The best of a swap cell's controls, the model without any swap among them."""
    return max(_controls(cell), key=lambda m: m["accuracy"])


def beats_controls(cell: Mapping[str, Any]) -> bool:
    """Whether the answer follows the swap above every control, by intervals.

    Of the pairs that flip the program's answer, on bases that the model answers rightly, as "used" in the
    terminal; files of earlier versions have only the match, of all pairs.
    """
    if "followed" in cell:
        return followed_above(cell["followed"]["answer"])
    return above(cell["match"], _controls(cell))


def _controls(cell: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those that were measured: a program with one variable has no other one to exchange (null)."""
    return [m for m in (*cell["controls"].values(), cell["unmoved"]) if m is not None]
