"""What a user waits for: each command from the start of its process to its end, with a cold and a warm cache.

  python -m experiments.benchmarks.commands [--run RUN]

Cold: an empty TRACR_JAX_CACHE, so that RASP programs and XLA's are compiled anew; warm: the same command again.
The first is the main job, and the others read the run that it leaves; with RUN, a finished run of dyck on the
bundled model, they read a copy of that, and the main job is left out. Three repetitions take an hour.
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
_GOALS = {"check": 5, "decode": 3, "evaluate": 8, "interpret": 120}  # seconds, warm
_JOB = "inject dyck"
_NEW = "NEW"  # in a command line: a folder of its own for each process


def commands(run: Path, scratch: Path) -> dict[str, list[str]]:
    """The command lines by the name of their row."""
    return {
        _JOB: ["inject", "dyck", "--folder", _NEW],
        "--help": ["--help"],
        "check": ["check", "dyck"],
        "decode": ["decode", str(run), _TEXT],
        "evaluate": ["evaluate", str(run), "--items", "100"],
        "interpret": ["interpret", str(run)],
        "report": ["report", str(run), "--out", str(scratch / "report.html")],
    }


def once(words: Sequence[str], *, scratch: Path, cache: Path) -> tuple[float, float]:
    """One process from start to end: (seconds, processor seconds of all its threads).

    The folder that it makes, if any, is scratch / "run-…" / "run".

    Raises:
      UserError: it failed.
    """
    new = tempfile.mkdtemp(prefix="run-", dir=scratch)
    words = [str(Path(new, "run")) if word == _NEW else word for word in words]
    begun, used = time.perf_counter(), os.times()
    done = subprocess.run(
        [sys.executable, "-m", "tracr_jax", *words],
        cwd=common.ROOT,
        env=os.environ | {"TRACR_JAX_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    seconds, now = time.perf_counter() - begun, os.times()
    if done.returncode:
        raise UserError(
            f"commands: tracr-jax {' '.join(words)} ended with status {done.returncode}: {done.stdout[-300:]}"
        )
    return seconds, now.children_user + now.children_system - used.children_user - used.children_system


def measure(words: Sequence[str], *, scratch: Path, repetitions: int) -> dict[str, Any]:
    """Cold and warm, in turn: each repetition has a cache of its own."""
    sides: dict[str, list[tuple[float, float]]] = {"cold": [], "warm": []}
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(dir=scratch) as cache:
            for side in sides.values():
                side.append(once(words, scratch=scratch, cache=Path(cache)))
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
        run = scratch / "job"
        if args.run:
            shutil.copytree(args.run, run)  # evaluate and interpret write into it
        elif args.small:
            print("two steps of dyck, to have a run", flush=True)
            short = ["--steps", "2", "--eval-items", "4", "--folder", str(run)]
            once(["inject", "dyck", *short], scratch=scratch, cache=scratch / "cache")
        chosen = commands(run, scratch)
        names = ("--help", "decode") if args.small else [name for name in chosen if name != _JOB or not args.run]
        for name in names:
            found = measure(chosen[name], scratch=scratch, repetitions=args.repetitions)
            if name == _JOB:
                next(scratch.glob("run-*/run")).rename(run)
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
