"""Every task of the zoo by every method on the bundled model: answers, variables read and used, language lost.

    python -m experiments.zoo [--tasks histogram sort …] [--methods variable lora:16 …] [--seeds 0]
    python -m experiments.zoo --write         the tables of results.md and README.md, from zoo.json

A run lies below --runs and is made by its preset, or continued; zoo.json is rewritten after each. What one run
reaches is `measure`; the table names a cell that was not run.
"""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from experiments import marked
from experiments.benchmarks import common
from tracr_jax.config import RunConfig
from tracr_jax.config_file import from_dict, to_dict
from tracr_jax.data.samples import reported_samples
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.interpret.swap import swaps
from tracr_jax.measure.answers import baseline_shares
from tracr_jax.runs.model import Injected
from tracr_jax.sweep import Planned, configured, hardest, make_run
from tracr_jax.tasks.registry import get_task
from tracr_jax.tasks.zoo import ZOO

HERE = Path(__file__).resolve().parent
FILE = HERE / "zoo.json"
METHODS = ("variable", "lora:16", "finetune", "graft", "random:embeddings")
# What the README shows.
SHOWN = ("histogram", "sort", "reverse", "most_frequent", "parity")
TITLES = {"variable": "injection", "finetune": "fine-tuning", "graft": "the graft"}


def measure(run: Injected, *, pairs: int) -> dict[str, Any]:
    """What a finished run reaches.

    "sets": share right of each; "perplexity": a multiple of the original's; "digest": of the test items; "kl":
    nats per token, mean, from the original on held-out text. Of a run with an adapter also "decoded": each
    variable on the test set, and "followed": for each variable the lowest share over its layers of the swaps that
    the answer follows, of `pairs` pairs a layer, among those that flip the answer and whose base is right
    (null: none such).
    """
    evaluation = run.evaluation
    assert evaluation is not None
    kept, sets = evaluation["retention"], evaluation["sets"]
    found = {
        "sets": {name: s["injected"]["accuracy"] for name, s in sets.items()},
        "perplexity": kept["injected"] / kept["original"],
        "kl": kept["kl"],
        "result": run.program.result,
        "digest": sets["test"]["digest"],
    }
    if run.program.aligned:
        decoded = evaluation["decode"]["test"]["all_positions"]
        cells = swaps(run, pairs=pairs)["cells"]
        found |= {"decoded": {n: v["accuracy"] for n, v in decoded.items()}, "followed": lowest(cells)}
    return found


def trivial_rules(name: str, *, items: int) -> dict[str, float]:
    """Of a task's sets the share that the best rule without the program answers rightly."""
    task = get_task(name)
    samples = reported_samples(task, items)
    return {of: max(baseline_shares(task, sample).values()) for of, sample in samples.items()}


def lowest(cells: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Of each variable the lowest share of swaps followed at the answer, over its layers."""
    out: dict[str, float | None] = {}
    for cell in cells:
        share, name = cell["followed"]["answer"]["swap"], cell["variable"]
        here = share["accuracy"] if share["total"] else None
        out[name] = here if out.get(name) is None else out[name] if here is None else min(out[name], here)
    return out


def _worst(decoded: Mapping[str, float | None]) -> float | None:
    """Of the variables that the sample holds somewhere."""
    return min((share for share in decoded.values() if share is not None), default=None)


def table(file: Mapping[str, Any]) -> str:
    """The table in Markdown: for each task a row by method, over seeds `_mean`; the hardest set is one for all."""
    lines = [
        f"`python -m experiments.zoo`: the bundled model, presets of each method, {file['pairs']} pairs for each "
        "layer of a variable; shares in %, of 58 to 200 items; of several seeds the mean and the range. "
        "*Hardest*: the set that all methods answer worst, training's distribution apart; *trivial*: its best "
        "baseline without the program. *Read*: the worst variable, test set. *Followed*: of the swaps that flip "
        "the program's answer, where the model is right without one, those that its answer follows, in the lowest "
        "layer, of the result and of the best other variable; without controls, and of few pairs where the model "
        "is seldom right. KL from the original in nats per token.",
        "",
        "| task | method | seeds | test | hardest | trivial | read | followed: result | followed: best other "
        "| KL |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for task in file["tasks"]:
        runs = {m: by_seed for m, by_seed in file["runs"].get(task, {}).items() if by_seed}
        if not runs:
            lines.append(f"| {task} | all | not run" + " |" * 8)
            continue
        every = [r for by_seed in runs.values() for r in by_seed.values()]
        worst = hardest([r["sets"] for r in every])
        if len({r["digest"] for r in every if "digest" in r}) > 1:
            raise UserError(f"zoo.json: {task}'s runs were asked different items; run those of one kind again")
        trivial = file["trivial"][task][worst]
        for method in file["methods"]:
            by_seed = list(runs.get(method, {}).values())
            _check_same(by_seed, f"{task}, {method}")
            if not by_seed:
                lines.append(f"| {task} | {method} | not run" + " |" * 8)
                continue
            cells = " | ".join(_cells(by_seed, worst, trivial=trivial))
            lines.append(f"| {task} | {method} | {len(by_seed)} | {cells} |")
    return "\n".join(lines)


def _check_same(runs: Sequence[Mapping[str, Any]], name: str) -> None:
    """Seeds of a cell have the same options, or their mean is of nothing."""
    # Read back, as what an earlier version did not know has its default.
    options = [dataclasses.replace(from_dict(r["config"]), seed=0) for r in runs]
    if any(o != options[0] for o in options):
        raise UserError(f"zoo.json: the seeds of {name} ran with different options; run those of one kind again")


def short_table(file: Mapping[str, Any]) -> str:
    """The README's table: strings of the test set that are answered rightly, of some tasks; over seeds `_mean`."""
    lines = [
        f"| test strings (as long as in training), % right | {' | '.join(SHOWN)} |",
        "|---|" + "--:|" * len(SHOWN),
    ]
    for method, title in TITLES.items():
        by_task = [list(file["runs"].get(task, {}).get(method, {}).values()) for task in SHOWN]
        if any(by_task):
            cells = [_mean([r["sets"]["test"] for r in runs]) if runs else "not run" for runs in by_task]
            lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float | None], *, unit: float = 0.01, digits: int = 1) -> str:
    """The mean over seeds, and their range where they differ as far as it is shown."""
    known = [v / unit for v in values if v is not None]
    if not known:
        return "–"
    low, high = (f"{end(known):.{max(0, digits - (unit < 1))}f}" for end in (min, max))
    return f"{sum(known) / len(known):.{digits}f}" + (f" ({low}–{high})" if low != high else "")


