"""The model that training began with, in the folder of a run that trains a part of it only.

RUN/model then is that model in Hugging Face's format: its weights in float32, its other files as they were.
Reading the run takes nothing but its folder, and `tracr-jax apply` and `remove` find the model there.
"""

from pathlib import Path

import numpy as np

from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.convert import from_tensors, to_tensors
from tracr_jax.lm.load import LoadedLM, name_type, write_small_files
from tracr_jax.lm.tensors import open_safetensors, write_safetensors
from tracr_jax.runs.folder import MODEL
from tracr_jax.types import Params


def keep_frozen(folder: Path, config: RunConfig, lm: LoadedLM, params: Params | None) -> None:
    """Write the weights that training begins with; where a resumed run has them, check that they are the same.

    Args:
      folder: the run folder.
      config: of the run; of one that trains all nothing is written.
      lm: the original model.
      params: what training begins with, where that is not the original.

    Raises:
      UserError: the model has changed since the run began.
    """
    if config.part.kind == "all":
        return
    now = to_tensors(lm.model, lm.params if params is None else params)
    if (folder / MODEL / "model.safetensors").exists():
        saved = open_safetensors(folder / MODEL)
        for name, value in now.items():
            if name not in saved.shapes or not np.array_equal(saved.get(name), value):
                raise UserError(
                    f"{folder}: {config.onto or config.lm} has changed since the run began ({name}), and what is "
                    "not trained must stay; begin again in another --folder, or put it back"
                )
    else:
        write_safetensors(folder / MODEL / "model.safetensors", now)
    write_small_files(lm, folder / MODEL)
    if params is not None:  # which no type of the original's holds
        name_type(folder / MODEL, "float32")


def read_frozen(folder: Path, model: LanguageModel) -> Params:
    """The weights that training began with.

    Raises:
      UserError: they are missing or damaged.
    """
    return from_tensors(model, open_safetensors(folder / MODEL))
