"""The teacher's forward pass as a share of the training step, beside the dense form of the same teacher.

  python -m experiments.benchmarks.teacher

Step, sparse forward and dense forward run in turn in one process per case. The sparse one must be the dense one in
float64 before anything is timed. The dense form is tracr's own (`dense_residuals`); it is left out where it would
not fit.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import functools
from collections.abc import Callable
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker

# (task, positions, shape): gpt2 hosts dyck only, the bundled model's shape all three (24 blocks).
CASES = [("dyck", 42, "gpt2"), ("dyck", 42, "tiny"), ("int_sum", 16, "tiny"), ("count", 56, "tiny")]
_DENSE_LIMIT = 4e8  # dense weights; more than 1.6 GB of float32 is left out


def worker(options: dict[str, Any]) -> tuple[dict, Callable[[], dict[str, Any]]]:
    """A side for `Worker`: step and teacher forwards in turn, `repetitions` times."""
    import jax
    import numpy as np

    from experiments.benchmarks import case as C
    from tracr_jax.teacher.forward import dense_residuals

    repetitions = options.pop("repetitions")
    parts = C.make_parts(C.Case(**options))
    state, frozen, batches, step = parts[:4]
    (phi,), (batch,) = frozen.teachers, batches
    sparse = jax.jit(parts.residuals)
    teacher = parts.teacher
    del parts

    def run_step():
        nonlocal state
        state, terms = jax.block_until_ready(step(state, frozen, batches))
        assert np.isfinite(terms["loss"])

    sides = {
        "step": run_step,
        "sparse": common.waiting(lambda: sparse(phi, batch.teacher_ids)),
    }
    info: dict[str, float] = {
        "layers": teacher.num_layers,
        "directions": teacher.width,
        "sparse_weights": sum(x.size for x in jax.tree.leaves(phi)),
        "dense_weights": sum(coo.shape[0] * coo.shape[1] for coo in teacher.weights.values()),
    }
    if info["dense_weights"] <= _DENSE_LIMIT:
        weights, run = teacher.densify(np.float64), functools.partial(dense_residuals, num_heads=teacher.num_heads)
        params, dense = jax.tree.map(lambda x: jax.numpy.asarray(x, "float32"), weights), jax.jit(run)
        # In float32 the dense form takes differences of large numbers (teacher/forward.py): only in float64 is it
        # what the sparse one must equal.
        ids = np.asarray(batch.teacher_ids)
        with jax.enable_x64(True):
            exact = np.asarray(jax.jit(run)(weights, ids))
        found = {"sparse": sparse(phi, ids), "dense": dense(params, ids)}
        for name, states in found.items():
            info[f"{name}_error"] = float(np.max(np.abs(np.asarray(states, np.float64) - exact)))
        if not info["sparse_error"] <= 1e-4:
            raise RuntimeError(
                f"the sparse teacher differs from the dense one in float64 by {info['sparse_error']}"
            )
        sides["dense"] = common.waiting(lambda: dense(params, batch.teacher_ids))

    return info, lambda: common.shares_of_step(sides, repetitions=repetitions)


def main() -> None:
    parser = common.parser(__doc__ or "", repetitions=9)
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help="default 2 16")
    args = parser.parse_args()
    cases = [("dyck", 12, "small")] if args.small else CASES
    about, results, rows = common.machine(), [], []
    for task, length, shape in cases:
        for batch in args.batches or ([2] if args.small else [2, 16]):
            options = {"task": task, "length": length, "shape": shape, "batch": batch}
            with Worker(".teacher:worker", options | {"repetitions": args.repetitions}) as w:
                sides = w.go()[1]
            results.append({"case": options, "teacher": w.info, "sides": sides})
            rows.append({
                "task": task, "positions": length, "shape": shape, "B": batch,
                "step, s": sides["step"]["median_s"],
                "teacher, ms": 1e3 * sides["sparse"]["median_s"],
                "share, %": 100 * sides["sparse"]["share"]["median"],
                "dense, ms": 1e3 * sides["dense"]["median_s"] if "dense" in sides else None,
            })  # fmt: skip
            print(f"{task} on {shape}, B {batch}: done", flush=True)
    common.finish("teacher", args, about, results, title="teacher forward, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
