"""The golden arrays, and independent forms of what they need: a dense teacher and the weights in our layout."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from tracr_jax.lm.blocks import stack_blocks
from tracr_jax.types import Adapter, Batch

FOLDER = Path(__file__).parents[1] / "golden"
ARRAYS = np.load(FOLDER / "golden.npz")
NUMBERS = json.loads((FOLDER / "golden.json").read_text())
TEACHER = json.loads((FOLDER / "teacher.json").read_text())

DEPTH, PAD = 7, 511


def lm_config():
    from tracr_jax.lm.gpt2 import GPT2Config

    return GPT2Config.from_hf(json.loads((FOLDER / "lm/config.json").read_text()))


def from_hf_names(tensors, *, dtype):
    """Hugging Face's GPT-2 names to our scanned layout, written out here and not through lm/convert.py."""

    def get(name):
        name = name if name in tensors or f"transformer.{name}" not in tensors else f"transformer.{name}"
        return np.asarray(tensors[name], dtype)

    def norm(name):
        return {"scale": get(f"{name}.weight"), "bias": get(f"{name}.bias")}

    def dense(name):
        return {"kernel": get(f"{name}.weight"), "bias": get(f"{name}.bias")}

    blocks = {
        f"block_{i}": {
            "ln_1": norm(f"h.{i}.ln_1"),
            "c_attn": dense(f"h.{i}.attn.c_attn"),
            "c_proj": dense(f"h.{i}.attn.c_proj"),
            "ln_2": norm(f"h.{i}.ln_2"),
            "c_fc": dense(f"h.{i}.mlp.c_fc"),
            "mlp_c_proj": dense(f"h.{i}.mlp.c_proj"),
        }
        for i in range(9)
    }
    return stack_blocks(
        {"wte": {"embedding": get("wte.weight")}, "wpe": {"embedding": get("wpe.weight")}, "ln_f": norm("ln_f")}
        | blocks
    )


def lm_params(which, *, dtype):
    return from_hf_names(load_file(FOLDER / which / "model.safetensors"), dtype=dtype)


def adapter(*, dtype):
    return Adapter(np.asarray(ARRAYS["adapter_weight"], dtype), np.asarray(ARRAYS["adapter_bias"], dtype))


def batch(*, dtype):
    return Batch(
        ARRAYS["sup_input_ids"],
        np.asarray(ARRAYS["sup_loss_mask"], dtype),
        ARRAYS["teacher_token_ids"],
        ARRAYS["unsup_input_ids"],
    )


def teacher_weights(*, dtype):
    return {k.removeprefix("teacher/"): np.asarray(ARRAYS[k], dtype) for k in ARRAYS if k.startswith("teacher/")}


def dense_teacher(weights, ids):
    """r_0..r_L of the golden teacher, dense, as docs/method.md §1.1 writes it."""
    heads, size = TEACHER["config"]["num_heads"], TEACHER["config"]["key_size"]
    b, t = ids.shape
    x = jnp.take(weights["token_embed/embeddings"], ids, axis=0) + weights["pos_embed/embeddings"][:t][None]
    states = [x]

    def linear(x, name):
        bias = weights[f"{name}/b"]
        return jnp.einsum("btd,de->bte", x, weights[f"{name}/w"]) + bias.reshape(1, 1, -1)

    for i in range(DEPTH):
        layer = f"transformer/layer_{i}"
        q, k, v = (linear(x, f"{layer}/attn/{n}").reshape(b, t, heads, size) for n in ("query", "key", "value"))
        scores = jnp.einsum("bqhc,bkhc->bhqk", q, k) / np.asarray(size**0.5, q.dtype)
        scores = jnp.where(np.tril(np.ones((1, 1, t, t), bool)), scores, -jnp.inf)
        mixed = jnp.einsum("bhqk,bkhc->bqhc", jax.nn.softmax(scores), v).reshape(b, t, heads * size)
        x = x + linear(mixed, f"{layer}/attn/linear")
        x = x + linear(jax.nn.relu(linear(x, f"{layer}/mlp/linear_1")), f"{layer}/mlp/linear_2")
        states.append(x)
    return jnp.stack(states)
