"""Run folders with made-up numbers that look like a trained run, to the contract of the files the report reads.

The brackets' counts, differences and the result are computed from the prompt, so the explorer shows true values;
what the "model" reads off and how it answers is drawn with the given quality.
"""

import json
import math
from pathlib import Path

import numpy as np

from tracr_jax.config import DataConfig, LossConfig, RunConfig
from tracr_jax.config_file import to_dict
from tracr_jax.files import write_json
from tracr_jax.stats import share

LAYERS = 8
COUNTS = [str(k) for k in range(13)]
SIGNS = [str(k) for k in range(-6, 7)]
VARIABLES = [
    ("tokens", ["(", ")", "[", "]", "compute", "pad"], 0, 7),
    ("indices", [str(k) for k in range(24)], 0, 6),
    *((f"{b}_{kind}", COUNTS, 1, 3) for b in "([{" for kind in ("start_counts", "end_counts")),
    *((f"{b}_diffs", SIGNS, 2, 4) for b in "([{"),
    *((f"{b}_negative_counters", ["False", "True"], 3, 5) for b in "([{"),
    ("aggregated_diffs_4", ["False", "True"], 4, 6),
    ("aggregated_negatives_3", ["False", "True"], 5, 6),
    ("unfiltered_result_2", ["False", "True"], 6, 7),
    ("final_result_1", ["False", "True"], 7, None),
    ("mean_length_selector_width_attn_output_of_a_long_name", [], 2, 4),
]
NAMES = [v[0] for v in VARIABLES]
SETS = {
    "test": ("In distribution: half random, half balanced.", 0.5, 0.7, 1.0, 0.02),
    "near_miss_balanced": ("Half near misses, half balanced strings of the same lengths.", 0.5, 0.5, 1.0, 0.06),
    "order_miss_balanced": ("Half with an opener and a closer exchanged.", 0.5, 0.5, 0.5, 0.12),
    "length_ood": ("As test, lengths 31 to 90 only.", 0.5, 0.78, 1.0, 0.2),
}
PROMPTS = (
    "(([]))",
    "([)]()",
    "((()[]",
    "[[()()]]((",
    "<script>alert('&lt;')</script>\u202e()",
    "(a prompt of many words that is as long as a line and goes on\nafter it) " * 2,
)


