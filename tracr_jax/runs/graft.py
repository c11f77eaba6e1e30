"""The graft: the compiled program beside a frozen language model, and one trained linear map between them.

The program reads the text's tokens as the bridge gives them to it. The map puts its result ("result"), or all of
its variables as its last layer holds them ("variables"), into the residual stream after one block. It adds nothing
but at open positions: the marker at which an answer begins, and the program's own tokens that directly follow it
(the answer so far). So a text without the marker is to the model what it was, whatever the map; after the model's
last block, where the map adds by default, so is every position that is not open. Nor does it add anything beyond
the program's table of positions, which holds the items that the end of the run evaluates.

Source: docs/method.md §4.6. Ours; the module beside the model is that of "Transformers meet Neural Algorithmic
Reasoners" (arXiv 2406.09308), which trains both and joins them by cross-attention.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from tracr_jax.data.bridge import Bridge
from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.graft import KEY, MAP, Beside, Grafted
from tracr_jax.lm.tensors import write_safetensors
from tracr_jax.runs.adapters import read_arrays
from tracr_jax.runs.program import Program
from tracr_jax.tasks.base import Item
from tracr_jax.types import Array, Params

NAME = "graft"  # of the map's file, in an export


def grafted(model: LanguageModel, program: Program) -> LanguageModel:
    """The model with the program beside it where its run says so; else the model as it is.

    Raises:
      UserError: the model has no such block, or none of its tokens is the program's marker.
    """
    part = program.config.part
    if part.kind != "graft":
        return model
    if part.last >= model.num_blocks:
        raise UserError(
            f"train {program.config.train!r}: the model has {model.num_blocks} blocks, the last is "
            f"{model.num_blocks - 1}"
        )
    bridge, (phi, residuals) = program.bridge, program.forward()
    if not (bridge.lookup[bridge.mapped] == bridge.marker).any():
        raise UserError(
            f"{program.name}: no token of {program.config.lm} is the marker at which the program answers, so a "
            "graft never speaks; map it in the task's token_map"
        )
    rows = np.array(program.result_rows if part.form == "result" else range(program.teacher.width))
    table, bos, is_open = program.teacher.max_seq_len, program.teacher.bos_id, _open_positions(bridge)

    def read(phi: Any, ids: Int[Array, "B S"]) -> jax.Array:
        here = ids[:, :table]
        seen = jnp.pad(jnp.asarray(bridge.lookup)[here], ((0, 0), (1, 0)), constant_values=bos)
        states = residuals(phi, seen)[-1][:, 1:, rows]
        shown = jnp.where(is_open(here)[..., None], states, 0)
        return jnp.pad(shown, ((0, 0), (0, ids.shape[1] - here.shape[1]), (0, 0)))

    block = part.last if part.last >= 0 else model.num_blocks - 1
    return Grafted.of(model, Beside(read, phi, len(rows), block))


def _open_positions(bridge: Bridge):
    """The function ids [B, S] -> where the map adds [B, S], see the module's docstring."""
    known = np.zeros(len(bridge.lookup), bool)
    known[bridge.mapped] = True
    marker = known & (bridge.lookup == bridge.marker)

    def is_open(ids: Int[Array, "B S"]) -> Bool[Array, "B S"]:
        places = jnp.broadcast_to(jnp.arange(ids.shape[1])[None], ids.shape)

        def last(where: np.ndarray) -> jax.Array:
            return jax.lax.cummax(jnp.where(jnp.asarray(where)[ids], places, -1), axis=1)

        return last(marker) > last(~known)

    return is_open


def check_open(program: Program, items: Iterable[Item]) -> None:
    """Refuse a task whose answers go on where the graft no longer adds anything.

    Raises:
      UserError: the first such item.
    """
    bridge = program.bridge
    known, marker = set(bridge.mapped.tolist()), bridge.marker
    for item in items:
        prompt, label = bridge.split(item)
        unknown = [t for t in label[:-1] if t not in known]
        if unknown or bridge.lookup[prompt[-1]] != marker or prompt[-1] not in known:
            token = bridge.tokenizer.token_text(unknown[0] if unknown else prompt[-1])
            what = "is none of the program's" if unknown else "ends the prompt and is not the program's marker"
            raise UserError(
                f"graft: {item.prompt!r} -> {item.label!r}: the token {token!r} {what}, so the program would not "
                "be heard where the answer stands; map it in the task's token_map, or give another --preset"
            )


def write_map(folder: Path, params: Params) -> None:
    """Write the trained map, "map" [K, d] in float32."""
    write_safetensors(folder / f"{NAME}.safetensors", {MAP: np.ascontiguousarray(params[KEY][MAP], np.float32)})


def read_map(folder: Path, model: Grafted, params: Params) -> Params:
    """Parameters of the model alone as those of the graft, with `write_map`'s file.

    Raises:
      UserError: the file is missing or damaged, or belongs to another program or model.
    """
    return model.with_map(params, read_arrays(folder, NAME, {MAP: (model.beside.size, model.width)})[MAP])
