"""Which model a run began with: original.json in its folder, and in that of its export.

    {"lm": the model's name, "weights": the digest of its weights}

A name alone does not say it: a folder is written anew, a hub's model moves on, a random one has a seed. What is
compared with the original (retention, the answers before, the probe, the controls) would then mean another model.
"""

from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.files import copy_file, read_json, reading, write_json
from tracr_jax.lm.convert import to_tensors
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lm.tensors import weights_digest

FILE = "original.json"


def keep_original(folder: Path, lm: LoadedLM) -> None:
    """Write which model a run begins with; where a resumed run has said so, check that it is the same.

    Raises:
      UserError: it is another.
    """
    if (folder / FILE).exists():
        check_original(folder, lm)
    else:
        write_json(folder / FILE, {"lm": lm.name, "weights": _digest(lm)})


def check_original(folder: Path, lm: LoadedLM) -> None:
    """Refuse a model that is not the one a run began with; a folder without original.json says nothing.

    Raises:
      UserError: it is another, or original.json is damaged.
    """
    saved = _saved(folder)
    if saved is not None and saved[1] != (now := _digest(lm)):
        name, weights = saved
        raise UserError(
            f"{folder}: {lm.name} has changed since the run began, or is not the model that it began with "
            f"({name}): its weights were {weights[:12]}, these are {now[:12]}; put that model back, or begin "
            "again in another --folder"
        )


def began_with(folder: Path, lm: LoadedLM) -> bool:
    """Whether a run began with these weights; yes of a folder without original.json.

    Raises:
      UserError: original.json is damaged.
    """
    saved = _saved(folder)
    return saved is None or saved[1] == _digest(lm)


def _saved(folder: Path) -> tuple[str, str] | None:
    """(name, digest) of the model; None of a version that did not write it."""
    path = folder / FILE
    if not path.exists():
        return None
    with reading(path):
        saved = read_json(path)
        return str(saved["lm"]), str(saved["weights"])


def copy_original(folder: Path | None, to: Path) -> None:
    """Take original.json of a run, if it has one, into another folder of the same model."""
    if folder is not None and (folder / FILE).exists():
        copy_file(folder / FILE, to / FILE)


def _digest(lm: LoadedLM) -> str:
    return weights_digest(to_tensors(lm.model, lm.params))
