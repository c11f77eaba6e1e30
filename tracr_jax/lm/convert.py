"""Hugging Face tensors <-> our parameters: one strict table per family, read in both directions.

A missing or unknown tensor, or a wrong shape, is a UserError with its name; nothing is skipped silently except
buffers that hold no weights, and second copies of a weight (a tied head, a name without its prefix) that equal it.
"""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.files import write_json
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import stack_blocks, unstack_blocks
from tracr_jax.lm.gpt2 import GPT2Config
from tracr_jax.lm.llama import LlamaConfig
from tracr_jax.lm.lora import merged
from tracr_jax.lm.tensors import Shape, Tensors, write_safetensors
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.types import Params


@dataclass(frozen=True)
class Table:
    """Names of one family. Ours are paths joined by "/"; block tensors stand under "blocks" with a leading N.

    prefix: what Hugging Face puts before the names, and old files leave out. blocks: name of the list of blocks.
    top, block: their name -> our path. transposed: suffixes of their names that are stored (out, in), unlike ours.
    buffers: pattern of names without weights. tied_head: the name that may repeat the embedding; embedding: that.
    """

    prefix: str
    blocks: str
    top: Mapping[str, str]
    block: Mapping[str, str]
    transposed: tuple[str, ...]
    buffers: str
    tied_head: str | None
    embedding: str

    def full(self, name: str) -> str:
        """The name with the prefix, which the head does not have."""
        return name if name == "lm_head.weight" else self.prefix + name

    def turned(self, name: str, value: Any) -> Any:
        """The array, or the shape, with its axes exchanged where the two sides differ."""
        if not (self.transposed and name.endswith(self.transposed)):
            return value
        return value[::-1] if isinstance(value, tuple) else value.T


def _gpt2_table(config: GPT2Config) -> Table:
    dense = {"attn.c_attn": "c_attn", "attn.c_proj": "c_proj", "mlp.c_fc": "c_fc", "mlp.c_proj": "mlp_c_proj"}
    block = {f"{k}.weight": f"{v}/kernel" for k, v in dense.items()}
    block |= {f"{k}.bias": f"{v}/bias" for k, v in dense.items()}
    for norm in ("ln_1", "ln_2"):
        block |= {f"{norm}.weight": f"{norm}/scale", f"{norm}.bias": f"{norm}/bias"}
    return Table(
        prefix="transformer.",
        blocks="h",
        top={
            "wte.weight": "wte/embedding",
            "wpe.weight": "wpe/embedding",
            "ln_f.weight": "ln_f/scale",
            "ln_f.bias": "ln_f/bias",
        },
        block=block,
        transposed=(),  # Conv1D is stored (in, out), as ours
        buffers=r"h\.\d+\.attn\.(bias|masked_bias)",
        tied_head="lm_head.weight",
        embedding="wte.weight",
    )


def _llama_table(config: LlamaConfig) -> Table:
    attention = {f"self_attn.{p}_proj": f"{p}_proj" for p in "qkvo"}
    mlp = {f"mlp.{p}_proj": f"{p}_proj" for p in ("gate", "up", "down")}
    block = {f"{k}.weight": f"{v}/kernel" for k, v in {**attention, **mlp}.items()}
    biases = {"o_proj": config.attention_bias, **dict.fromkeys(("q_proj", "k_proj", "v_proj"), config.qkv_bias)}
    biases |= dict.fromkeys(mlp.values(), config.mlp_bias)
    block |= {f"{k}.bias": f"{v}/bias" for k, v in {**attention, **mlp}.items() if biases[v]}
    norms = {n: n for n in ("input_layernorm", "post_attention_layernorm")}
    norms |= {f"self_attn.{n}": n for n in ("q_norm", "k_norm") if config.head_norms}
    block |= {f"{k}.weight": f"{v}/scale" for k, v in norms.items()}
    tied = config.tie_word_embeddings
    return Table(
        prefix="model.",
        blocks="layers",
        top={"embed_tokens.weight": "embed_tokens/embedding", "norm.weight": "norm/scale"}
        | ({} if tied else {"lm_head.weight": "lm_head"}),
        block=block,
        transposed=("_proj.weight",),
        buffers=r"(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq",
        tied_head="lm_head.weight" if tied else None,
        embedding="embed_tokens.weight",
    )


def table_of(model: LanguageModel) -> Table:
    """The table of a model's family."""
    if isinstance(model.config, GPT2Config):
        return _gpt2_table(model.config)
    if isinstance(model.config, LlamaConfig):
        return _llama_table(model.config)
    raise TypeError(f"no conversion table for {type(model.config).__name__}")


@functools.lru_cache(maxsize=8)
def expected_shapes(model: LanguageModel) -> Mapping[str, Shape]:
    """Names (without prefix) and shapes of the Hugging Face tensors of this model."""
    table, shapes = table_of(model), _stacked_shapes(model)
    out = {k: tuple(_at(shapes, p).shape) for k, p in table.top.items()}
    for i in range(model.num_blocks):
        for k, p in table.block.items():
            shape = tuple(_at(shapes["blocks"], p).shape[1:])
            out[f"{table.blocks}.{i}.{k}"] = table.turned(k, shape)
    return MappingProxyType(out)


