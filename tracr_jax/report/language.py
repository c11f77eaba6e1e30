"""How much of the language is kept: the retention tables of all runs as one, a column for each run."""

from collections.abc import Mapping, Sequence
from typing import Any

from tracr_jax.report.data import retention_rows
from tracr_jax.report.load import RunFiles
from tracr_jax.report.markup import esc, kind, missing, section, title_of
from tracr_jax.report.verdicts import kept
from tracr_jax.report.words import counted, interval, number, percent

_HOW = "↑: higher is better; ↓: lower is better. Small numbers: 95 % intervals, where they are known."


def language_section(runs: Sequence[RunFiles]) -> str:
    """Every measure of retention.json, or the one perplexity of evaluation.json, and what makes the rest."""
    body = ""
    groups: dict[tuple[Any, ...], list[RunFiles]] = {}
    for r in runs:
        if rows := retention_rows(r):
            # One table for what has one original and one baseline: with another task's tokenizer, another text or
            # number of items, the same model has other values.
            same = tuple((row["name"], row["original"], row["baseline"]) for row in rows)
            groups.setdefault((r.config.get("lm"), *same), []).append(r)
    for group in groups.values():
        heading = f"<h3>{esc(title_of(group))}</h3>" if len(groups) > 1 else ""
        body += heading + _table(group, named=len(runs) > 1)
    for r in runs:
        if not r.retention:
            known = "The other measures are" if retention_rows(r) else "Language is"
            body += missing(f"{r.name}: {known} not measured yet.", "retention", r)
    have = [(r.name, kept(r)[1]) for group in groups.values() for r in group]
    return section("language", "Is the language kept?", have, _HOW if have else "", body)


def _table(runs: Sequence[RunFiles], *, named: bool) -> str:
    tables = [{row["name"]: row for row in retention_rows(r)} for r in runs]
    names = list(dict.fromkeys(name for t in tables for name in t))
    # The fine-tuning baseline has its own column where it is not itself among the runs.
    baseline = not any(r.is_baseline and not r.is_graft for r in runs) and any(
        row["baseline"] is not None for t in tables for row in t.values()
    )
    body = ""
    for name in names:
        rows = [t.get(name) for t in tables]
        first = next(row for row in rows if row)
        arrow, said = ("↑", "higher") if first["higher_is_better"] else ("↓", "lower")
        cells = _cell(first, "original") + "".join(_cell(row, "injected") for row in rows)
        cells += _cell(first, "baseline") if baseline else ""
        unit = "" if first["unit"] == "share" else esc(first["unit"])
        mark = f'<span title="{said} is better">{arrow}</span>'
        items = counted(first["items"]) if first["items"] else ""
        body += (
            f'<tr><th scope="row">{esc(name)} {mark}<small>{unit}</small></th>'
            f'{cells}<td class="items">{items}</td><td class="note">{esc(first["note"])}</td></tr>'
        )
    columns = ["measure", "original"]
    columns += [f"{esc(r.name)}{kind(r)}" for r in runs] if named else ["injected"]
    columns += ["fine-tuned"] if baseline else []
    head = "".join(f'<th scope="col">{c}</th>' for c in columns)
    head += '<th scope="col" class="items">items</th><th scope="col" class="items"></th>'
    table = f'<table class="plain retention"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll" tabindex="0" style="--columns:{len(columns) - 1}">{table}</div>'


def _cell(row: Mapping[str, Any] | None, column: str) -> str:
    value = row[column] if row else None
    if row is None or value is None or row["unit"] != "share":
        return f"<td>{number(value, zeros=True)}</td>"
    span = row.get("intervals", {}).get(column)
    return f"<td>{percent(value)}{f'<small>{interval(*span)}</small>' if span else ''}</td>"
