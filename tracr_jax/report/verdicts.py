"""The answers to the five questions at the top of the page, computed from the files.

A verdict is "yes", "partly", "no", "open" (undecidable) or None (not measured); the page prints the
rules, `RULES`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from tracr_jax.report.data import result_name, retention_rows, scorecard_of, telling_noise
from tracr_jax.report.load import RunFiles
from tracr_jax.report.readings import GOOD, against, best_rule, latest, measured, noise_reading
from tracr_jax.report.swaps import beats_controls, outside, result_swap, swaps_reading, telling_cells
from tracr_jax.report.words import NBSP, capital, listed, number, percent, plain, several

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
    text = f"{measured(a)} of {a['total']} {plain(name)} items right; {percent(s['original']['accuracy'])} before."
    text += best_rule(s["baselines"], start=" ")
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
    low = f"lowest {plain(lowest)}: {measured(sets[lowest]['injected'])}"
    text = f"{percent(mean)} on average over {several(len(sets), 'other set')}, {low}."
    if leads:
        hardest = min(leads, key=lambda n: leads[n])
        rules = {b: v for b, v in sets[hardest]["baselines"].items() if v < GOOD}
        said = f" On the hardest, {plain(hardest)}, with {measured(sets[hardest]['injected'])}, "
        text += best_rule(rules, start=said, many=True) or f"{said}no trivial rule is known."
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
    found = {n: at for n, c in classes["all"].items() if (at := latest(c)) and c["majority"] is not None}
    last = {n: at for n, at in found.items() if at[1] < 1}
    above = [n for n, (a, floor) in last.items() if a > floor]
    result = result_name(run, card["order"])
    at = classes.get("answer", {}).get(result)
    accuracy, floor = (at and latest(at)) or (None, 0.0)
    share = len(above) / max(len(last), 1)
    good = accuracy is not None and accuracy >= GOOD and (accuracy > floor or floor >= 1)
    verdict = "yes" if good and share >= 0.8 else "partly" if good or share >= 0.5 else "no"
    if not last:
        verdict = "open"
    beaten = (
        "the majority rate and a probe of the untouched model"
        if card["probed"]
        else "the majority rate (no probe yet)"
    )
    text = ""
    if accuracy is not None:
        text = f"{result} decodes at the answer in {percent(accuracy)}{against(at)}; "
    text += f"{len(above)} of {len(last)} variables beat {beaten}, each at its last layer"
    left = len(found) - len(last)
    return verdict, text + (f"; not counted: {left} that these never get wrong." if left else ".")


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
    many = f"Of {len(rows)} measures the one that lost most is {name}" if len(rows) > 1 else capital(name)
    after, before = (
        percent(row[c]) if _is_share(row) else number(row[c], zeros=True) for c in ("injected", "original")
    )
    return verdict, f"{many}: {after}{change} {before} before{_signed(row)}."


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
