"""The bundled model: size, tokens, English, and that its card says what was measured."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tracr_jax.lm.load import load_lm

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
TINY = Path(__file__).parents[2] / "tracr_jax" / "lm" / "tiny"
WORDS = (" yes", " no", "Answer", "<|endoftext|>")


@pytest.fixture(scope="module")
def tiny():
    return load_lm("tiny")


def test_size_depth_and_positions(tiny):
    assert (TINY / "model.safetensors").stat().st_size <= 25e6
    assert tiny.model.num_blocks >= 24
    assert tiny.model.max_positions >= 160
    assert tiny.model.vocab_size == tiny.tokenizer.vocab_size


@pytest.mark.parametrize(
    "text", [*(f" {d}" for d in range(10)), *"0123456789()[]{}:=+xyz\n ", *(f" {c}" for c in ":=+xyz"), *WORDS]
)
def test_single_tokens(tiny, text):
    assert len(tiny.tokenizer.encode(text)) == 1


def test_digits_and_brackets_stay_alone_without_a_filter(tiny):
    def pieces(text):
        return [tiny.tokenizer.decode([i]) for i in tiny.tokenizer.encode(text)]

    assert pieces(" 123 + 45 =") == [" 1", "2", "3", " +", " 4", "5", " ="]
    assert pieces("([{ ]})") == ["(", "[", "{", " ", "]", "}", ")"]


def test_text_comes_back(tiny):
    text = 'Once upon a time, (in 1923) — naïve\n\n  cats said: "x = 7"!\t[end]'
    assert tiny.tokenizer.decode(tiny.tokenizer.encode(text)) == text


def test_it_models_english_and_uses_far_positions(tiny):
    text = (
        "Once upon a time, there was a little girl named Lucy. She loved to play outside in the park. One day she "
        "saw a big dog, and she was very scared. Her mother took her hand and said that the dog was only looking "
        "for a friend. "
    ) * 4
    ids = jnp.asarray(tiny.tokenizer.encode(text))[None, :200]
    nats = optax.softmax_cross_entropy_with_integer_labels(
        tiny.model.apply(tiny.params, ids).logits[:, :-1], ids[:, 1:]
    )
    assert float(jnp.exp(nats[0, :40].mean())) < 60
    assert float(jnp.exp(nats[0, 150:].mean())) < 60


def test_results_beat_both_controls_and_the_card_repeats_them():
    result = json.loads((EXPERIMENTS / "pretrain_tiny.json").read_text())
    card = (TINY / "README.md").read_text()
    for by in result["texts"].values():
        ours = by["this model"]
        controls = [s for name, s in by.items() if name != "this model"]
        assert len(controls) >= 2
        assert all(ours["bits_per_byte"] < s["bits_per_byte"] for s in controls)
        for s in by.values():
            assert f"{s['perplexity']:.1f} ({s['bits_per_byte']:.3f})" in card


@pytest.mark.parity
def test_plain_transformers_loads_it_and_agrees(tiny):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "Are parenthesis here correctly matched? ( [ ] )\nAnswer: yes. The old man said 12 + 34 = 46"
    ids = AutoTokenizer.from_pretrained(TINY)(text)["input_ids"]
    assert ids == tiny.tokenizer.encode(text)
    reference = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = reference(torch.tensor([ids]), output_hidden_states=True)
    out = tiny.model.apply(tiny.params, jnp.asarray([ids]))
    np.testing.assert_allclose(out.logits, expected.logits.numpy(), atol=1e-3)
    for ours, theirs in zip(out.hidden, expected.hidden_states, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), atol=1e-3)
