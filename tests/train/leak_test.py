"""The published hook leaks: the answer may come from what all values of the result have in common.

A small model learns a bit of its prompt: an adapter of two rows reads it from h_1, and the answer is given behind
a hook there. With the span of the rows (the paper's) the answer may also be written into the mean of the two rows,
which no decoding sees; with their contrast it may not, and the decoded value and the answer move together. How
much leaks depends on the seed: of five, two showed it like the one below, and none with the contrasts.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tracr_jax.intervene import ResidualEdit, detach_and_roll, project, result_basis
from tracr_jax.lm.gpt2 import GPT2, GPT2Config

MODEL = GPT2(GPT2Config(vocab_size=8, n_positions=8, n_embd=16, n_layer=2, n_head=2))
BLOCK, WIDTH, SEED, STEPS = 0, 16, 2, 150


def batch(key, rows=24):
    """Prompts whose second token says the bit, and the bits."""
    a, b = jax.random.split(key)
    bits = jax.random.bernoulli(a, shape=(rows,)).astype(jnp.int32)
    return jax.random.randint(b, (rows, 5), 0, 4).at[:, 1].set(4 + bits), bits


def adapter_rows(seed):
    """Two rows whose contrast is shorter than their mean."""
    mean, contrast = jax.random.normal(jax.random.key(seed), (2, WIDTH)) * 0.25
    return jnp.stack([mean - 0.4 * contrast, mean + 0.4 * contrast])


def train(seed, *, span):
    rows, optimizer = adapter_rows(seed), optax.adam(3e-3)
    edit = detach_and_roll(result_basis(rows, span=span), block=BLOCK)

    def loss(params, key):
        ids, bits = batch(key)
        answer = MODEL.apply(params, ids, edit=edit).logits[:, -1, :2]
        read = MODEL.apply(params, ids).hidden[BLOCK + 1][:, -1] @ rows.T
        return sum(jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, bits)) for z in (answer, read))

    def step(carry, key):
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params, key), state)
        return (optax.apply_updates(params, updates), state), None

    params = MODEL.linen.init(jax.random.key(seed), jnp.zeros((1, 2), jnp.int32))["params"]
    keys = jax.random.split(jax.random.key(100 + seed), STEPS)
    return jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0]


def effects(seed, params):
    """(decoded, answer) for an exchange of the contrast, of the common direction, and of nothing.

    Mean difference of the two logits at the last position, of rows of bit 0 given the component of rows of bit 1.
    """
    rows = adapter_rows(seed)
    ids, bits = batch(jax.random.key(9), 64)
    base, source = ids[jnp.argsort(bits)[:20]], ids[jnp.argsort(bits)[-20:]]
    contrast, both = result_basis(rows, span="contrasts"), result_basis(rows, span="rows")
    common = jnp.linalg.svd(both - project(both.T, contrast).T)[0][:, :1]
    given = MODEL.apply(params, source).hidden[BLOCK + 1]
    out = []
    for q in (contrast, common, jnp.zeros((WIDTH, 1))):
        edit = ResidualEdit(BLOCK, lambda h, q=q: h + project(given - h, q))
        found = MODEL.apply(params, base, edit=edit)
        pair = found.hidden[BLOCK + 1][:, -1] @ rows.T, found.logits[:, -1, :2]
        out.append([jnp.mean(z[:, 1] - z[:, 0]) for z in pair])
    return jnp.array(out)


@functools.cache
def moved(span):
    """[(contrast, common), (decoded, answer)]: the share of the way to the other bit that an exchange moves."""
    found = np.asarray(jax.jit(lambda seed: effects(seed, train(seed, span=span)))(SEED))
    assert np.all(found[2] < -2)  # the model knows the bit, and says it
    return (found[:2] - found[2]) / (-2 * found[2])


@pytest.mark.parametrize("span", ["rows", "contrasts"])
def test_the_decoded_value_moves_with_the_contrast_alone(span):
    np.testing.assert_allclose(moved(span)[:, 0], [1, 0], atol=0.1)


def test_with_the_span_of_the_rows_the_answer_comes_from_what_is_not_decoded():
    contrast, common = moved("rows")[:, 1]
    assert common > 0.5
    assert contrast < 0.8


def test_with_the_contrasts_the_answer_follows_what_is_decoded():
    contrast, common = moved("contrasts")[:, 1]
    assert abs(common) < 0.1
    assert contrast > 0.8