def _cells(runs: Sequence[Mapping[str, Any]], worst: str, *, trivial: float) -> list[str]:
    def best_other(run: Mapping[str, Any]) -> float | None:
        others = [s for n, s in run.get("followed", {}).items() if n != run["result"] and s is not None]
        return max(others, default=None)

    return [
        _mean([r["sets"]["test"] for r in runs]),
        f"{_mean([r['sets'][worst] for r in runs])} {worst}",
        _mean([trivial]),
        _mean([_worst(r["decoded"]) if "decoded" in r else None for r in runs]),
        _mean([r.get("followed", {}).get(r["result"]) for r in runs]),
        _mean([best_other(r) for r in runs]),
        _mean([r["kl"] for r in runs], unit=1, digits=3),
    ]


def main() -> None:
    """Every seed of every task and method, seeds outermost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(ZOO), choices=list(ZOO), metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--steps", type=int, help="default the preset's")
    parser.add_argument("--pairs", type=int, default=30, help="for each layer of a variable")
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"))
    parser.add_argument("--write", action="store_true", help="run nothing: write the tables into the pages")
    args = parser.parse_args()
    if args.write:
        file = read_json(FILE)
        # Today's rules on the items of the runs: no run need be made again for a further rule.
        file["trivial"] = {task: trivial_rules(task, items=RunConfig().eval_items) for task in file["tasks"]}
        write_json(FILE, file)
        marked.replace(HERE / "results.md", "zoo", table(file))
        marked.replace(HERE.parent / "README.md", "zoo", short_table(file))
        return
    empty = {"tasks": list(ZOO), "methods": list(METHODS), "pairs": args.pairs, "runs": {}}
    file = read_json(FILE) if FILE.exists() else empty
    if file["pairs"] != args.pairs:
        raise UserError(f"zoo.json: its runs have {file['pairs']} pairs, --pairs is {args.pairs}; give the same")
    for seed in args.seeds:
        for task in args.tasks:
            for method in args.methods:
                config = configured(method, task=task, seed=seed, steps=args.steps)
                name = f"{task}-{method}-seed{seed}".replace(":", "")
                run = Planned(method, config, args.runs / name)
                held = file["runs"].setdefault(task, {}).setdefault(method, {})
                before = held.get(str(seed))
                if before and from_dict(before["config"]) == config:
                    continue
                print(f"{task}, {run.name}", flush=True)
                injected = make_run(run, say=lambda line: print(line, flush=True))
                run_record = {"config": to_dict(config), "machine": common.machine()}
                run_record["times"] = read_json(run.folder / "run.json")["times"]
                held[str(seed)] = measure(injected, pairs=args.pairs) | run_record
                write_json(FILE, file)
                jax.clear_caches()


if __name__ == "__main__":
    common.main(main)
