"""Time to a faithful injection: training until the hard sets are answered and the language is still there.

  python -m experiments.benchmarks.faithful [--methods variable exchange finetune] [--seeds 100 101 102]
  python -m experiments.benchmarks.faithful --write      trains nothing: the table of the runs that have ended

Seconds of training, items and operations until near_miss_balanced and order_miss_balanced are both at least 95 %
right and the held-out perplexity is at most 1.15 times the original's, at the first evaluation where all three
hold. Training follows each method's preset, whose rate falls over its steps, on seeds that no other table uses;
evaluation (on items of the sets that no run reports) and compilation are not counted. A run ends when it is
faithful, after its steps, or after --budget seconds; started again, the script goes on where it was stopped.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import contextlib
import dataclasses
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmarks import common

if TYPE_CHECKING:
    from tracr_jax.config import RunConfig
    from tracr_jax.runs.build import Setup

SETS = ("near_miss_balanced", "order_miss_balanced")
RIGHT, PERPLEXITY = 0.95, 1.15


def race(config: "RunConfig", folder: Path, *, every: int, budget: float, items: int) -> dict[str, Any]:
    """Train one run until it is faithful: its curve, and what it took ("reached" null where it never was).

    Args:
      config: the run, on a task with both `SETS`.
      folder: receives checkpoints and the curve so far.
      every: steps between evaluations.
      budget: seconds of training.
      items: of each set.
    """
    import jax
    from optax.tree_utils import tree_size

    from tracr_jax.files import read_json, write_json
    from tracr_jax.measure.answers import score_model
    from tracr_jax.runs.build import build, make_batch_at, make_parts
    from tracr_jax.runs.model import untouched
    from tracr_jax.train.checkpoint import Checkpoints
    from tracr_jax.train.loop import fit
    from tracr_jax.train.metrics import JsonLines
    from tracr_jax.train.trainable import whole

    setup = build(config, task=config.task, lm=config.lm)
    run = untouched(setup)
    sets = {name: run.program.task.eval_sets()[name] for name in SETS}
    samples = {name: [s.item(s.size - 1 - i) for i in range(items)] for name, s in sets.items()}
    state, frozen, step = make_parts((setup,))
    batch_at, curve_file = make_batch_at((setup,)), folder / "curve.json"
    with contextlib.closing(Checkpoints(folder / "checkpoints")) as checkpoints:
        curve: list[dict[str, Any]] = []
        if curve_file.exists() and checkpoints.latest() is not None:
            state, curve = checkpoints.restore(state), read_json(curve_file)
            curve = [at for at in curve if at["step"] <= int(state.step)]
        begun = time.perf_counter()
        step = step.lower(state, frozen, batch_at(0)).compile()
        compiled = time.perf_counter() - begun
        before = score_model(run, run.params, samples).perplexity
        while not _ended(curve, steps=config.steps, budget=budget):
            done, spent = int(state.step), curve[-1] if curve else {"seconds": 0.0, "processor": 0.0}
            with contextlib.closing(JsonLines(folder / "metrics.jsonl", keep_below=done)) as writer:
                clock, processor = time.perf_counter(), time.process_time()
                state = fit(
                    step, state, frozen, batch_at, steps=min(done + every, config.steps), writer=writer,
                    checkpoints=checkpoints, checkpoint_every=every, progress=False,
                )  # fmt: skip
                jax.block_until_ready(state)
                clock, processor = time.perf_counter() - clock, time.process_time() - processor
            found = score_model(run, whole(setup.program.part, state.params.lm, frozen.base), samples)
            at = {"step": int(state.step), "seconds": spent["seconds"] + clock}
            at |= {"processor": spent["processor"] + processor, "perplexity": found.perplexity / before}
            curve.append(at | {name: sum(right) / len(right) for name, right in found.right.items()})
            write_json(curve_file, curve)
            print(f"{folder.name}: " + "  ".join(f"{k} {v:.3g}" for k, v in curve[-1].items()), flush=True)
    reached = curve[-1] if _faithful(curve[-1]) else None
    cost = {"items": _rows(config), "flops": step_flops(setup, trained=tree_size(state.params.lm))}
    return {"curve": curve, "reached": reached, "compile_s": compiled, "of_a_step": cost}


def _faithful(at: dict[str, Any]) -> bool:
    return min(at[name] for name in SETS) >= RIGHT and at["perplexity"] <= PERPLEXITY


def _ended(curve: list[dict[str, Any]], *, steps: int, budget: float) -> bool:
    last = curve[-1] if curve else None
    return last is not None and (_faithful(last) or last["step"] >= steps or last["seconds"] >= budget)


def _rows(config: "RunConfig") -> int:
    return config.data.batch + config.data.domain_items


def step_flops(setup: "Setup", *, trained: int) -> float:
    """Operations of the model's matrix products in one step: forward, both gradients, and θ₀'s forward.

    The weights' gradient counts as the share of the parameters that are `trained`. Rows of exchange training run
    twice, clean and exchanged. Teacher, losses and optimiser are not counted.
    """
    from optax.tree_utils import tree_size

    from experiments.benchmarks.case import forward_flops

    config, model = setup.config, setup.lm.model
    rows = _rows(config) * (2 if config.losses.alignment == "exchange" else 1)
    task = forward_flops(model, rows=rows, length=setup.program.length, logits=setup.shape.max_answers)
    length = config.data.text_length
    text = forward_flops(model, rows=config.data.text_batch, length=length, logits=length)
    share = min(1.0, trained / tree_size(setup.lm.params))
    return (2.0 + share) * (task + text) + text


def row(method: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: medians over the seeds that were faithful, and where all of them ended."""
    reached = [r for r in runs if r["reached"]]

    def median(value: Any, of: list[dict[str, Any]]) -> float | None:
        return statistics.median(map(value, of)) if of else None

    ends = {name: median(lambda r, name=name: 100 * r["curve"][-1][name], runs) for name in SETS}
    return {
        "method": method,
        "faithful": f"{len(reached)} of {len(runs)}",
        "s": median(lambda r: r["reached"]["seconds"], reached),
        "items": median(lambda r: r["reached"]["step"] * r["of_a_step"]["items"], reached),
        "PFLOP": median(lambda r: r["reached"]["step"] * r["of_a_step"]["flops"] / 1e15, reached),
        "steps at the end": median(lambda r: r["curve"][-1]["step"], runs),
        "near misses at the end, %": ends[SETS[0]],
        "order misses at the end, %": ends[SETS[1]],
        "perplexity at the end, ×": median(lambda r: r["curve"][-1]["perplexity"], runs),
    }


