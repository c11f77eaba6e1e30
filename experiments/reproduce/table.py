"""The tables of results, in Markdown, from results files of the sweep; nothing else goes into them."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments import marked
from experiments.reproduce.results import label
from tracr_jax.files import read_json

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


_PLACES = re.compile(r" --(runs|out) \S+| --replace")  # where files went changes no number
_SCRIPT = re.compile(r"^python experiments/(\w+)\.py")  # how the first runs were started
_CELL = re.compile(r"--(task|method)s(?: (?!-)\S+)+")


def _commands(runs: list[dict[str, Any]]) -> str:
    shown = dict.fromkeys(_SCRIPT.sub(r"python -m experiments.\1", _PLACES.sub("", r["command"])) for r in runs)
    if len(shown) > 1:
        shown = dict.fromkeys(_CELL.sub(lambda m: f"--{m[1]}s {m[1].upper()}", command) for command in shown)
    return ", ".join(f"`{command}`" for command in shown)


def _caption(results: dict[str, Any]) -> str:
    runs = [run for cells in results["cells"].values() for cell in cells.values() for run in cell["runs"].values()]
    jax = sorted({e["packages"]["jax"] for e in results["environments"]})
    devices = sorted({e["device"] for e in results["environments"]})
    machine = results["machine"]
    return (
        f"{_commands(runs)}: {len(runs)} runs on {', '.join(devices)} ({machine['cpu']}, {machine['cores']} "
        f"cores), jax {', '.join(jax)}. Exact match and decode accuracy in %, mean ± sample standard deviation "
        "over seeds; in parentheses the items of a set. *Before*: the untouched model with the same tokenizer. "
        "*Trivial*: the best baseline that does not know the program (always no, length parity, counts without "
        "order, …); for a variable, its most frequent value. Decode accuracy is that of the test set, over all "
        "positions where the row names no others. Perplexity is a multiple of *before*."
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
    """The name of the table's place in experiments/results.md, see `marked`."""
    return f"results {label(results['lm'])}"


COMPARISON = "comparison"
# Title, results file, task, quantity of each row. The baseline wins some: they stay.
_COMPARED = (
    ("dyck: two brackets exchanged, or balanced", "tiny", "dyck", "accuracy/order_miss_balanced"),
    ("dyck: one bracket wrong, or balanced", "tiny", "dyck", "accuracy/near_miss_balanced"),
    ("int_sum: unseen pairs of operands 450 to 499", "tiny", "int_sum", "accuracy/larger_operands"),
    ("count: texts of x alone", "tiny", "count", "accuracy/x_only"),
    ("dyck in SmolLM2-135M, 600 small steps: two exchanged", "smollm2", "dyck", "accuracy/order_miss_balanced"),
    ("dyck: perplexity of held-out text", "tiny", "dyck", "perplexity/ratio"),
)


def comparison(files: Mapping[str, dict[str, Any]]) -> str:
    """The README's table, from results by label: exact match, and perplexity relative to the untouched model's."""
    lines = ["| exact match, % | untouched | trivial | fine-tuning | injection |", "|---|--:|--:|--:|--:|"]
    for title, lm, task, name in _COMPARED:
        cells = [files[lm]["cells"][task][method] for method in ("finetune", "variable")]
        if name.startswith("accuracy/"):
            asked = cells[0]["sets"][name.removeprefix("accuracy/")]
            before = [_percent(asked["original"]), _percent(max(asked["baselines"].values()))]
            shown = [_value(c, name) for c in cells]
        else:
            before, shown = ["×1", "–"], [_value(c, name, lambda x: f"{x:.3f}", "×") for c in cells]
        lines.append(_row(title, before + shown))
    return "\n".join(lines)


def write_pages(root: Path) -> None:
    """Put every table between its markers: the full ones in experiments/results.md, the short one in README.md."""
    files = {
        p.stem.removeprefix("results_"): read_json(p) for p in sorted(root.glob("experiments/results_*.json"))
    }
    for results in files.values():
        marked.replace(root / "experiments" / "results.md", block(results), markdown(results))
    marked.replace(root / "README.md", COMPARISON, comparison(files))
