"""One sentence per figure, and the answers to the five questions at the top, computed from the files.

A verdict is "yes", "partly", "no", "open" (undecidable) or None (not measured); the page prints the
rules, `RULES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tracr_jax.report.data import (
    interference_of,
    last_layer,
    lengths,
    loss_curves,
    result_name,
    scorecard_of,
    telling_noise,
)
from tracr_jax.report.load import RunFiles
from tracr_jax.report.swaps import beats_controls, outside, result_swap, swaps_reading, telling_cells
from tracr_jax.report.words import NBSP, counted, interval, listed, number, percent, plain

GOOD = 0.9  # an accuracy that counts as "yes"
_TELLING = 0.5  # a set of which a trivial rule gets less tells whether the task was learnt
_BESIDE = "A graft: the variables are in the program beside the model, which computes none of them."
# The loss of a language measure that still counts as "yes"; ten times as much counts as "partly". Accuracies in
# points: a share of one that was near zero says nothing. Others relative to what they were.
KEPT_POINTS, KEPT_RELATIVE, PARTLY = 0.02, 0.05, 10

RULES = (
    (
        "Did it learn the task?",
        "judged on the test set; where a trivial rule gets half of that, on the set on which rules do worst. yes: "
        "at least 90 %, and the whole interval above the best rule; partly: the whole interval above it; "
        "undecided: a rule gets 90 % of every set, as the model may, so none can tell.",
    ),
    (
        "Does it follow the program elsewhere?",
        "yes: at least 90 % on every other set, and the whole interval above every rule wherever no rule gets "
        "90 %; partly: on the hardest of these sets the whole interval is above the best rule below 90 %; "
        "undecided: rules get 90 % of every set, as the model may.",
    ),
    (
        "Can the variables be read?",
        "yes: the result decodes at the answer in at least 90 %, above the majority rate and the probe, and "
        "four of five variables beat both, each at the last layer that encodes it; partly: half of them do, or "
        "the result alone. Variables that are constant, or that the probe never reads wrongly, cannot be beaten "
        "and are not counted; undecided: nothing else is left.",
    ),
    (
        "Are they used?",
        "asked are the pairs that change the program's answer, on prompts that the model answers rightly. yes: in "
        "nine of ten cells of the swap matrix the swap is followed with its whole interval above every control's, "
        "of the cells where that is so in the compiled program itself, and exchanging what no variable holds, "
        "where that was measured, moves at most 5 % of the answers; partly: in one cell of four, or where the "
        "result itself is swapped; undecided: no such cell. Without swaps, from the noise alone: at most partly.",
    ),
    (
        "Is the language kept?",
        "yes: no accuracy worse by more than 2 points, no perplexity by more than 5 % of itself; partly: by no "
        "more than 20 points, 50 %; no: also where the model's is not finite.",
    ),
)


@dataclass(frozen=True)
class Answer:
    """One of the five answers."""

    question: str
    verdict: str | None
    text: str
    anchor: str  # of the figure that shows it


def answers(run: RunFiles) -> list[Answer]:
    """The five answers of a run, in reading order."""
    parts = (learned, follows, readable, used, kept)
    anchors = ("answers", "answers", "scorecard", "swaps", "language")
    return [Answer(q, *f(run), a) for (q, _), f, a in zip(RULES, parts, anchors, strict=True)]


def learned(run: RunFiles) -> tuple[str | None, str]:
    """Verdict and sentence on the test set, or where a trivial rule gets half of it, where rules do worst."""
    if not run.sets:
        return None, "`tracr-jax evaluate` measures it."
    name = min(run.sets, key=lambda n: (_best(run.sets[n]), n != "test"))
    if "test" in run.sets and _best(run.sets["test"]) < _TELLING:
        name = "test"  # and not a harder set, say of longer prompts, that asks for more than the task
    s = run.sets[name]
    a, bar = s["injected"], _best(s)
    above = a["low"] > bar
    open_ = bar >= GOOD and a["high"] >= GOOD
    verdict = "open" if open_ else "yes" if above and a["accuracy"] >= GOOD else "partly" if above else "no"
    text = (
        f"{_measured(a)} of {a['total']} {plain(name)} items right; {percent(s['original']['accuracy'])} before."
    )
    text += _best_rule(s["baselines"], start=" ")
    return verdict, text + (" No set tells the program from such a rule." if verdict == "open" else "")


def follows(run: RunFiles) -> tuple[str | None, str]:
    """Verdict and sentence on all sets but the test set: the hardest one decides."""
    sets = {n: s for n, s in run.sets.items() if n != "test"}
    if not sets:
        return None, "`tracr-jax evaluate` measures it."
    mean = fmean(s["injected"]["accuracy"] for s in sets.values())
    lowest = min(sets, key=lambda n: sets[n]["injected"]["accuracy"])
    leads = {n: lead for n, s in sets.items() if (lead := _lead(s)) is not None}
    told = [s for s in sets.values() if _best(s) < GOOD]
    good = all(s["injected"]["accuracy"] >= GOOD for s in sets.values())
    verdict = "open" if all(s["injected"]["high"] >= GOOD for s in sets.values()) else "no"
    if good and told and all(s["injected"]["low"] > _best(s) for s in told):
        verdict = "yes"
    elif leads:
        verdict = "partly" if min(leads.values()) > 0 else "no"
    low = f"lowest {plain(lowest)}: {_measured(sets[lowest]['injected'])}"
    text = f"{percent(mean)} on average over {_counted(len(sets), 'other set')}, {low}."
    if leads:
        hardest = min(leads, key=lambda n: leads[n])
        rules = {b: v for b, v in sets[hardest]["baselines"].items() if v < GOOD}
        said = f" On the hardest, {plain(hardest)}, with {_measured(sets[hardest]['injected'])}, "
        text += _best_rule(rules, start=said, many=True) or f"{said}no trivial rule is known."
    return verdict, text


def _best(s: Mapping[str, Any]) -> float:
    """What the best trivial rule gets of a set."""
    return max(s["baselines"].values(), default=0.0)


def _lead(s: Mapping[str, Any]) -> float | None:
    """How far the whole interval is above the best rule below 90 %; None where all rules get more."""
    rules = [v for v in s["baselines"].values() if v < GOOD]
    return None if s["baselines"] and not rules else s["injected"]["low"] - max(rules, default=0.0)


def readable(run: RunFiles) -> tuple[str | None, str]:
    """Verdict and sentence on the scorecard of the test set."""
    if run.is_baseline:
        return None, _BESIDE if run.is_graft else "No adapter was trained: there is nothing to read with."
    card = scorecard_of(run)
    if not card or "test" not in card["sets"]:
        return None, "`tracr-jax interpret` measures it."
    classes = card["sets"]["test"]["classes"]
    found = {n: at for n, c in classes["all"].items() if (at := _latest(c)) and c["majority"] is not None}
    last = {n: at for n, at in found.items() if at[1] < 1}
    above = [n for n, (a, floor) in last.items() if a > floor]
    result = result_name(run, card["order"])
    at = classes.get("answer", {}).get(result)
    accuracy, floor = (at and _latest(at)) or (None, 0.0)
    share = len(above) / max(len(last), 1)
    good = accuracy is not None and accuracy >= GOOD and (accuracy > floor or floor >= 1)
    verdict = "yes" if good and share >= 0.8 else "partly" if good or share >= 0.5 else "no"
    if not last:
        verdict = "open"
    against = (
        "the majority rate and a probe of the untouched model"
        if card["probed"]
        else "the majority rate (no probe yet)"
    )
    text = ""
    if accuracy is not None:
        text = f"{result} decodes at the answer in {percent(accuracy)}{_against(at)}; "
    text += f"{len(above)} of {len(last)} variables beat {against}, each at its last layer"
    left = len(found) - len(last)
    return verdict, text + (f"; {left} that these never get wrong are not counted." if left else ".")


def used(run: RunFiles) -> tuple[str | None, str]:
    """Verdict and sentence on swaps; on noise where there are no swaps."""
    if run.is_baseline:
        return None, _BESIDE if run.is_graft else "No adapter was trained: there is nothing to exchange."
    swaps = run.part("swaps")
    if swaps and swaps["cells"]:
        telling = telling_cells(swaps["cells"])
        share = sum(map(beats_controls, telling)) / max(len(telling), 1)
        own = result_swap(run)
        some = share >= 0.25 or (own is not None and beats_controls(own))
        moved, total = outside(swaps["cells"])
        alone = moved <= 0.05 * total
        verdict = "yes" if share >= 0.9 and alone else "partly" if some else "no"
        return verdict if telling else "open", swaps_reading(run)
    noise = run.part("noise")
    if not noise:
        return None, "`tracr-jax interpret` measures it."
    at = telling_noise(noise)
    apart = at["result"]["high"] < at["random"]["low"]
    return ("partly" if apart else "no"), noise_reading(run)


def kept(run: RunFiles) -> tuple[str | None, str]:
    """Verdict and sentence on the retention table; on evaluation.json's perplexity where there is none."""
    lost = [r["name"] for r in retention_rows(run) if r["injected"] is None and "injected not finite" in r["note"]]
    if lost:
        return "no", f"The model's {listed(lost)} {'is' if len(lost) == 1 else 'are'} not finite."
    rows = [r for r in retention_rows(run) if _comparable(r)]
    if not rows:
        return None, "`tracr-jax retention` measures it."
    # In units of what still counts as kept, so that points and percentages can be ranked.
    row = max(rows, key=lambda r: _worse(r) / _limit(r))
    worst = _worse(row) / _limit(row)
    if worst <= 0 and len(rows) > 1:
        return "yes", f"None of {len(rows)} measures is worse than before."
    verdict = "yes" if worst <= 1 else "partly" if worst <= PARTLY else "no"
    change = ", no worse than" if worst <= 0 else " against"
    name = row["name"]
    many = f"Of {len(rows)} measures the one that lost most is {name}" if len(rows) > 1 else _capital(name)
    after, before = (
        percent(row[c]) if _is_share(row) else number(row[c], zeros=True) for c in ("injected", "original")
    )
    return verdict, f"{many}: {after}{change} {before} before{_signed(row)}."


