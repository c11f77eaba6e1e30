"""Labelled activations, to train or judge sparse autoencoders on: `tracr-jax export RUN DIR --activations`.

    activations.safetensors   "blocks.{l}.hook_resid_pre" [N, d] for every state that the program is read from;
                              "token_ids" [N], "item" [N] and "position" [N] say which token a row is, and
                              "labels" [N, n] which value the program holds of each variable there (its place in
                              the variable's values, -1 where it holds none)
    activations.json          the names: variables with their values and the teacher layer that writes them, the
                              items, and the fields that SAELens keeps of an activation store (model_name,
                              hook_names, d_in, prepend_bos, context_size)

A label holds in the state of teacher layer l from the variable's "writer_layer" on. "layers" says where the model
was trained to represent it; values that share a centroid there ("alike", by the place of the one that the adapter
reads for all of them) cannot be told apart.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from tracr_jax.data.samples import reported_samples
from tracr_jax.errors import UserError
from tracr_jax.files import write_json
from tracr_jax.lm.tensors import write_safetensors
from tracr_jax.measure.variables.counting import aligned_states
from tracr_jax.measure.variables.labelled import Labeller
from tracr_jax.runs.model import Injected
from tracr_jax.runs.program_files import describe_program

FILE = "activations"
_BATCH = 32
CARD = """
## Labelled activations

`activations.safetensors` holds the residual stream at every token of items of each set, and the program's value of
each variable there; `activations.json` says what the rows and values are.
"""


def write_activations(run: Injected, folder: Path, *, items: int = 50) -> None:
    """Write the residual stream at every token of `items` items of each reported set, with the program's values.

    Args:
      run: from `inject` or `open`, with the task's own code at hand.
      folder: gets the two files.
      items: of each set, its first. The labels are those of `Labeller`: where an item is longer than the program's
        table, a value for which the teacher has no direction has none.

    Raises:
      UserError: the task's code is not at hand, or `items` is less than one.
    """
    program, states = run.program, run.program.states
    samples = reported_samples(program.task, items)
    chosen = [(name, item) for name, of in samples.items() for item in of]
    hidden = jax.jit(lambda params, ids: aligned_states(run, params, ids))
    categorical = [v for v in program.teacher.variables if v.kind == "categorical"]
    order = [program.layout.names.index(v.name) for v in categorical]
    parts: dict[str, list[np.ndarray]] = {}
    described: list[dict[str, Any]] = []
    labeller = Labeller(run)
    chosen = [chosen[k] for k in labeller.order([item for _, item in chosen])]
    rows = labeller.rows([item for _, item in chosen], batch=_BATCH)
    for batch in rows:
        found = np.asarray(hidden(run.params, batch.ids))
        # A variable is there from its writer on, and never changes.
        labels = batch.held[..., order].max(axis=0)
        own = batch.masks[0] > 0
        for row in np.flatnonzero(own.any(axis=1)):
            at, (name, item) = np.flatnonzero(own[row]), chosen[len(described)]
            add = {f"blocks.{s}.hook_resid_pre": found[k, row, at] for k, s in enumerate(states)}
            add |= {"token_ids": batch.ids[row, at], "position": at, "labels": labels[row, at]}
            add["item"] = np.full(len(at), len(described))
            for key, value in add.items():
                parts.setdefault(key, []).append(value)
            described.append({"set": name, "prompt": item.prompt, "label": item.label, "tokens": len(at)})
    if not described:
        raise UserError(f"{run.folder}: no item to take activations of")
    write_safetensors(folder / f"{FILE}.safetensors", {k: np.concatenate(v) for k, v in parts.items()})
    write_json(
        folder / f"{FILE}.json",
        {
            "format": 1,
            "model_name": describe_program(program, width=run.model.width)["run"]["lm"],
            "hook_names": [f"blocks.{s}.hook_resid_pre" for s in states],
            "d_in": run.model.width,
            "prepend_bos": False,
            "context_size": max(d["tokens"] for d in described),
            "variables": [
                {
                    "name": v.name,
                    "values": [str(x) for x in v.values],
                    "writer_layer": v.writer_layer,
                    "layers": program.layers_of(v),
                    "alike": program.alike_by_key(v.name),
                }
                for v in categorical
            ],
            "items": described,
        },
    )
