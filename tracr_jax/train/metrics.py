"""Where the numbers of a run go: one JSON object a line first, other services by option.

`MetricWriter` is the whole protocol. JSON lines are always written; TensorBoard, Weights & Biases and Trackio
are extras and get the same scalars.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.files import read_text, write_text


@runtime_checkable
class MetricWriter(Protocol):
    """Scalars and small vectors by step."""

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Record the values of one step."""
        ...

    def flush(self) -> None:
        """Make what was written visible to readers."""
        ...

    def close(self) -> None:
        """Release files and connections."""
        ...


def plain(value: Any) -> Any:
    """A JSON value of a scalar or small array; six significant digits, null for what is not finite."""
    array = np.asarray(value)
    if array.ndim:
        return [plain(x) for x in array]
    number = float(array)
    return float(f"{number:.6g}") if math.isfinite(number) else None


class JsonLines:
    """metrics.jsonl: {"step": n, …} per line. On resume, lines from `keep_below` on are dropped first."""

    def __init__(self, path: Path, *, keep_below: int = 0):
        self.path = Path(path)
        lines = [line for line in read_lines(self.path) if line["step"] < keep_below]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - closed by close()

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line."""
        self._file.write(json.dumps({"step": step, **{k: plain(v) for k, v in values.items()}}) + "\n")

    def flush(self) -> None:
        """Hand the lines to the operating system."""
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics file; a torn last line (a killed run) is left out, any other is an error."""
    if not Path(path).exists():
        return []
    lines, out = read_text(path).split("\n"), []
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline was not finished
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise UserError(f"{path}, line {number}: not JSON ({e}); delete the line or the file") from e
        if not isinstance(value, dict) or type(value.get("step")) is not int:
            raise UserError(f"{path}, line {number}: not a metrics line; delete the line or the file")
        out.append(value)
    return out


def spent(lines: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of the steps up to the last line; steps between two lines are taken to last as the later one."""
    steps = [-1, *(line["step"] for line in lines)]
    return sum((b - a) * line.get("seconds", 0.0) for a, b, line in zip(steps, steps[1:], lines, strict=False))


class TensorBoard:
    """Scalars to TensorBoard event files (extra `tensorboard`)."""

    def __init__(self, folder: Path):
        self._make, self._folder = _need("tensorboardX", "tensorboard").SummaryWriter, folder
        self._writer = None  # made with the first step: the run folder must be new until the run is checked

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Every scalar."""
        self._writer = self._writer or self._make(str(self._folder))
        for key, value in _scalars(values).items():
            self._writer.add_scalar(key, value, step)

    def flush(self) -> None:
        """Write event files."""
        if self._writer:
            self._writer.flush()

    def close(self) -> None:
        """Close event files."""
        if self._writer:
            self._writer.close()


class WandbLike:
    """Scalars to Weights & Biases or Trackio, whose run objects share `log` and `finish`."""

    def __init__(self, service: str, *, project: str, config: Mapping[str, Any]):
        self._module = _need(service, service)
        self._run = self._module.init(project=project, config=dict(config))

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Every scalar."""
        self._module.log({**_scalars(values), "step": step})

    def flush(self) -> None:
        """Nothing to do: the service batches by itself."""

    def close(self) -> None:
        """End the service's run."""
        self._module.finish()


class Several:
    """Write to several writers at once."""

    def __init__(self, writers: Sequence[MetricWriter]):
        self._writers = tuple(writers)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """To each."""
        for w in self._writers:
            w.write(step, values)

    def flush(self) -> None:
        """Each."""
        for w in self._writers:
            w.flush()

    def close(self) -> None:
        """Each."""
        for w in self._writers:
            w.close()


def _scalars(values):
    return {k: float(v) for k, v in values.items() if np.ndim(v) == 0}


def _need(module: str, extra: str):
    try:
        return __import__(module)
    except ImportError as e:
        raise UserError(f"{module} is not installed: pip install 'tracr-jax[{extra}]'") from e