def make_run(
    folder: Path,
    *,
    quality: float = 0.95,
    seed: int = 0,
    baseline: bool = False,
    leave_out: tuple[str, ...] = (),
    prompts: tuple[str, ...] = PROMPTS,
    lm: str = "tiny",
    programs: tuple[str, ...] = (),
) -> Path:
    """Write a run folder; `quality` is roughly the accuracy, `leave_out` names files that are not written.

    programs: names of several programs, each of which halves what the earlier ones have left.
    """
    rng = np.random.default_rng(seed)
    losses = LossConfig(alignment="none", hook=False) if baseline else LossConfig()
    config = RunConfig(lm=lm, seed=seed, losses=losses, data=DataConfig(batch=32))
    run = {
        "tracr_jax": "0.1.0",
        "command": ["/usr/bin/tracr-jax", "inject", "dyck", "--seed", str(seed)],
        "started": "2026-11-24T17:20:10Z",
        "python": "3.11.7",
        "packages": {"jax": "0.10.2", "flax": "0.12.8"},
        "device": "1 x cpu",
        "times": {"setup_s": 9.5, "training_s": 157.1, "evaluation_s": 31.0},
        "peak_host_memory_gib": 3.1,
    }
    files = {
        "config.json": to_dict(config),
        "run.json": run,
        "evaluation.json": _evaluation(rng, quality),
        "retention.json": _retention(rng),
    }
    if programs:
        files["evaluation.json"]["programs"] = _programs(programs)
    if not baseline:
        files["interpretation.json"] = interpretation(rng, quality, prompts)
    folder.mkdir(parents=True)
    for name, value in files.items():
        if name not in leave_out:
            write_json(folder / name, value)
    if "metrics.jsonl" not in leave_out:
        steps = range(0, 400)
        lines = [json.dumps(_step(rng, s, baseline)) for s in steps]
        (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def _step(rng, s, baseline):
    noise = lambda: float(np.exp(0.12 * rng.normal()))  # noqa: E731
    terms = {
        "supervised": (0.02 + 5 * math.exp(-s / 40)) * noise(),
        "retention": (0.05 + 2 * s / 400 * 0.2) * noise(),
    }
    if not baseline:
        terms["alignment"] = (0.04 + 2 * math.exp(-s / 70)) * noise()
    return {"step": s, **terms, "loss": sum(terms.values()), "alignment_parts": [1.0, 2.0], "seconds": 0.4}


def _draw(rng, p, total=300):
    return share(int(rng.binomial(total, min(max(p, 0.0), 1.0))), total)


def _evaluation(rng, quality):
    sets, decode = {}, {}
    for name, (note, no, even, counts, harder) in SETS.items():
        spans = range(34, 94, 3) if name == "length_ood" else range(6, 34, 2)
        rows = []
        for i, length in enumerate(spans):
            total = 300 // len(spans)
            right = rng.binomial(total, min(1.0, max(0.5, quality - harder * i / len(spans))))
            rows.append({"length": length, "right": int(right), "total": total})
        right, total = sum(r["right"] for r in rows), sum(r["total"] for r in rows)
        sets[name] = {
            "note": note,
            "size": 4000,
            "sample": total,
            "overlap_with_training": 0.0 if name != "near_miss_balanced" else 0.031,
            "injected": share(right, total),
            "original": _draw(rng, 0.07, total),
            "baselines": {"always_no": no, "even_length": even, "counts_ignoring_order": counts},
            "by_length": rows,
        }
        both = {n: _decoded(rng, n, quality) for n, values, _, _ in VARIABLES if values}
        decode[name] = {"unlabelled_values": 0, "all_positions": both, "answer_positions": both}
    retention = {"text": "held-out windows", "original": 37.77, "injected": 39.02}
    return {"items_per_set": 300, "sets": sets, "decode": decode, "retention": retention}


def _programs(names):
    def sets(right):
        return {"test": share(right, 100), "near_miss": share(right // 2, 100), "longer": share(right // 4, 100)}

    after = []
    for k, name in enumerate(names):
        held = {n: sets(96 // 2 ** (k - i)) for i, n in enumerate(names[: k + 1])}
        variables = {n: 0.97 - 0.1 * (k - i) for i, n in enumerate(names[: k + 1])}
        row = {"task": name, "run": f"runs/{name}", "steps": 100 + k, "sets": held, "variables": variables}
        after.append(row)
    return {"tasks": list(names), "before": {n: sets(3) for n in names}, "after": after}


def _decoded(rng, name, quality):
    cell = _cell(rng, name, quality)
    return {
        "accuracy": cell["accuracy"][-1],
        "majority": cell["majority"],
        "positions": cell["positions"],
        "by_layer": cell["accuracy"],
    }


def _cell(rng, name, quality):
    values, writer = next((v, w) for n, v, w, _ in VARIABLES if n == name)
    majority = 0.25 + 0.4 * rng.random() if len(values) > 2 else 0.5 + 0.3 * rng.random()
    hard = 0.75 if "end_counts" in name or name == "indices" else 1.0
    accuracy, probe = [], []
    for layer in range(LAYERS):
        held = layer >= writer
        accuracy.append(round(min(1.0, hard * quality + 0.04 * rng.normal()), 4) if held else None)
        probe.append(round(min(1.0, majority + 0.25 * rng.random()), 4) if held else None)
    return {"positions": 3000, "majority": round(majority, 4), "accuracy": accuracy, "probe": probe}


def _retention(rng):
    perplexity = {"unit": "perplexity per token", "higher_is_better": False, "items": 32768}
    rows = [
        {"name": "LAMBADA, last word", "unit": "share", "higher_is_better": True, "original": 0.31,
         "injected": 0.29, "baseline": 0.22, "items": 1000, "note": "the first 1000 of 5153 texts",
         "intervals": {"original": [0.28, 0.34], "injected": [0.26, 0.32], "baseline": [0.2, 0.25]}},
        {"name": "WikiText-2", **perplexity, "original": 31.4, "injected": 33.0, "baseline": 41.7, "note": "test"},
        {"name": "KL to the original", "unit": "nats per token", "higher_is_better": False, "original": 0.0,
         "injected": 0.041, "baseline": 0.2, "items": 32768, "note": ""},
        {"name": "SST-2", "unit": "share", "higher_is_better": True, "original": None, "injected": None,
         "baseline": None, "items": 0, "note": "not run: no data in --data-dir"},
    ]  # fmt: skip
    return {"about": {}, "rows": rows}


def interpretation(rng, quality, prompts=PROMPTS):
    """interpretation.json to the contract."""
    classes = ("all", "prompt", "program", "marker", "answer")
    categorical = [n for n, values, _, _ in VARIABLES if values]
    sets = {
        name: {
            "items": 300,
            "unlabelled_values": 12 if name == "length_ood" else 0,
            "classes": {c: {n: _cell(rng, n, quality) for n in categorical} for c in classes},
        }
        for name in SETS
    }
    return {
        "about": {"command": ["tracr-jax", "interpret"], "packages": {}, "device": "1 x cpu", "seconds": {},
                  "blocks": 24, "depth": LAYERS - 1},
        "variables": [
            {"name": n, "kind": "categorical" if v else "numerical", "values": v, "writer_layer": w,
             "last_reader_layer": r}
            for n, v, w, r in VARIABLES
        ],
        "scorecard": {"layers": LAYERS, "sets": sets},
        "noise": _noise(rng, quality),
        "swaps": _swaps(rng, quality),
        "examples": [_example(rng, quality, name, p) for name, p in zip(list(SETS) * 9, prompts, strict=False)],
    }  # fmt: skip


def _noise(rng, quality):
    fall = {"result": 0.5, "random": 0.02, "complement": 0.3}
    kinds = {
        kind: [
            {"strength": e, **_draw(rng, quality - f * (1 - math.exp(-e / 8)), 3000), "per_seed": [quality]}
            for e in (0, 5, 10, 30)
        ]
        for kind, f in fall.items()
    }
    return {"set": "test", "prompts": 1000, "rank": 2, "block": 9, "seeds": [0, 1, 2], "strengths": [0, 5, 10, 30],
            "as_coded": False, "kinds": kinds}  # fmt: skip


def _swaps(rng, quality):
    cells = []
    for name, values, writer, reader in VARIABLES:
        if not values or reader is None:
            continue
        for layer in range(max(1, writer), reader):
            strength = quality - 0.3 * rng.random() - (0.35 if "counts" in name else 0)
            cells.append(
                {
                    "variable": name,
                    "layer": layer,
                    "total": 120,
                    "match": _draw(rng, strength, 120),
                    "controls": {
                        "random": _draw(rng, 0.45, 120),
                        "complement": _draw(rng, 0.3, 120),
                        # As in a program with one variable.
                        "other": None if name == "indices" else _draw(rng, 0.42, 120),
                    },
                    "ceiling": _draw(rng, 0.998, 120),
                    "unmoved": _draw(rng, 0.4, 120),
                    "flips": 72,
                }
            )
    left_out = [{"variable": "final_result_1", "layer": None, "reason": "never read by another variable"},
                {"variable": NAMES[-1], "layer": 2, "reason": "numerical"}]  # fmt: skip
    return {"set": "test", "pairs": 120, "mode": "source", "cells": cells, "left_out": left_out}


def _example(rng, quality, name, text):
    tokens = ["Is", " this", " balanced", "?", *text, " ->", " yes"]
    truth = _truth(tokens)
    layers = []
    for layer in range(LAYERS):
        value, margin = [], []
        for row, (_, values, _, _) in zip(truth[layer], VARIABLES, strict=True):
            drawn = [_read(rng, t, len(values), quality) for t in row]
            value.append([v for v, _ in drawn])
            margin.append([m for _, m in drawn])
        layers.append({"value": value, "margin": margin})
    label = "yes" if text.count("(") == text.count(")") else "no"
    return {
        "set": name,
        "prompt": f"Is this balanced? {text} ->",
        "label": label,
        "answer": label if rng.random() < quality else {"yes": "no", "no": "yes"}[label],
        "tokens": tokens,
        "answer_positions": [len(tokens) - 2],
        "layers": layers,
        "truth": truth,
    }


def _read(rng, truth, size, quality):
    if not size:
        return None, 0.0
    if truth is None:
        return int(rng.integers(size)), 0.1
    if rng.random() < quality:
        return truth, round(float(2 + 3 * rng.random()), 2)
    return (truth + 1) % size, round(float(rng.random()), 2)


def _truth(tokens):
    """[layer][variable][token]: index of the value, or None before it is written."""
    rows = []
    for name, values, writer, _ in VARIABLES:
        row: list[int | None] = []
        for k, token in enumerate(tokens):
            before = "".join(tokens[: k + 1])
            opener = name[0]
            closer = {"(": ")", "[": "]", "{": "}"}.get(opener, "")
            if name == "tokens":
                row.append(values.index(token) if token in values else 5)
            elif name == "indices":
                row.append(min(k, len(values) - 1))
            elif "_counts" in name:
                row.append(min(before.count(opener if "start" in name else closer), 12))
            elif "_diffs" in name and closer:
                row.append(min(max(before.count(opener) - before.count(closer), -6), 6) + 6)
            elif values:
                row.append(int(before.count("(") == before.count(")")))
            else:
                row.append(None)
        rows.append((writer, row))
    return [[row if layer >= writer else [None] * len(row) for writer, row in rows] for layer in range(LAYERS)]
