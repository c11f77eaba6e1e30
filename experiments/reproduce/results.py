"""From run folders to one results file: per cell (task x method) every seed's numbers, their mean and spread.

    {"lm", "command", "machine", "environments": [...], "cells": {task: {method: CELL}}}
    CELL = {"config" (all but the seed), "planned_seeds", "sets", "majority", "runs": {seed: RUN}, "summary",
            "failed"}
    RUN  = {"started", "command", "environment" (index), "values": {quantity: number}}

Quantities: accuracy/SET, decode/VARIABLE (test set, all positions, last aligned layer), decode_at_answer/VARIABLE,
perplexity/{before,after,ratio}, seconds/{setup,training,evaluation,per_step}. Accuracies are shares, 0 to 1.
"majority" is what always the same value would decode: most variables rest at one value at most positions.
"""

import json
import os
import platform
import shlex
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracr_jax.config_file import from_dict, to_dict
from tracr_jax.errors import UserError
from tracr_jax.files import read_json
from tracr_jax.train.metrics import read_lines

_ENVIRONMENT = ("tracr_jax", "python", "packages", "device", "machine")


def label(lm: str) -> str:
    """Short name of a model, for file names and the markers of tables."""
    name = Path(lm).name.lower()
    return "smollm2" if name.startswith("smollm2-") else name


def empty(lm: str) -> dict[str, Any]:
    """Results without a cell."""
    return {"lm": lm, "command": "", "machine": {}, "environments": [], "cells": {}}


def load(path: Path, *, lm: str) -> dict[str, Any]:
    """The results file, or empty results where there is none; a UserError where it is another model's."""
    if not path.exists():
        return empty(lm)
    results = read_json(path)
    if not isinstance(results, dict) or "cells" not in results:
        raise UserError(f"{path}: not a results file, it has no cells; give another --out")
    if results.get("lm") != lm:
        raise UserError(f"{path}: holds results of {results.get('lm')}, not of {lm}; give another --out")
    return results


def cell_config(config: dict[str, Any]) -> dict[str, Any]:
    """What all seeds of a cell share, as JSON reads it back."""
    return json.loads(json.dumps({k: v for k, v in config.items() if k != "seed"}))


def current(config: dict[str, Any]) -> dict[str, Any]:
    """A cell's configuration as today's code reads it, with the defaults of fields newer than the file."""
    return cell_config(to_dict(from_dict(config)))


def differences(a: dict[str, Any], b: dict[str, Any], prefix: str = "") -> Iterator[str]:
    """Fields of two nested configurations that differ, as "name old -> new"."""
    for key in sorted(a.keys() | b.keys()):
        old, new = a.get(key), b.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key} {old!r} -> {new!r}"


def plan(results: dict[str, Any], *, task: str, method: str, config: dict[str, Any], seed: int) -> None:
    """Enter a run that is wanted, so that the table can say what is missing."""
    cell = (
        results["cells"]
        .setdefault(task, {})
        .setdefault(
            method,
            {
                "config": cell_config(config),
                "planned_seeds": [],
                "sets": {},
                "majority": {},
                "runs": {},
                "summary": {},
            },
        )
    )
    cell["planned_seeds"] = sorted({*cell["planned_seeds"], seed})


