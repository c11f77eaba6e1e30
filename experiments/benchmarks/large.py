"""A large model on a small machine: peak memory of a whole process that trains gpt2-large's shape, by --train.

  python -m experiments.benchmarks.large

Each row is a process of its own that makes random weights and runs whole training steps at B 2, with the paper's
lengths; what is frozen exists once, as θ₀ and as what the low-rank pairs stand beside. Its peak holds everything:
weights, moments, compilation. Times are no measurement: nothing stands beside them in turn.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker

VARIANTS = (("all", False), ("lora:8", False), ("lora:8", True))


def main() -> None:
    """One process after the other."""
    parser = common.parser(__doc__ or "", repetitions=3)
    parser.add_argument("--shape", default="gpt2-large")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--train", nargs="+", help="only these; default all lora:8, the latter also with --remat")
    args = parser.parse_args()
    about, rows, results = common.machine(), [], []
    for train, remat in VARIANTS:
        if args.train and train not in args.train:
            continue
        options = {
            "shape": "small" if args.small else args.shape,
            "batch": args.batch,
            "train": train,
            "remat": remat,
        }
        options |= {"length": 12, "text_length": 8} if args.small else {}
        with Worker(".case:step_worker", options) as worker:
            seconds = [worker.go()[0] for _ in range(1 + args.repetitions)]
        name = f"{train}, remat" if remat else train
        rows.append(
            {"shape": options["shape"], "B": args.batch, "trained": name, "peak, GiB": worker.peak_memory_gib}
        )
        results.append({"options": options, "seconds": seconds})
        common.write("large", args, about, results, title=_TITLE, rows=rows)
    common.finish("large", args, about, results, title=_TITLE, rows=rows)


_TITLE = "Peak memory of a training process"

if __name__ == "__main__":
    common.main(main)
