"""The scorecard: how well each variable is read at each layer and class of positions, on every evaluation set.

Beside each accuracy stand the rate of always answering the most frequent value and a linear probe of the untouched
model (`probe.py`), scored on the same positions: without them a high number proves nothing. Source:
docs/method.md §11; the original reports one accuracy over all positions of the last layer. Classes of positions:
`labelled.py`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from tracr_jax.data.samples import sample_of
from tracr_jax.errors import UserError
from tracr_jax.interpret.probe import fit_probe
from tracr_jax.measure.variables.counting import Counter, every_layer, total
from tracr_jax.measure.variables.labelled import CLASSES, Labeller
from tracr_jax.measure.variables.reading import DecodeCounts, scores
from tracr_jax.runs.build import Setup
from tracr_jax.train.step import TrainParams

_DIGITS = 4  # of every share in the JSON: the intervals are wider


def scorecard(
    setup: Setup,
    params: TrainParams,
    *,
    items: int | None = 300,
    probe_items: int = 2000,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Accuracies by set, class of positions, variable and layer: "scorecard" of interpretation.json.

    Args:
      setup: the run's parts.
      params: trained model and adapter.
      items: at most this many items of each set (its first ones: a fixed sample); None for all.
      probe_items: training items that the probe learns from.
      progress: called with one line before each piece of work.

    Returns:
      {"layers": L + 1, "sets": {set: {"items", "unlabelled_values", "classes": {class: {variable: {"positions",
      "majority", "accuracy", "probe"}}}}}}; accuracy and probe are one share per layer, None where the program
      holds nothing there. Positions and majority are those of the last layer. Categorical variables only.
    """
    labeller, counter = Labeller(setup), Counter(setup)
    progress(f"scorecard: probe of the untouched model on {probe_items} training items")
    probe = fit_probe(setup, labeller, items=probe_items)
    readers = every_layer(params.adapter, layers=setup.shape.depth + 1)
    sets = {}
    for name, chosen in setup.task.eval_sets().items():
        if name == "valid":
            continue
        sample = sample_of(chosen, items)
        progress(f"scorecard: {name}, {len(sample)} items")
        adapted, probed, unlabelled = [], [], 0
        for rows in labeller.rows(sample):
            adapted.append(counter(params.lm, readers, rows))
            probed.append(counter(setup.lm.params, probe, rows))
            unlabelled += rows.unlabelled
        counts = total(adapted), total(probed)
        classes = {c: _variables(setup, *counts, position_class=k) for k, c in enumerate(CLASSES)}
        sets[name] = {"items": len(sample), "unlabelled_values": unlabelled, "classes": classes}
    return {"layers": setup.shape.depth + 1, "sets": sets}


def _variables(
    setup: Setup, adapted: DecodeCounts, probed: DecodeCounts, *, position_class: int
) -> dict[str, Any]:
    def by_layer(counts: DecodeCounts):
        return [
            scores(counts, layout=setup.layout, position_class=position_class, layer=layer)
            for layer in range(setup.shape.depth + 1)
        ]

    ours, theirs = by_layer(adapted), by_layer(probed)
    found = {
        last.name: {
            "positions": last.positions,
            "majority": _round(last.majority),
            "accuracy": [_round(layer[i].accuracy) for layer in ours],
            "probe": [_round(layer[i].accuracy) for layer in theirs],
        }
        for i, last in enumerate(ours[-1])
    }
    return {v.name: found[v.name] for v in setup.teacher.variables if v.name in found}


def _round(share: float | None) -> float | None:
    return None if share is None else round(share, _DIGITS)


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
