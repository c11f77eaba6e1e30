"""Pieces of HTML that the sections share. Every string from a file goes through `esc`."""

import html
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from tracr_jax.report.load import RunFiles
from tracr_jax.report.words import NBSP, plain


def esc(text: Any) -> str:
    """Text that is shown as it is, in elements and in quoted attributes."""
    return html.escape(str(text), quote=True)


def prose(text: str) -> str:
    """A sentence, escaped; text between backticks is code."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", esc(text))


def title_of(runs: Sequence[RunFiles]) -> str:
    """What the page is about, in one line."""
    tasks = dict.fromkeys(task_name(r) for r in runs)
    models = dict.fromkeys(PurePath(str(r.config.get("lm", "?"))).name for r in runs)
    return f"{', '.join(tasks)} in {', '.join(models)}"


def by_task_and_model(runs: Sequence[RunFiles]) -> dict[str, list[tuple[int, RunFiles]]]:
    """Runs whose answers share a figure, by its heading; each with its place among all, from 0 on.

    Two tasks have sets of one name and other items. Where a file's or a model's last name is that of two, the
    heading has all of it.
    """
    groups: dict[tuple[str, str], list[tuple[int, RunFiles]]] = {}
    for i, r in enumerate(runs):
        groups.setdefault((str(r.config.get("task", "?")), str(r.config.get("lm", "?"))), []).append((i, r))
    titles = {pair: title_of([group[0][1]]) for pair, group in groups.items()}
    many = Counter(titles.values())
    return {
        titles[pair] if many[titles[pair]] == 1 else f"{pair[0]} in {pair[1]}": group
        for pair, group in groups.items()
    }


class AskedSet(NamedTuple):
    """A set as a row of a figure: runs that were asked the same items of it."""

    title: str
    found: Mapping[str, Any]  # of the first run: items, note, baselines, the model before
    runs: list[tuple[int, str, Mapping[str, Any]]]  # each with its number, from 1 on, its name and its accuracy


def sets_of(group: Sequence[tuple[int, RunFiles]]) -> list[AskedSet]:
    """Every set that a run of the group was asked; where runs were asked different items of it, a row for each."""
    rows: dict[tuple[str, Any], AskedSet] = {}
    for i, run in group:
        for name, found in run.sets.items():
            row = AskedSet(plain(name), found, [])
            row = rows.setdefault((name, found.get("digest", found["sample"])), row)
            row.runs.append((i + 1, run.name, found["injected"]))
    many = Counter(row.title for row in rows.values())
    return [
        row
        if many[row.title] == 1
        else row._replace(title=f"{row.title}, {row.found['sample']} items as of {row.runs[0][1]}")
        for row in sorted(rows.values(), key=lambda row: list(many).index(row.title))
    ]


def rule_letters(sets: Sequence[AskedSet]) -> dict[str, str]:
    """The letter of each trivial rule in a figure."""
    rules = dict.fromkeys(b for row in sets for b in row.found["baselines"])
    return {b: chr(ord("a") + i % 26) for i, b in enumerate(rules)}


def letters_at(baselines: Mapping[str, float], letters: Mapping[str, str]) -> list[tuple[str, float]]:
    """Letters and where they stand; those that would cover each other share a place."""
    places: list[tuple[str, float]] = []
    for rule, value in sorted(baselines.items(), key=lambda x: x[1]):
        if places and value - places[-1][1] < 0.04:
            places[-1] = (places[-1][0] + letters[rule], places[-1][1])
        else:
            places.append((letters[rule], value))
    return places


def task_name(run: RunFiles) -> str:
    """The task's name; of path/to/file.py:NAME the last part."""
    return str(run.config.get("task", "?")).split(":")[-1]


def series(index: int) -> str:
    """The class of a series' colour and pattern; there are six, then they begin again."""
    return f"s{(index - 1) % 6 + 1 if index else 0}"


def key(index: int) -> str:
    """A swatch in a series' colour and pattern; 0 is the untouched model."""
    return f'<i class="key {series(index)}" aria-hidden="true"></i>'


def kind(run: RunFiles) -> str:
    """A tag beside the name of a run without alignment."""
    name = "graft" if run.is_graft else "fine-tuning baseline"
    return f' <small class="tag">{name}</small>' if run.is_baseline else ""


def section(anchor: str, title: str, readings: Sequence[tuple[str, str]], how: str, body: str) -> str:
    """A figure: its question, a one-sentence reading of each run, how to look at it, and the figure.

    Args:
      anchor: the section's id.
      title: its heading.
      readings: (run, sentence) pairs; the name is left out where there is one run only.
      how: what the marks mean.
      body: HTML.
    """
    lead = "".join(
        f'<p class="reading">{f"<b>{esc(name)}</b> " if len(readings) > 1 else ""}{esc(sentence)}</p>'
        for name, sentence in readings
    )
    note = f'<p class="how">{esc(how.replace(" %", f"{NBSP}%"))}</p>' if how else ""
    return f'<section id="{anchor}"><h2>{esc(title)}</h2>{lead}{note}{body}</section>'


def missing(what: str, command: str, run: RunFiles) -> str:
    """Placeholder of a section whose file is missing: the command that makes it."""
    line = f"tracr-jax {command} {shlex.quote(str(run.folder))}"
    return f'<p class="missing">{esc(what)} Make it with <code>{esc(line)}</code></p>'


def place(kind: str, runs: Sequence[tuple[int, RunFiles]]) -> str:
    """Places for a figure of each run, side by side where there is room; filled by the scripts."""
    cells = "".join(
        f'<figure><figcaption>{key(i + 1)}{esc(r.name)}</figcaption><div data-figure="{kind}" data-run="{i}">'
        f"</div></figure>"
        for i, r in runs
    )
    return f'<div class="places n{min(len(runs), 3)}">{cells}</div>'
