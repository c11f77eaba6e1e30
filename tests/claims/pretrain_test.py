"""The parts of the bundled model's pretraining that decide its numbers."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.pretrain import corpus, measure
from experiments.pretrain.ngram import NGram
from experiments.pretrain.recipe import Recipe, Stage, grow, grow_optimizer, mean_loss, tied_cross_entropy

WORDS = (" yes", " no", "Answer", "<|endoftext|>")
SMALL = Recipe(
    width=32, vocabulary=64, positions=16, heads=2, stages=(Stage(0.0, 2, 8), Stage(0.5, 4, 8)), warmup=2
)


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
    update = jax.jit(optimizer.update)  # one by one, its operations would take most of a minute
    for _ in range(10):
        grads = loss_of[2](params, ids)[1]
        updates, state = update(grads, state, params)
        params = optax.apply_updates(params, updates)
    before, (after, grads) = loss_of[2](params, ids)[0], loss_of[4](grow(params), ids)
    learnt = abs(float(loss_of[2](SMALL.initial(), ids)[0]) - float(before))
    assert abs(float(after) - float(before)) < 0.05 * learnt

    grown = grow_optimizer(state)
    assert jax.tree.structure(grown) == jax.tree.structure(state)
    updates, _ = update(grads, grown, grow(params))
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
