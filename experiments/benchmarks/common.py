"""What the benchmarks share: timing in turn, ratios, fitted exponents, the machine, tables and JSON.

Both sides of a comparison run in turn (A B A B …) in one call, so that a machine whose speed drifts slows both;
a ratio is the median of the ratios pair by pair. Nothing here imports JAX or PyTorch before it is needed: a side
that runs one of them should not carry the other.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]  # the checkout, where `python -m experiments…` runs

Name = TypeVar("Name")  # of a side: a text, or the number that it differs in
Sample = tuple[float, Any]  # seconds of one repetition, and what it returned
_PACKAGES = ("tracr-jax", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "tracr-pypi")


def timed(run: Callable[[], Any]) -> Callable[[], Sample]:
    """A side that runs in this process; `run` must return only when the work is done."""

    def once():
        start = time.perf_counter()
        value = run()
        return time.perf_counter() - start, value

    return once


def waiting(call: Callable[[], Any]) -> Callable[[], None]:
    """A JAX computation as something to time: returns nothing, when the device is done."""
    import jax

    def run():
        jax.block_until_ready(call())

    return run


def in_turn(
    sides: Mapping[Name, Callable[[], Sample]], *, repetitions: int, warmup: int = 1, settle_s: float = 0
) -> dict[Name, dict[str, list]]:
    """Every side once, then all again, …; name -> "seconds", "values", "warmup_seconds", "warmup_values".

    settle_s: a side runs at least so many seconds right before each timed repetition, not timed. A virtual machine
    may take memory back that was idle: after four seconds of waiting gpt2's step took 3.2 s here, the next 1.6 s.
    """
    out = {name: {k: [] for k in ("warmup_seconds", "warmup_values", "seconds", "values")} for name in sides}
    for round_ in range(warmup + repetitions):
        prefix = "warmup_" if round_ < warmup else ""
        for name, side in sides.items():
            left_s = settle_s if round_ >= warmup else 0.0
            while left_s > 0:
                left_s -= side()[0]
            seconds, value = side()
            out[name][f"{prefix}seconds"].append(seconds)
            out[name][f"{prefix}values"].append(value)
    return out


def summary(seconds: Sequence[float]) -> dict[str, Any]:
    """Median, smallest, largest and all of them, in seconds."""
    return {
        "median_s": statistics.median(seconds),
        "min_s": min(seconds),
        "max_s": max(seconds),
        "all_s": list(seconds),
    }


def ratio(numerator: Sequence[float], denominator: Sequence[float]) -> dict[str, float]:
    """Median, smallest and largest of the ratios pair by pair: repetitions that stood beside each other."""
    pairs = [a / b for a, b in zip(numerator, denominator, strict=True)]
    return {"median": statistics.median(pairs), "min": min(pairs), "max": max(pairs)}


def shares_of_step(sides: Mapping[str, Callable[[], Any]], *, repetitions: int) -> dict[str, dict[str, Any]]:
    """The side "step" and its parts, timed in turn: summary of each, with its "share" of the step."""
    measured = in_turn({k: timed(f) for k, f in sides.items()}, repetitions=repetitions)
    whole = measured["step"]["seconds"]
    return {k: summary(v["seconds"]) | {"share": ratio(v["seconds"], whole)} for k, v in measured.items()}


def fit_exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Exponent p of cost ∝ size^p by least squares on logarithms; 1 is linear.

    Raises:
      ValueError: fewer than two sizes, or something that is not positive.
    """
    if len(sizes) < 2 or min(*sizes, *costs) <= 0:
        raise ValueError(f"a fit needs two sizes or more and positive numbers, got {sizes} and {costs}")
    slope, _ = statistics.linear_regression([math.log(x) for x in sizes], [math.log(y) for y in costs])
    return slope


def peak_memory() -> float:
    """Largest resident memory of this process so far, GiB."""
    try:
        # Not ru_maxrss: a process that was started by a large one inherits the large one's.
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**20
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def matrix_product(size: int, *, dtype: str = "float32") -> tuple[Callable[[], Any], float]:
    """A square JAX matrix product to run, and its floating-point operations (2 n³)."""
    import jax
    import jax.numpy as jnp

    a = jax.random.normal(jax.random.key(0), (size, size), jnp.dtype(dtype))
    multiply = jax.jit(lambda x: x @ x)
    return waiting(lambda: multiply(a)), 2.0 * size**3


def machine() -> dict[str, Any]:
    """Processor, cores, memory, load and package versions; no device is started."""
    import platform

    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "machine": platform.platform(),
        "processor": model,
        "cores": cores,
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": os.getloadavg()[0],  # well below one on a machine that does nothing else
        "allocator": os.environ.get("GLIBC_TUNABLES", ""),
        "python": platform.python_version(),
        "packages": versions,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def parser(doc: str, *, repetitions: int = 5) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    out = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument(
        "--small", action="store_true", help="everything at a size of a few seconds, to test the script"
    )
    out.add_argument("--repetitions", type=_positive, default=repetitions, help="timed repetitions of each side")
    out.add_argument(
        "--out", type=Path, help="JSON file; default NAME.json here, with --small in the temporary folder"
    )
    return out


def settle_s(args: argparse.Namespace) -> float:
    """Seconds for `in_turn` between processes that wait for each other."""
    return 0.0 if args.small else 4.0


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return int(text)


def finish(
    name: str, args: argparse.Namespace, about: dict[str, Any], results: Any, *, title: str, rows: Any
) -> None:
    """Print the table (dicts of column -> value, one a row) and write the JSON file."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    columns = _columns(rows)
    for column in columns:
        table.add_column(column, justify="right" if any(is_number(r.get(column)) for r in rows) else "left")
    for row in rows:
        table.add_row(*(shown(row.get(column)) for column in columns))
    Console().print(table)
    print(f"written: {write(name, args, about, results, title=title, rows=rows)}")


def write(
    name: str, args: argparse.Namespace, about: dict[str, Any], results: Any, *, title: str, rows: Any
) -> Path:
    """The JSON file alone, for a script that has more to measure; returns its path."""
    from tracr_jax.files import write_json

    path = (
        args.out or (Path(tempfile.gettempdir()) / "tracr_jax_benchmarks" if args.small else HERE) / f"{name}.json"
    )
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    about = about | {"command": [name, *sys.argv[1:]], "load_after": os.getloadavg()[0]}
    table_rows = [{c: row.get(c) for c in _columns(rows)} for row in rows]
    content = {"benchmark": name, "options": options, "about": about, "title": title, "rows": table_rows}
    write_json(path, content | {"results": results})
    return path


def _columns(rows: Any) -> list[str]:
    """Names of all columns, in the order in which rows bring them."""
    return list(dict.fromkeys(k for row in rows for k in row))


def is_number(value: Any) -> bool:
    """Whether a cell of a table is one."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def shown(value: Any) -> str:
    """A cell of a table, on the terminal and in Markdown."""
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main(run: Callable[[], None]) -> None:
    """Call a script's main function; what the user can change is one line on stderr and exit status 2."""
    from tracr_jax.errors import UserError

    try:
        run()
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)


def compact(value: Any) -> str:
    """JSON on one line, for messages between processes."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)
