"""`tracr-jax export RUN DIR`: write a run as a Hugging Face folder; `tracr_jax.open` reads it back.

    config.json  generation_config.json  model.safetensors      the language model, float32
    tokenizer.json  tokenizer_config.json  special_tokens_map.json  (vocab.json  merges.txt)
    adapter.safetensors  program.json  teacher.npz   A = (weight [D, d], bias [D]), what its rows mean, the program
    reserved.npz  codes.safetensors        of a reserved adapter: where its variables stand, and their centroids
    README.md  original.json               a card with the measured numbers; digests of what the run began with
    program_adapter.safetensors  original/ of a run with --train lora: see `tracr_jax.export.program`
    graft.safetensors                      of a graft: its map; the model is untouched, see `tracr_jax.runs.graft`
    interpbench/  activations.*            where asked for: ground truth, labelled activations

The names of tensors come from `lm/convert.py`, in both directions.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tracr_jax.data.samples import check_items
from tracr_jax.errors import UserError
from tracr_jax.export import activations as labelled
from tracr_jax.export import benchmark
from tracr_jax.export.activations import write_activations
from tracr_jax.export.benchmark import write_benchmark
from tracr_jax.export.card import model_card
from tracr_jax.export.program import write_removable
from tracr_jax.export.tokenizer import as_trained, write_tokenizer
from tracr_jax.files import new_folder, read_json, reading, write_json, write_text
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.graft import alone, without_map
from tracr_jax.lm.lora import split_pairs
from tracr_jax.runs.adapters import write_adapter
from tracr_jax.runs.folder import MODEL
from tracr_jax.runs.graft import write_map
from tracr_jax.runs.model import Injected
from tracr_jax.runs.original import copy_original
from tracr_jax.runs.program_files import FILE, save_program


def export_run(
    run: Injected,
    folder: str | Path,
    *,
    evaluation: Mapping[str, Any] | None = None,
    pairs: int | None = None,
    activations: int | None = None,
) -> Path:
    """Write a model with its newest program as a folder that `transformers` loads with no code of ours.

    Args:
      run: from `inject` or `open`.
      folder: does not exist yet, or is empty; it appears whole or not at all.
      evaluation: the content of the run's evaluation.json, for the card; by default the run's own.
      pairs: also write the ground truth of `tracr_jax.export.benchmark`, with so many pairs of each variable.
      activations: also write those of so many items of each set, see `tracr_jax.export.activations`.

    Returns:
      The folder.

    Raises:
      UserError: a number is less than one, or the folder holds something, or cannot be written; or there is no
        evaluation, or, for the last two, no code of the task, or a graft, in whose states is nothing to label.
    """
    program, model, params = run.program, alone(run.model), without_map(run.params)
    if program.grafted and (pairs is not None or activations is not None):
        run.adapter  # noqa: B018 - says why a graft has none
    check_items(activations)
    if pairs is not None and pairs < 1:
        raise UserError(f"export: pairs must be at least 1, got {pairs}")
    evaluation = evaluation or run.measured
    if evaluation is None:
        raise UserError(
            f"{run.folder}: an export needs the model's measured numbers: give evaluation=, or make a run's by "
            f"tracr-jax evaluate {run.folder}"
        )
    if evaluation.get("task", program.name) != program.name:
        raise UserError(
            f"{run.folder}: the evaluation is of {evaluation['task']}, the export of {program.name}: give "
            f"evaluation= of that one, tracr_jax.measure.answers.evaluate(run.of({program.name!r}))"
        )
    with new_folder(folder) as out:
        tokenizer = as_trained(program.tokenizer, max_length=model.max_positions)
        save_program(out, program, width=model.width, shareable=True)
        copy_original(run.folder, out)
        text = card(run, evaluation, content=read_json(out / FILE))
        if pairs is not None:
            write_benchmark(run, out / benchmark.FOLDER, pairs=pairs)
            text += benchmark.CARD
        if activations is not None:
            write_activations(run, out, items=activations)
            text += labelled.CARD
        write_text(out / "README.md", text)
        # A run without alignment never trained its adapter: it would read noise.
        if program.aligned:
            write_adapter(out, run.adapter, program.codes)
        if program.grafted:
            write_map(out, run.params)
        save_hf_folder(out, model, params, tokenizer)
        if run.newest and program.config.part.kind == "lora" and split_pairs(params)[1]:  # else another's pairs
            original = run.folder / MODEL if run.folder else None
            lm, onto = (read_json(out / FILE)["run"][name] for name in ("lm", "onto"))
            lm += f" with the programs of {onto}" if onto else ""
            write_removable(out, model, params, lm=lm, original=original)
        write_tokenizer(out, tokenizer)
        ids = {
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "pad_token_id": tokenizer.eos_id,
        }
        write_json(out / "generation_config.json", ids | {"do_sample": False})
    return Path(folder)


def card(run: Injected, evaluation: Mapping[str, Any], *, content: dict[str, Any]) -> str:
    """`model_card`; a damaged evaluation.json is a UserError."""
    with reading("evaluation.json", "measure the run again: tracr-jax evaluate RUN"):
        return model_card(run.program, evaluation, content=content)
