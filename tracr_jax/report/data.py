"""What the page's scripts draw, as one JSON value: thinned curves, pooled lengths, the interpretation as it is.

Everything here is a pure function of the files; the sentences of `readings.py` are computed from the same values.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tracr_jax.report.load import RunFiles
from tracr_jax.report.markup import by_task_and_model
from tracr_jax.stats import wilson

POINTS = 240  # of a loss curve; more cannot be told apart at 400 pixels
BINS = 8  # of a length curve
_TERMS = {
    "loss": "Whole loss",
    "supervised": "Answer: cross-entropy",
    "alignment": "Alignment with the program",
    "retention": "Language: KL to the original, nats per token",
}


def runs_data(runs: Sequence[RunFiles]) -> list[dict[str, Any]]:
    """All runs' figures; "group": with whose length curves a run's are drawn."""
    groups = {i: title for title, group in by_task_and_model(runs).items() for i, _ in group}
    return [{"group": groups[i], **_run_data(run)} for i, run in enumerate(runs)]


def _run_data(run: RunFiles) -> dict[str, Any]:
    """One run's figures; parts whose file is missing are None."""
    card = scorecard_of(run)
    return {
        "name": run.name,
        "baseline": run.is_baseline,
        "losses": loss_curves(run),
        "lengths": lengths(run.evaluation),
        "scorecard": card,
        "result": result_name(run, card["order"]) if card else None,
        "noise": run.part("noise"),
        "swaps": run.part("swaps"),
        "variables": list(run.variables),
        "examples": [_shown(e, run.variables) for e in run.part("examples") or ()],
    }


