"""Noise: where it goes and how long it is; what it does to a model that reads its answer from the result alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models
from tests.helpers.bounds import FLOAT32, assert_same
from tests.helpers.interpret_perfect import perfect, with_random_adapter
from tracr_jax.interpret.answers import would_answer
from tracr_jax.interpret.noise import _make_run, noise, noise_curves, random_basis
from tracr_jax.intervene import ResidualEdit, project
from tracr_jax.lm.generate import generate_ids


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_one_pass_tells_what_greedy_decoding_would_answer(family):
    """The answer of K tokens is right exactly if decoding, with the same edit at every step, gives it."""
    model, params = lm_models.make(family)
    lengths, tokens = np.array([4, 7, 9, 10]), 3
    prompts = np.array(lm_models.ids(4, 10))
    edit = ResidualEdit(1, lambda h: 1.5 * h)
    run = jax.jit(functools.partial(generate_ids, model, num_tokens=tokens, edit=edit))
    answers = np.asarray(run(params, prompts, lengths))
    wrong = answers.copy()
    wrong[[0, 1, 2], [0, 1, 2]] += 1  # one token of each answer, the last row stays right
    ids = np.zeros((8, 10 + tokens), np.int32)
    mask = np.zeros((8, 10 + tokens), np.float32)
    for row, answer in enumerate([*answers, *wrong]):
        n = lengths[row % 4]
        ids[row, :n], ids[row, n : n + tokens] = prompts[row % 4, :n], answer
        mask[row, n - 1 : n - 1 + tokens] = 1
    mask[2, lengths[2] - 1] = 1
    told = jax.jit(functools.partial(would_answer, model, count=tokens, edit=edit))(params, ids, mask)
    assert np.asarray(told).tolist() == [True] * 4 + [False] * 3 + [True]
    # The edit matters: without it some answers are others.
    plain = jax.jit(functools.partial(would_answer, model, count=tokens))(params, ids[:4], mask[:4])
    assert not np.all(plain)


def test_noise_lies_in_its_subspace_and_has_its_length():
    basis = jnp.asarray(random_basis(0, rank=3, width=16))
    key = jax.random.key(1)
    inside = noise(key, (2, 5, 16), basis, strength=10.0, complement=False)
    outside = noise(key, (2, 5, 16), basis, strength=10.0, complement=True)
    np.testing.assert_allclose(np.linalg.norm(inside, axis=-1), 10, rtol=FLOAT32)
    np.testing.assert_allclose(np.linalg.norm(outside, axis=-1), 10, rtol=FLOAT32)
    assert_same(project(inside, basis), inside)
    np.testing.assert_allclose(project(outside, basis), 0, atol=10 * FLOAT32)
    # Fresh at every position.
    assert len(np.unique(np.asarray(inside).reshape(10, 16).round(4), axis=0)) == 10


def test_the_originals_random_rows_point_one_way():
    """Uniform rows share the direction (1, …, 1), Gaussian ones have none in common."""
    ones = np.ones(200) / 200**0.5

    def share_of_ones(as_coded):
        shares = [np.linalg.norm(random_basis(s, rank=2, width=200, as_coded=as_coded).T @ ones) for s in range(5)]
        return np.mean(shares)

    assert share_of_ones(True) > 0.9
    assert share_of_ones(False) < 0.3


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("block", [1, 3])  # 3: the last, behind which no blocks are left to run alone
def test_noise_on_the_shared_state_is_noise_in_the_whole_model(family, block):
    model, params = lm_models.make(family)
    ids = np.array(lm_models.ids(8, 10))
    mask = np.zeros(ids.shape, np.float32)
    mask[:, 8] = 1
    key, basis = jax.random.key(2), random_basis(0, rank=8, width=model.width)
    drawn = noise(key, (*ids.shape, model.width), basis, strength=30.0, complement=False)

    def answer(edit):
        return np.asarray(jax.jit(functools.partial(model.apply, edit=edit))(params, ids).logits)[:, 8].argmax(-1)

    best = answer(ResidualEdit(block, lambda h: h + drawn))
    assert np.any(best != answer(None))
    ids[:, 9] = best
    ids[4:, 9] += 1
    shared, run = _make_run(model, params, block=block, count=1)
    right = run(shared(ids), basis, ids, mask, key, 30.0, False)
    assert np.asarray(right).tolist() == 4 * [True] + 4 * [False]


def accuracy(curves, kind):
    return [p["accuracy"] for p in curves["kinds"][kind]]


def test_only_the_result_subspace_hurts_a_model_that_answers_from_it(monkeypatch):
    run = perfect()
    seen = []
    monkeypatch.setattr("tracr_jax.interpret.noise.report", lambda what, done, of: seen.append((done, of)))
    curves = noise_curves(run, prompts=100, seeds=(0, 1), strengths=(0, 3))
    assert accuracy(curves, "complement") == [1, 1]
    assert accuracy(curves, "random")[0] == 1
    assert accuracy(curves, "random")[1] > 0.9
    assert accuracy(curves, "result")[0] == 1
    assert 0.4 < accuracy(curves, "result")[1] < 0.75
    point = curves["kinds"]["result"][1]
    assert point["total"] == 200
    assert point["low"] < point["accuracy"] < point["high"]
    assert np.mean(point["per_seed"]) == pytest.approx(point["accuracy"])
    assert len(set(point["per_seed"])) == 2
    # One batch; one pass without noise, and three kinds times two seeds.
    assert seen[-1] == (7, 7)
    assert curves["rank"] == 2
    assert curves["block"] == run.program.teacher.num_layers


def test_with_an_untrained_adapter_the_result_subspace_is_a_random_one():
    """The measure can fail: the same model and length, read by an adapter that knows nothing of it.

    At larger lengths one random plane differs visibly from another, see `per_seed`.
    """
    run = perfect()
    curves = noise_curves(with_random_adapter(run), prompts=100, seeds=(0, 1), strengths=(3,))
    (result,), (random,) = accuracy(curves, "result"), accuracy(curves, "random")
    assert result > 0.9
    assert abs(result - random) < 0.05
