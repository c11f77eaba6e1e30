"""Llama's relatives and every rotary scaling against Hugging Face's PyTorch models with random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.lm.parity_test import IDS, torch_forward
from tracr_jax.lm.convert import from_tensors, save_hf_folder
from tracr_jax.lm.load import read_model
from tracr_jax.lm.tensors import open_safetensors

pytestmark = pytest.mark.parity

SIZES = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 100.0}

# The texts have 20 tokens.
CASES = {
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2_untied_old_window": {"model_type": "qwen2", "sliding_window": 8, "max_window_layers": 1},
    "qwen2_window_in_no_block": {"model_type": "qwen2", "use_sliding_window": True, "sliding_window": 8},
    "qwen3": {"model_type": "qwen3", "head_dim": 16},
    "qwen3_biased_yarn": {"model_type": "qwen3", "head_dim": 16, "attention_bias": True, "rope_parameters": YARN},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral_window": {"model_type": "mistral", "sliding_window": 20, "head_dim": 12},
    "linear": {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}},
    "linear_beyond": {"max_position_embeddings": 10, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "dynamic_within": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
    "dynamic_beyond": {"max_position_embeddings": 12, "rope_parameters": {"rope_type": "dynamic", "factor": 3.0}},
    "llama3": {"rope_parameters": {"rope_type": "llama3", "rope_theta": 50.0, **LLAMA3}},
    "llama3_of_transformers_4": {"rope_theta": 500.0, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
    "yarn": {"rope_parameters": YARN},
    "yarn_all": {
        "rope_parameters": YARN
        | {"beta_fast": 20.0, "beta_slow": 2.0, "mscale": 0.8, "mscale_all_dim": 0.5, "truncate": False}
    },
    "yarn_attention": {"rope_parameters": YARN | {"attention_factor": 0.7, "factor": 2.0}},
    "yarn_ratio": {"rope_parameters": YARN | {"factor": None}},
    "yarn_original_beside": {"original_max_position_embeddings": 8, "rope_parameters": YARN},
}


def write_torch(folder, fields):
    """A random model of transformers, saved with the configuration as it is given here."""
    import torch
    import transformers

    torch.manual_seed(0)
    (folder / "config.json").write_text(json.dumps(fields))
    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # biases and norms are 0 and 1 as made, which would hide a mistake
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    model.save_pretrained(folder)
    (folder / "theirs.json").write_text((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields))
    return model


@pytest.mark.parametrize("case", CASES)
def test_every_hidden_state_and_the_way_back(case, tmp_path):
    import transformers

    reference = write_torch(tmp_path, {"model_type": "llama"} | SIZES | CASES[case])
    logits, hidden = torch_forward(reference)
    model = read_model(tmp_path, scan_layers=case != "qwen3")
    params = from_tensors(model, open_safetensors(tmp_path))
    out = jax.jit(model.apply)(params, jnp.asarray(IDS))
    np.testing.assert_allclose(out.hidden, hidden, atol=1e-5)
    np.testing.assert_allclose(out.logits, logits, atol=1e-5)

    (tmp_path / "config.json").write_text((tmp_path / "theirs.json").read_text())
    assert read_model(tmp_path, scan_layers=model.scan_layers) == model  # as transformers writes it

    save_hf_folder(tmp_path / "ours", model, params)
    assert read_model(tmp_path / "ours", scan_layers=model.scan_layers) == model
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert type(again) is type(reference)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(torch_forward(again.eval())[0], logits)
