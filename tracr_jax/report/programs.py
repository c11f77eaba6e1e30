"""Several programs in one model: each task's accuracy after each injection, a matrix for each run that has one."""

from collections.abc import Mapping, Sequence
from typing import Any

from tracr_jax.report import readings
from tracr_jax.report.data import interference_of
from tracr_jax.report.load import RunFiles
from tracr_jax.report.markup import esc, key, section
from tracr_jax.report.words import interval, percent

_HOW = (
    "Programs across, injections down: exact match on each program's own test set; small: 95 % intervals, the "
    "mean over its other sets, and how well its variables decode. – : not injected yet."
)


def programs_section(runs: Sequence[RunFiles]) -> str:
    """The interference matrices; nothing where every run holds one program."""
    have = [(i, r, table) for i, r in enumerate(runs) if (table := interference_of(r))]
    if not have:
        return ""
    body = ""
    for i, r, table in have:
        body += f"<h3>{key(i + 1)}{esc(r.name)}</h3>" if len(runs) > 1 else ""
        body += _matrix(table)
    lead = [(r.name, readings.interference_reading(r)) for _, r, _ in have]
    return section("programs", "Do its programs get along?", lead, _HOW, body)


def _matrix(table: Mapping[str, Any]) -> str:
    head = "".join(f'<th scope="col">{esc(task)}</th>' for task in table["tasks"])
    body = ""
    for row in table["rows"]:
        steps = f"<small>{esc(row['steps'])} steps</small>" if row["steps"] is not None else ""
        name = f'<th scope="row" title="{esc(row["run"])}">{esc(row["name"])}{steps}</th>'
        body += f"<tr>{name}{''.join(map(_cell, row['cells']))}</tr>"
    return (
        '<div class="scroll" tabindex="0"><table class="plain programs"><thead><tr><th scope="col"></th>'
        f"{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return "<td>–</td>"
    test = cell["test"]
    notes = [interval(test["low"], test["high"])]
    notes += [f"other sets {percent(cell['others'])}"] if cell["others"] is not None else []
    notes += [f"variables {percent(cell['variables'])}"] if cell["variables"] is not None else []
    return f"<td>{percent(test['accuracy'])}{''.join(f'<small>{n}</small>' for n in notes)}</td>"
