"""One run of exchange training and what it shows: answers, the chain of variables by layer, and swaps.

    python -m experiments.exchange_training NAME [--lm random:256x14] [--steps 1300] [any option of ExchangeConfig]

Writes experiments/exchange/NAME.json. The run lies below --runs: started again, it goes on where it stopped, and a
finished one is measured again. random:256x14 is an untrained GPT-2 of 14 blocks x 256, without retention.
"""

import argparse
import dataclasses
from pathlib import Path

import jax
import numpy as np

import tracr_jax
from tracr_jax.config import ExchangeConfig
from tracr_jax.files import write_json
from tracr_jax.interpret.scorecard import scorecard
from tracr_jax.interpret.swap import swaps, used_variables
from tracr_jax.lm.load import load_lm
from tracr_jax.presets import preset
from tracr_jax.train.metrics import read_lines

OUT = Path(__file__).parent / "exchange"


def options() -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("name")
    p.add_argument("--task", default="dyck")
    p.add_argument("--lm", default="tiny", help="a name for load_lm")
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--rows", type=int, default=16, help="rows of a step, each of which runs clean and exchanged")
    p.add_argument("--offset", type=int, default=2)
    p.add_argument("--stride", type=int, default=2)
    p.add_argument("--blocks", type=int, nargs="*", default=[], help="`RunConfig.layer_blocks`")
    p.add_argument("--train", default="all", help="what of the model is trained")
    p.add_argument("--varied", action="store_true", help="several wordings and more kinds of inputs")
    p.add_argument(
        "--other-words", type=float, default=0.0, help="share of rows with words that are not read replaced"
    )
    p.add_argument("--optimizer", default="muon")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--adapter-lr", type=float, default=3e-3)
    p.add_argument("--retention", type=float, default=0.0)
    p.add_argument("--text-batch", type=int, default=2, help="texts of a step, for the language term")
    p.add_argument("--checkpoint-every", type=int, default=50)
    p.add_argument("--pairs", type=int, default=60)
    p.add_argument("--runs", type=Path, default=Path("runs/exchange"))
    for f in dataclasses.fields(ExchangeConfig):
        switch = {"action": "store_true"} if isinstance(f.default, bool) else {"type": type(f.default)}
        p.add_argument(f"--{f.name.replace('_', '-')}", default=f.default, **switch)
    return p.parse_args()


def configure(o: argparse.Namespace):
    config = preset("exchange", task=o.task, lm="tiny" if o.lm.startswith("random") else o.lm)
    half = o.rows // 2
    rates = {"kind": o.optimizer, "learning_rate": o.lr, "adapter_learning_rate": o.adapter_lr}
    return dataclasses.replace(
        config,
        steps=o.steps,
        seed=o.seed,
        checkpoint_every=o.checkpoint_every,
        layer_offset=o.offset,
        layer_stride=o.stride,
        layer_blocks=tuple(o.blocks),
        train=o.train,
        exchange=ExchangeConfig(**{f.name: getattr(o, f.name) for f in dataclasses.fields(ExchangeConfig)}),
        data=dataclasses.replace(
            config.data,
            batch=half,
            domain_items=o.rows - half,
            domain_supervised=o.rows - half,
            text_batch=o.text_batch,
            varied=o.varied,
            other_words=o.other_words,
        ),
        optim=dataclasses.replace(config.optim, **rates, muon_iterations=3, final_rate=0.02),
        losses=dataclasses.replace(config.losses, retention_weight=o.retention, retention_growth=8.0),
    )


def main(o: argparse.Namespace) -> None:
    folder = o.runs / o.name
    say = lambda line: print(line, flush=True)  # noqa: E731
    run = tracr_jax.inject(
        o.task,
        lm=load_lm(o.lm, seed=o.seed),
        config=configure(o),
        folder=folder,
        resume=(folder / "config.json").exists(),
        progress=False,
        say=say,
    )
    lines = list(read_lines(folder / "metrics.jsonl"))
    reserved = run.program.reserved
    chain = scorecard(run, items=100, probe_items=100, say=say)["sets"]["test"]["classes"]["all"]
    out = {
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(o).items()},
        "directions": reserved.total,
        "left_out": dict(reserved.left_out),
        "seconds_per_step": round(float(np.median([line["seconds"] for line in lines[1:]])), 3),
        "history": [
            {k: round(v, 4) for k, v in line.items() if isinstance(v, int | float)} for line in lines[::20]
        ],
        "answers": {n: round(100 * s["injected"]["accuracy"], 1) for n, s in run.evaluation["sets"].items()},
        "retention": run.evaluation["retention"],
        "chain": {name: entry["accuracy"] for name, entry in chain.items() if name in reserved.names},
    }
    print(out["answers"], flush=True)
    for name, row in out["chain"].items():
        print(f"reads {name:<26}", row, flush=True)
    found = swaps(run, pairs=o.pairs, pool_items=200)
    used, swapped = used_variables(found["cells"])
    out["used"], out["swapped"] = used, swapped
    out["swaps"] = [
        {"variable": c["variable"], "layer": c["layer"], **c["followed"], "ceiling": c["ceiling"]}
        for c in found["cells"]
    ]
    for c in out["swaps"]:
        shares = {k: f"{v['right']}/{v['total']}" for k, v in c["answer"].items()}
        print(f"swap {c['variable']:<26} l{c['layer']}", shares, flush=True)
    print(f"{len(used)} of {len(swapped)} variables are used at all their layers", flush=True)
    write_json(OUT / f"{o.name}.json", out)


if __name__ == "__main__":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    main(options())
