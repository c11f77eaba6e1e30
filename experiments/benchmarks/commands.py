"""What a user waits for: each command from the start of its process to its end, with a cold and a warm cache.

  python -m experiments.benchmarks.commands [--run RUN]

Cold: an empty TRACR_JAX_CACHE, so that RASP programs and XLA's are compiled anew; warm: the same
command again. `inject` is stopped after the line of its first training step. RUN is a finished run of dyck on the
bundled model; without it one of two steps is made first, in the temporary folder.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks import common
from tracr_jax.errors import UserError

_TEXT = "Are parenthesis here correctly matched? (){}\nAnswer:"
_FIRST_STEP = "step 1/"
_GOALS = {"check": 5, "decode": 3, "evaluate": 8, "inject, first step": 8}  # seconds, warm


def commands(run: Path, scratch: Path) -> dict[str, list[str]]:
    """The command lines by the name of their row."""
    return {
        "--help": ["--help"],
        "check": ["check", "dyck"],
        "decode": ["decode", str(run), _TEXT],
        "evaluate": ["evaluate", str(run), "--items", "100"],
        "report": ["report", str(run), "--out", str(scratch / "report.html")],
        "inject, first step": ["inject", "dyck", "--folder", str(scratch / "run")],
    }


def once(words: Sequence[str], *, cache: Path, until: str = "") -> tuple[float, float]:
    """One process: (seconds, processor seconds of all its threads), to its end or to a line that begins so.

    Raises:
      UserError: it failed, or ended before that line.
    """
    environment = os.environ | {"TRACR_JAX_CACHE": str(cache), "PYTHONUNBUFFERED": "1"}
    begun, used = time.perf_counter(), os.times()
    process = subprocess.Popen(
        [sys.executable, "-m", "tracr_jax", *words],
        cwd=common.ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout
        said = []
        for line in process.stdout:
            said.append(line)
            if until and line.startswith(until):
                seconds = time.perf_counter() - begun
                process.kill()
                break
        else:
            seconds = time.perf_counter() - begun
        status = process.wait()
    if (until and not said[-1].startswith(until)) or (not until and status):
        raise UserError(f"commands: tracr-jax {' '.join(words)} ended with status {status}: {''.join(said[-3:])}")
    now = os.times()
    processor = now.children_user + now.children_system - used.children_user - used.children_system
    return seconds, processor


def measure(words: Sequence[str], *, scratch: Path, repetitions: int, until: str) -> dict[str, Any]:
    """Cold and warm, in turn: each repetition has a cache of its own."""
    sides: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            for side in sides.values():
                side.append(once(words, cache=Path(cache), until=until))
                # A second start in the same folder would be refused.
                shutil.rmtree(scratch / "run", ignore_errors=True)
    return {
        name: common.summary([s for s, _ in side]) | {"processor_s": statistics.median(p for _, p in side)}
        for name, side in sides.items()
    }


def main() -> None:
    parser = common.parser(__doc__ or "", repetitions=3)
    parser.add_argument("--run", type=Path, help="a finished run of dyck on the bundled model")
    args = parser.parse_args()
    about, results, rows = common.machine(), {}, []
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        run = args.run or scratch / "two_steps"
        if args.run is None:
            print("two steps of dyck, to have a run", flush=True)
            short = ["--steps", "2", "--eval-items", "4", "--folder", str(run)]
            once(["inject", "dyck", *short], cache=scratch / "cache")
        chosen = commands(run, scratch)
        for name in ("--help", "decode") if args.small else chosen:
            until = _FIRST_STEP if name == "inject, first step" else ""
            found = measure(chosen[name], scratch=scratch, repetitions=args.repetitions, until=until)
            results[name] = found
            rows.append(
                {"command": name, "goal (warm), s": _GOALS.get(name)}
                | {f"{side}, s": found[side]["median_s"] for side in found}
                | {f"{side}, processor s": found[side]["processor_s"] for side in found}
            )
            print(f"{name}: done", flush=True)
    title = "commands from start to end, medians"
    common.finish("commands", args, about, results, title=title, rows=rows)


if __name__ == "__main__":
    common.main(main)
