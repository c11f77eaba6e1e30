"""`tracr-jax export RUN DIR`: write a run as a Hugging Face folder, and read it back.

    config.json  generation_config.json  model.safetensors      the language model, float32
    tokenizer.json  tokenizer_config.json  special_tokens_map.json  (vocab.json  merges.txt)
    adapter.safetensors  program.json      A = (weight [D, d], bias [D]), and what its rows mean
    README.md                              a card with the measured numbers

The names of tensors come from `lm/convert.py`, in both directions.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.export.card import model_card
from tracr_jax.export.tokenizer import as_trained, write_tokenizer
from tracr_jax.files import new_folder, reading, write_json, write_text
from tracr_jax.interpret.decode import Trained
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.load import LoadedLM, load_lm
from tracr_jax.lm.tensors import open_safetensors, write_safetensors
from tracr_jax.runs.build import Setup
from tracr_jax.runs.program import FILE, describe_program, read_program
from tracr_jax.teacher import Variable
from tracr_jax.train.step import TrainParams
from tracr_jax.types import Adapter


def export_run(run: Trained, folder: str | Path, *, evaluation: dict[str, Any]) -> Path:
    """Write a run as a folder that `transformers` loads with no code of ours.

    Args:
      run: from `inject` or `open_run`.
      folder: does not exist yet, or is empty; it appears whole or not at all.
      evaluation: the content of the run's evaluation.json, for the card.

    Returns:
      The folder.

    Raises:
      UserError: the folder holds something, or cannot be written.
    """
    setup, params = run.setup, run.params
    with new_folder(folder) as out:
        program = describe_program(setup)
        write_json(out / FILE, program)
        write_text(out / "README.md", card(setup, evaluation, program=program))
        # A run without alignment never trained its adapter: it would read noise.
        if program["aligned"]:
            adapter = {k: np.asarray(v, np.float32) for k, v in params.adapter._asdict().items()}
            write_safetensors(out / "adapter.safetensors", adapter)
        tokenizer = as_trained(setup.tokenizer, max_length=setup.lm.model.max_positions)
        save_hf_folder(out, setup.lm.model, params.lm, tokenizer)
        write_tokenizer(out, tokenizer)
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.eos_id,
        }
        write_json(out / "generation_config.json", ids | {"do_sample": False})
    return Path(folder)


def card(setup: Setup, evaluation: dict[str, Any], *, program: dict[str, Any]) -> str:
    """`model_card`; a damaged evaluation.json is a UserError."""
    with reading("evaluation.json", "measure the run again: tracr-jax evaluate RUN"):
        return model_card(setup, evaluation, program=program)


@dataclass(frozen=True)
class Exported:
    """An exported run, read back: everything that was trained, and the meaning of the adapter's rows."""

    lm: LoadedLM
    """The trained model, with the tokenizer it was trained with."""
    adapter: Adapter | None
    """None for a run without alignment."""
    variables: tuple[Variable, ...]
    """The program's variables, in the compiler's order."""
    program: dict[str, Any]
    """The content of program.json, see `describe_program`."""

    @property
    def params(self) -> TrainParams:
        """Parameters as the run's own, e.g. for `OpenedRun(setup, exported.params)`.

        Raises:
          UserError: the run has no adapter.
        """
        if self.adapter is None:
            raise UserError(f"{self.lm.source}: a run without alignment, its adapter was not trained")
        return TrainParams(self.lm.params, self.adapter)


def open_export(folder: str | Path) -> Exported:
    """Read an exported folder; needs neither the run nor the original model.

    Raises:
      UserError: a file is missing or damaged, or the files do not belong together.
    """
    program, variables = read_program(folder)
    lm = load_lm(str(folder))
    adapter = None
    if program["aligned"]:
        tensors = open_safetensors(folder, name="adapter")
        shapes = {"weight": (program["directions"], program["width"]), "bias": (program["directions"],)}
        if dict(tensors.shapes) != shapes or program["width"] != lm.model.width:
            raise UserError(
                f"{folder}: adapter.safetensors {dict(tensors.shapes)}, {FILE} {shapes} and a model of width "
                f"{lm.model.width} do not belong together; export the run again"
            )
        adapter = Adapter(*(jnp.asarray(tensors.get(name)) for name in Adapter._fields))
    return Exported(lm, adapter, variables, program)
