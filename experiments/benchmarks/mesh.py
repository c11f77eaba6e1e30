"""One device as it is against a mesh of one device: what a single code path for both would cost.

  python -m experiments.benchmarks.mesh

The main job (five steps of `tracr-jax inject dyck` by its loop, dispatched inline) and the full step of gpt2's
shape at B 2, each side a process of its own, in turn. A path of its own for one device (`tracr_jax/train/mesh.py`,
`Placement`) is kept as long as the mesh costs more than 2 %.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

from contextlib import ExitStack
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker, measure

MESH = "data=1"


def main() -> None:
    args = common.parser(__doc__ or "", repetitions=10).parse_args()
    about = common.machine()
    small = {"blocks": 8, "width": 128} if args.small else {}
    cases: dict[str, tuple[str, dict[str, Any]]] = {
        "main job": (".dispatch:worker", {"asynchronous": False, "small": args.small}),
        "gpt2, B 2": (".case:step_worker", {"shape": "gpt2", "batch": 2} | small),
    }
    results, rows = {}, []
    for name, (target, options) in cases.items():
        with ExitStack() as stack:
            sides = {
                side: stack.enter_context(Worker(target, options | {"mesh": mesh}))
                for side, mesh in {"one device": "", "mesh": MESH}.items()
            }
            timed = measure(sides, repetitions=args.repetitions, settle_s=common.settle_s(args))
        alone, mesh = (timed[side]["seconds"] for side in ("one device", "mesh"))
        found = {side: common.summary(t["seconds"]) for side, t in timed.items()}
        found["ratio"] = common.ratio(mesh, alone)
        results[name] = found
        rows.append(
            {
                "step": name,
                "one device, s": found["one device"]["median_s"],
                "mesh of one, s": found["mesh"]["median_s"],
                "mesh / one device": found["ratio"]["median"],
                "mesh slower in": f"{sum(m > a for m, a in zip(mesh, alone, strict=True))} of {args.repetitions}",
            }
        )
    common.finish("mesh", args, about, results, title="one device as it is and as a mesh, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
