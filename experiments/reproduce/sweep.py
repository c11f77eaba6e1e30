"""All tasks x methods x seeds on one language model: the sweep behind the result table. Source: issue 4.

  python -m experiments.reproduce                                 the bundled model, 27 runs
  python -m experiments.reproduce --lm smollm2-135m-instruct --tasks dyck --seeds 0 --steps 600
  python -m experiments.reproduce --write                         the tables of results.md and README.md

Seed 0 of every cell comes first, then the next seeds. Each run is `tracr_jax.inject` with its preset, in its own
folder; a finished one (evaluation.json) is skipped, a started one goes on from its checkpoint, bit for bit. The
results file is rewritten after every run. Hardware, times and measured results: experiments/results.md, diary.md.
"""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from experiments.reproduce import results as R
from experiments.reproduce.display import Display
from experiments.reproduce.table import markdown, write_pages
from tracr_jax.config_file import to_dict
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.lm.load import load_lm
from tracr_jax.names import RANDOM
from tracr_jax.sweep import Planned, configured, make_run
from tracr_jax.sweep import check as check_folders

HERE = Path(__file__).resolve().parents[1]
TASKS = ("dyck", "int_sum", "count")
METHODS = ("variable", "cosine", "finetune")
SEEDS = (0, 1, 2)


def plan(args: argparse.Namespace) -> list[Planned]:
    """The runs in their order: all cells of a seed before the next seed."""
    folder = args.runs or Path("runs") / "reproduce" / R.label(args.lm)
    out = []
    for seed in dict.fromkeys(args.seeds):
        for task in dict.fromkeys(args.tasks):
            for method in dict.fromkeys(args.methods):
                config = configured(
                    method,
                    task=task,
                    lm=args.lm,
                    seed=seed,
                    steps=args.steps,
                    eval_items=args.eval_items,
                    full=True,
                )
                data = dataclasses.replace(config.data, batch=args.batch or config.data.batch)
                config = dataclasses.replace(config, data=data)
                out.append(Planned(method, config, folder / f"{task}-{method}-seed{seed}"))
    return out


def check(runs: Sequence[Planned], results: dict, *, out: Path, replace: bool) -> None:
    """Before anything runs: neither a folder nor a cell may mix two settings."""
    check_folders(runs)
    for run in runs:
        cell = results["cells"].get(run.config.task, {}).get(run.method)
        changed = cell and list(R.differences(R.current(cell["config"]), R.cell_config(to_dict(run.config))))
        if changed and (cell["runs"] or cell.get("failed")) and not replace:
            raise UserError(
                f"{out}: {run.config.task}, {run.method} was measured with other options ({'; '.join(changed)}); "
                "give another --out, or --replace to drop the cell's numbers"
            )
        if changed:
            del results["cells"][run.config.task][run.method]


def sweep(args: argparse.Namespace, *, command: str) -> list[Planned]:
    """Do what is not done yet; returns the runs that failed."""
    out = args.out or HERE / f"results_{R.label(args.lm)}.json"
    runs = plan(args)
    results = R.load(out, lm=args.lm)
    check(runs, results, out=out, replace=args.replace)
    for run in runs:
        R.plan(results, task=run.config.task, method=run.method, config=to_dict(run.config), seed=run.config.seed)
    done = [run for run in runs if run.finished]
    for run in done:
        R.record(results, run.folder, task=run.config.task, method=run.method)
    R.stamp(results, command)
    if done:
        write_json(out, results)
    todo, failed = [run for run in runs if not run.finished], []
    # The weights of an untrained model are drawn from each run's own seed.
    fixed = todo and not args.lm.startswith(RANDOM)
    lm = load_lm(args.lm, dtype=todo[0].config.dtype) if fixed else None
    with Display(total_steps=sum(run.config.steps for run in todo), runs=len(todo), skipped=len(done)) as display:
        for run in todo:
            cell = {"task": run.config.task, "method": run.method}
            display.start(f"{run.config.task}, {run.method}, seed {run.config.seed}", steps=run.config.steps)
            try:
                make_run(run, lm=lm, writers=(display,), say=display.say)
            except TrainingDivergedError as e:
                # One cell that diverges is a result too; the others go on.
                failed.append(run)
                why = str(e).split(";")[0]
                R.record_failure(results, **cell, seed=run.config.seed, message=why)
                display.finish(f"failed: {e}")
            else:
                values = R.record(results, run.folder, **cell)
                display.finish(_line(values))
            write_json(out, results)
            jax.clear_caches()  # every run compiles its own step; none is used again
    print(f"{len(runs) - len(failed)} of {len(runs)} runs finished, {out}")
    return failed


def _line(values: dict[str, float]) -> str:
    decoded = next((v for k, v in values.items() if k.startswith("decode/final_result")), float("nan"))
    return (
        f"test {100 * values['accuracy/test']:.1f} %, result decoded {100 * decoded:.1f} %, "
        f"perplexity x{values['perplexity/ratio']:.3f}, {values['seconds/training'] / 60:.1f} min of training"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise UserError(f"{message}; see --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--lm", default="tiny", help="tiny, smollm2-135m-instruct, a folder or a hub id")
    add("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK", help=" ".join(TASKS))
    add("--methods", nargs="+", default=METHODS, choices=METHODS, metavar="METHOD", help=" ".join(METHODS))
    add("--seeds", nargs="+", type=int, default=SEEDS, metavar="SEED", help="of batches and of the adapter")
    add("--steps", type=_positive, help="training steps, instead of the preset's")
    add("--batch", type=_positive, help="supervised items per step, instead of the preset's")
    add("--eval-items", type=_positive, help="items of each evaluation set, instead of the preset's")
    add("--runs", type=Path, help="where the run folders go; default runs/reproduce/LM")
    add("--out", type=Path, help="results file; default experiments/results_LM.json")
    add("--replace", action="store_true", help="drop a cell of the results file measured with other options")
    add("--table", type=Path, metavar="JSON", help="run nothing: print the Markdown table of a results file")
    add(
        "--write",
        action="store_true",
        help="run nothing: write the tables of results.md and README.md",
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def main(argv: Sequence[str] | None = None) -> None:
    """Exit status: 0 all there, 1 a run diverged, 2 something to change (one line says what), 130 interrupted."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        args = _parser().parse_args(argv)
        if args.write:
            write_pages(HERE.parent)
        elif args.table:
            print(markdown(read_json(args.table)), end="")
        elif sweep(args, command=R.shown_command(["experiments/reproduce", *argv])):
            sys.exit(1)
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it stopped", file=sys.stderr)
        sys.exit(130)