def retention_rows(run: RunFiles) -> list[Mapping[str, Any]]:
    """The rows of retention.json; without it the one perplexity that evaluation.json has."""
    if run.retention:
        return list(run.retention["rows"])
    r = (run.evaluation or {}).get("retention")
    if not r:
        return []
    row = {"name": "perplexity on held-out text", "unit": "per token", "higher_is_better": False, "baseline": None}
    return [row | {k: r[k] for k in ("original", "injected")} | {"items": None, "note": "from evaluation.json"}]


def _is_share(row: Mapping[str, Any]) -> bool:
    return row["unit"] == "share"


def _limit(row: Mapping[str, Any]) -> float:
    return KEPT_POINTS if _is_share(row) else KEPT_RELATIVE


def _comparable(row: Mapping[str, Any]) -> bool:
    """Whether it was measured, and is not a ratio to nothing: the original's KL to itself."""
    before, after = row["original"], row["injected"]
    return before is not None and after is not None and (_is_share(row) or before > 0)


def _signed(row: Mapping[str, Any]) -> str:
    worse = _worse(row)
    if worse <= 0.005:
        return ""
    if not _is_share(row):
        return f" ({100 * worse:.2g}{NBSP}% worse)"
    within = ", their intervals overlap" if _overlap(row) else ""
    return f" ({100 * worse:.2g} points worse{within})"


