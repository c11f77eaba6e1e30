"""What a step costs where a part of the model is trained: memory and processor time by --train.

  python -m experiments.benchmarks.trained --lm tiny random:smollm2-135m-instruct --memory

The main job's step of each model (its preset's rows), one row for each kind of training, in turn. Memory is XLA's
own of the compiled step, which does not depend on what else the machine does: arguments (weights, frozen ones too,
moments, batch) plus what the step takes beside them; an array that is θ₀ and a frozen weight at once is counted
once. Processor time is of all threads, the median of alternating steps.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import time
from typing import Any

from experiments.benchmarks import common

PARTS = ("lora:8", "blocks:8-15", "embeddings", "adapter")


def measure(lm: str, *, parts: tuple[str, ...], repetitions: int, **options: Any) -> list[dict[str, Any]]:
    """A row for each kind of training, and for each of `options` (of RunConfig) with all trained."""
    import dataclasses

    import jax
    import numpy as np

    from tracr_jax.presets import preset
    from tracr_jax.runs.build import build, make_batch_at, make_parts

    base = build(preset(lm=lm), task="dyck", lm=lm)
    variants = {part: {"train": part} for part in parts} | {f"all, {k} {v}": {k: v} for k, v in options.items()}
    sides, rows = {}, []
    for name, change in variants.items():
        setup = dataclasses.replace(base, config=dataclasses.replace(base.config, **change))
        state, frozen, step = make_parts([setup])
        batch = jax.tree.map(jax.numpy.asarray, make_batch_at([setup])(0))
        begun = time.process_time()
        compiled = step.lower(state, frozen, batch).compile()
        seconds, memory = time.process_time() - begun, compiled.memory_analysis()
        kept = {id(x): x.nbytes for x in jax.tree.leaves((state, frozen, batch))}
        inside = memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
        rows.append(
            {
                "model": lm,
                "trained": name,
                "parameters, M": sum(x.size for x in jax.tree.leaves(state.params.lm)) / 1e6,
                "memory, GiB": (sum(kept.values()) + inside) / 2**30,
                "moments, MiB": sum(x.nbytes for x in jax.tree.leaves(state.opt_state)) / 2**20,
                "compile, s": seconds,
            }
        )
        sides[name] = [compiled, state, frozen, batch]
    spent: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions + 1):
        for name, side in sides.items():
            compiled, state, frozen, batch = side
            begun = time.process_time()
            side[1], terms = compiled(state, frozen, batch)
            jax.block_until_ready((side[1], terms))
            spent[name].append(time.process_time() - begun)
    whole = float(np.median(spent["all"][1:]))
    for row in rows:
        row["processor, s"] = float(np.median(spent[row["trained"]][1:]))
        row["of all"] = row["processor, s"] / whole
        row["all_s"] = spent[row["trained"]]
    return rows


def main() -> None:
    """Measure every model of the command line."""
    parser = common.parser(__doc__ or "")
    parser.add_argument("--lm", nargs="+", default=["tiny"])
    parser.add_argument("--train", nargs="+", default=PARTS, help="beside all")
    parser.add_argument("--memory", action="store_true", help="also --remat and --accumulate 2, with all trained")
    args = parser.parse_args()
    about, rows = common.machine(), []
    for lm in ["random:32x10"] if args.small else args.lm:
        parts = ("lora:2", "blocks:3-5", "adapter") if args.small else args.train
        options = {"remat": True, "accumulate": 2} if args.memory else {}
        rows += measure(lm, parts=("all", *parts), repetitions=args.repetitions, **options)
    results = [dict(row) for row in rows]
    for row in rows:
        row.pop("all_s")
    common.finish("trained", args, about, results, title="A step by what is trained, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
