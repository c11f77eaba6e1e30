"""The scorecard of interpretation.json as a table for the terminal."""

from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tracr_jax.errors import UserError


def scorecard_table(card: dict[str, Any], *, result: str, chosen: str = "test") -> Group:
    """Accuracy, probe and majority at the last layer of each variable on one set, by class of positions.

    Args:
      card: from `scorecard`.
      result: name of the result variable, shown first; then those whose lead over the probe is smallest.
      chosen: the set.

    Raises:
      UserError: no such set.
    """
    if chosen not in card["sets"]:
        raise UserError(f"scorecard: no set {chosen!r}; there are {', '.join(card['sets'])}")
    s = card["sets"][chosen]
    classes = s["classes"]
    table = Table(
        title=f"decoded at layer {card['layers'] - 1}, {chosen}, {s['items']} items, %",
        title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1),
    )  # fmt: skip
    table.add_column("variable")
    for column in (*classes, "probe\n(all)", "major-\nity"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in sorted(classes["all"], key=lambda n: (n != result, _lead(classes["all"][n]))):
        last = {c: classes[c][name]["accuracy"][-1] for c in classes}
        whole = classes["all"][name]
        shares = (*last.values(), whole["probe"][-1], whole["majority"])
        table.add_row(Text(name), *(("–" if x is None else f"{100 * x:.1f}") for x in shares))
    return Group(
        table, Text("probe: a linear classifier of the untouched model's states at the same layer", "dim")
    )


def _lead(entry: dict[str, Any]) -> float:
    accuracy, others = entry["accuracy"][-1], (entry["probe"][-1], entry["majority"])
    return np.inf if accuracy is None else accuracy - max(x for x in others if x is not None)
