"""Token scores against plain loops: every context length, batches, padding, perplexity, KL, choices."""

import numpy as np
import pytest

from tests.helpers import lm_models
from tests.helpers.bounds import assert_same
from tests.helpers.retention_models import Summing, always, by_hand, log_probabilities, random_rows, table
from tracr_jax.errors import UserError
from tracr_jax.measure.language import perplexity, scores
from tracr_jax.measure.language.scores import choose, mean_kl, score_rows

V = 13
MODEL = Summing(vocab_size=V, max_positions=40)


def test_scores_are_those_of_plain_loops_in_the_order_given(monkeypatch):
    monkeypatch.setattr(scores, "_TOKENS", 64)  # several batches
    rows = random_rows([5, 41, 2, 17, 16, 40, 3, 29, 2, 11], vocab_size=V)
    logits = table(V)
    got = score_rows(MODEL, logits, rows)
    assert [len(s.nll) for s in got] == [len(r) - 1 for r in rows]
    for row, s in zip(rows, got, strict=True):
        expected = by_hand(logits, row)
        assert_same(s.nll, np.array([nats for nats, _ in expected]))
        assert s.right.tolist() == [right for _, right in expected]


def test_how_far_it_is_is_reported(monkeypatch):
    monkeypatch.setattr(scores, "_TOKENS", 64)
    said = []
    monkeypatch.setattr(scores, "report", lambda what, done, of: said.append((what, done, of)))
    rows = random_rows([5, 41, 2, 17, 16, 40, 3], vocab_size=V)
    score_rows(MODEL, table(V), rows)
    choose(MODEL, table(V), [r[:40] for r in rows], choices=[1, 2])
    mean_kl(MODEL, table(V), table(V), np.ones((5, 30), np.int32))
    for what, of in (("scoring 7 texts", 7), ("KL over 5 windows", 5)):
        steps = [done for w, done, of_all in said if w == what and of_all == of]
        assert steps[0] < steps[-1] == of


def test_right_padding_does_not_reach_the_tokens_of_a_real_model():
    model, params = lm_models.make("gpt2")
    rows = random_rows([4, 18, model.max_positions + 1], vocab_size=61)
    for row, got in zip(rows, score_rows(model, params, rows), strict=True):
        logits = np.asarray(lm_models.run(model, params, np.array([row[:-1]])).logits[0])
        expected = [-log_probabilities(here)[token] for here, token in zip(logits, row[1:], strict=True)]
        assert_same(got.nll, np.array(expected))
        assert got.right.tolist() == (logits.argmax(-1) == row[1:]).tolist()


def test_rows_of_all_lengths_need_few_programs():
    model = Summing(vocab_size=7, max_positions=100)
    before = scores._score._cache_size()
    score_rows(model, table(7), random_rows(range(2, 102), vocab_size=7))
    assert scores._score._cache_size() - before == 2  # 40 rows of 100 positions, then 60 of 64 or fewer fit one


def test_a_row_longer_than_the_model_is_refused():
    model, params = lm_models.make("gpt2")
    with pytest.raises(UserError, match="25 tokens, but n_positions is 24"):
        score_rows(model, params, random_rows([26], vocab_size=61))


def test_perplexity_weighs_tokens_not_rows():
    rows = random_rows([2, 40], vocab_size=V)
    logits = table(V)
    nats = [n for row in rows for n, _ in by_hand(logits, row)]
    assert len(nats) == 40
    assert perplexity(MODEL, logits, rows) == pytest.approx(np.exp(sum(nats) / 40), rel=1e-5)
    assert perplexity(MODEL, np.zeros((V, V), np.float32), rows) == pytest.approx(V, rel=1e-5)


def test_perplexity_of_known_predictions():
    logits = always(V, 4)
    p = np.exp(5) / (np.exp(5) + V - 1)
    assert perplexity(MODEL, logits, [[1, 4, 4, 4]]) == pytest.approx(1 / p, rel=1e-5)
    assert perplexity(MODEL, logits, [[4, 1, 2, 3]]) == pytest.approx(np.exp(5) / p, rel=1e-5)


def test_kl_is_from_the_original_and_a_mean_over_all_positions(monkeypatch):
    monkeypatch.setattr(scores, "_TOKENS", 20)  # batches of two windows; the third stands alone
    windows = np.array(random_rows([5] * 3, vocab_size=V), np.int32)
    original, model = table(V), table(V, seed=2)

    def kl(p, q):
        total = 0.0
        for row in windows.tolist():
            for s in range(5):
                log_p, log_q = (log_probabilities(t[sum(row[: s + 1]) % V]) for t in (p, q))
                total += np.sum(np.exp(log_p) * (log_p - log_q))
        return total / 15

    assert mean_kl(MODEL, model, original, windows) == pytest.approx(kl(original, model), rel=1e-4)
    assert abs(kl(original, model) - kl(model, original)) > 0.01
    assert mean_kl(MODEL, original, original, windows) == 0


def test_choices_are_compared_at_the_last_token_of_each_row(monkeypatch):
    monkeypatch.setattr(scores, "_TOKENS", 64)
    rows = random_rows([3, 40, 1, 17, 8], vocab_size=V)
    logits = table(V)
    expected = [int(np.argmax([logits[sum(r) % V][c] for c in (9, 2, 5)])) for r in rows]
    assert choose(MODEL, logits, rows, choices=(9, 2, 5)).tolist() == expected
    assert len(set(expected)) > 1
    assert choose(MODEL, always(V, 1), rows, choices=(9, 2)).tolist() == [0] * 5
