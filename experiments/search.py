"""One trial of the search behind the presets: train with some settings, look at items no reported set holds.

  python -m experiments.search h4 --task dyck --steps 240 --every 80 losses.retention_weight=0.2 data.batch=16

What is looked at: `valid`, and unseen items of the program's whole input space (for dyck by kind: random, walk,
near and order misses). Every trial is an entry of experiments/search_tiny.json; diary.md tells the story.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

import numpy as np

from experiments.reproduce.results import shown_command
from tracr_jax.config import RunConfig
from tracr_jax.config_file import from_dict, to_dict
from tracr_jax.files import read_json, write_json
from tracr_jax.measure.answers import decode_samples, make_predictor
from tracr_jax.measure.language import perplexity
from tracr_jax.presets import preset
from tracr_jax.runs.build import build, make_batch_at, make_parts
from tracr_jax.runs.model import untouched
from tracr_jax.tasks.base import Item, Task
from tracr_jax.train.loop import fit

OUT = Path(__file__).resolve().parent / "search_tiny.json"
_UNSEEN, _SEED, _ITEMS = 4 * 10**6, 99, 64  # far from any index a run reaches, with a seed of its own
_DYCK_KINDS = ("random", "walk", "near", "order")  # Dyck.free_item takes them in turn


def changed(config: RunConfig, settings: Sequence[str]) -> RunConfig:
    """The configuration with each "group.field=JSON" set; a UserError where a field does not exist."""
    values: dict[str, Any] = to_dict(config)
    for setting in settings:
        name, text = setting.split("=", 1)
        group, field = name.split(".")
        values[group][field] = json.loads(text)
    return from_dict(values)


def probes(task: Task) -> dict[str, list[Item]]:
    """What a trial is judged by."""
    found = {"valid": [task.eval_sets()["valid"].item(i) for i in range(_ITEMS)]}
    kinds = _DYCK_KINDS if task.name == "dyck" else ("free",)
    for k, kind in enumerate(kinds):
        found[kind] = [task.free_item(_UNSEEN + len(kinds) * i + k, seed=_SEED) for i in range(_ITEMS)]
    return found


class _Means:
    """Means of a loss over its last twenty steps, for `fit`."""

    def __init__(self):
        self.rows: list[Mapping[str, Any]] = []

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self.rows.append(values)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def last(self) -> dict[str, float]:
        names = ("alignment", "supervised", "retention", "answer_accuracy", "seconds")
        rows = self.rows[-20:]
        return {k: round(float(np.mean([r[k] for r in rows])), 4) for k in names if k in rows[0]}


def trial(config: RunConfig, *, every: int) -> dict[str, Any]:
    """Train, and look every so many steps."""
    setup = build(config, task=config.task, lm=config.lm)
    run = untouched(setup)
    items, predict, means = probes(run.program.task), make_predictor(run), _Means()
    before = perplexity(run.model, run.params, run.valid_text)
    (state, frozen, step), batch_at = make_parts([setup]), make_batch_at([setup])
    seen = []
    for stop in range(every, config.steps + 1, every):
        state = fit(step, state, frozen, batch_at, steps=stop, writer=means)
        answers = {k: round(float(np.mean(predict(state.params.lm, v))), 3) for k, v in items.items()}
        ratio = perplexity(run.model, state.params.lm, run.valid_text) / before
        seen.append({"step": stop, "answers": answers, "perplexity_ratio": round(ratio, 3)} | means.last())
        print(json.dumps(seen[-1]), flush=True)
    program = run.program.trained(state.params.adapters[0])
    trained = dataclasses.replace(run, params=state.params.lm, programs=(program,))
    decoded = {
        name: {
            where: {v: round(x["accuracy"], 3) for v, x in tables[where].items() if x["accuracy"] is not None}
            for where in ("all_positions", "answer_positions")
        }
        for name, tables in decode_samples(trained, items).items()
    }
    return {"seen": seen, "decoded": decoded}


def main(argv: Sequence[str] | None = None) -> None:
    """Run one trial and enter it under its name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the trial")
    parser.add_argument("--task", default="dyck")
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--every", type=int, default=80, help="steps between looks")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("settings", nargs="*", metavar="GROUP.FIELD=JSON")
    args = parser.parse_intermixed_args(argv)  # settings may follow options, on Python 3.11 too
    config = dataclasses.replace(preset("variable", task=args.task), steps=args.steps)
    command = shown_command(["experiments/search.py", *(sys.argv[1:] if argv is None else argv)])
    found = {"command": command} | trial(changed(config, args.settings), every=args.every)
    trials = read_json(args.out) if args.out.exists() else {}
    write_json(args.out, trials | {args.name: found})


if __name__ == "__main__":
    main()