def _overlap(row: Mapping[str, Any]) -> bool:
    before, after = (row.get("intervals", {}).get(c) for c in ("original", "injected"))
    return bool(before and after and before[0] <= after[1] and after[0] <= before[1])


def _worse(row: Mapping[str, Any]) -> float:
    """How much worse than the original: shares by their difference, others relative."""
    change = row["injected"] - row["original"] if _is_share(row) else row["injected"] / row["original"] - 1
    return -change if row["higher_is_better"] else change


def accuracy_reading(run: RunFiles) -> str:
    """The set on which the run is furthest above all trivial rules, and the sets on which it is below one."""
    sets = run.sets
    gains = {n: s["injected"]["accuracy"] - max(s["baselines"].values(), default=0.0) for n, s in sets.items()}
    room = {n: s["injected"]["high"] - s["injected"]["accuracy"] for n, s in sets.items()}
    below = [n for n in sets if gains[n] < 0 and room[n] < -gains[n]]
    best = max(gains, key=lambda n: gains[n])
    rule = _best_rule(sets[best]["baselines"], start=" ").strip(" .")
    text = f"{_capital(plain(best))}: {_measured(sets[best]['injected'])} right"
    text += f", where {rule[0].lower()}{rule[1:]}." if rule else "."
    if below:
        names = listed([plain(n) for n in below])
        text += f" Below the best trivial rule on {len(below)} of {len(sets)} sets: {names}."
    return text


