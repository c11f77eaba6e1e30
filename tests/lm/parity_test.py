"""Logits and every hidden state against Hugging Face's PyTorch models with random weights."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.random_models import write_random_gpt2
from tracr_jax.lm.convert import from_tensors, save_hf_folder
from tracr_jax.lm.load import load_lm, read_model
from tracr_jax.lm.tensors import open_safetensors

pytestmark = pytest.mark.parity

IDS = np.random.default_rng(0).integers(0, 97, (3, 20))

CASES = {
    "gpt2": {"model_type": "gpt2", "n_embd": 48, "n_layer": 5, "n_head": 4, "n_positions": 32, "n_inner": 100},
    "llama_grouped_tied": {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
    },
    "llama_biased_untied": {
        "model_type": "llama",
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 16,
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": False,
    },
}


def make_torch(case):
    import torch
    import transformers

    torch.manual_seed(0)
    fields = dict(CASES[case])
    config = transformers.AutoConfig.for_model(fields.pop("model_type"), vocab_size=97, **fields)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # biases and norms are 0 and 1 as made, which would hide a mistake
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return model


def torch_forward(model, positions=None):
    import torch

    given = {} if positions is None else {"position_ids": torch.tensor(positions)}
    with torch.no_grad():
        out = model(torch.tensor(IDS), output_hidden_states=True, use_cache=False, **given)
    return out.logits.numpy(), np.stack([h.numpy() for h in out.hidden_states])


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("shards", [False, True])
def test_logits_and_every_hidden_state(case, shards, tmp_path):
    reference = make_torch(case)
    reference.save_pretrained(tmp_path, max_shard_size="60KB" if shards else "1GB")
    assert (tmp_path / "model.safetensors.index.json").exists() == shards
    logits, hidden = torch_forward(reference)
    for scan_layers in (True, False):
        model = read_model(tmp_path, scan_layers=scan_layers)
        params = from_tensors(model, open_safetensors(tmp_path))
        out = jax.jit(model.apply)(params, jnp.asarray(IDS))
        np.testing.assert_allclose(out.hidden, hidden, atol=1e-5)
        np.testing.assert_allclose(out.logits, logits, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_rows_that_begin_elsewhere(case, tmp_path):
    reference = make_torch(case)
    reference.save_pretrained(tmp_path)
    at = np.array([[0], [5], [12]]) + np.arange(20)[None]
    logits, hidden = torch_forward(reference, at)
    model = read_model(tmp_path)
    out = jax.jit(model.apply)(from_tensors(model, open_safetensors(tmp_path)), jnp.asarray(IDS), positions=at)
    np.testing.assert_allclose(out.hidden, hidden, atol=1e-5)
    np.testing.assert_allclose(out.logits, logits, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_what_we_write_transformers_reads(case, tmp_path):
    import transformers

    reference = make_torch(case)
    reference.save_pretrained(tmp_path / "theirs")
    model = read_model(tmp_path / "theirs")
    params = from_tensors(model, open_safetensors(tmp_path / "theirs"))
    save_hf_folder(tmp_path / "ours", model, params)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    np.testing.assert_array_equal(torch_forward(again.eval())[0], torch_forward(reference)[0])


def test_a_random_folder_loads_in_transformers(tmp_path):
    import transformers

    lm = write_random_gpt2(tmp_path, num_blocks=2, width=16, heads=2, positions=32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "Are parenthesis here? ([])\nAnswer: yes 7 x"
    ids = lm.tokenizer.encode(text)
    assert tokenizer.encode(text, add_special_tokens=False) == ids
    assert tokenizer.eos_token_id == lm.tokenizer.eos_id
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    import torch

    with torch.no_grad():
        want = theirs(torch.tensor([ids])).logits.numpy()
    np.testing.assert_allclose(jax.jit(lm.model.apply)(lm.params, jnp.asarray([ids])).logits, want, atol=1e-5)
    assert json.loads((tmp_path / "config.json").read_text())["eos_token_id"] == lm.tokenizer.eos_id
    assert load_lm(str(tmp_path)).model == lm.model
