"""A configuration as JSON: written into a run folder, and read back, also as earlier versions wrote it."""

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

from tracr_jax.config import LossConfig, RunConfig, require
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, reading

# What a file without the option was written with.
_BEFORE = {"result_span": "rows"}
# Options of the previous version that have another name now; until 0.2 the command line takes both.
RENAMED = {"free_items": "domain_items", "free_supervised": "domain_supervised"}
# Options of the previous version, with the only value that a file may still give them.
_DROPPED = {"roll_share": 1.0, "answer_gradient": 1.0, "clean_weight": 0.0}
RUN_FORMAT = 1  # of a run folder; raise when the meaning of its files changes


def to_dict(config: Any) -> dict[str, Any]:
    """Plain nested dict, for config.json."""
    return dataclasses.asdict(config)


def read_config(folder: str | Path) -> RunConfig:
    """The configuration of a run folder.

    Raises:
      UserError: there is none, or it is damaged.
    """
    return _read_run(folder)[0]


def read_format(folder: str | Path) -> int:
    """The format of a run folder: `RUN_FORMAT`, or 0 of the previous version, which held no programs.

    Raises:
      UserError: as `read_config`.
    """
    return _read_run(folder)[1]


def config_path(folder: str | Path) -> Path:
    """The config.json of a run folder.

    Raises:
      UserError: there is no such folder, or it is not a run folder.
    """
    path = Path(folder) / "config.json"
    if not Path(folder).exists():
        raise UserError(f"{folder}: no such folder")
    if not path.exists():
        raise UserError(f"{folder}: not a run folder, there is no config.json")
    return path


def _read_run(folder: str | Path) -> tuple[RunConfig, int]:
    path = config_path(folder)
    if (Path(folder) / "program.json").exists():
        raise UserError(f"{folder}: an export, from which training cannot continue; name its run")
    with reading(path):
        values = read_json(path)
        require(isinstance(values, dict), f"expected an object, got {type(values).__name__}")
        require("model_type" not in values, "of a language model, not of a run; name the folder of a run")
        found = values.pop("format", 0)
        known = type(found) is int and 0 <= found <= RUN_FORMAT
        require(known, f"format {found!r}, this version reads 0 to {RUN_FORMAT}")
        return from_dict(values), found


def from_dict(values: dict[str, Any], *, kind: type = RunConfig) -> Any:
    """Read a configuration back; an unknown or ill-typed field is a UserError that names it."""
    require(isinstance(values, dict), f"{kind.__name__} must be an object, got {type(values).__name__}")
    values = (_BEFORE if kind is LossConfig else {}) | _upgraded(values)
    hints, out = get_type_hints(kind), {}
    for name, value in values.items():
        require(name in hints, f"{kind.__name__} has no field {name!r}")
        if dataclasses.is_dataclass(hints[name]):
            out[name] = from_dict(value, kind=hints[name])  # pyright: ignore[reportArgumentType]
        elif name == "variable_weights":
            out[name] = tuple((str(k), float(w)) for k, w in value)
        elif hints[name] == tuple[int, ...]:
            ok = isinstance(value, list | tuple) and all(type(n) is int for n in value)
            require(ok, f"{kind.__name__}.{name}: expected whole numbers, got {value!r}")
            out[name] = tuple(value)
        else:
            default = kind.__dataclass_fields__[name].default
            ok = isinstance(value, type(default)) or (isinstance(default, float) and isinstance(value, int))
            ok = ok and isinstance(value, bool) == isinstance(default, bool)
            require(ok, f"{kind.__name__}.{name}: expected {type(default).__name__}, got {value!r}")
            out[name] = value
    return kind(**out)


def _upgraded(values: dict[str, Any]) -> dict[str, Any]:
    """A configuration as the previous version wrote it, under today's names and without dropped options."""
    values = {RENAMED.get(name, name): value for name, value in values.items()}
    for name, default in _DROPPED.items():
        found = values.pop(name, default)
        require(found == default, f"{name} {found!r}: this version no longer has that option")
    data = values.get("data")
    if "as_coded" in values and "steps" in values and isinstance(data, dict):
        switches = ("as_coded_mask", "as_coded_length")
        values["fidelity"] = {"as_coded": values.pop("as_coded")} | {k: data[k] for k in switches if k in data}
        values["data"] = {k: v for k, v in data.items() if k not in switches}
    return values
