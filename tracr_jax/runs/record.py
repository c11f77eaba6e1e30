"""Several programs in one model: a run that continues from another run's weights with a further program.

`tracr-jax inject count --onto RUN` starts from RUN's trained model, holds an adapter for every program injected so
far, and adds the earlier programs' losses, alignment and answer, to the new one's in each step. θ₀ of the
retention loss stays the original model. The chain may have any length. Ours: the paper injects one program.

Each program keeps the losses and batches of the run that injected it, seed included (its items continue where they
stopped), and its own tokenizer: the model's, without the merges that its task refuses. One tokenizer for all,
without the merges that any task refuses, would change the tokens of programs that are already trained, and with
them their bridge, their teacher's table and what the rows of the interference matrix compare. Token ids
have the same meaning in all of them, so there is one model; but each prompt must be encoded with the tokenizer of
its own program, as decoding and evaluation of `open(RUN, program=…)` do. The tokenizer of the run, its
retention text and its export is the newest program's.

programs.json in the run folder records the programs and weights that a run started from: only --resume needs the
earlier run's folder again.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracr_jax.config import RunConfig
from tracr_jax.config_file import from_dict, read_config
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, reading, write_json

FILE = "programs.json"


@dataclass(frozen=True)
class Entry:
    """One of several programs of a model."""

    task: str
    """Name of the task."""
    config: RunConfig
    """Of the run that injected it."""
    directions: int
    """D, rows of its adapter."""
    steps: int
    """Training steps before this run."""


@dataclass(frozen=True)
class Record:
    """The content of programs.json: what a run started from."""

    run: str
    """Folder of the earlier run."""
    steps: int
    """Steps of the earlier run."""
    weights: str
    """Digest of its model and adapters."""
    programs: tuple[Entry, ...]
    """In the order of injection, the run's own last."""
    history: dict[str, Any]
    """The earlier rows of the interference matrix, see `tracr_jax.measure.interference`."""


def read_record(folder: str | Path) -> Record | None:
    """programs.json of a run folder; None for a run with one program.

    Raises:
      UserError: it is damaged, or missing where config.json names an earlier run.
    """
    path = Path(folder) / FILE
    if not path.exists() and not read_config(folder).onto:
        return None
    with reading(path, "begin again in another --folder"):
        value = read_json(path)
        programs = tuple(
            Entry(**{**p, "config": from_dict(p["config"]), "directions": int(p["directions"])})
            for p in value["programs"]
        )
        record = Record(**{**value, "programs": programs})
        if len(programs) < 2 or not isinstance(record.history, dict):
            raise UserError(f"damaged, {len(programs)} programs")
        return record


def keep_record(folder: Path, record: Record) -> Record:
    """Write programs.json; where a resumed run has one, check that it began with the same and return that.

    Raises:
      UserError: the earlier run has changed since.
    """
    if (folder / FILE).exists():
        saved = read_record(folder)
        assert saved is not None
        check_unchanged(folder, saved, record)
        return saved
    write_json(folder / FILE, dataclasses.asdict(record))
    return record


def check_unchanged(folder: Path, saved: Record, now: Record) -> None:
    """A run goes on only from the weights and programs that it began with."""
    what = ""
    if (saved.steps, saved.weights) != (now.steps, now.weights):
        then, here = (f"{r.weights[:12]} after {r.steps} steps" for r in (saved, now))
        what = f"its weights were {then}, they are {here}"
    elif saved.programs[:-1] != now.programs[:-1]:
        what = "its programs or their options are others"
    if what:
        raise UserError(
            f"{now.run} has changed since {folder} began: {what}; begin again in another --folder, or put it back"
        )


def first_history(evaluation: Mapping[str, Any], *, task: str, config: RunConfig, run: str) -> dict[str, Any]:
    """The interference matrix (`tracr_jax.measure.interference`) of a run with one program."""

    def sets(model: str) -> dict[str, Any]:
        return {name: s[model] for name, s in evaluation["sets"].items()}

    return {
        "tasks": [task],
        "before": {task: sets("original")},
        "after": [
            {
                "task": task,
                "run": run,
                "steps": config.steps,
                "sets": {task: sets("injected")},
                "variables": {task: mean_decoded(evaluation["decode"], config)},
            }
        ],
    }


def mean_decoded(decode: Mapping[str, Any], config: RunConfig) -> float | None:
    """Mean decode accuracy of a program's variables on its test set, all positions, each at its last layer.

    None for a run without alignment. `decode`: of its evaluation.
    """
    if config.losses.alignment == "none":
        return None
    found = [v["accuracy"] for v in decode["test"]["all_positions"].values() if v["accuracy"] is not None]
    return sum(found) / len(found) if found else None