def interference_reading(run: RunFiles) -> str:
    """The earlier program that lost most of its test set to later injections, and what the newest one reaches."""
    table = interference_of(run)
    assert table is not None
    *earlier, newest = range(len(table["tasks"]))
    # Row 0 is the original model: program i was injected in row i + 1.
    pairs = [(i, table["rows"][i + 1]["cells"][i]["test"], table["rows"][-1]["cells"][i]["test"]) for i in earlier]
    i, then, now = max(pairs, key=lambda p: p[1]["accuracy"] - p[2]["accuracy"])
    moved = then["accuracy"] - now["accuracy"]
    apart = now["high"] < then["low"] or then["high"] < now["low"]
    change = "is as it was" if not moved else "lost" if moved > 0 else "gained"
    change = change if apart or not moved else f"may have {change}"
    most = f" most of {len(pairs)} earlier programs" if len(pairs) > 1 and moved else ""
    own = table["rows"][-1]["cells"][newest]["test"]
    return (
        f"{table['tasks'][i]} {change}{most}: {_measured(now)} of its test set right, {_measured(then)} when it "
        f"was injected; {table['tasks'][newest]}, injected last, has {_measured(own)}."
    )


def length_reading(run: RunFiles) -> str:
    """Accuracy on the shortest and longest prompts of the set with the longest ones."""
    sets = lengths(run.evaluation)
    name = max(sets, key=lambda n: sets[n][-1]["to"])
    first, last = sets[name][0], sets[name][-1]
    return (
        f"On {plain(name)}, {percent(first['accuracy'])} right at {_range(first)} tokens and "
        f"{percent(last['accuracy'])} ({interval(last['low'], last['high'])}) at {_range(last)}."
    )


def loss_reading(run: RunFiles) -> str:
    """First and last value of each term."""
    curves = {c["term"]: c for c in loss_curves(run)}
    names = {"supervised": "the answer's", "alignment": "the alignment", "retention": "the language's"}
    parts = [
        f"{name} loss {_moved(curves[t])}" + (" nats per token" if t == "retention" else "")
        for t, name in names.items()
        if t in curves
    ]
    steps = run.metrics[-1]["step"] + 1
    return _capital(f"in {steps} steps {listed(parts)}.")


def _loss(value: float) -> str:
    return "0" if abs(value) < 1e-6 else number(value)  # rounding: a KL to oneself may come out as -6e-8


