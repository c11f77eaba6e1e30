"""Every key of config.json changed, one at a time: the logits are transformers', or the file is refused.

The keys are those that transformers' own classes name, read from them, so that a new one is tried by itself.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.lm.parity_families_test import LLAMA3, SIZES, YARN, write_torch
from tests.lm.parity_test import IDS, torch_forward
from tracr_jax.errors import UserError
from tracr_jax.lm.convert import from_tensors
from tracr_jax.lm.load import read_model
from tracr_jax.lm.tensors import open_safetensors

pytestmark = pytest.mark.parity

SMALL = SIZES | {"num_hidden_layers": 2, "max_position_embeddings": 32}
FAMILIES = {
    "gpt2": {"model_type": "gpt2", "vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "llama": {"model_type": "llama", **SMALL},
    "qwen2": {"model_type": "qwen2", **SMALL},
    "qwen3": {"model_type": "qwen3", "head_dim": 16, **SMALL},
    "mistral": {"model_type": "mistral", "sliding_window": None, **SMALL},
}
# Values to try where one made from the value itself would say nothing.
VALUES = {
    "activation_function": ["relu", "gelu", "gelu_pytorch_tanh"],
    "hidden_act": ["relu", "gelu", "swish"],
    "dtype": ["float32"],
    "summary_type": ["last"],
    "summary_activation": ["tanh"],
    "problem_type": ["regression"],
    "architectures": [["GPT2DoubleHeadsModel"]],
    "id2label": [{"0": "a", "1": "b", "2": "c"}],
    "label2id": [{"a": 0}],
    "transformers_version": ["4.30.0"],
    "layer_types": [["full_attention"] * 2, ["full_attention", "sliding_attention"], ["attention"] * 2],
    "sliding_window": [4, 19, 20, 33],
    "use_sliding_window": [True],
    "max_window_layers": [0, 1],
    "n_inner": [100, 192],
    "pad_token_id": [0, 5],
    "head_dim": [None, 8, 16],
    "num_key_value_heads": [None, 1, 3, 6],
    "rope_theta": [50.0],
    "rope_scaling": [
        {"rope_type": "default", "rope_theta": 50.0},
        {"type": "linear", "factor": 3.0},
        {"rope_type": "linear", "type": "dynamic", "factor": 3.0},
        {"type": "dynamic", "factor": 3.0},
        {"rope_type": "yarn", "factor": 3.0},
        {"rope_type": "llama3", **LLAMA3},
        {"rope_type": "llama3", "factor": 8.0},
        {"rope_type": "longrope", "factor": 2.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4},
        {"rope_type": "proportional", "partial_rotary_factor": 0.5},
        {"rope_type": "linear"},
        {"rope_theta": 50.0, "factor": 8.0},
    ],
    "partial_rotary_factor": [0.5, 1.0],
    "original_max_position_embeddings": [8],
    "per_layer_config": [{"1": {"rms_norm_eps": 0.5}}, {"1": {"layer_norm_epsilon": 0.5}}],
    "is_causal": [False],
    "tie_last_hidden_states": [False],
    "quantization_config": [{"quant_method": "bitsandbytes", "load_in_8bit": True}],
    "rope_interleaved": [True, False],
    "attention_bias": [True, False],
    "mlp_bias": [True, False],
}
VALUES["rope_parameters"] = [*VALUES["rope_scaling"], YARN, {**YARN, "mrope_section": [1, 2, 3]}]
# Keys that no class declares and that files hold all the same.
BESIDE = ("rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings", "is_causal")
BESIDE += (
    "per_layer_config",
    "tie_last_hidden_states",
    "quantization_config",
    "rope_interleaved",
    "attention_bias",
)
BESIDE += ("mlp_bias", "sliding_window", "layer_types", "head_dim")

# transformers 5 runs none of these with such a file, whatever else is in it; they do not matter here.
FAILS_THERE = ("return_dict = False",)


def candidates(key, value):
    """Other values of a key, of its own type where it has one."""
    if key in VALUES:
        return VALUES[key]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, max(1, value // 2), 2 * value]
    if isinstance(value, float):
        return [value * 2, value + 0.25]
    if value is None:
        return [1]
    return []


def changes(family):
    """(what is changed, the changed config.json) over all keys of transformers' class and `BESIDE`."""
    import transformers

    start = FAMILIES[family]
    config_class = type(transformers.AutoConfig.for_model(family))
    fields = config_class(**{k: v for k, v in start.items() if k != "model_type"}).to_dict()
    generation = transformers.GenerationConfig._get_default_generation_params()
    known = {f.name: fields.get(f.name) for f in dataclasses.fields(config_class)}
    aliases = config_class.attribute_map
    yield "all of text generation", start | {key: 1 for key in generation if key not in known}
    for key in dict.fromkeys([*known, *BESIDE]):
        for value in candidates(key, known.get(key)):
            yield f"{key} = {value}", start | {key: value}
    for alias, name in aliases.items():
        moved = {alias if k == name else k: v for k, v in start.items()}
        yield f"{alias} for {name}", moved
        yield f"{alias} beside {name}", start | {alias: start[name], name: 2 * start[name]}
        yield f"{name} beside another {alias}", start | {alias: 2 if name == "n_head" else start[name]}
    if family != "llama":
        return
    for base in (None, 50.0):  # the base in every combination of the three places
        for scaling in (None, {}, {"type": "linear", "factor": 2.0}, {"rope_theta": 20.0, "rope_type": "default"}):
            for whole in (
                None,
                {"rope_type": "default", "rope_theta": 5.0},
                {"rope_type": "dynamic", "factor": 2.0},
            ):
                given = {"rope_theta": base, "rope_scaling": scaling, "rope_parameters": whole}
                given = {k: v for k, v in given.items() if v is not None}
                yield str(given), start | given


@pytest.mark.parametrize("family", FAMILIES)
def test_a_changed_key_gives_their_logits_or_a_refusal(family, tmp_path):
    weights = write_torch(tmp_path, FAMILIES[family]).state_dict()
    tensors = open_safetensors(tmp_path)

    @functools.cache  # most keys change nothing
    def our_logits(model):
        return np.asarray(jax.jit(model.apply)(from_tensors(model, tensors), jnp.asarray(IDS)).logits)

    equal, refused, wrong = [], [], []
    for change, fields in changes(family):
        (tmp_path / "config.json").write_text(json.dumps(fields))
        try:
            ours = our_logits(read_model(tmp_path))
        except UserError as e:
            refused.append(change)
            wrong += [f"{change}: refused in more than one line: {e}"] * ("\n" in str(e))
            continue
        try:
            theirs = their_logits(tmp_path, weights)
        except Exception as e:  # there is nothing to compare with
            wrong += [f"{change}: loaded here, there {e!r:.150}"] * (change not in FAILS_THERE)
            continue
        equal.append(change)
        if not np.abs(theirs - ours).max() < 2e-5:
            wrong.append(f"{change}: logits differ by {np.abs(theirs - ours).max():.3g}")
    assert not wrong, "\n".join(wrong)
    assert len(equal) > 40, refused
    assert len(refused) > 5, equal
    (tmp_path / "config.json").write_text(json.dumps(FAMILIES[family] | {"surprise": 1}))
    with pytest.raises(UserError, match="surprise = 1 is not read"):
        read_model(tmp_path)


def their_logits(folder, weights):
    """Of the model that transformers makes of config.json, with these weights, without its slow way of loading."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder, attn_implementation="eager")
    model = transformers.AutoModelForCausalLM.from_config(config)
    model.load_state_dict(weights)
    return torch_forward(model.float().eval())[0]
