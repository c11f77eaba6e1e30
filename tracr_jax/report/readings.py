"""One sentence per figure, computed from the files."""

from collections.abc import Mapping
from typing import Any

from tracr_jax.report.data import interference_of, last_layer, lengths, loss_curves, scorecard_of, telling_noise
from tracr_jax.report.load import RunFiles
from tracr_jax.report.words import NBSP, capital, counted, interval, listed, number, percent, plain, several

GOOD = 0.9  # an accuracy that counts as "yes"


def accuracy_reading(run: RunFiles) -> str:
    """The set on which the run is furthest above all trivial rules, and the sets on which it is below one."""
    sets = run.sets
    gains = {n: s["injected"]["accuracy"] - max(s["baselines"].values(), default=0.0) for n, s in sets.items()}
    room = {n: s["injected"]["high"] - s["injected"]["accuracy"] for n, s in sets.items()}
    below = [n for n in sets if gains[n] < 0 and room[n] < -gains[n]]
    best = max(gains, key=lambda n: gains[n])
    rule = best_rule(sets[best]["baselines"], start=" ").strip(" .")
    text = f"{capital(plain(best))}: {measured(sets[best]['injected'])} right"
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
        f"{table['tasks'][i]} {change}{most}: {measured(now)} of its test set right, {measured(then)} when it "
        f"was injected; {table['tasks'][newest]}, injected last, has {measured(own)}."
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
    return capital(f"in {steps} steps {listed(parts)}.")


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
    last = {n: at[0] for n, c in cells.items() if (at := latest(c))}
    if not last:
        return "No layer encodes a variable."
    worst = min(last, key=lambda n: last[n])
    good = sum(v >= GOOD for v in last.values())
    return (
        f"{good} of {len(last)} variables decode in at least 90{NBSP}% of the positions, each at the last layer "
        f"that encodes it; the hardest is "
        f"{worst} with {percent(last[worst])}{against(cells[worst])}."
    )


def noise_reading(run: RunFiles) -> str:
    """Accuracy under noise, by subspace, at the strength at which these differ most."""
    noise = run.part("noise")
    end = telling_noise(noise)
    start = noise["kinds"]["result"][0]
    return (
        f"Noise of strength {number(end['result']['strength'])} inside the result's "
        f"{several(noise['rank'], 'direction')} leaves "
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


def latest(cell: Mapping[str, Any]) -> tuple[float, float] | None:
    """Accuracy at the last layer that encodes the variable, and the better of majority rate and probe there."""
    at = last_layer(cell["accuracy"] or ())
    return None if at is None else (cell["accuracy"][at], max(cell["majority"] or 0.0, _probe(cell, at) or 0.0))


def _probe(cell: Mapping[str, Any], layer: int | None) -> float | None:
    return cell["probe"][layer] if layer is not None and cell.get("probe") else None


def against(cell: Mapping[str, Any]) -> str:
    """What a scorecard's cell is compared with at its last layer, in brackets; nothing where nothing is known."""
    probe = _probe(cell, last_layer(cell["accuracy"] or ()))
    parts = [] if cell["majority"] is None else [f"majority {percent(cell['majority'])}"]
    parts += [] if probe is None else [f"probe {percent(probe)}"]
    return f" ({', '.join(parts)})" if parts else ""


def measured(a: Mapping[str, Any]) -> str:
    """An accuracy with its interval."""
    return f"{percent(a['accuracy'])} ({interval(a['low'], a['high'])})"


def best_rule(rules: Mapping[str, float], *, start: str, many: bool = False) -> str:
    """A sentence on the best trivial rule, behind `start`; nothing where there is none."""
    if not rules:
        return ""
    name = max(rules, key=lambda n: rules[n])
    subject = "the best trivial rule" if many else "The best trivial rule"
    return f"{start}{subject}, {plain(name)}, gets {percent(rules[name])}."


def _range(b: Mapping[str, Any]) -> str:
    return str(b["from"]) if b["from"] == b["to"] else f"{b['from']}–{b['to']}"
