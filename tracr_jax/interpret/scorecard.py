"""The scorecard: how well each variable is read at each layer and class of positions, on every evaluation set.

Each accuracy is reported with the majority rate and that of a linear probe of the original model (`probe.py`),
scored on the same positions: without them a high number proves nothing. Source: docs/method.md §11; the original
reports one accuracy over all positions of the last layer. Classes of positions: `labelled.py`.
"""

from typing import Any

from tracr_jax.data.samples import reported_samples
from tracr_jax.interpret.probe import fit_probe
from tracr_jax.measure.variables.counting import Counter, every_layer, total
from tracr_jax.measure.variables.labelled import CLASSES, Labeller
from tracr_jax.measure.variables.reading import DecodeCounts, over_layers
from tracr_jax.progress import Say
from tracr_jax.runs.model import Injected

_DIGITS = 4  # of every share in the JSON: the intervals are wider


def scorecard(
    run: Injected,
    *,
    items: int | None = 300,
    probe_items: int = 2000,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Accuracies by set, class of positions, variable and layer: "scorecard" of interpretation.json.

    Args:
      run: the model with the program.
      items: at most this many items of each set (its first ones: a fixed sample); None for all.
      probe_items: training items that the probe learns from.
      say: receives one line before each piece of work.

    Returns:
      {"layers": L + 1, "sets": {set: {"items", "unlabelled_values", "classes": {class: {variable: {"positions",
      "majority", "accuracy", "probe"}}}}}}; accuracy and probe are one share per layer, None where the program
      holds nothing there. Positions and majority are those of the last layer that encodes the variable.
      Categorical variables only.
    """
    labeller, counter = Labeller(run), Counter(run)
    say(f"scorecard: probe of the untouched model on {probe_items} training items")
    probe = fit_probe(run, labeller, items=probe_items)
    readers = every_layer(run.trained_adapter, layers=run.program.depth + 1)
    sets = {}
    for name, sample in reported_samples(run.program.task, items).items():
        say(f"scorecard: {name}, {len(sample)} items")
        adapted, probed, unlabelled = [], [], 0
        for rows in labeller.rows(sample):
            adapted.append(counter(run.params, readers, rows))
            probed.append(counter(run.original.params, probe, rows))
            unlabelled += rows.unlabelled
        counts = total(adapted), total(probed)
        classes = {c: _variables(run, *counts, position_class=k) for k, c in enumerate(CLASSES)}
        sets[name] = {"items": len(sample), "unlabelled_values": unlabelled, "classes": classes}
    return {"layers": run.program.depth + 1, "sets": sets}


def _variables(
    run: Injected, adapted: DecodeCounts, probed: DecodeCounts, *, position_class: int
) -> dict[str, Any]:
    ours, theirs = (
        over_layers(counts, layout=run.program.layout, position_class=position_class)
        for counts in (adapted, probed)
    )
    found = {
        name: {
            "positions": latest.positions,
            "majority": _round(latest.majority),
            "accuracy": [_round(share) for share in shares],
            "probe": [_round(share) for share in theirs[name][1]],
        }
        for name, (latest, shares) in ours.items()
    }
    return {v.name: found[v.name] for v in run.program.teacher.variables if v.name in found}


def _round(share: float | None) -> float | None:
    return None if share is None else round(share, _DIGITS)
