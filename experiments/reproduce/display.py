"""One progress display for a whole sweep: the runs above, the current run's steps and losses below.

It is a MetricWriter, so a run reports to it as it does to metrics.jsonl. Without a terminal it prints a line when
a run starts and one when it ends.
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

_SHOWN = {"loss": "loss", "alignment": "align", "supervised": "answer", "retention_per_token": "retain/token"}


class Display:
    """The sweep's steps, over all runs that are left, and the steps of the run at hand."""

    def __init__(self, *, total_steps: int, runs: int, skipped: int, console: Console | None = None):
        self._console = console or Console(highlight=False)
        self._runs, self._number, self._before, self._name, self._steps = runs, 0, 0, "", 0
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}", markup=False),
            console=self._console,
            disable=not self._console.is_terminal or not runs,
            refresh_per_second=2,
            # Runs differ and evaluations take time: the last hour's rate is the fairest forecast.
            speed_estimate_period=3600,
        )
        left = f"{skipped} finished before" if skipped else ""
        self._sweep = self._bar.add_task("sweep", total=total_steps, terms=left)
        self._current = self._bar.add_task("", total=1, terms="", visible=False)

    def __enter__(self):
        self._bar.start()
        return self

    def __exit__(self, *exc):
        self._bar.stop()

    def start(self, name: str, *, steps: int) -> None:
        """A run begins."""
        self._number, self._name, self._steps = self._number + 1, name, steps
        self._bar.update(self._sweep, description=f"run {self._number} of {self._runs}")
        self._bar.reset(self._current, total=steps, description=name, visible=True, terms="")
        if not self._console.is_terminal:
            self._console.print(
                f"run {self._number} of {self._runs}: {name}, {steps} steps", markup=False, soft_wrap=True
            )

    def say(self, line: str) -> None:
        """What the run is doing when it does not train; warnings stay on the screen."""
        self._bar.update(self._current, terms=line)
        if line.startswith("warning"):
            self._console.print(f"{self._name}: {line}", style="yellow", markup=False, soft_wrap=True)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """A step is done."""
        terms = "  ".join(f"{short} {float(values[k]):.3g}" for k, short in _SHOWN.items() if k in values)
        self._bar.update(self._current, completed=step + 1, terms=terms)
        self._bar.update(self._sweep, completed=self._before + step + 1)

    def flush(self) -> None:
        """Nothing to do: the display refreshes itself."""

    def close(self) -> None:
        """A run's training is over; the display stays for the next."""

    def finish(self, line: str) -> None:
        """A run ends, evaluated or failed: one line that stays."""
        self._before += self._steps
        self._bar.update(self._sweep, completed=self._before)
        self._console.print(f"{self._name}: {line}", markup=False, soft_wrap=True)