def _moved(curve: Mapping[str, Any]) -> str:
    first, last = curve["mean"][0], curve["mean"][-1]
    if (shown := _loss(first)) == _loss(last):
        return f"stayed {shown}"
    return f"{'fell' if last < first else 'rose'} from {shown} to {_loss(last)}"


def scorecard_reading(run: RunFiles) -> str:
    """How many variables decode well on the test set, each at the last layer that encodes it, and the worst."""
    card = scorecard_of(run)
    assert card is not None
    cells = card["sets"].get("test", next(iter(card["sets"].values())))["classes"]["all"]
    last = {n: at[0] for n, c in cells.items() if (at := _latest(c))}
    if not last:
        return "No layer encodes a variable."
    worst = min(last, key=lambda n: last[n])
    good = sum(v >= GOOD for v in last.values())
    return (
        f"{good} of {len(last)} variables decode in at least 90{NBSP}% of the positions, each at the last layer "
        f"that encodes it; the hardest is "
        f"{worst} with {percent(last[worst])}{_against(cells[worst])}."
    )


def noise_reading(run: RunFiles) -> str:
    """Accuracy under noise, by subspace, at the strength at which these differ most."""
    noise = run.part("noise")
    end = telling_noise(noise)
    start = noise["kinds"]["result"][0]
    return (
        f"Noise of strength {number(end['result']['strength'])} inside the result's "
        f"{_counted(noise['rank'], 'direction')} leaves "
        f"{percent(end['result']['accuracy'])} of the answers right, in as many random directions "
        f"{percent(end['random']['accuracy'])}, in everything but the result "
        f"{percent(end['complement']['accuracy'])}; "
        f"without noise {percent(start['accuracy'])}."
    )


def explorer_reading(run: RunFiles) -> str:
    """How many of the cells that the program defines agree, over all examples and layers."""
    right = held = 0
    examples = run.part("examples")
    for e in examples:
        for layer, truths in zip(e["layers"], e["truth"], strict=True):
            for values, truth in zip(layer["value"], truths, strict=True):
                pairs = [(v, t) for v, t in zip(values, truth, strict=True) if t is not None and v is not None]
                held += len(pairs)
                right += sum(v == t for v, t in pairs)
    hits = sum(e["answer"] == e["label"] for e in examples)
    agree = f"{percent(right / held)} of the {counted(held)} values" if held else "none of the values"
    return (
        f"In these {len(examples)} examples {agree} that the program holds are read as the program has them; "
        f"the model answers "
        f"{hits} of them right."
    )


def _latest(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    """Accuracy at the last layer that encodes the variable, and the better of majority rate and probe there."""
    at = last_layer(cell["accuracy"] or ())
    return None if at is None else (cell["accuracy"][at], max(cell["majority"] or 0.0, _probe(cell, at) or 0.0))


def _probe(cell: Mapping[str, Any], layer: int | None) -> float | None:
    return cell["probe"][layer] if layer is not None and cell.get("probe") else None


def _against(cell: Mapping[str, Any]) -> str:
    probe = _probe(cell, last_layer(cell["accuracy"] or ()))
    parts = [] if cell["majority"] is None else [f"majority {percent(cell['majority'])}"]
    parts += [] if probe is None else [f"probe {percent(probe)}"]
    return f" ({', '.join(parts)})" if parts else ""


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("s" if count != 1 else "")


def _measured(a: Mapping[str, Any]) -> str:
    return f"{percent(a['accuracy'])} ({interval(a['low'], a['high'])})"


def _best_rule(rules: Mapping[str, float], *, start: str, many: bool = False) -> str:
    if not rules:
        return ""
    name = max(rules, key=lambda n: rules[n])
    subject = "the best trivial rule" if many else "The best trivial rule"
    return f"{start}{subject}, {plain(name)}, gets {percent(rules[name])}."


def _range(b: Mapping[str, Any]) -> str:
    return str(b["from"]) if b["from"] == b["to"] else f"{b['from']}–{b['to']}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
