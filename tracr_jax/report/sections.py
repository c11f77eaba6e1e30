"""The sections of the page as HTML text. Every string from a file goes through `esc`; numbers are formatted here.

Bars and tables are plain HTML, so they are there without scripts; curves, heat maps and the explorer are places
(`data-figure`) that the scripts fill.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePath
from typing import Any

from tracr_jax.report import readings, verdicts
from tracr_jax.report.controls import controls_table
from tracr_jax.report.data import lengths, loss_curves, scorecard_of
from tracr_jax.report.load import RunFiles
from tracr_jax.report.markup import (
    AskedSet,
    by_task_and_model,
    esc,
    key,
    kind,
    letters_at,
    missing,
    place,
    prose,
    rule_letters,
    section,
    series,
    sets_of,
)
from tracr_jax.report.swaps import swaps_reading
from tracr_jax.report.words import duration, interval, percent, plain, several

_MARKS = {"yes": "●", "partly": "◐", "no": "○", "open": "–", None: "–"}
_WORDS = {"open": "undecided", None: "not measured"}


def summary(runs: Sequence[RunFiles]) -> str:
    """The five questions down, the runs across."""
    columns = [verdicts.answers(r) for r in runs]
    rows = []
    for answers in zip(*columns, strict=True):
        cells = "".join(_answer(a, r.name if len(runs) > 1 else "") for a, r in zip(answers, runs, strict=True))
        question = esc(answers[0].question)
        rows.append(f'<div class="question"><h3><a href="#{answers[0].anchor}">{question}</a></h3>{cells}</div>')
    head = ""
    if len(runs) > 1:
        names = "".join(f"<span>{key(i + 1)}{esc(r.name)}{kind(r)}</span>" for i, r in enumerate(runs))
        head = f'<div class="question names"><span></span>{names}</div>'
    rules = "".join(f"<li><b>{esc(q)}</b> {esc(r)}</li>" for q, r in verdicts.RULES)
    return (
        f'<section id="summary" style="--runs:{len(runs)}"><h2 class="quiet">In short</h2>{head}{"".join(rows)}'
        f"<details><summary>How these answers are decided</summary><ul>{rules}</ul></details></section>"
    )


def _answer(a: verdicts.Answer, name: str) -> str:
    word = _WORDS.get(a.verdict, a.verdict)
    of = f'<span class="of">{esc(name)}</span>' if name else ""
    return (
        f'<div class="answer v-{"none" if a.verdict in _WORDS else a.verdict}"><p class="verdict">'
        f'{of}<span class="mark" aria-hidden="true">'
        f"{_MARKS[a.verdict]}</span> {word}</p><p>{prose(a.text)}</p></div>"
    )


def _each(runs: Sequence[tuple[int, RunFiles]], reading: Callable[[RunFiles], str]) -> list[tuple[str, str]]:
    return [(r.name, reading(r)) for _, r in runs]


def answers_section(runs: Sequence[RunFiles]) -> str:
    """Accuracy bars of every set, a figure for each pair of task and model."""
    have = [(i, r) for i, r in enumerate(runs) if r.sets]
    body = "".join(missing(f"{r.name} has no evaluation.json.", "evaluate", r) for r in runs if not r.evaluation)
    groups = by_task_and_model(runs)
    for title, group in groups.items():
        if evaluated := [(i, r) for i, r in group if r.sets]:
            body += (f"<h3>{esc(title)}</h3>" if len(groups) > 1 else "") + _bars(evaluated)
    how = "Bars: exact match; whiskers: 95 % intervals. Letters mark trivial baselines."
    return section("answers", "Does it answer?", _each(have, readings.accuracy_reading), how, body)


def _bars(group: Sequence[tuple[int, RunFiles]]) -> str:
    sets = sets_of(group)
    letters = rule_letters(sets)
    legend = [f"<span>{key(0)}before</span>"]
    legend += [f"<span>{key(i + 1)}{esc(r.name)}{kind(r)}</span>" for i, r in group]
    legend += [f"<span><b class='letter'>{letters[b]}</b>{esc(plain(b))}</span>" for b in letters]
    rows = "".join(_bar_row(asked, letters) for asked in sets)
    return f'<div class="legend">{"".join(legend)}</div><div class="bars">{rows}</div>'


def _bar_row(asked: AskedSet, letters: Mapping[str, str]) -> str:
    s = asked.found
    ticks = "".join(f'<i class="tick" style="left:{100 * v:.2f}%"></i>' for v in s["baselines"].values())
    lanes = _lane("before", 0, s["original"], ticks)
    lanes += "".join(_lane(name, i, answers, ticks) for i, name, answers in asked.runs)
    places = letters_at(s["baselines"], letters)
    marks = "".join(f'<b class="letter" style="left:{100 * v:.2f}%">{t}</b>' for t, v in places)
    said = "; ".join(f"{plain(b)} {percent(v)}" for b, v in s["baselines"].items())
    facts = f"{s['sample']} items"
    if s.get("overlap_with_training"):
        facts += f", {percent(s['overlap_with_training'])} may have been seen in training"
    return (
        f'<div class="set"><div class="set-name"><b>{esc(asked.title)}</b><small>'
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
        f'{ticks}<i class="bar {series(index)}" style="width:{at:.2f}%"></i>'
        f'<i class="whisker" style="left:{low:.2f}%;width:{max(high - low, 0.3):.2f}%"></i></span>'
        f'<span class="val"><span class="unseen">{esc(who)} </span>{percent(a["accuracy"])}</span></div>'
    )


def length_section(runs: Sequence[RunFiles]) -> str:
    """Accuracy against the prompt's length."""
    have = [(i, r) for i, r in enumerate(runs) if lengths(r.evaluation)]
    if not have:
        named = next((r for r in runs if r.evaluation), runs[0])
        body = missing("No evaluation.json with accuracy by length.", "evaluate", named)
        return section("length", "Does it hold for longer prompts?", [], "", body)
    how = (
        "Prompts pooled by length in tokens; bars are 95 % intervals. Right of the dashed line: longer than any "
        "test prompt."
    )
    body = '<div class="multiples" data-figure="lengths"></div>'
    return section("length", "Does it hold for longer prompts?", _each(have, readings.length_reading), how, body)


