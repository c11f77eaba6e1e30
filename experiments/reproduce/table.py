"""The README's result table, in Markdown, from a results file of reproduce.py; nothing else goes into it."""

import re
from collections.abc import Callable
from typing import Any

from reproduce_results import label

_METHODS = {"finetune": "fine-tuning", "cosine": "injection, cosine", "variable": "injection, variables"}
_NONE = "–"


def markdown(results: dict[str, Any]) -> str:
    """One table: per task a row for every set, the decoded variables, perplexity and training time."""
    lines = [
        _caption(results),
        "",
        "| | before | trivial | " + " | ".join(_METHODS.values()) + " |",
        "|---|--:|--:" + "|--:" * len(_METHODS) + "|",
    ]
    for task, cells in results["cells"].items():
        lines += _task_rows(task, {m: cells.get(m) for m in _METHODS})
    lines += ["", *_missing(results)]
    return "\n".join(lines).rstrip() + "\n"


def _task_rows(task: str, cells: dict[str, Any]) -> list[str]:
    some = [c for c in cells.values() if c and c["runs"]]
    if not some:
        return [_row(f"**{task}**", ["", "", *(_NONE for _ in cells)])]
    counts = [f"seeds: {len(c['runs'])}" if c and c["runs"] else _NONE for c in cells.values()]
    rows = [_row(f"**{task}**", ["", "", *counts])]
    rows.append(
        _row("steps", ["", "", *(str(c["config"]["steps"]) if c and c["runs"] else _NONE for c in cells.values())])
    )
    for name, s in some[0]["sets"].items():
        trivial = max(s["baselines"].values(), default=None)
        rows.append(
            _row(
                f"{name} ({s['sample']})",
                [
                    _percent(s["original"]),
                    _NONE if trivial is None else _percent(trivial),
                    *(_value(c, f"accuracy/{name}") for c in cells.values()),
                ],
            )
        )
    # The baseline trains no adapter: what a random one reads off says nothing about the model.
    aligned = {m: None if m == "finetune" else c for m, c in cells.items()}
    for title, kind in (("decoded: result", "decode"), ("decoded: result, at the answer", "decode_at_answer")):
        name = next((k for k in some[0]["summary"] if k.startswith(f"{kind}/final_result")), "")
        majority = some[0]["majority"].get(name)
        trivial = _NONE if majority is None else _percent(majority)
        rows.append(_row(title, ["", trivial, *(_value(c, name) for c in aligned.values())]))
    rows.append(_row("decoded: worst variable", ["", "", *(_worst(c) for c in aligned.values())]))
    before = some[0]["summary"]["perplexity/before"]["mean"]
    ratio = [_value(c, "perplexity/ratio", lambda x: f"{x:.3f}", "×") for c in cells.values()]
    rows.append(_row("perplexity on held-out text", [f"{before:.2f}", "", *ratio]))
    minutes = [_value(c, "seconds/training", lambda x: f"{x / 60:.1f}") for c in cells.values()]
    rows.append(_row("minutes of training", ["", "", *minutes]))
    return rows


def _worst(cell: dict[str, Any] | None) -> str:
    decoded = {k: v["mean"] for k, v in cell["summary"].items() if k.startswith("decode/")} if cell else {}
    if not decoded:
        return _NONE
    name = min(decoded, key=lambda k: decoded[k])
    return f"{_value(cell, name)} `{name.split('/', 1)[1]}`"


def _row(title: str, values: list[str]) -> str:
    return f"| {title} | {' | '.join(values)} |"


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def _value(
    cell: dict[str, Any] | None, name: str, show: Callable[[float], str] = _percent, prefix: str = ""
) -> str:
    """Mean ± spread, the mean alone for one seed, a dash for none."""
    found = cell["summary"].get(name) if cell else None
    if found is None:
        return _NONE
    count = len(found["values"])
    # A quantity that fewer seeds have than the cell says so itself.
    few = f" (n={count})" if cell and count < len(cell["runs"]) else ""
    spread = "" if found["spread"] is None else f" ± {show(found['spread'])}"
    return f"{prefix}{show(found['mean'])}{spread}{few}"


_PLACES = re.compile(r" --(runs|out) \S+| --replace")


def _caption(results: dict[str, Any]) -> str:
    runs = [run for cells in results["cells"].values() for cell in cells.values() for run in cell["runs"].values()]
    # Where files went changes no number.
    commands = dict.fromkeys(f"`{_PLACES.sub('', run['command'])}`" for run in runs)
    jax = sorted({e["packages"]["jax"] for e in results["environments"]})
    devices = sorted({e["device"] for e in results["environments"]})
    machine = results["machine"]
    return (
        f"{', '.join(commands)}: {len(runs)} runs on {', '.join(devices)} ({machine['cpu']}, {machine['cores']} "
        f"cores), jax {', '.join(jax)}. Exact match and decode accuracy in %, mean ± sample standard deviation "
        "over seeds; in parentheses the items of a set. *Before*: the untouched model with the same tokenizer. "
        "*Trivial*: the best predictor that does not know the program (always no, length parity, counts without "
        "order, …), or always the most frequent value. Decoded on the test set, all positions unless said "
        "otherwise. Perplexity as a multiple of *before*."
    )


def _missing(results: dict[str, Any]) -> list[str]:
    """What is planned and not there, and what failed: one line each."""
    out, todo = [], []
    for task, cells in results["cells"].items():
        for method, cell in cells.items():
            failed = cell.get("failed", {})
            out += [f"Failed: {task}, {method}, seed {seed}: {why}" for seed, why in failed.items()]
            left = [str(s) for s in cell["planned_seeds"] if str(s) not in {*cell["runs"], *failed}]
            if left:
                todo.append(f"{task} {method} (seed {', '.join(left)})")
    return out + ([f"Not yet run: {'; '.join(todo)}."] if todo else [])


def block(results: dict[str, Any]) -> str:
    """The name of the table's place in the README, see `marked`."""
    return f"results {label(results['lm'])}"