def main() -> None:
    """Every seed of every method; the file is written after each run."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("--methods", nargs="+", default=["variable", "exchange", "finetune"], help="as of a sweep")
    parser.add_argument("--seeds", nargs="+", type=int, default=[100, 101, 102])
    parser.add_argument("--every", type=int, default=30, help="steps between evaluations")
    parser.add_argument("--items", type=int, default=200, help="of each set")
    parser.add_argument("--budget", type=float, default=1800.0, help="seconds of training of a run")
    parser.add_argument("--lm", default="tiny")
    parser.add_argument("--full", action="store_true", help="the presets' longer forms")
    parser.add_argument("--runs", type=Path, default=Path("runs/faithful"))
    parser.add_argument("--write", action="store_true", help="train nothing: of the runs that have ended")
    args = parser.parse_args()

    from tracr_jax.files import read_json, write_json
    from tracr_jax.sweep import configured

    about, results, rows = common.machine(), {m: {} for m in args.methods}, []
    for seed in args.seeds[:1] if args.small else args.seeds:
        for method in args.methods:
            lm = "random:128x24" if args.small else args.lm
            config = configured(
                method, task="dyck", lm=lm, seed=seed, full=args.full, steps=2 if args.small else None
            )
            sizes = {"every": 1, "items": 4} if args.small else {"every": args.every, "items": args.items}
            folder = args.runs / f"{method}-seed{seed}".replace(":", "")
            ended = folder / "ended.json"
            if args.write and not ended.exists():
                continue
            if not ended.exists():
                found = race(config, folder, budget=args.budget, **sizes)
                write_json(ended, found | {"config": dataclasses.asdict(config), "machine": about})
            results[method][str(seed)] = read_json(ended)
            about = results[method][str(seed)]["machine"]  # where it ran
            rows = [row(m, list(r.values())) for m, r in results.items() if r]
            common.write("faithful", args, about, results, title=_TITLE, rows=rows)
    common.finish("faithful", args, about, results, title=_TITLE, rows=rows)


_TITLE = "Time to a faithful injection of dyck, medians over seeds"

if __name__ == "__main__":
    common.main(main)
