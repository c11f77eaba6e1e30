"""Compile with tracr itself, slowly: the reference that `verify` compares with."""

from typing import Any

import numpy as np
from tracr.compiler import compiling
from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.teacher.graph import PROGRAM_ERRORS, label_program, trace
from tracr_jax.teacher.model import Coo, Direction, Teacher, list_variables


def compile_with_tracr(program: rasp.SOp, *, vocab, max_seq_len: int, bos: Any, pad: Any, exactness) -> Teacher:
    """Give tracr's own result as a Teacher (no step pairs or grids: its forward uses plain relus).

    Raises:
      UserError: tracr cannot compile it either.
    """
    label_program(program)
    try:
        model = compiling.compile_rasp_to_model(
            program,
            set(vocab),
            max_seq_len,
            causal=True,
            compiler_bos=bos,
            compiler_pad=pad,
            mlp_exactness=exactness,
        )
    except PROGRAM_ERRORS as e:
        raise UserError(f"program {program.label}: tracr cannot compile it ({describe(e)})") from e
    assert model.input_encoder is not None
    vocab_ids = dict(model.input_encoder.encoding_map)  # pyright: ignore[reportAttributeAccessIssue]
    weights = {}
    for name, group in model.params.items():
        dense = np.asarray(group["embeddings" if name.endswith("_embed") else "w"], np.float64)
        row, col = np.nonzero(dense)
        weights[name] = Coo.of((row, col, dense[row, col]), dense.shape)
    config = model.model_config
    directions = _directions(program, model.residual_labels, vocab, vocab_ids, max_seq_len)
    return Teacher(
        num_layers=config.num_layers,
        width=len(directions),
        num_heads=config.num_heads,
        key_size=config.key_size,
        mlp_hidden_size=config.mlp_hidden_size,
        max_seq_len=max_seq_len,
        mlp_exactness=float(exactness),
        bos=bos,
        pad=pad,
        directions=tuple(directions),
        vocab=vocab_ids,
        result=program.label,
        variables=list_variables(directions, _writers(directions, weights, config.num_layers)),
        weights=weights,
    )


def _directions(program: rasp.SOp, labels: list[str], vocab, vocab_ids, max_seq_len: int) -> list[Direction]:
    """Real (name, value) pairs behind tracr's labels."""
    traced = trace(program, vocab=vocab, max_seq_len=max_seq_len)
    known = {(f"{n}:{v}" if v is not None else n): (n, v) for s in traced.sops.values() for n, v in s.basis}
    known |= {f"{rasp.tokens.label}:{v}": (rasp.tokens.label, v) for v in vocab_ids}
    known |= {f"{rasp.indices.label}:{i}": (rasp.indices.label, i) for i in range(max_seq_len)}
    return [known.get(label, (label, None)) for label in labels]


def _writers(directions, weights, num_layers: int) -> dict[str, int]:
    out: dict[str, int] = {}
    for layer in range(num_layers):
        for part in ("attn/linear", "mlp/linear_2"):
            for column in set(weights[f"transformer/layer_{layer}/{part}"].col.tolist()):
                out.setdefault(directions[column][0], layer + 1)
    return out
