"""Sides of a comparison as processes of their own, woken in turn.

  python -m experiments.benchmarks.workers MODULE:FUNCTION OPTIONS_JSON     (started by `Worker`, not by hand)

MODULE may be relative to this folder (".case"). FUNCTION(options) -> (info, run) prepares a side. The process then
waits: a line "go" makes one repetition and answers with its seconds and run's value; the end of its input ends it,
with its peak memory. While it waits it computes nothing, and its memory and its threads are its own: neither
library's peak is counted with the other's.
"""

import json
import os
import subprocess
import sys

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import importlib
from collections.abc import Callable, Mapping
from typing import Any

from experiments.benchmarks.common import ROOT, Name, Sample, compact, in_turn, peak_memory, timed
from tracr_jax.errors import UserError


class Worker:
    """A process with one side of a comparison; a context manager."""

    def __init__(self, target: str, options: Mapping[str, Any], *, env: Mapping[str, str] | None = None):
        """Start MODULE:FUNCTION with its options; `env` is added to this process's environment."""
        self.target, self.peak_memory_gib = target, float("nan")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmarks.workers", target, compact(dict(options))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **(env or {})},
            cwd=ROOT,
        )
        try:
            # Here, so that the preparation of one side never runs beside another's.
            self.info = self._answer()["info"]
        except UserError:
            self._process.kill()
            raise

    def go(self) -> Sample:
        """One repetition: (seconds as the process itself measured them, value)."""
        self._write("go\n")
        answer = self._answer()
        return answer["seconds"], answer["value"]

    def close(self) -> None:
        """End the process; afterwards `peak_memory_gib` is known."""
        if self._process.poll() is None:
            self._write("end\n")
            self.peak_memory_gib = self._answer()["peak_memory_gib"]
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _write(self, line: str) -> None:
        assert self._process.stdin
        try:
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer says it

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            killed = " (killed: is the memory enough?)" if status == -9 else ""
            raise UserError(
                f"{self.target}: its process ended with status {status}{killed}; its messages stand above"
            )
        return json.loads(line)

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, kind, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._process.kill()
            self._process.wait()


def measure(
    workers: Mapping[Name, Worker], *, repetitions: int, warmup: int = 2, settle_s: float
) -> dict[Name, dict[str, Any]]:
    """All workers in turn, then all closed; what `in_turn` returns and each one's "info" and "peak_memory_gib"."""
    out: dict[Name, dict[str, Any]] = in_turn(
        {name: w.go for name, w in workers.items()}, repetitions=repetitions, warmup=warmup, settle_s=settle_s
    )
    for name, worker in workers.items():
        worker.close()
        last = out[name]["values"][-1]
        # On an accelerator a side reports its device's peak; on a CPU the process's is the device's.
        device = last.get("device_peak_gib") if isinstance(last, dict) else None
        out[name] |= {"info": worker.info, "peak_memory_gib": device or worker.peak_memory_gib}
    return out


def serve(prepare: Callable[[dict], tuple[Any, Callable[[], Any]]], options: dict[str, Any]) -> None:
    """The process's side of the conversation."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints must not stand between the answers

    def answer(value):
        answers.write(compact(value) + "\n")
        answers.flush()

    info, run = prepare(options)
    answer({"info": info})
    once = timed(run)
    for line in sys.stdin:
        if line != "go\n":
            break
        seconds, value = once()
        answer({"seconds": seconds, "value": value})
    answer({"peak_memory_gib": peak_memory()})


if __name__ == "__main__":
    name, function = sys.argv[1].split(":")
    serve(getattr(importlib.import_module(name, __package__), function), json.loads(sys.argv[2]))
