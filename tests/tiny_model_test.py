"""The bundled model, and the parts of its pretraining that decide its numbers."""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
sys.path.insert(0, str(EXPERIMENTS))

from pretrain import corpus, measure  # noqa: E402
from pretrain.ngram import NGram  # noqa: E402
from pretrain.recipe import Recipe, Stage, grow, grow_optimizer, mean_loss, tied_cross_entropy  # noqa: E402

from tracr_jax.lm.load import load_lm  # noqa: E402

TINY = Path(__file__).parents[1] / "tracr_jax" / "lm" / "tiny"
WORDS = (" yes", " no", "Answer", "<|endoftext|>")
SMALL = Recipe(
    width=32, vocabulary=64, positions=16, heads=2, stages=(Stage(0.0, 2, 8), Stage(0.5, 4, 8)), warmup=2
)


@pytest.fixture(scope="module")
def tiny():
    return load_lm("tiny")


def _ids(seed, shape, vocabulary=64):
    return jax.random.randint(jax.random.key(seed), shape, 0, vocabulary)


def test_tied_cross_entropy_and_its_gradients_are_optax_s():
    x, table = jax.random.normal(jax.random.key(0), (12, 8)), jax.random.normal(jax.random.key(1), (20, 8))
    # Repeated targets: their rows' gradients must add up.
    targets = jnp.array([3, 3, 3, 0, 19, 7, 7, 1, 2, 4, 5, 3])

    def plain(x, table):
        return 0.3 * optax.softmax_cross_entropy_with_integer_labels(x @ table.T, targets).mean()

    ours = jax.value_and_grad(lambda x, t: 0.3 * tied_cross_entropy(x, t, targets), (0, 1))(x, table)
    theirs = jax.value_and_grad(plain, (0, 1))(x, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), ours, theirs)


def test_training_loss_is_the_module_s():
    model, params = SMALL.model(2), SMALL.initial()
    ids = _ids(0, (3, 9))
    logits = model.apply(params, ids[:, :-1]).logits
    plain = optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()
    np.testing.assert_allclose(mean_loss(model, params, ids), plain, atol=1e-5)


def test_first_position_reads_and_trains_the_rows_further_on():
    model, params = SMALL.model(2), SMALL.initial()
    grads = jax.grad(lambda p: mean_loss(model, p, _ids(0, (3, 9)), 8))(params)
    norms = jnp.linalg.norm(grads["wpe"]["embedding"], axis=1)
    assert (norms[:8] == 0).all()
    assert (norms[8:] > 0).all()


def test_growing_barely_changes_the_function_and_keeps_the_optimiser():
    params = SMALL.initial()
    optimizer = SMALL.optimizer(100)
    state, ids = optimizer.init(params), _ids(0, (8, 9))
    loss_of = {n: jax.jit(jax.value_and_grad(partial(mean_loss, SMALL.model(n)))) for n in (2, 4)}
    for _ in range(10):
        grads = loss_of[2](params, ids)[1]
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    before, (after, grads) = loss_of[2](params, ids)[0], loss_of[4](grow(params), ids)
    learnt = abs(float(loss_of[2](SMALL.initial(), ids)[0]) - float(before))
    assert abs(float(after) - float(before)) < 0.05 * learnt

    grown = grow_optimizer(state)
    assert jax.tree.structure(grown) == jax.tree.structure(state)
    updates, _ = optimizer.update(grads, grown, grow(params))
    assert float(loss_of[4](optax.apply_updates(grow(params), updates), ids)[0]) < float(after)


def test_a_pass_predicts_every_token_once():
    stream = np.arange(8 * corpus.WINDOW + 1).astype(np.uint16)
    targets = [
        corpus.batch_at(stream, step, windows=2, length=length, seed=3)[:, 1:].ravel()
        for step, length in enumerate((128, 256, 64, 128))
    ]
    np.testing.assert_array_equal(np.sort(np.concatenate(targets)), stream[1:])


@pytest.mark.parametrize("order", [2, 3, 4, 5])
def test_ngram_is_a_distribution_and_learns(order):
    rng = np.random.default_rng(0)
    stream = np.cumsum(rng.choice([1, 2], 3000, p=[0.9, 0.1])) % 7
    model = NGram(stream, order=order, vocabulary=7)
    for context in (stream[50 : 50 + order - 1], np.array([6, 6, 6, 6])[: order - 1]):
        rows = [np.concatenate([context, [w]]) for w in range(7)]
        np.testing.assert_allclose(sum(model.probabilities(r)[-1] for r in rows), 1.0, atol=1e-12)
    fresh = np.cumsum(rng.choice([1, 2], 3000, p=[0.9, 0.1])) % 7
    entropy = -(0.9 * np.log(0.9) + 0.1 * np.log(0.1))
    assert -np.log(model.probabilities(fresh)).mean() == pytest.approx(entropy, abs=0.03)


def test_bigram_agrees_with_kneser_ney_by_hand():
    # Counts of counts of "0 1 0 1 0 2 0 3 1": bigrams 01:2 10:2 02:1 20:1 03:1 31:1, so n1 = 4, n2 = 2, Y = 1/2,
    # D1 = 1 - 2*Y*2/4 = 1/2, D2 = 2 - 3*Y*0/2 = 2, D3+ = 0. Unigrams count what stands in front: 0:2 1:2 2:1 3:1,
    # so n1 = n2 = 2, Y = 1/3, D1 = 1 - 2/3 = 1/3, D2 = 2: p(2) = (1 - 1/3)/6 + (2*1/3 + 2*2)/6/4.
    stream = np.array([0, 1, 0, 1, 0, 2, 0, 3, 1])
    unigram = (2 / 3) / 6 + (2 / 3 + 4) / 6 / 4
    bigram = 0.5 / 4 + (2 + 0.5 + 0.5) / 4 * unigram
    model = NGram(stream, order=2, vocabulary=4)
    np.testing.assert_allclose(model.probabilities(np.array([0, 2])), [bigram], atol=1e-12)


def test_every_token_is_scored_once():
    model, params = SMALL.model(2), SMALL.initial()
    stream = np.asarray(_ids(1, (16 * 5 + 4,)))
    whole = measure.model_nats(model, params, stream, length=16, batch=4)
    rows = [stream[i : i + 17] for i in range(0, 65, 16)]
    nats = sum(float(mean_loss(model, params, jnp.asarray(r)[None])) * 16 for r in rows)
    last = model.apply(params, jnp.asarray(stream[-17:-1])[None]).logits[0, -3:]
    nats += float(optax.softmax_cross_entropy_with_integer_labels(last, jnp.asarray(stream[-3:])).sum())
    assert whole == pytest.approx(nats, rel=1e-5)


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
