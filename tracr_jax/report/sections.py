"""The sections of the page as HTML text. Every string from a file goes through `esc`; numbers are formatted here.

Bars and tables are plain HTML, so they are there without scripts; curves, heat maps and the explorer are places
(`data-figure`) that the scripts fill.
"""

import html
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tracr_jax.report import readings
from tracr_jax.report.data import lengths, loss_curves, scorecard_of
from tracr_jax.report.load import RunFiles
from tracr_jax.report.words import counted, duration, interval, number, percent, plain

_MARKS = {"yes": "●", "partly": "◐", "no": "○", None: "–"}


def esc(text: Any) -> str:
    """Text that is shown as it is, in elements and in quoted attributes."""
    return html.escape(str(text), quote=True)


def title_of(runs: Sequence[RunFiles]) -> str:
    """What the page is about, in one line."""
    tasks = dict.fromkeys(task_name(r) for r in runs)
    models = dict.fromkeys(PurePath(str(r.config.get("lm", "?"))).name for r in runs)
    return f"{', '.join(tasks)} in {', '.join(models)}"


def task_name(run: RunFiles) -> str:
    """The task's name; of path/to/file.py:NAME the last part."""
    return str(run.config.get("task", "?")).split(":")[-1]


def summary(runs: Sequence[RunFiles]) -> str:
    """The five questions down, the runs across."""
    columns = [readings.answers(r) for r in runs]
    rows = []
    for answers in zip(*columns, strict=True):
        cells = "".join(_answer(a, r.name if len(runs) > 1 else "") for a, r in zip(answers, runs, strict=True))
        question = esc(answers[0].question)
        rows.append(f'<div class="question"><h3><a href="#{answers[0].anchor}">{question}</a></h3>{cells}</div>')
    head = ""
    if len(runs) > 1:
        names = "".join(f"<span>{_key(i + 1)}{esc(r.name)}{_kind(r)}</span>" for i, r in enumerate(runs))
        head = f'<div class="question names"><span></span>{names}</div>'
    rules = "".join(f"<li><b>{esc(q)}</b> {esc(r)}</li>" for q, r in readings.RULES)
    return (
        f'<section id="summary" style="--runs:{len(runs)}"><h2 class="quiet">In short</h2>{head}{"".join(rows)}'
        f"<details><summary>How these answers are decided</summary><ul>{rules}</ul></details></section>"
    )


def _answer(a: readings.Answer, name: str) -> str:
    word = a.verdict or "not measured"
    of = f'<span class="of">{esc(name)}</span>' if name else ""
    return (
        f'<div class="answer v-{(a.verdict or "none")}"><p class="verdict">'
        f'{of}<span class="mark" aria-hidden="true">'
        f"{_MARKS[a.verdict]}</span> {word}</p><p>{esc(a.text)}</p></div>"
    )


def _key(index: int) -> str:
    return f'<i class="key s{index}" aria-hidden="true"></i>'


def _kind(run: RunFiles) -> str:
    return ' <small class="tag">fine-tuning baseline</small>' if run.is_baseline else ""


def section(anchor: str, title: str, reading: str, how: str, body: str) -> str:
    """A figure: its question, its one-sentence reading, how to look at it, and the figure."""
    lead = f'<p class="reading">{esc(reading)}</p>' if reading else ""
    note = f'<p class="how">{esc(how)}</p>' if how else ""
    return f'<section id="{anchor}"><h2>{esc(title)}</h2>{lead}{note}{body}</section>'


def missing(what: str, command: str, run: RunFiles) -> str:
    """What stands in a section whose file is not there: the command that makes it."""
    line = f"tracr-jax {command} {shlex.quote(str(run.folder))}"
    return f'<p class="missing">{esc(what)} Make it with <code>{esc(line)}</code></p>'


def place(kind: str, runs: Sequence[tuple[int, RunFiles]]) -> str:
    """Places for a figure of each run, side by side where there is room; filled by the scripts."""
    cells = "".join(
        f'<figure><figcaption>{_key(i + 1)}{esc(r.name)}</figcaption><div data-figure="{kind}" data-run="{i}">'
        f"</div></figure>"
        for i, r in runs
    )
    return f'<div class="places n{min(len(runs), 3)}">{cells}</div>'


