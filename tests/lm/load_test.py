"""Names, folders and hub ids; every failure is one line that says what to do."""

import json
import time

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.bounds import assert_same
from tests.helpers.random_models import TASK_WORDS, random_lm, word_tokenizer, write_random_gpt2
from tracr_jax.errors import UserError
from tracr_jax.lm import load as L
from tracr_jax.lm.gpt2 import GPT2Config


def test_random_folder(tmp_path):
    lm = write_random_gpt2(tmp_path / "lm", num_blocks=3, width=32, heads=2, positions=40, seed=5)
    assert (lm.model.num_blocks, lm.model.width, lm.model.max_positions) == (3, 32, 40)
    assert lm.model.vocab_size == lm.tokenizer.vocab_size
    for word in TASK_WORDS:
        assert lm.tokenizer.single_id(word) is not None
    ids = jnp.asarray([lm.tokenizer.encode("Are parenthesis here? ()\nAnswer: yes")])
    loop = L.load_lm(str(tmp_path / "lm"), scan_layers=False)
    stacked, looped = (jax.jit(m.model.apply)(m.params, ids).logits for m in (lm, loop))
    assert_same(stacked, looped)
    other = write_random_gpt2(tmp_path / "other", num_blocks=3, width=32, heads=2, positions=40, seed=6)
    assert not np.array_equal(other.params["wte"]["embedding"], lm.params["wte"]["embedding"])
    assert (
        L.load_lm(str(tmp_path / "lm"), dtype="bfloat16").model.apply(lm.params, ids).hidden.dtype == jnp.bfloat16
    )


def test_random_lm_is_a_function_of_its_seed():
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=2, n_head=2)
    a, b, c = (random_lm(config, seed)[1] for seed in (0, 0, 1))
    same = jax.tree.map(lambda x, y: bool((x == y).all()), a, b)
    assert all(jax.tree.leaves(same))
    assert not np.array_equal(a["wte"]["embedding"], c["wte"]["embedding"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing", "no such folder, and not a hub id .* smollm2-135m-instruct"),
        ("./nothing", "no such folder"),
        ("some-owner/some-model", "hf download some-owner/some-model"),
        ("gpt2-large", "hf download openai-community/gpt2-large"),
    ],
)
def test_a_missing_model_says_what_to_do(name, message, monkeypatch, tmp_path):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    begin = time.monotonic()
    with pytest.raises(UserError, match=message) as e:
        L.load_lm(name)
    assert "\n" not in str(e.value)
    assert time.monotonic() - begin < 10


def test_a_folder_of_another_family(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(UserError, match="'bert' is not supported; supported are gpt2, llama"):
        L.load_lm(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_embd": "wide"}))
    with pytest.raises(UserError, match=r"config\.json: n_embd must be a whole number from 1 to \d+, got 'wide'"):
        L.load_lm(str(tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match="no such file"):
        L.load_lm(str(tmp_path))


def test_a_tokenizer_larger_than_the_model(tmp_path):
    lm = write_random_gpt2(tmp_path, num_blocks=1, width=8, heads=2, positions=8)
    word_tokenizer([*TASK_WORDS, " more"]).save(tmp_path)
    with pytest.raises(UserError, match=f"the model has embeddings for {lm.model.vocab_size}; they do not belong"):
        L.load_lm(str(tmp_path))


def test_an_untrained_model_has_the_shape_and_the_tokenizer_of_its_name(tmp_path):
    """Its weights follow from the seed; nothing else of the trained model's remains."""
    lm = write_random_gpt2(tmp_path / "lm", num_blocks=3, width=32, heads=2, positions=40, seed=5)
    name = f"random:{tmp_path / 'lm'}"
    a, b, c = (L.load_lm(name, seed=seed) for seed in (0, 0, 1))
    assert (a.model, a.name) == (lm.model, name)
    assert a.tokenizer.encode("What is the text") == lm.tokenizer.encode("What is the text")
    chex.assert_trees_all_equal(a.params, b.params)
    chex.assert_trees_all_equal_shapes(a.params, lm.params)
    for other in (c, lm):
        assert not np.array_equal(a.params["wte"]["embedding"], other.params["wte"]["embedding"])
    size = L.load_lm("random:64x3", weights=False)
    assert (size.model.width, size.model.num_blocks, size.params) == (64, 3, {})
    assert size.tokenizer.vocab_size <= size.model.vocab_size
    with pytest.raises(UserError, match="no such folder, and not a hub id"):
        L.load_lm("random:nothing")
