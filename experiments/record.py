"""A run folder's measured numbers as one JSON file to keep: how main_job_*.json and interpret_*.json are made.

  python -m experiments.record runs/dyck-tiny-variable-seed0 experiments/main_job_tiny.json
  python -m experiments.record --interpretation RUN experiments/interpret_dyck.json

The first form keeps run.json, config.json and evaluation.json; the second what `tracr-jax interpret` found under
noise and swaps. Nothing is computed, and nothing left out within them.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json


def main_job(run: Path) -> dict[str, Any]:
    """What a run is, took and answers."""
    return {name: read_json(run / f"{name}.json") for name in ("run", "config", "evaluation")}


def interpretation(run: Path) -> dict[str, Any]:
    """What a run's variables do."""
    found = read_json(run / "interpretation.json")
    kept = ("about", "noise", "swaps")
    missing = [k for k in kept if k not in found]
    if missing:
        raise UserError(f"{run}: interpretation.json has no {', '.join(missing)}; run tracr-jax interpret {run}")
    known = read_json(run / "evaluation.json").get("weights")  # none of an earlier version
    if known is not None and found.get("weights") != known:
        raise UserError(
            f"{run}: interpretation.json and evaluation.json are of different weights; make both again"
        )
    return {k: found[k] for k in kept}


def main(argv: Sequence[str] | None = None) -> None:
    """Read, and write in one step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--interpretation", action="store_true", help="noise and swaps instead")
    args = parser.parse_args(argv)
    try:
        write_json(args.out, (interpretation if args.interpretation else main_job)(args.run))
    except UserError as e:
        print(f"error: {' '.join(str(e).split())}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