def loss_section(runs: Sequence[RunFiles]) -> str:
    """Every term of the loss over the steps."""
    have = [(i, r) for i, r in enumerate(runs) if loss_curves(r)]
    if not have:
        return section("losses", "How was it trained?", [], "", missing("No metrics.jsonl.", "inject", runs[0]))
    how = "Logarithmic scales. In long runs a line is the mean of neighbouring steps, the band their range."
    body = '<div class="multiples" data-figure="losses"></div>'
    return section("losses", "How was it trained?", _each(have, readings.loss_reading), how, body)


def scorecard_section(runs: Sequence[RunFiles]) -> str:
    """Decode accuracy, variable × layer."""
    have = [(i, r) for i, r in enumerate(runs) if scorecard_of(r)]
    gaps = [r for r in runs if not r.is_baseline and not r.part("scorecard")]
    body = "".join(
        missing(f"{r.name}: not compared with a probe of the untouched model.", "interpret", r) for r in gaps
    )
    reading, how = [], ""
    if have:
        how = (
            "Each cell: how often the variable is decoded right at that layer, in percent. Layers that do not "
            "encode it are empty: it is not written yet, or with reserved directions no longer used. Slanted and "
            "dotted: no better than the majority rate or the probe."
        )
        reading = _each(have, readings.scorecard_reading)
        body = '<div class="controls" data-controls="scorecard"></div>' + place("scorecard", have) + body
    return section("scorecard", "Can the variables be read?", reading, how, body)