def answers_section(runs: Sequence[RunFiles]) -> str:
    """Accuracy bars of every set, a figure for each pair of task and model."""
    groups: dict[tuple[str, str], list[tuple[int, RunFiles]]] = {}
    body, have = "", [r for r in runs if r.evaluation]
    for i, r in enumerate(runs):
        if r.evaluation:
            groups.setdefault((str(r.config.get("task")), str(r.config.get("lm"))), []).append((i, r))
        else:
            body += missing(f"{r.name} has no evaluation.json.", "evaluate", r)
    for group in groups.values():
        heading = f"<h3>{esc(title_of([group[0][1]]))}</h3>" if len(groups) > 1 else ""
        body += heading + _bars(group)
    how = "Bars: exact match; whiskers: 95 % intervals. Letters mark rules that know nothing of the program."
    return section("answers", "Does it answer?", readings.accuracy_reading(have) if have else "", how, body)


def _bars(group: Sequence[tuple[int, RunFiles]]) -> str:
    sets: Mapping[str, Any] = group[0][1].sets
    rules = list(dict.fromkeys(b for s in sets.values() for b in s["baselines"]))
    letters = {b: chr(ord("a") + i % 26) for i, b in enumerate(rules)}
    legend = [f"<span>{_key(0)}before</span>"]
    legend += [f"<span>{_key(i + 1)}{esc(r.name)}{_kind(r)}</span>" for i, r in group]
    legend += [f"<span><b class='letter'>{letters[b]}</b>{esc(plain(b))}</span>" for b in rules]
    rows = "".join(_bar_row(name, s, group, letters) for name, s in sets.items())
    return f'<div class="legend">{"".join(legend)}</div><div class="bars">{rows}</div>'


def _bar_row(name: str, s: Mapping[str, Any], group, letters: Mapping[str, str]) -> str:
    ticks = "".join(f'<i class="tick" style="left:{100 * v:.2f}%"></i>' for v in s["baselines"].values())
    lanes = _lane("before", 0, s["original"], ticks)
    for i, r in group:
        other = r.sets.get(name)
        if other:
            lanes += _lane(r.name, i + 1, other["injected"], ticks)
    places: list[tuple[float, str]] = []
    for rule, value in sorted(s["baselines"].items(), key=lambda x: x[1]):
        if places and value - places[-1][0] < 0.04:  # letters that would cover each other share a place
            places[-1] = (places[-1][0], places[-1][1] + letters[rule])
        else:
            places.append((value, letters[rule]))
    marks = "".join(f'<b class="letter" style="left:{100 * v:.2f}%">{t}</b>' for v, t in places)
    said = "; ".join(f"{plain(b)} {percent(v)}" for b, v in s["baselines"].items())
    facts = f"{s['sample']} items"
    if s.get("overlap_with_training"):
        facts += f", {percent(s['overlap_with_training'])} may have been seen in training"
    return (
        f'<div class="set"><div class="set-name"><b>{esc(plain(name))}</b><small>'
        f"{esc(s.get('note', ''))} {esc(facts)}.</small></div>"
        f'<div class="lanes">{lanes}<div class="lane rules" title="{esc(said)}"><span class="track">'
        f"{marks}</span>"
        f'<span class="val"></span><span class="unseen">Trivial rules: {esc(said)}</span></div></div></div>'
    )


def _lane(who: str, index: int, a: Mapping[str, Any], ticks: str) -> str:
    low, high, at = (100 * a[k] for k in ("low", "high", "accuracy"))
    said = f"{who}: {percent(a['accuracy'])} ({interval(a['low'], a['high'])}), {a['right']} of {a['total']}"
    return (
        f'<div class="lane" data-tip="{esc(said)}"><span class="track">'
        f'{ticks}<i class="bar s{index}" style="width:{at:.2f}%"></i>'
        f'<i class="whisker" style="left:{low:.2f}%;width:{max(high - low, 0.3):.2f}%"></i></span>'
        f'<span class="val"><span class="unseen">{esc(who)} </span>{percent(a["accuracy"])}</span></div>'
    )


def length_section(runs: Sequence[RunFiles]) -> str:
    """Accuracy against the prompt's length."""
    have = [(i, r) for i, r in enumerate(runs) if lengths(r.evaluation)]
    if not have:
        named = next((r for r in runs if r.evaluation), runs[0])
        body = missing("No evaluation.json with accuracy by length.", "evaluate", named)
        return section("length", "Does it hold for longer prompts?", "", "", body)
    how = (
        "Prompts pooled by length in tokens; bars are 95 % intervals. Right of the dashed line: longer than any "
        "test prompt."
    )
    body = '<div class="multiples" data-figure="lengths"></div>'
    return section("length", "Does it hold for longer prompts?", readings.length_reading(have[0][1]), how, body)


