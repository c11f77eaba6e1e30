"""The main job's step on a CPU: JAX's asynchronous dispatch, the default, against inline, the command line's.

  python -m experiments.benchmarks.dispatch

Two processes in turn, several steps of `tracr-jax inject dyck` a time, by its loop (`tracr_jax/train/loop.py`).
With asynchronous dispatch a thread of its own runs beside the pool that computes.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker, measure

_STEPS = 5  # in one repetition


def worker(options: dict[str, Any]) -> tuple[dict, Callable[[], None]]:
    """A side for `Worker`: `_STEPS` steps of the main job, dispatched as options["asynchronous"] says."""
    import jax

    jax.config.update("jax_cpu_enable_async_dispatch", options["asynchronous"])  # before the backend starts

    from tracr_jax.lm.blocks import first_blocks
    from tracr_jax.lm.load import load_lm
    from tracr_jax.presets import preset
    from tracr_jax.runs.build import build, make_batch_at, make_parts
    from tracr_jax.train.loop import fit
    from tracr_jax.train.metrics import Several

    lm = load_lm("tiny")
    if options["small"]:
        model, params = first_blocks(lm.model, lm.params, 8)
        lm = replace(lm, model=model, params=params)
    setup = build(preset("variable", task="dyck"), task="dyck", lm=lm)
    (state, frozen, step), batch_at = make_parts([setup]), make_batch_at([setup])

    def run():
        nonlocal state
        steps = int(state.step) + _STEPS
        state = fit(step, state, frozen, batch_at, steps=steps, writer=Several([]), progress=False)
        jax.block_until_ready(state)

    return {"rows": batch_at(0)[0].ids.shape[0]}, run


def main() -> None:
    args = common.parser(__doc__ or "", repetitions=24).parse_args()
    about = common.machine()
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(".dispatch:worker", {"asynchronous": on, "small": args.small}))
            for name, on in {"asynchronous": True, "inline": False}.items()
        }
        timed = measure(workers, repetitions=args.repetitions, settle_s=common.settle_s(args))
    seconds = {name: [s / _STEPS for s in side["seconds"]] for name, side in timed.items()}
    results = {name: common.summary(s) | {"info": timed[name]["info"]} for name, s in seconds.items()}
    pairs = seconds["asynchronous"], seconds["inline"]
    row: dict[str, Any] = {f"{name}, s per step": side["median_s"] for name, side in results.items()}
    row["asynchronous / inline"] = common.ratio(*pairs)["median"]
    row["inline faster in"] = f"{sum(a > b for a, b in zip(*pairs, strict=True))} of {args.repetitions}"
    title = "the main job's step by dispatch, medians"
    common.finish("dispatch", args, about, results, title=title, rows=[row])


if __name__ == "__main__":
    common.main(main)