def from_tensors(model: LanguageModel, tensors: Tensors) -> Params:
    """Parameters (float32) in the form the model wants, stacked or looped.

    Raises: UserError, before any memory is taken, for a missing or unknown name or a wrong shape; then for a
      number that is not finite.
    """
    table, wanted, where = table_of(model), expected_shapes(model), tensors.where
    names = _names_in_file(table, tensors)
    for name in sorted(set(wanted) - set(names)):
        prefixed = any(k.startswith(table.prefix) for k in tensors.shapes)
        hint = "; is tie_word_embeddings in config.json right?" if name == "lm_head.weight" else ""
        shown = table.full(name) if prefixed else name
        raise UserError(f"{where}: tensor {shown} {list(wanted[name])} is missing{hint}")
    for name in sorted(set(names) - set(wanted)):
        if not re.fullmatch(table.buffers, name) and name != table.tied_head:
            raise UserError(f"{where}: unknown tensor {names[name]}; config.json describes another model")
    for name, shape in wanted.items():
        found = tuple(tensors.shapes[names[name]])
        if found != shape:
            raise UserError(f"{where}: {names[name]} has shape {list(found)}, config.json asks for {list(shape)}")

    def get(name: str) -> np.ndarray:
        value = tensors.get(names[name])
        if not np.isfinite(value).all():
            count = int(np.sum(~np.isfinite(value)))
            raise UserError(f"{where}: {count} of {value.size} numbers of {names[name]} are not finite")
        return value

    if table.tied_head in names:
        head, embedding = (get(k) for k in (table.tied_head, table.embedding))
        if not np.array_equal(head, embedding):
            tied = f"{names[table.tied_head]} differs from {names[table.embedding]}"
            raise UserError(f"{where}: {tied}, to which config.json ties it")
        del head, embedding

    params: Params = {}
    for name, path in table.top.items():
        _put(params, path, jnp.asarray(get(name), jnp.float32))
    for name, path in table.block.items():
        # Filled block by block, so that the peak is one stacked tensor above the result.
        shape = table.turned(name, wanted[f"{table.blocks}.0.{name}"])
        stack = np.empty((model.num_blocks, *shape), np.float32)
        for i in range(model.num_blocks):
            stack[i] = table.turned(name, get(f"{table.blocks}.{i}.{name}"))
        _put(params, f"blocks/{path}", jnp.asarray(stack))
    return params if model.scan_layers else unstack_blocks(params)


def to_tensors(model: LanguageModel, params: Params) -> dict[str, np.ndarray]:
    """Hugging Face names (with prefix) -> float32 arrays; accepts stacked and looped parameters.

    Low-rank pairs beside the kernels are added to them, see `tracr_jax.lm.lora.merged`.
    """
    table, params = table_of(model), merged(params)
    if "blocks" not in params:
        params = stack_blocks(params)

    out = {table.full(k): np.asarray(_at(params, p), np.float32) for k, p in table.top.items()}
    for k, p in table.block.items():
        stack = np.asarray(_at(params["blocks"], p), np.float32)
        for i, value in enumerate(stack):
            out[table.full(f"{table.blocks}.{i}.{k}")] = table.turned(k, value)
    return out


def save_hf_folder(
    folder: str | Path,
    model: LanguageModel,
    params: Params,
    tokenizer: Tokenizer | None = None,
    *,
    dtype: str = "float32",
) -> None:
    """Write config.json, model.safetensors and the tokenizer as Hugging Face reads them.

    Every file is replaced in one step, config.json last, so that an interrupted first save is not a model.
    dtype: of the file, "float32", "float16" or "bfloat16".
    """
    folder = Path(folder)
    config = model.config.to_hf() | {"dtype": dtype}
    if tokenizer is not None:
        tokenizer.save(folder)
        config |= {"eos_token_id": tokenizer.eos_id, "bos_token_id": tokenizer.bos_id}
    write_safetensors(folder / "model.safetensors", to_tensors(model, params), dtype=dtype)
    write_json(folder / "config.json", config)


def _names_in_file(table: Table, tensors: Tensors) -> dict[str, str]:
    """Name without prefix -> name in the file; two that claim one weight must be equal."""
    names: dict[str, str] = {}
    for name in tensors.shapes:
        plain = name.removeprefix(table.prefix)
        first = names.setdefault(plain, name)
        if first == name or re.fullmatch(table.buffers, plain):
            continue
        if not np.array_equal(tensors.get(first), tensors.get(name)):
            raise UserError(f"{tensors.where}: {first} and {name} are one weight and have different values")
    return names


def _stacked_shapes(model: LanguageModel) -> Any:
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    return shapes if "blocks" in shapes else jax.eval_shape(stack_blocks, shapes)


def _at(tree: Any, path: str) -> Any:
    for key in path.split("/"):
        tree = tree[key]
    return tree


def _put(tree: dict, path: str, value: Any) -> None:
    *parents, last = path.split("/")
    for key in parents:
        tree = tree.setdefault(key, {})
    tree[last] = value
