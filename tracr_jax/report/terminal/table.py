"""Terminal tables: a run's results from evaluation.json, its language retention from retention.json."""

import functools
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.report.data import results
from tracr_jax.report.terminal import fitting, make_table
from tracr_jax.report.words import interval, tenths

_NAME = 20  # characters of a set's name that are kept on one line


def print_evaluation(console: Console, evaluation: Mapping[str, Any]) -> None:
    """Answers on every set, decoded variables on the test set (a graft has none), language kept."""
    console.print(fitting(console, functools.partial(answers_table, evaluation)))
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
    rows = make_table("test set of each program, after each injection, %")
    rows.add_column("")
    for task in programs["tasks"]:
        rows.add_column(Text(task), justify="right", no_wrap=True)
    stages = [("before", programs["before"])]
    stages += [(f"after {row['task']}", row["sets"]) for row in programs["after"]]
    for name, sets in stages:
        cells = (sets.get(task, {}).get("test", {}).get("accuracy") for task in programs["tasks"])
        rows.add_row(Text(name), *map(tenths, cells))
    return rows


def answers_table(evaluation: Mapping[str, Any], *, narrow: bool = False) -> Table:
    """Exact match with 95 % intervals before and after injection, with trivial baselines for comparison.

    Narrow, the best of these alone, and not the share of items that training may have shown.
    """
    sets = evaluation["sets"]
    baselines = list(next(iter(sets.values()))["baselines"])
    sizes = {s["sample"] for s in sets.values()}
    # One size for all fits the title, and the table 80 characters.
    rows = make_table("exact match, %" + (f", {sizes.pop()} items each" if len(sizes) == 1 else ""))
    rows.add_column("set", overflow="fold", min_width=min(_NAME, max(map(len, sets))))
    if sizes:
        rows.add_column("items", justify="right", no_wrap=True)
    rows.add_column("before", justify="right", no_wrap=True)
    rows.add_column("after (95 %)", justify="right", no_wrap=True, style="bold")
    for name in ("best_rule",) if narrow else (*baselines, "seen"):  # seen: items that training may have shown
        words = name.split("_")
        rows.add_column("\n".join(words), justify="right", style="dim", min_width=max(5, *map(len, words)))
    for name, s in sets.items():
        after = s["injected"]
        wide = [tenths(x) for x in (*(s["baselines"][b] for b in baselines), s["overlap_with_training"])]
        rows.add_row(
            Text(name),
            *([f"{s['sample']}"] if sizes else []),
            tenths(s["original"]["accuracy"]),
            f"{tenths(after['accuracy'])} ({interval(after['low'], after['high'])})",
            *([tenths(max(s["baselines"].values(), default=None))] if narrow else wide),
        )
    return rows


def print_retention(console: Console, retention: dict[str, Any]) -> None:
    """The language kept, from retention.json: one line a measure, then what could not be run."""
    rows = make_table("language kept (↑ higher is better, ↓ lower)")
    rows.add_column("measure")
    for column in ("items", "original", "injected", "fine-tuned"):
        rows.add_column(column, justify="right", no_wrap=True, style="bold" if column == "injected" else None)
    measured = [r for r in retention["rows"] if not r["note"].startswith("not run")]
    for r in measured:
        unit = "%" if r["unit"] == "share" else r["unit"].removesuffix(" per token")
        values = (_value(r[name], r["unit"]) for name in ("original", "injected", "baseline"))
        arrow = "↑" if r["higher_is_better"] else "↓"
        rows.add_row(Text(f"{r['name']}, {unit} {arrow}"), f"{r['items']:,}", *values)
    console.print(rows)
    for r in retention["rows"]:
        if r not in measured:
            console.print(f"{r['name']}: {r['note']}", style="dim", markup=False)
    seconds = sum(retention["about"]["seconds"].values())
    console.print(f"{seconds:.0f} s; sizes and notes are in retention.json", style="dim")


def _value(value: float | None, unit: str) -> str:
    if unit == "share" or value is None:
        return tenths(value)
    return f"{value:.4f}" if unit == "nats per token" else f"{value:.2f}"


def decode_table(evaluation: Mapping[str, Any], *, worst: int = 5) -> Table:
    """Decode accuracy on the test set: the result and the variables that decode worst."""
    at_all = evaluation["decode"]["test"]["all_positions"]
    at_answer = evaluation["decode"]["test"]["answer_positions"]
    rows = make_table("decoded from the model, test set, %")
    for column in ("variable", "accuracy", "majority", "at the answer"):
        rows.add_column(column, justify="left" if column == "variable" else "right")
    result = results(evaluation, at_all)
    rest = sorted(
        (n for n in at_all if n not in result and at_all[n]["accuracy"] is not None),
        key=lambda n: at_all[n]["accuracy"],
    )
    for name in [*result, *rest[:worst]]:
        rows.add_row(
            Text(name),
            tenths(at_all[name]["accuracy"]),
            tenths(at_all[name]["majority"]),
            tenths(at_answer[name]["accuracy"]),
        )
    if len(rest) > worst:
        rows.add_row(f"{len(rest) - worst} more, at least as good", "", "", "")
    return rows