def record(results: dict[str, Any], folder: Path, *, task: str, method: str) -> dict[str, float]:
    """Enter a finished run from its folder; returns its values."""
    config, about = read_json(folder / "config.json"), read_json(folder / "run.json")
    evaluation = read_json(folder / "evaluation.json")
    plan(results, task=task, method=method, config=config, seed=config["seed"])
    cell, seed = results["cells"][task][method], str(config["seed"])
    values = read_values(evaluation, read_lines(folder / "metrics.jsonl"), config["steps"], about.get("times", {}))
    environment = {k: about.get(k) for k in _ENVIRONMENT}
    if environment not in results["environments"]:
        results["environments"].append(environment)
    cell["runs"][seed] = {
        "started": about.get("started"),
        "command": shown_command(about["command"]),
        "environment": results["environments"].index(environment),
        "values": values,
    }
    cell["runs"] = dict(sorted(cell["runs"].items(), key=lambda item: int(item[0])))
    # Sets, the untouched model and the trivial predictors do not depend on the seed.
    cell["sets"] = {
        name: {
            "note": s["note"],
            "size": s["size"],
            "sample": s["sample"],
            "overlap_with_training": s["overlap_with_training"],
            "original": s["original"]["accuracy"],
            "baselines": s["baselines"],
        }
        for name, s in evaluation["sets"].items()
    }
    decode = evaluation["decode"]["test"]
    cell["majority"] = {
        f"{kind}/{name}": v["majority"]
        for kind, at in (("decode", "all_positions"), ("decode_at_answer", "answer_positions"))
        for name, v in decode[at].items()
        if f"{kind}/{name}" in values
    }
    cell["summary"] = summarise({k: run["values"] for k, run in cell["runs"].items()})
    cell.get("failed", {}).pop(seed, None)
    return values


def record_failure(results: dict[str, Any], *, task: str, method: str, seed: int, message: str) -> None:
    """Enter why a run has no numbers."""
    results["cells"][task][method].setdefault("failed", {})[str(seed)] = message


def read_values(
    evaluation: dict[str, Any], metrics: list[dict[str, Any]], steps: int, times: dict[str, float]
) -> dict[str, float]:
    """The quantities of one run; what was not measured is left out.

    Seconds of training are summed over the lines of metrics.jsonl, because the times in run.json are those of
    the last process only, and a run may have been resumed.
    """
    decode, kept = evaluation["decode"]["test"], evaluation["retention"]
    values = {f"accuracy/{name}": s["injected"]["accuracy"] for name, s in evaluation["sets"].items()}
    for name, variable in decode["all_positions"].items():
        values[f"decode/{name}"] = variable["accuracy"]
    for name, variable in decode["answer_positions"].items():
        if name.startswith("final_result"):
            values[f"decode_at_answer/{name}"] = variable["accuracy"]
    values |= {
        "perplexity/before": kept["original"],
        "perplexity/after": kept["injected"],
        "perplexity/ratio": kept["injected"] / kept["original"],
        "seconds/setup": times.get("setup_s"),
        "seconds/training": times.get("training_s"),
        "seconds/evaluation": times.get("evaluation_s"),
    }
    seconds = [line["seconds"] for line in metrics if line.get("seconds") is not None]
    if seconds:
        values["seconds/training"] = sum(seconds) * steps / len(seconds)
        values["seconds/per_step"] = statistics.median(seconds)
    return {k: float(v) for k, v in values.items() if v is not None}


def summarise(by_seed: dict[str, dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Of every quantity the mean, the sample standard deviation (null below two seeds) and each seed's value."""
    names = dict.fromkeys(name for values in by_seed.values() for name in values)
    out = {}
    for name in names:
        values = {seed: v[name] for seed, v in by_seed.items() if name in v}
        spread = statistics.stdev(values.values()) if len(values) > 1 else None
        out[name] = {"mean": statistics.fmean(values.values()), "spread": spread, "values": values}
    return out


def shown_command(argv: list[str]) -> str:
    """A command as a reader types it in the checkout: the script's place on this machine is nobody's business."""
    parts = Path(argv[0]).with_suffix("").parts
    if "experiments" not in parts:
        return shlex.join(argv)
    at = len(parts) - 1 - parts[::-1].index("experiments")
    module = ".".join(p for p in parts[at:] if p != "__main__")
    return shlex.join(["python", "-m", module, *argv[1:]])


def stamp(results: dict[str, Any], command: str) -> None:
    """Say which command wrote the file last, and on what."""
    results["command"] = command
    results["machine"] = {"platform": platform.platform(), "cpu": _cpu(), "cores": os.cpu_count()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), platform.processor())
