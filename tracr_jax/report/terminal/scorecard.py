"""The scorecard of interpretation.json as a table for the terminal."""

from typing import Any

import numpy as np
from rich.table import Table
from rich.text import Text

from tracr_jax.errors import UserError
from tracr_jax.report.data import last_layer
from tracr_jax.report.terminal import kept, make_table
from tracr_jax.report.words import tenths


def scorecard_table(card: dict[str, Any], *, result: str, chosen: str = "test", narrow: bool = False) -> Table:
    """Accuracy, probe and majority of each variable at the last layer that encodes it, by class of positions.

    Args:
      card: from `scorecard`.
      result: name of the result variable, shown first; then those whose lead over the probe is smallest.
      chosen: the set.
      narrow: of the classes only all positions and the answer's.

    Raises:
      UserError: no such set.
    """
    if chosen not in card["sets"]:
        raise UserError(f"scorecard: no set {chosen!r}; there are {', '.join(card['sets'])}")
    s = card["sets"][chosen]
    classes = {k: c for k, c in s["classes"].items() if not narrow or k in ("all", "answer")}
    layers = {n: last_layer(c["accuracy"]) for n, c in classes["all"].items()}
    one = {at for at in layers.values() if at is not None}
    where = f" at layer {min(one)}" if len(one) == 1 else ", each at the last layer that encodes it"
    rows = make_table(f"decoded{where}, {chosen}, {s['items']} items, %")
    rows.add_column("variable", overflow="fold", min_width=kept(layers, narrow=narrow))
    for column in (*([] if len(one) == 1 else ["layer"]), *classes, "probe\n(all)", "major-\nity"):
        rows.add_column(column, justify="right", no_wrap=True)
    for name in sorted(classes["all"], key=lambda n: (n != result, _lead(classes["all"][n]))):
        whole, at = classes["all"][name], layers[name]
        lists = [classes[c][name]["accuracy"] for c in classes] + [whole["probe"]]
        shares = [None if at is None else share[at] for share in lists] + [whole["majority"]]
        cells = map(tenths, shares)
        where = [] if len(one) == 1 else ["–" if at is None else str(at)]
        rows.add_row(Text(name), *where, *cells)
    rows.caption = "probe: a linear classifier of the untouched model's states at the same layer"
    rows.caption_justify = "left"
    return rows


def _lead(entry: dict[str, Any]) -> float:
    at = last_layer(entry["accuracy"])
    if at is None:
        return np.inf
    return entry["accuracy"][at] - max(x for x in (entry["probe"][at], entry["majority"]) if x is not None)
