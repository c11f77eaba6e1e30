"""Where the time of one training step goes on a CPU: wall-clock time by kind of operation, from XLA's trace.

  python -m experiments.benchmarks.hotspots

After some steps one is traced. At every moment the time goes, in equal parts, to the kinds of the operations that
run then, on whatever thread; "nothing" is time in which none does. The floor is what the matrix products that the
step cannot do without (case.py: step_flops) take at the rate of a large product (in another process, right after).
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import re
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker
from tracr_jax.errors import UserError

_PRODUCT = re.compile(r"dot_general|dot\b|ynn_fusion|convolution")
# What only moves numbers: into and out of the scan over blocks, side by side, into place.
_MOVED = re.compile(
    r"(slice|update_slice|concatenate|pad|transpose|reshape|copy|broadcast_in_dim|gather|scatter)$"
)
KINDS = ("matrix products", "moving", "elementwise and sums", "update and gradient norm", "nothing")

Event = tuple[int, int, str]  # start and end in ns, kind


def kind(instruction: str, op_name: str) -> str:
    """One of KINDS for an instruction of the compiled step, by its name and by the operation it was made from."""
    last = op_name.rsplit("/", 1)[-1]
    if _PRODUCT.search(last) or (not op_name and _PRODUCT.match(instruction)):
        return "matrix products"
    if op_name and "jvp" not in op_name:
        return "update and gradient norm"
    if _MOVED.search(last) or (not op_name and re.match(r"copy|wrapped_broadcast|bitcast|slice|pad", instruction)):
        return "moving"
    return "elementwise and sums"


def wall_shares(events: Iterable[Event], *, start: int, end: int) -> dict[str, float]:
    """Seconds of each kind from `start` to `end` (ns): at each moment an equal part for every one that runs."""
    edges = sorted([(a, 1, k) for a, _, k in events] + [(b, -1, k) for _, b, k in events], key=lambda e: e[:2])
    out: dict[str, float] = dict.fromkeys(KINDS, 0.0)
    running, now = defaultdict(int), start
    for at, change, what in [*edges, (end, 0, "nothing")]:
        at = min(max(at, start), end)
        active = [k for k, n in running.items() if n > 0] or ["nothing"]
        for k in active:
            out[k] += (at - now) / len(active) / 1e9
        now = at
        running[what] += change
    return out


def op_names(compiled: str) -> dict[str, str]:
    """Instruction -> the operation that it was made from, of a compiled program's text."""
    found = re.finditer(r"^\s*(?:ROOT )?%?([\w.\-]+) = (.*?)$", compiled, re.MULTILINE)
    names = {}
    for m in found:
        op = re.search(r'op_name="([^"]*)"', m[2])
        names[m[1]] = op[1] if op else ""
    return names


def hotspots_worker(options: dict[str, Any]) -> tuple[dict, Any]:
    """A side for `Worker`: traces one step of a case."""
    import jax
    from jax.profiler import ProfileData

    from experiments.benchmarks import case as C

    case = C.Case(**options)
    parts = C.make_parts(case)
    state, frozen, batch = parts.state, parts.frozen, parts.batch
    compiled = parts.step.lower(state, frozen, batch).compile()
    names = op_names(compiled.as_text())
    parts = parts._replace(state=None)  # pyright: ignore[reportArgumentType]

    def run():
        nonlocal state
        for _ in range(3):
            state, _ = jax.block_until_ready(compiled(state, frozen, batch))
        settings = jax.profiler.ProfileOptions()
        settings.host_tracer_level, settings.python_tracer_level = 3, 0
        with tempfile.TemporaryDirectory() as folder:
            with jax.profiler.trace(folder, profiler_options=settings):
                state, _ = jax.block_until_ready(compiled(state, frozen, batch))
            (file,) = Path(folder).rglob("*.xplane.pb")
            planes = ProfileData.from_file(str(file)).planes
            traced = [(e.start_ns, e.end_ns, e.name) for p in planes for line in p.lines for e in line.events]
        # A loop's own event spans those of its body.
        leaves = [(a, b, n) for a, b, n in traced if n in names and not n.startswith(("while", "call"))]
        whole = [(a, b) for a, b, n in traced if n.startswith("ThunkExecutor::Execute (wait")]
        if not leaves or not whole:
            raise UserError("hotspots: the trace holds no operations; this jaxlib names them differently")
        start, end = max(whole, key=lambda x: x[1] - x[0])
        return wall_shares([(a, b, kind(n, names[n])) for a, b, n in leaves], start=start, end=end)

    return {"needed_flops": C.step_flops(case, parts.teacher)}, run


def main() -> None:
    parser = common.parser(__doc__ or "", repetitions=3)
    parser.add_argument("--shape", help="default gpt2")
    parser.add_argument("--batches", nargs="+", type=int, metavar="B", help="default 2 16")
    args = parser.parse_args()
    shape = args.shape or ("small" if args.small else "gpt2")
    about, results, rows = common.machine(), [], []
    for batch in args.batches or ([2] if args.small else [2, 16]):
        options = {"shape": shape, "batch": batch} | ({"length": 12, "text_length": 8} if args.small else {})
        product = {"size": 256 if args.small else 2048, "dtype": "float32"}
        with (
            Worker(".hotspots:hotspots_worker", options) as step,
            Worker(".case:product_worker", product) as square,
        ):
            traces: list[Mapping[str, float]] = [step.go()[1] for _ in range(args.repetitions)]
            product_s = common.summary([square.go()[0] for _ in range(9)])
        # The middle one of the traced steps, whole: its parts add up.
        trace = sorted(traces, key=lambda t: sum(t.values()))[len(traces) // 2]
        floor = step.info["needed_flops"] / (square.info["flops"] / product_s["median_s"])
        results.append(
            {"case": options, "traces": traces, "floor_s": floor, "product_s": sorted(product_s["all_s"])}
        )
        step_s = sum(trace.values())
        rows.append({"shape": shape, "B": batch, "step, s": step_s, "needed products alone, s": floor}
                    | {f"{k}, %": 100 * v / step_s for k, v in trace.items()})  # fmt: skip
        print(f"{shape}, B {batch}: {step_s:.3g} s", flush=True)
    common.finish("hotspots", args, about, results, title="where a step's time goes", rows=rows)


if __name__ == "__main__":
    common.main(main)
