"""A long run of the bundled model: memory, compilations and the time of a step, from its beginning to its end.

  python -m experiments.soak                  5,000 steps of dyck, soak.json beside this file
  python -m experiments.soak --steps 400 --out /tmp/soak.json

The step is `inject`'s own, with few rows, so that the loop around it (batches, metrics, checkpoints) is as large a
share of the time as it gets. The host's memory is looked at after every tenth step, in two ways: what the process
has ("resident"; an allocator that keeps its pages, tracr_jax/host.py, makes that a high water mark) and what
malloc has given out ("in use", with glibc). The first half of the first quarter is warm-up (allocator, orbax's
first checkpoints) and is reported, but not compared. Source: issue 7.
"""

import argparse
import ctypes
import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

import jax

from tracr_jax.files import write_json
from tracr_jax.injection import inject
from tracr_jax.presets import preset
from tracr_jax.runs.folder import about

OUT = Path(__file__).resolve().parent / "soak.json"
LOOK_EVERY = 10
_COMPILED = "/jax/core/compile/backend_compile_duration"


class _Watch:
    """A metric writer that also looks at the process: memory now, compilations so far."""

    def __init__(self):
        self.seconds: list[float] = []
        self.memory: list[tuple[int, int, int | None]] = []  # (step, resident bytes, bytes in use)
        self.compiled: list[int] = []  # programs compiled until after each step
        self._programs = 0
        jax.monitoring.register_event_duration_secs_listener(self._count)

    def _count(self, event: str, duration_secs: float, **_: Any) -> None:
        self._programs += event == _COMPILED

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        self.seconds.append(float(values["seconds"]))
        self.compiled.append(self._programs)
        if (step + 1) % LOOK_EVERY == 0:
            self.memory.append((step + 1, resident_bytes(), bytes_in_use()))

    def flush(self) -> None: ...

    def close(self) -> None: ...


def resident_bytes() -> int:
    """Memory of this process that is in use now, not its peak (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


_MALLINFO = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO]


def bytes_in_use() -> int | None:
    """What malloc has given out and not got back, over all arenas; None without glibc 2.33 or newer."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except (OSError, AttributeError):
        return None
    mallinfo.restype = _MallInfo
    found = mallinfo()
    return found.uordblks + found.hblkhd


def summary(watch: _Watch) -> dict[str, Any]:
    """First against last quarter; the first quarter without its own first half."""
    n = len(watch.seconds)
    first, last = statistics.median(watch.seconds[n // 8 : n // 4]), statistics.median(watch.seconds[-(n // 4) :])

    def growth(column: int) -> dict[str, float] | None:
        looks = [(look[0], look[column]) for look in watch.memory]
        early = [value for step, value in looks if value is not None and n / 8 < step <= n / 4]
        late = [value for step, value in looks if value is not None and step > 3 * n / 4]
        if not early or not late:
            return None
        a, b = statistics.mean(early), statistics.mean(late)
        return {"early": a, "late": b, "growth": b / a - 1}

    return {
        "steps": n,
        "resident_bytes": growth(1),
        "bytes_in_use": growth(2),
        "seconds_per_step": {"early": first, "late": last, "growth": last / first - 1},
        # The second step may still compile what a donated state needs; from then on nothing may.
        "compiled": {
            "until_step_2": watch.compiled[1],
            "later": watch.compiled[-1] - watch.compiled[1],
            "later_at_steps": [i + 1 for i in range(2, n) if watch.compiled[i] > watch.compiled[i - 1]],
        },
        "memory_by_step": watch.memory[:: max(1, len(watch.memory) // 100)],
    }


def soak(*, steps: int, lm: str, folder: Path) -> dict[str, Any]:
    """Run, and return what was seen."""
    base = preset("variable", task="dyck", lm=lm)
    config = dataclasses.replace(
        base,
        steps=steps,
        eval_items=10,
        checkpoint_every=max(1, steps // 25),
        data=dataclasses.replace(
            base.data, batch=2, domain_items=2, domain_supervised=1, text_batch=1, text_length=32
        ),
    )
    watch, started = _Watch(), time.time()
    inject("dyck", lm=lm, config=config, folder=folder, writers=(watch,), progress=sys.stderr.isatty(), say=print)
    return about(started) | summary(watch)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and write; the exit status says nothing about the numbers, the test and the reader judge them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--lm", default="tiny")
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = soak(steps=args.steps, lm=args.lm, folder=Path(folder) / "run")
    write_json(args.out, found)
    seconds, compiled = found["seconds_per_step"], found["compiled"]
    memory = [
        f"{title} {m['early'] / 2**20:.0f} -> {m['late'] / 2**20:.0f} MiB ({m['growth']:+.2%})"
        for title, m in (("resident", found["resident_bytes"]), ("in use", found["bytes_in_use"]))
        if m
    ]
    print(
        f"{found['steps']} steps: {', '.join(memory)}, step {seconds['early']:.3f} -> {seconds['late']:.3f} s "
        f"({seconds['growth']:+.1%}), compiled after step 2: {compiled['later']}; {args.out}"
    )


if __name__ == "__main__":
    main()
