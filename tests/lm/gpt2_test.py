"""GPT-2: the golden forward of the original, sizes, and configurations that are refused."""

import functools

import jax
import numpy as np
import pytest

from tests.helpers import golden_data as G
from tracr_jax.errors import UserError
from tracr_jax.intervene import detach_and_roll, subspace_basis
from tracr_jax.lm.convert import from_tensors
from tracr_jax.lm.gpt2 import GPT2, SIZES, GPT2Config
from tracr_jax.lm.tensors import open_safetensors

COUNTS = {"gpt2": 124439808, "gpt2-medium": 354823168, "gpt2-large": 774030080, "gpt2-xl": 1557611200}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    config = SIZES[f"openai-community/{name}"]
    for scan_layers in (True, False) if name == "gpt2" else (True,):
        shapes = jax.eval_shape(GPT2(config, scan_layers=scan_layers).init, jax.random.key(0))
        assert sum(x.size for x in jax.tree.leaves(shapes)) == COUNTS[name]


@pytest.mark.parametrize("scan_layers", [True, False])
def test_golden_forward(scan_layers):
    model = GPT2(G.lm_config(), scan_layers=scan_layers)
    params, original = (from_tensors(model, open_safetensors(G.FOLDER / name)) for name in ("lm", "lm_original"))
    result_rows = G.ARRAYS["adapter_weight"][np.array(G.TEACHER["final_result_dims"])]
    edit = detach_and_roll(subspace_basis(result_rows), block=G.DEPTH)
    ids, text = G.ARRAYS["sup_input_ids"], G.ARRAYS["unsup_input_ids"]
    plain = jax.jit(model.apply)
    hooked = jax.jit(functools.partial(model.apply, edit=edit))(params, ids)
    for got, want in (
        (hooked.hidden, "sup_hidden_states"),
        (hooked.logits, "sup_logits_hooked"),
        (plain(params, ids).logits, "sup_logits_plain"),
        (plain(params, text).logits, "unsup_logits"),
        (plain(original, text).logits, "unsup_logits_original"),
    ):
        np.testing.assert_allclose(got, G.ARRAYS[want], atol=2e-5, err_msg=want)


def test_config_survives_hf_form():
    config = GPT2Config(n_layer=3, n_inner=99, vocab_size=7)
    assert GPT2Config.from_hf(config.to_hf()) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation_function": "relu"}, "activation_function"),
        ({"n_head": 7}, "n_embd 768 .* n_head 7"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
)
def test_unsupported_configs_are_refused(change, message):
    with pytest.raises(UserError, match=message):
        GPT2Config.from_hf(GPT2Config().to_hf() | change)
