"""Terminal tables: a run's results from evaluation.json, its language retention from retention.json."""

from collections.abc import Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.report.data import results


def print_evaluation(console: Console, evaluation: Mapping[str, Any]) -> None:
    """Answers on every set, decoded variables on the test set (a graft has none), language kept."""
    console.print(answers_table(evaluation))
    if evaluation["decode"]["test"]["all_positions"]:
        console.print(decode_table(evaluation))
    r = evaluation["retention"]
    ratio = r["injected"] / r["original"]
    kl = f"; KL to the original {r['kl']:.3f} nats per token" if "kl" in r else ""  # older files have none
    console.print(
        f"perplexity on held-out text: {r['original']:.2f} before, {r['injected']:.2f} after (x{ratio:.3f}){kl}"
    )
    if "programs" in evaluation:
        console.print(programs_table(evaluation["programs"]))


def programs_table(programs: dict[str, Any]) -> Table:
    """Interference: the test accuracy of every program of the model, before any injection and after each."""
    table = _table("test set of each program, after each injection, %")
    table.add_column("")
    for task in programs["tasks"]:
        table.add_column(Text(task), justify="right", no_wrap=True)
    rows = [("before", programs["before"])]
    rows += [(f"after {row['task']}", row["sets"]) for row in programs["after"]]
    for name, sets in rows:
        cells = (sets.get(task, {}).get("test", {}).get("accuracy") for task in programs["tasks"])
        table.add_row(Text(name), *map(_percent, cells))
    return table


def answers_table(evaluation: Mapping[str, Any]) -> Table:
    """Exact match with 95 % intervals before and after injection, with trivial baselines for comparison."""
    sets = evaluation["sets"]
    baselines = list(next(iter(sets.values()))["baselines"])
    sizes = {s["sample"] for s in sets.values()}
    # One size for all fits the title, and the table 80 characters.
    table = _table("exact match, %" + (f", {sizes.pop()} items each" if len(sizes) == 1 else ""))
    table.add_column("set", no_wrap=True)
    if sizes:
        table.add_column("items", justify="right", no_wrap=True)
    table.add_column("before", justify="right", no_wrap=True)
    table.add_column("after (95 %)", justify="right", no_wrap=True, style="bold")
    for name in (*baselines, "seen"):  # seen: share of the items that training may have shown
        words = name.split("_")
        table.add_column("\n".join(words), justify="right", style="dim", min_width=max(5, *map(len, words)))
    for name, s in sets.items():
        after = s["injected"]
        table.add_row(
            Text(name),
            *([f"{s['sample']}"] if sizes else []),
            _percent(s["original"]["accuracy"]),
            f"{_percent(after['accuracy'])} ({100 * after['low']:.0f}–{100 * after['high']:.0f})",
            *(_percent(s["baselines"][b]) for b in baselines),
            _percent(s["overlap_with_training"]),
        )
    return table


def print_retention(console: Console, retention: dict[str, Any]) -> None:
    """The language kept, from retention.json: one line a measure, then what could not be run."""
    table = _table("language kept (↑ higher is better, ↓ lower)")
    table.add_column("measure")
    for column in ("items", "original", "injected", "fine-tuned"):
        table.add_column(column, justify="right", no_wrap=True, style="bold" if column == "injected" else None)
    measured = [r for r in retention["rows"] if not r["note"].startswith("not run")]
    for r in measured:
        unit = "%" if r["unit"] == "share" else r["unit"].removesuffix(" per token")
        values = (_value(r[name], r["unit"]) for name in ("original", "injected", "baseline"))
        arrow = "↑" if r["higher_is_better"] else "↓"
        table.add_row(Text(f"{r['name']}, {unit} {arrow}"), f"{r['items']:,}", *values)
    console.print(table)
    for r in retention["rows"]:
        if r not in measured:
            console.print(f"{r['name']}: {r['note']}", style="dim", markup=False)
    seconds = sum(retention["about"]["seconds"].values())
    console.print(f"{seconds:.0f} s; sizes and notes are in retention.json", style="dim")


def _value(value: float | None, unit: str) -> str:
    if unit == "share" or value is None:
        return _percent(value)
    return f"{value:.4f}" if unit == "nats per token" else f"{value:.2f}"


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))


def decode_table(evaluation: Mapping[str, Any], *, worst: int = 5) -> Table:
    """Decode accuracy on the test set: the result and the variables that decode worst."""
    at_all = evaluation["decode"]["test"]["all_positions"]
    at_answer = evaluation["decode"]["test"]["answer_positions"]
    table = _table("decoded from the model, test set, %")
    for column in ("variable", "accuracy", "majority", "at the answer"):
        table.add_column(column, justify="left" if column == "variable" else "right")
    result = results(evaluation, at_all)
    rest = sorted(
        (n for n in at_all if n not in result and at_all[n]["accuracy"] is not None),
        key=lambda n: at_all[n]["accuracy"],
    )
    for name in [*result, *rest[:worst]]:
        table.add_row(
            Text(name),
            _percent(at_all[name]["accuracy"]),
            _percent(at_all[name]["majority"]),
            _percent(at_answer[name]["accuracy"]),
        )
    if len(rest) > worst:
        table.add_row(f"{len(rest) - worst} more, at least as good", "", "", "")
    return table


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"