def explorer_section(runs: Sequence[RunFiles], *, dropped: int) -> str:
    """The token explorer."""
    have = [(i, r) for i, r in enumerate(runs) if r.part("examples") and not r.is_baseline]
    if not have:
        named = next((r for r in runs if not r.is_baseline), runs[0])
        body = missing("No examples yet.", "interpret", named)
        return section("explorer", "Look inside one prompt", [], "", body)
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
    return section("explorer", "Look inside one prompt", _each(have, readings.explorer_reading), how, body)


def noise_section(runs: Sequence[RunFiles]) -> str:
    """Accuracy under noise."""
    have = [(i, r) for i, r in enumerate(runs) if r.part("noise")]
    if not have:
        named = next((r for r in runs if not r.is_baseline), runs[0])
        body = missing("Not measured yet.", "interpret", named)
        return section("noise", "Does the answer pass through the result?", [], "", body)
    noise = have[0][1].part("noise")
    how = (
        f"Noise after the last block that the program uses, {noise['prompts']} prompts, "
        f"{several(len(noise.get('seeds', [0])), 'seed')}"
        f"{', uniform rows as the original codes them' if noise.get('as_coded') else ''}; bars are 95 % "
        f"intervals over prompts, and at least the range of the seeds."
    )
    return section(
        "noise",
        "Does the answer pass through the result?",
        _each(have, readings.noise_reading),
        how,
        place("noise", have),
    )


def swaps_section(runs: Sequence[RunFiles]) -> str:
    """The swap matrix."""
    have = [(i, r) for i, r in enumerate(runs) if r.part("swaps")]
    if not have or not any(r.part("swaps")["cells"] for _, r in have):
        named = next((r for r in runs if not r.is_baseline), runs[0])
        return section(
            "swaps", "Are the variables used?", [], "", missing("Not measured yet.", "interpret", named)
        )
    how = (
        "Each cell: a variable's part of the residual stream is exchanged with another prompt's at that layer; "
        "the share of pairs in "
        "which the model then answers what the program would. Slanted and dotted: not followed above every "
        "control, as of some variables in the compiled program itself. Hover, focus or tap a cell for controls "
        "and ceiling."
    )
    left = "".join(_left_out(r, f" in {r.name}" if len(have) > 1 else "") for _, r in have)
    beside = "".join(controls_table(r.controls) for _, r in have if r.controls)
    return section(
        "swaps", "Are the variables used?", _each(have, swaps_reading), how, place("swaps", have) + left + beside
    )


def _left_out(run: RunFiles, where_from: str) -> str:
    rows = ""
    for x in run.part("swaps")["left_out"]:
        where = "" if x.get("layer") is None else f", layer {x['layer']}"
        rows += f"<li><b>{esc(x['variable'])}</b>{esc(where)}: {esc(x['reason'])}</li>"
    title = f"Left out{where_from}, with the reasons"
    return f"<details><summary>{esc(title)}</summary><ul>{rows}</ul></details>" if rows else ""


def about_section(runs: Sequence[RunFiles]) -> str:
    """Command, machine, versions and the whole configuration."""
    body = ""
    for i, r in enumerate(runs):
        heading = f"<h3>{key(i + 1)}{esc(r.name)}{kind(r)}</h3>" if len(runs) > 1 else ""
        a, times = r.about, r.about.get("times", {})
        command = [str(x) for x in a.get("command", [])]
        line = _command_line(command) if command else "unknown: no run.json"
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
    return section("run", "The run", [], "", f'<div class="abouts">{body}</div>')


def _command_line(command: Sequence[str]) -> str:
    """The command as it can be typed again: Python calls a module's program __main__.py."""
    program = PurePath(command[0]).name
    start = ["python", "-m", "tracr_jax"] if program == "__main__.py" else [program]
    return shlex.join([*start, *command[1:]])


def _flat(values: Mapping[str, Any], prefix: str = ""):
    for k, v in values.items():
        if isinstance(v, dict):
            yield from _flat(v, f"{prefix}{k}.")
        else:
            yield prefix + k, v if isinstance(v, str) else repr(v)