def _shown(example: Mapping[str, Any], variables: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """An example without the rows of numerical variables, which hold no value to decode."""
    kept = [bool(v["values"]) for v in variables]

    def rows(table: Sequence[Any]) -> list[Any]:
        return [row if keep else [] for row, keep in zip(table, kept, strict=True)]

    layers = [{"value": rows(x["value"]), "margin": rows(x["margin"])} for x in example["layers"]]
    return {**example, "layers": layers, "truth": [rows(t) for t in example["truth"]]}


def loss_curves(run: RunFiles) -> list[dict[str, Any]]:
    """Each term's mean, least and largest value in at most POINTS stretches of steps; retention is per token.

    "floor" is where a logarithmic axis begins: what lies below it for a few steps only is not worth its decades.
    """
    out, metrics = [], run.metrics
    for term, title in _TERMS.items():
        scale = 1 / _summed_tokens(run) if term == "retention" else 1
        points = [(m["step"], scale * m[term]) for m in metrics if isinstance(m.get(term), (int, float))]
        if not points:
            continue
        size = -(-len(points) // POINTS)
        parts = [points[i : i + size] for i in range(0, len(points), size)]
        values = [[v for _, v in p] for p in parts]
        out.append(
            {
                "term": term,
                "title": title,
                "steps": [p[-1][0] + 1 for p in parts],
                "mean": [sum(v) / len(v) for v in values],
                "low": [min(v) for v in values],
                "high": [max(v) for v in values],
                "each": size,
                "floor": _floor([v for _, v in points]),
            }
        )
    return out


def _summed_tokens(run: RunFiles) -> int:
    """Over how many tokens the loss sums the KL."""
    data, losses = run.config.get("data", {}), run.config.get("losses", {})
    return data.get("text_length", 1) if losses.get("retention_reduction") == "text" else 1


def _floor(values: Sequence[float]) -> float | None:
    """A third of what a twentieth of the positive values lies below; None where there are none."""
    positive = sorted(v for v in values if v > 0)
    return max(positive[0], positive[len(positive) // 20] / 3) if positive else None


def lengths(evaluation: Mapping[str, Any] | None) -> dict[str, list[dict[str, Any]]]:
    """Accuracy by prompt length of every set that has several lengths, pooled into at most BINS neighbourhoods."""
    out = {}
    for name, s in (evaluation or {}).get("sets", {}).items():
        rows = sorted(s.get("by_length", ()), key=lambda r: r["length"])
        if len(rows) < 2:
            continue
        enough, bins, pool = sum(r["total"] for r in rows) / BINS, [], []
        for row in rows:
            pool.append(row)
            if sum(r["total"] for r in pool) >= enough:
                bins.append(pool)
                pool = []
        if pool and bins:
            bins[-1] += pool  # the few longest join their neighbours
        out[name] = [_pooled(b) for b in bins or [pool]]
    return out


def _pooled(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    right, total = sum(r["right"] for r in rows), sum(r["total"] for r in rows)
    low, high = wilson(right, total)
    mean = sum(r["length"] * r["total"] for r in rows) / max(total, 1)
    return {
        "from": rows[0]["length"],
        "to": rows[-1]["length"],
        "length": mean,
        "right": right,
        "total": total,
        "accuracy": right / max(total, 1),
        "low": low,
        "high": high,
    }


def scorecard_of(run: RunFiles) -> dict[str, Any] | None:
    """The scorecard; where it was not made, what evaluation.json says of decoding (no probe, two classes)."""
    if run.is_baseline:
        return None  # no adapter was trained: what a random one reads says nothing about the model
    card = run.part("scorecard")
    if card:
        names = [v["name"] for v in written_first(run.variables)]
        seen = _variables_in(card["sets"])
        return {
            "layers": card["layers"],
            "sets": card["sets"],
            "order": [n for n in names if n in seen] + [n for n in seen if n not in names],
            "probed": True,
        }
    decode = (run.evaluation or {}).get("decode")
    if not decode:
        return None
    sets = {}
    for name, s in decode.items():
        classes = {"all": s["all_positions"], "answer": s["answer_positions"]}
        sets[name] = {
            "items": run.sets.get(name, {}).get("sample"),
            "unlabelled_values": s.get("unlabelled_values", 0),
            "classes": {
                c: {
                    v: {
                        "positions": x["positions"],
                        "majority": x["majority"],
                        "accuracy": x["by_layer"],
                        "probe": [None] * len(x["by_layer"]),
                    }
                    for v, x in table.items()
                }
                for c, table in classes.items()
            },
        }
    order = _variables_in(sets)
    return {"layers": _layers(sets), "sets": sets, "order": sorted(order, key=_first_layer(sets)), "probed": False}


def last_layer(shares: Sequence[float | None]) -> int | None:
    """The last layer at which a variable is encoded: with reserved directions not the last of all."""
    return max((layer for layer, share in enumerate(shares) if share is not None), default=None)


def telling_noise(noise: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """By subspace, exact match at the strength at which the result's and random directions differ most.

    At the strongest all answers may be at chance, wherever the noise is; the strongest of equals.
    """
    kinds = noise["kinds"]
    pairs = zip(kinds["random"], kinds["result"], strict=True)
    lead = [random["accuracy"] - result["accuracy"] for random, result in pairs]
    at = max(reversed(range(len(lead))), key=lead.__getitem__)
    return {kind: points[at] for kind, points in kinds.items()}


def interference_of(run: RunFiles) -> dict[str, Any] | None:
    """The interference matrix: {tasks, rows: [{name, run, steps, cells}]}; None for a run with one program.

    A cell is None where the program was not there yet, else {"test": share, "others": mean accuracy over its other
    sets or None, "variables": share or None}. The first row is the original model.
    """
    programs = (run.evaluation or {}).get("programs")
    if not programs:
        return None
    rows = [{"name": "before", "run": "", "steps": None, "sets": programs["before"], "variables": {}}]
    rows += [{**row, "name": f"after {row['task']}"} for row in programs["after"]]
    return {
        "tasks": programs["tasks"],
        "rows": [
            {key: row[key] for key in ("name", "run", "steps")}
            | {"cells": [_program(row, task) for task in programs["tasks"]]}
            for row in rows
        ],
    }


def _program(row: Mapping[str, Any], task: str) -> dict[str, Any] | None:
    sets = row["sets"].get(task)
    if not sets:
        return None
    others = [s["accuracy"] for name, s in sets.items() if name != "test"]
    mean = sum(others) / len(others) if others else None
    return {"test": sets["test"], "others": mean, "variables": row["variables"].get(task)}


def written_first(variables: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Variables in the order in which the program writes them (the teacher's own order is the alphabet's)."""
    return sorted(variables, key=lambda v: v["writer_layer"])


def _variables_in(sets: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(v for s in sets.values() for c in s["classes"].values() for v in c))


def _layers(sets: Mapping[str, Any]) -> int:
    return max(len(x["accuracy"]) for s in sets.values() for c in s["classes"].values() for x in c.values())


def _first_layer(sets: Mapping[str, Any]):
    """Variables in the order in which the program writes them."""
    first = next(iter(sets.values()))["classes"]["all"]

    def key(name: str) -> int:
        values = first.get(name, {}).get("accuracy", [])
        return next((i for i, v in enumerate(values) if v is not None), len(values))

    return key


def result_name(run: RunFiles, names: Sequence[str]) -> str | None:
    """The program's result among its variables: by evaluation.json, or "final_result…", or the last one."""
    return next(iter(results(run.evaluation or {}, names)), names[-1] if names else None)


def results(evaluation: Mapping[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the variables that are the program's result: as evaluation.json says, or "final_result…"."""
    said = evaluation.get("result")  # not in files of earlier versions
    return [n for n in names if (n == said if said else n.startswith("final_result"))]


def embed(value: Any) -> str:
    """JSON that is safe inside a <script> element whatever texts it contains."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)  # ASCII only: every other sign as \uXXXX
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def fit_examples(runs: Sequence[dict[str, Any]], *, room: int) -> int:
    """Drop the last examples of the runs that have most of them until all fit in `room` bytes; how many went."""
    dropped = 0
    sizes = [[len(embed(e)) for e in r["examples"]] for r in runs]
    while sum(map(sum, sizes)) > room and any(sizes):
        most = max(range(len(runs)), key=lambda i: sum(sizes[i]))
        sizes[most].pop()
        runs[most]["examples"].pop()
        dropped += 1
    return dropped


def retention_rows(run: RunFiles) -> list[Mapping[str, Any]]:
    """The rows of retention.json; without it the one perplexity that evaluation.json has."""
    if run.retention:
        return list(run.retention["rows"])
    r = (run.evaluation or {}).get("retention")
    if not r:
        return []
    row = {"name": "perplexity on held-out text", "unit": "per token", "higher_is_better": False, "baseline": None}
    return [row | {k: r[k] for k in ("original", "injected")} | {"items": None, "note": "from evaluation.json"}]
