"""The files of a run folder, as they are; what may be missing is None. Contracts: `tracr_jax.runs.folder`,
`tracr_jax.measure.answers` and `tracr_jax.interpret.study`.

The report reads files only: a page can be made again on a machine without JAX, an accelerator or the model.
"""

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracr_jax.config_file import config_path
from tracr_jax.errors import UserError, describe
from tracr_jax.files import read_json
from tracr_jax.train.metrics import read_lines

# What a part must hold for its section to be drawn: a file of another version is refused by name, in one line.
_KEYS = {
    "evaluation.json": ("sets",),
    "retention.json": ("rows",),
    "interpretation.json": ("variables",),
    "examples.json": ("variables", "examples"),
    "controls.json": ("rows",),
}
_PROGRAMS = ("tasks", "before", "after")
_INTERPRETATION = {
    "scorecard": ("layers", "sets"),
    "noise": ("prompts", "rank", "kinds"),
    "swaps": ("pairs", "cells", "left_out"),
}


@dataclass(frozen=True)
class RunFiles:
    """One run's files."""

    folder: Path
    name: str  # the folder's own name, or more of its path where two would be the same
    config: Mapping[str, Any]
    about: Mapping[str, Any]  # run.json; empty where it is missing
    metrics: Sequence[Mapping[str, Any]]
    evaluation: Mapping[str, Any] | None
    retention: Mapping[str, Any] | None
    interpretation: Mapping[str, Any] | None
    examples: Mapping[str, Any] | None = None  # from the end of the main job; of interpretation.json are more
    controls: Mapping[str, Any] | None = None

    @property
    def is_baseline(self) -> bool:
        """Whether the run had no alignment, fine-tuning or a graft: it has answers, but no variables to read."""
        return self.config.get("losses", {}).get("alignment") == "none"

    @property
    def is_graft(self) -> bool:
        """Whether the program stands beside the model."""
        return str(self.config.get("train")).startswith("graft:")

    @property
    def sets(self) -> Mapping[str, Any]:
        """The sets of evaluation.json; none where it is missing."""
        return (self.evaluation or {}).get("sets", {})

    @property
    def variables(self) -> Sequence[Mapping[str, Any]]:
        """The program's variables, in the teacher's order; none where nothing was read yet."""
        return (self.interpretation or self.examples or {}).get("variables", ())

    def part(self, name: str) -> Any:
        """A part of interpretation.json ("scorecard", "noise", "swaps", "examples"), or None."""
        return (self.interpretation or self.examples or {}).get(name)


def load_runs(folders: Sequence[str | Path]) -> list[RunFiles]:
    """Read the runs' files, in the order given.

    Raises:
      UserError: a folder is no run folder, appears twice, or holds a damaged file.
    """
    paths = [Path(f) for f in folders]
    for i, path in enumerate(paths):
        if path.resolve() in [p.resolve() for p in paths[:i]]:
            raise UserError(f"{path}: given twice")
    return [_load(path, name) for path, name in zip(paths, _names(paths), strict=True)]


@contextlib.contextmanager
def blaming(runs: Sequence[RunFiles]) -> Iterator[None]:
    """What cannot be drawn is one line: the files are of another version, or damaged where no key shows it."""
    try:
        yield
    except UserError:
        raise
    except Exception as e:
        where = " or ".join(str(r.folder) for r in runs)
        raise UserError(
            f"{where}: a JSON file holds what cannot be shown ({describe(e)}); make evaluation.json, "
            "interpretation.json or retention.json again (tracr-jax evaluate, interpret, retention)"
        ) from e


def _load(folder: Path, name: str) -> RunFiles:
    path = config_path(folder)
    if (folder / "program.json").exists():
        raise UserError(f"{folder}: an export, which holds no measurements; report the run that it was made of")
    config = _object(path, ())
    evaluation, interpretation = (_optional(folder, f"{name}.json") for name in ("evaluation", "interpretation"))
    if evaluation and "programs" in evaluation:
        _require(evaluation["programs"], _PROGRAMS, f"{folder / 'evaluation.json'}, 'programs'")
    for part, keys in _INTERPRETATION.items():
        if interpretation and interpretation.get(part) is not None:
            _require(interpretation[part], keys, f"{folder / 'interpretation.json'}, {part!r}")
    of = (evaluation or {}).get("weights")
    return RunFiles(
        folder=folder,
        name=name,
        config=config,
        about=_optional(folder, "run.json") or {},
        metrics=read_lines(folder / "metrics.jsonl"),
        evaluation=evaluation,
        retention=_of_weights(_optional(folder, "retention.json"), of, folder, "retention"),
        interpretation=_of_weights(interpretation, of, folder, "interpret"),
        examples=_optional(folder, "examples.json"),
        controls=_of_weights(_optional(folder, "controls.json"), of, folder, "controls"),
    )


def _of_weights(
    found: Mapping[str, Any] | None, weights: str | None, folder: Path, command: str
) -> Mapping[str, Any] | None:
    """What was measured, unless of other weights than the evaluation: before a run went on, say."""
    own = (found or {}).get("weights")
    if own and weights and own != weights:
        warnings.warn(
            f"{folder}: what tracr-jax {command} measured is of other weights ({own[:12]}) than evaluation.json "
            f"({weights[:12]}) and left out; measure again: tracr-jax {command} {folder}",
            stacklevel=2,
        )
        return None
    return found


def _optional(folder: Path, file: str) -> Mapping[str, Any] | None:
    path = folder / file
    return _object(path, _KEYS.get(file, ())) if path.exists() else None


def _object(path: Path, keys: Sequence[str]) -> Mapping[str, Any]:
    value = read_json(path)
    _require(value, keys, str(path))
    return value


def _require(value: Any, keys: Sequence[str], where: str) -> None:
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object, got {type(value).__name__}")
    missing = [k for k in keys if k not in value]
    if missing:
        raise UserError(f"{where}: no {', '.join(map(repr, missing))}; made by another version? make it again")


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest tails of the paths that tell them apart."""
    parts = [p.resolve().parts for p in paths]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-n:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [str(p) for p in paths]
