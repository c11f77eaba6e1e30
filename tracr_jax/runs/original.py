"""What a run began with: original.json in its folder, and in that of its export.

    {"lm": the model's name, "weights": the digest of its weights, "data": that of `Batches.digest`}

A name alone does not say it: a folder is written anew, a hub's model moves on, a random one has a seed. What is
compared with the original (retention, the answers before, the probe, the controls) would then mean another model.
And a run that is resumed with another tokenizer, text or task would be trained on something else from there on.
"""

from pathlib import Path

from tracr_jax.errors import UserError
from tracr_jax.files import copy_file, read_json, reading, write_json
from tracr_jax.lm.convert import to_tensors
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lm.tensors import weights_digest

FILE = "original.json"


def keep_original(folder: Path, lm: LoadedLM, *, data: str) -> None:
    """Write what a run begins with, where that is not said yet."""
    if not (folder / FILE).exists():
        write_json(folder / FILE, {"lm": lm.name, "weights": _digest(lm), "data": data})


def check_dtype(lm: LoadedLM, dtype: str) -> None:
    """Refuse a loaded model that computes in another type than a run's configuration says.

    Raises:
      UserError: it does.
    """
    if lm.model.dtype != dtype:
        raise UserError(
            f"{lm.name} was loaded to compute in {lm.model.dtype}, the run's configuration says {dtype}; load it "
            f"by load_lm(…, dtype={dtype!r}), or change the configuration"
        )


def check_original(folder: Path, lm: LoadedLM, *, data: str = "") -> None:
    """Refuse a model, or data, that are not those a run began with; a folder without original.json says nothing.

    Raises:
      UserError: they are others, or original.json is damaged.
    """
    saved = _saved(folder)
    if saved is None:
        return
    name, weights, before = saved
    if data and before and data != before:
        raise UserError(
            f"{folder}: the batches are not those of the run so far ({before}, now {data}): its text, its model's "
            "tokenizer or its task has changed, or tracr_jax itself; put that back, or begin again in another "
            "--folder"
        )
    if weights != (now := _digest(lm)):
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


def _saved(folder: Path) -> tuple[str, str, str] | None:
    """(name of the model, digest of its weights, that of the data); of older versions None, or "" for the data."""
    path = folder / FILE
    if not path.exists():
        return None
    with reading(path):
        saved = read_json(path)
        return str(saved["lm"]), str(saved["weights"]), str(saved.get("data", ""))


def copy_original(folder: Path | None, to: Path) -> None:
    """Take original.json of a run, if it has one, into another folder of the same model."""
    if folder is not None and (folder / FILE).exists():
        copy_file(folder / FILE, to / FILE)


def _digest(lm: LoadedLM) -> str:
    return weights_digest(to_tensors(lm.model, lm.params))
