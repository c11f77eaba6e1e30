"""Time and memory of a step as batch, sequence, width and blocks grow, with fitted exponents; and over devices.

  python -m experiments.benchmarks.scaling

Each point of an axis is a process, and the points of an axis take turns. An exponent p says cost ∝ size^p over
the measured range: 1 is linear. Memory is the process's peak less that of the smallest imports, so that a
constant does not hide the growth. Devices are virtual ones on this machine's cores (the batch over all of them):
what they show is the cost of sharding, not a speed-up.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker, measure

AXES: dict[str, tuple[dict[str, Any], str, Sequence[int]]] = {
    "batch": ({"shape": "gpt2", "width": 512}, "batch", (2, 4, 8, 16, 32)),
    "sequence": ({"shape": "gpt2", "width": 512, "batch": 4}, "length", (21, 42, 84, 168)),
    "width": ({"shape": "gpt2", "batch": 4}, "width", (256, 512, 768, 1024)),
    "blocks": ({"shape": "gpt2", "width": 512, "batch": 4}, "blocks", (12, 24, 36, 48)),
}
SMALL: dict[str, tuple[dict[str, Any], str, Sequence[int]]] = {
    "batch": ({"shape": "small", "length": 12}, "batch", (1, 4)),
    "blocks": ({"shape": "small", "length": 12}, "blocks", (8, 12)),
}
DEVICES = (1, 2, 4, 8)
TITLE = "growth of a step, medians"


def idle_worker(options: dict[str, Any]) -> tuple[dict, Callable[[], None]]:
    """A side for `Worker` that imports what the others do and trains nothing: its memory is the floor."""
    from experiments.benchmarks import case as C

    return {"shapes": len(C.SHAPES)}, lambda: None


def floor() -> float:
    """GiB of a process before it has anything to train."""
    with Worker(".scaling:idle_worker", {}) as worker:
        pass
    return worker.peak_memory_gib


def run_axis(
    base: dict, field: str, sizes: Sequence[int], *, repetitions: int, empty: float, settle_s: float
) -> dict[str, Any]:
    """All sizes of one axis in turn, and the exponents of time and memory."""
    # Both streams grow along the sequence, in the paper's proportion.
    options = {n: base | {field: n} | ({"text_length": n * 30 // 42} if field == "length" else {}) for n in sizes}
    with ExitStack() as stack:
        workers = {str(n): stack.enter_context(Worker(".case:step_worker", options[n])) for n in sizes}
        timed = measure(workers, repetitions=repetitions, warmup=2, settle_s=settle_s)
    points = [
        {"size": n}
        | common.summary(timed[str(n)]["seconds"])
        | {"peak_memory_gib": timed[str(n)]["peak_memory_gib"]}
        for n in sizes
    ]
    memory = [p["peak_memory_gib"] - empty for p in points]
    return {
        "base": base,
        "field": field,
        "points": points,
        "exponents": {
            "time": common.fit_exponent(sizes, [p["median_s"] for p in points]),
            "memory": common.fit_exponent(sizes, memory),
        },
    }


def run_devices(base: dict, devices: Sequence[int], *, repetitions: int, settle_s: float) -> list[dict[str, Any]]:
    """The same step over some numbers of virtual CPU devices in turn; the losses must agree."""
    with ExitStack() as stack:
        workers = {}
        for n in devices:
            env = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"--xla_force_host_platform_device_count={n}"}
            options = base | {"mesh": f"data={n}"}
            workers[n] = stack.enter_context(Worker(".case:step_worker", options, env=env))
        timed = measure(workers, repetitions=repetitions, warmup=2, settle_s=settle_s)
    losses = [t["warmup_values"][0]["loss"] for t in timed.values()]
    if max(losses) - min(losses) > 1e-4 * abs(losses[0]):
        raise RuntimeError(
            f"scaling: losses over {list(devices)} devices are {losses}; they are not the same step"
        )
    one = timed[devices[0]]["seconds"]
    return [
        {"devices": n, "device": t["info"]["device"], "against_one": common.ratio(t["seconds"], one)}
        | common.summary(t["seconds"])
        | {"peak_memory_gib": t["peak_memory_gib"]}
        for n, t in timed.items()
    ]


def main() -> None:
    parser = common.parser(__doc__ or "")
    parser.add_argument("--axes", nargs="+", choices=(*AXES, "devices"), help="default: all")
    args = parser.parse_args()
    axes, devices = (SMALL, (1, 2)) if args.small else (AXES, DEVICES)
    chosen = args.axes or [*axes, "devices"]
    about, rows = common.machine(), []
    counts = {"repetitions": args.repetitions, "settle_s": common.settle_s(args)}
    empty = floor()
    results: dict[str, Any] = {"memory_before_anything_gib": empty, "axes": {}}
    for name in (a for a in axes if a in chosen):
        found = results["axes"][name] = run_axis(*axes[name], empty=empty, **counts)
        for point in found["points"]:
            rows.append({"axis": name, "size": point["size"], "step, s": point["median_s"],
                         "peak, GiB": point["peak_memory_gib"]})  # fmt: skip
        rows.append({"axis": f"{name}: exponent", "size": None, "step, s": found["exponents"]["time"],
                     "peak, GiB": found["exponents"]["memory"]})  # fmt: skip
        print(f"{name}: time ∝ size^{found['exponents']['time']:.2f}", flush=True)
        common.write("scaling", args, about, results, title=TITLE, rows=rows)
    if "devices" in chosen:
        base = (
            {"shape": "small", "length": 12, "batch": 8}
            if args.small
            else {"shape": "tiny", "batch": 16}  # each device holds all weights: eight of gpt2's are too many
        )
        results["devices"] = run_devices(base, devices, **counts)
        rows += [
            {"axis": "devices", "size": r["devices"], "step, s": r["median_s"], "peak, GiB": r["peak_memory_gib"]}
            for r in results["devices"]
        ]
    common.finish("scaling", args, about, results, title=TITLE, rows=rows)


if __name__ == "__main__":
    common.main(main)