def loss_section(runs: Sequence[RunFiles]) -> str:
    """Every term of the loss over the steps."""
    have = [r for r in runs if loss_curves(r.metrics)]
    if not have:
        return section("losses", "How was it trained?", "", "", missing("No metrics.jsonl.", "inject", runs[0]))
    how = "Logarithmic scales. In long runs a line is the mean of neighbouring steps, the band their range."
    body = '<div class="multiples" data-figure="losses"></div>'
    return section("losses", "How was it trained?", readings.loss_reading(have[0]), how, body)


def scorecard_section(runs: Sequence[RunFiles]) -> str:
    """Decode accuracy, variable × layer."""
    have = [(i, r) for i, r in enumerate(runs) if scorecard_of(r)]
    gaps = [r for r in runs if not r.is_baseline and not r.part("scorecard")]
    body = "".join(
        missing(f"{r.name}: not compared with a probe of the untouched model.", "interpret", r) for r in gaps
    )
    reading, how = "", ""
    if have:
        how = (
            "Each cell: how often the variable is decoded right at that layer, in percent. Layers before the "
            "program writes it are "
            "empty. Slanted and dotted: no better than the majority rate or the probe."
        )
        reading = readings.scorecard_reading(have[0][1])
        body = '<div class="controls" data-controls="scorecard"></div>' + place("scorecard", have) + body
    return section("scorecard", "Can the variables be read?", reading, how, body)


def explorer_section(runs: Sequence[RunFiles], *, dropped: int) -> str:
    """The token explorer."""
    have = [(i, r) for i, r in enumerate(runs) if r.part("examples") and not r.is_baseline]
    if not have:
        named = next((r for r in runs if not r.is_baseline), runs[0])
        body = missing("No examples yet.", "interpret", named)
        return section("explorer", "Look inside one prompt", "", "", body)
    how = (
        "Tokens across, variables down; each cell is the value read from the model. Deeper colour: larger "
        "margin to the runner-up "
        "value. Red edge and ≠: the program holds another value. A dot: the program holds nothing there. Click "
        "a cell, or move with the arrow keys and press Enter, for that "
        "variable over all layers."
    )
    body = '<div data-figure="explorer"></div>'
    if dropped:
        body += f'<p class="missing">{dropped} examples are left out to keep this page below 8 MB.</p>'
    return section("explorer", "Look inside one prompt", readings.explorer_reading(have[0][1]), how, body)


def noise_section(runs: Sequence[RunFiles]) -> str:
    """Accuracy under noise."""
    have = [(i, r) for i, r in enumerate(runs) if r.part("noise")]
    if not have:
        named = next((r for r in runs if not r.is_baseline), runs[0])
        body = missing("Not measured yet.", "interpret", named)
        return section("noise", "Does the answer pass through the result?", "", "", body)
    noise = have[0][1].part("noise")
    how = (
        f"Noise after the last block that the program uses, {noise['prompts']} prompts, "
        f"{len(noise.get('seeds', [0]))} seeds"
        f"{', uniform rows as the original codes them' if noise.get('as_coded') else ''}; bars are 95 % "
        f"intervals."
    )
    return section(
        "noise",
        "Does the answer pass through the result?",
        readings.noise_reading(have[0][1]),
        how,
        place("noise", have),
    )


def swaps_section(runs: Sequence[RunFiles]) -> str:
    """The swap matrix."""
    have = [(i, r) for i, r in enumerate(runs) if r.part("swaps")]
    if not have or not any(r.part("swaps")["cells"] for _, r in have):
        named = next((r for r in runs if not r.is_baseline), runs[0])
        return section(
            "swaps", "Are the variables used?", "", "", missing("Not measured yet.", "interpret", named)
        )
    how = (
        "Each cell: a variable's part of the residual stream is exchanged with another prompt's at that layer; "
        "the share of pairs in "
        "which the model then answers what the program would. Slanted and dotted: not above every control. "
        "Hover or focus a cell for "
        "controls and ceiling."
    )
    left = "".join(_left_out(r, f" in {r.name}" if len(have) > 1 else "") for _, r in have)
    return section(
        "swaps", "Are the variables used?", readings.swaps_reading(have[0][1]), how, place("swaps", have) + left
    )


def _left_out(run: RunFiles, where_from: str) -> str:
    rows = ""
    for x in run.part("swaps")["left_out"]:
        where = "" if x.get("layer") is None else f", layer {x['layer']}"
        rows += f"<li><b>{esc(x['variable'])}</b>{esc(where)}: {esc(x['reason'])}</li>"
    title = f"Left out{where_from}, with the reasons"
    return f"<details><summary>{esc(title)}</summary><ul>{rows}</ul></details>" if rows else ""


