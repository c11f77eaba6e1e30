"""From the start of a process to its first finished training step, with a cold and a warm compilation cache.

  python -m experiments.benchmarks.startup

12 blocks are gpt2's, 36 gpt2-large's; 48 have gpt2's width, because gpt2-xl's weights, gradients, moments and θ₀
take 31 GB in float32 (--xl measures it where that fits). Weights are read from a safetensors file. Cold: an
empty folder for JAX's persistent cache; warm: the same folder again; none: no cache at all, as without the
variable. The three take turns, a fresh process each. Text and task are not prepared: that is another measure
(`run.json`: setup_s).
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker
from tracr_jax.errors import UserError

_MARK = "first step after "


def first_step(options: dict[str, Any]) -> None:
    """What a started process does: import, load, compile, one step; tells the seconds since `started`."""
    started = options["started"]
    marks = {}

    def mark(name):
        marks[name] = time.time() - started

    import jax
    import jax.numpy as jnp

    from experiments.benchmarks import case as C
    from tracr_jax.lm.convert import from_tensors
    from tracr_jax.lm.tensors import open_safetensors

    mark("imported")
    case = C.Case(**options["case"])
    params = from_tensors(case.model, open_safetensors(options["folder"]))
    mark("weights read")
    parts = C.make_parts(case, params=(params, params))
    mark("state made")
    state, terms = jax.block_until_ready(parts.step(*parts[:3]))
    mark("first step done")
    assert jnp.isfinite(terms["loss"])
    assert int(state.step) == 1
    marks["peak_memory_gib"] = common.peak_memory()
    print(_MARK + common.compact(marks), flush=True)


def start(case: dict[str, Any], folder: Path, cache: Path | None) -> common.Sample:
    """One process from its start to its first step: (seconds, its marks)."""
    env = dict(os.environ)
    for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        env.pop(name, None)
    if cache:
        env |= {"JAX_COMPILATION_CACHE_DIR": str(cache), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1"}
    options = {"case": case, "folder": str(folder), "started": time.time()}
    command = [sys.executable, "-m", "experiments.benchmarks.startup", "--first-step", common.compact(options)]
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True, check=False, cwd=common.ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode or len(lines) != 1:
        raise UserError(
            f"startup: the process of {case} ended with status {done.returncode}; its messages stand above"
        )
    marks = json.loads(lines[0].removeprefix(_MARK))
    return marks["first step done"], marks


def measure(case: dict[str, Any], *, repetitions: int) -> dict[str, Any]:
    """Cold, warm and no cache in turn."""
    with tempfile.TemporaryDirectory() as folder:
        lm, cache = Path(folder) / "lm", Path(folder) / "cache"
        with Worker(".case:write_worker", {"case": case, "folder": str(folder), "torch": False}):
            pass

        def cold():
            for file in cache.glob("*") if cache.exists() else ():
                file.unlink()
            return start(case, lm, cache)

        def warm():
            if not any(cache.glob("*")):
                raise UserError(
                    "startup: the cold start left nothing in JAX's cache; a warm start would be a cold one"
                )
            return start(case, lm, cache)

        sides = {"cold cache": cold, "warm cache": warm, "no cache": lambda: start(case, lm, None)}
        timed = common.in_turn(sides, repetitions=repetitions, warmup=0)
    return {name: common.summary(t["seconds"]) | {"marks": t["values"]} for name, t in timed.items()}


def main() -> None:
    parser = common.parser(__doc__ or "", repetitions=3)
    parser.add_argument("--xl", action="store_true", help="48 blocks at gpt2-xl's width")
    parser.add_argument("--batch", type=int, default=2, metavar="B")
    parser.add_argument("--first-step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.first_step:
        return first_step(json.loads(args.first_step))
    delattr(args, "first_step")  # no option of a measurement
    last = {"shape": "gpt2-xl"} if args.xl else {"shape": "gpt2", "blocks": 48}
    cases: list[dict[str, Any]] = [{"shape": "gpt2"}, {"shape": "gpt2-large"}, last]
    if args.small:
        cases = [{"shape": "small", "length": 12}]
    from experiments.benchmarks import case as C

    about, results, rows = common.machine(), [], []
    for case in cases:
        case["batch"] = args.batch
        sides = measure(case, repetitions=args.repetitions)
        model = C.Case(**case).model
        results.append({"case": case, "blocks": model.num_blocks, "width": model.width, "sides": sides})
        rows.append(
            {"shape": case["shape"], "blocks": model.num_blocks, "width": model.width}
            | {f"{name}, s": side["median_s"] for name, side in sides.items()}
            | {"peak, GiB": max(m["peak_memory_gib"] for s in sides.values() for m in s["marks"])}
        )
        print(f"{case['shape']}, {model.num_blocks} blocks: done", flush=True)
    common.finish("startup", args, about, results, title="process start to first step, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