def language_section(runs: Sequence[RunFiles]) -> str:
    """The retention table of every run, or the one number of evaluation.json."""
    body, reading = "", ""
    for r in runs:
        heading = f"<h3>{esc(r.name)}{_kind(r)}</h3>" if len(runs) > 1 else ""
        if r.retention:
            body += heading + _retention_table(r.retention["rows"])
        elif (r.evaluation or {}).get("retention"):
            e = r.evaluation["retention"]  # pyright: ignore[reportOptionalSubscript]
            row = {"name": "perplexity on held-out text", "unit": "per token", "higher_is_better": False}
            row |= {"original": e["original"], "injected": e["injected"], "baseline": None, "items": None}
            body += heading + _retention_table([row | {"note": "from evaluation.json"}])
            body += missing("The other measures are not there yet.", "retention", r)
        else:
            body += heading + missing("Not measured yet.", "retention", r)
        reading = reading or readings.kept(r)[1].replace("Not measured.", "")
    return section("language", "Is the language kept?", reading, "↑: higher is better; ↓: lower is better.", body)


def _retention_table(rows: Sequence[Mapping[str, Any]]) -> str:
    body = ""
    for r in rows:
        arrow = "↑" if r["higher_is_better"] else "↓"
        said = "higher is better" if r["higher_is_better"] else "lower is better"
        values = "".join(f"<td>{_value(r, c)}</td>" for c in ("original", "injected", "baseline"))
        unit = "" if _is_share(r["unit"]) else esc(r["unit"])
        items = counted(r["items"]) if r.get("items") else ""
        body += (
            f'<tr><th scope="row">{esc(r["name"])} <span title="{said}">{arrow}</span><small>{unit}</small></th>'
            f"{values}"
            f'<td class="items">{items}</td><td class="note">{esc(r.get("note") or "")}</td></tr>'
        )
    head = "".join(f'<th scope="col">{c}</th>' for c in ("measure", "original", "injected", "fine-tuned"))
    head += '<th scope="col" class="items">items</th><th scope="col" class="items"></th>'
    table = f'<table class="plain retention"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll" tabindex="0">{table}</div>'


def _is_share(unit: str) -> bool:
    return unit.split()[0] in ("share", "accuracy") if unit.strip() else False


def _value(row: Mapping[str, Any], column: str) -> str:
    value, span = row[column], row.get("intervals", {}).get(column)
    if value is None or not _is_share(row["unit"]):
        return number(value, zeros=True)
    return percent(value) + (f"<small>{interval(*span)}</small>" if span else "")


def about_section(runs: Sequence[RunFiles]) -> str:
    """Command, machine, versions and the whole configuration."""
    body = ""
    for i, r in enumerate(runs):
        heading = f"<h3>{_key(i + 1)}{esc(r.name)}{_kind(r)}</h3>" if len(runs) > 1 else ""
        a, times = r.about, r.about.get("times", {})
        command = [str(x) for x in a.get("command", [])]
        line = shlex.join([PurePath(command[0]).name, *command[1:]]) if command else "unknown: no run.json"
        facts = [
            ("started", a.get("started")),
            ("device", a.get("device")),
            ("times", ", ".join(f"{k.removesuffix('_s')} {duration(v)}" for k, v in times.items())),
            ("memory", f"{a['peak_host_memory_gib']:.1f} GiB at most" if "peak_host_memory_gib" in a else None),
            (
                "versions",
                ", ".join(
                    f"{k} {v}" for k, v in {"tracr_jax": a.get("tracr_jax"), **a.get("packages", {})}.items() if v
                ),
            ),
            ("folder", r.folder),
        ]
        rows = "".join(f"<dt>{k}</dt><dd>{esc(v)}</dd>" for k, v in facts if v)
        config = "".join(f'<tr><th scope="row">{esc(k)}</th><td>{esc(v)}</td></tr>' for k, v in _flat(r.config))
        body += (
            f'<div class="about">{heading}'
            f'<pre tabindex="0"><code>{esc(line)}</code></pre><dl>{rows}</dl><details><summary>'
            f"Every option of the run</summary>"
            f'<div class="scroll" tabindex="0"><table class="plain config"><tbody>{config}</tbody></table></div>'
            f"</details></div>"
        )
    return section("run", "The run", "", "", f'<div class="abouts">{body}</div>')


def _flat(values: Mapping[str, Any], prefix: str = ""):
    for k, v in values.items():
        if isinstance(v, dict):
            yield from _flat(v, f"{prefix}{k}.")
        else:
            yield prefix + k, v if isinstance(v, str) else repr(v)
