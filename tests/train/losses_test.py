"""Variable alignment against a plain loop, its extremes, and the masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.bounds import assert_same
from tracr_jax.errors import UserError
from tracr_jax.teacher.model import Variable
from tracr_jax.teacher.variables import variable_layout
from tracr_jax.train.losses import (
    answer_positions,
    item_positions,
    variable_alignment,
    weighted_cross_entropy,
)
from tracr_jax.types import Adapter

VARIABLES = (
    Variable("a", "categorical", (0, 1, 2), (0, 1, 2), 0),
    Variable("n", "numerical", (3,), (), 1),
    Variable("b", "categorical", (4, 5), (False, True), 1),
    Variable("c", "categorical", (6, 7, 8), (0, 1, 2), 2),
)
LAYERS, B, S, D, WIDTH = 3, 2, 5, 9, 6


def random_case(seed=0):
    """Teacher states in which each variable appears at a later layer than the one before, with holes."""
    rng = np.random.default_rng(seed)
    r = np.zeros((LAYERS, B, S, D), np.float32)
    for layer, variable in ((0, VARIABLES[0]), (1, VARIABLES[2]), (2, VARIABLES[3])):
        value = rng.integers(len(variable.indices), size=(B, S))
        for i, index in enumerate(variable.indices):
            r[layer:, :, :, index] = value == i
    r[1:, 0, 2, 4:6] = 0  # b is not defined here
    r[1:, :, :, 3] = rng.random((B, S))
    adapter = Adapter(*(rng.normal(size=s).astype(np.float32) for s in ((D, WIDTH), (D,))))
    return adapter, rng.normal(size=(LAYERS, B, S, WIDTH)).astype(np.float32), r


def by_loop(adapter, hidden, r, weights):
    """The definition, one number at a time."""
    read = hidden @ adapter.weight.T + adapter.bias
    out = {}
    for v in VARIABLES:
        idx = list(v.indices)
        total = 0.0
        for layer in range(LAYERS):
            z, t = read[layer][..., idx], r[layer][..., idx]
            if v.kind == "numerical":
                if (t**2).sum() > 1e-6:
                    total += (((z - t) ** 2)[..., 0] * weights).sum() / ((t**2)[..., 0] * weights).sum()
                continue
            terms = []
            for b in range(B):
                for s in range(S):
                    if t[b, s].max() > 0.5 and weights[b, s]:
                        p = np.exp(z[b, s] - z[b, s].max())
                        terms.append(-np.log((p / p.sum())[t[b, s].argmax()]))
            total += np.mean(terms) if terms else 0.0
        out[v.name] = total / LAYERS
    return out


@pytest.mark.parametrize("masked", [False, True])
def test_variable_alignment_is_its_definition(masked):
    adapter, hidden, r = random_case()
    weights = np.ones((B, S), np.float32)
    if masked:
        weights[1, 3:] = 0
    layout = variable_layout(VARIABLES)
    got = variable_alignment(adapter, hidden, r, layout=layout, weights=weights if masked else None)
    want = by_loop(adapter, hidden, r, weights)
    assert sorted(layout.names) == sorted(want)
    assert_same(got, np.array([want[n] for n in layout.names]))


def test_a_perfect_reading_costs_nothing_and_huge_logits_stay_finite():
    _, _, r = random_case()
    layout = variable_layout(VARIABLES)
    perfect = Adapter(np.eye(D, dtype=np.float32), np.zeros(D, np.float32))
    sharp = Adapter(perfect.weight * 50, perfect.bias)
    categorical = [i for i, n in enumerate(layout.names) if n != "n"]
    got = np.asarray(variable_alignment(sharp, r, r, layout=layout))
    np.testing.assert_allclose(got[categorical], 0, atol=1e-6)
    exact = np.asarray(variable_alignment(perfect, r, r, layout=layout))
    assert exact[layout.names.index("n")] == 0
    far = variable_alignment(Adapter(perfect.weight * -1e4, perfect.bias), r, r, layout=layout)
    assert np.all(np.isfinite(far))
    assert np.all(np.isfinite(jax.grad(lambda h: variable_alignment(sharp, h, r, layout=layout).sum())(r * 1e4)))


def test_weights_of_variables_have_mean_one_and_unknown_names_are_refused():
    layout = variable_layout(VARIABLES, weights={"a": 3.0})
    np.testing.assert_allclose(layout.weights.mean(), 1.0)
    a = layout.names.index("a")
    np.testing.assert_allclose(layout.weights[a] / np.delete(layout.weights, a), 3.0)
    twice = variable_layout(VARIABLES, weights={"a": 3.0}, times={"a": 2.0})  # a factor beside the weight
    np.testing.assert_allclose(twice.weights[a] / np.delete(twice.weights, a), 6.0)
    with pytest.raises(UserError, match="no such variable"):
        variable_layout(VARIABLES, weights={"zzz": 1.0})


def test_answer_positions_give_the_same_loss_as_all_positions():
    rng = np.random.default_rng(0)
    ids = rng.integers(11, size=(3, 7))
    mask = np.zeros((3, 7), np.float32)
    mask[0, 2:5] = mask[1, 5:7] = 1  # the last column is never used; row 2 has no answer
    logits = rng.normal(size=(3, 7, 11)).astype(np.float32)
    where, targets, weights = answer_positions(ids, mask, count=3)
    few = jnp.take_along_axis(logits, where[:, :, None], axis=1)
    log_p = jax.nn.log_softmax(logits[:, :-1])
    loss = -np.take_along_axis(np.asarray(log_p), ids[:, 1:, None], axis=2)[..., 0]
    mean = (loss * mask[:, :-1]).sum() / mask[:, :-1].sum()
    np.testing.assert_allclose(weighted_cross_entropy(few, targets, weights), mean, rtol=1e-6)
    assert weighted_cross_entropy(few, targets, weights * 0) == 0  # docs/differences.md A1


def test_item_positions_end_at_the_last_token():
    ids = np.array([[5, 0, 3, 0, 0], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0]])
    want = [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(item_positions(ids, pad_id=0), np.array(want, bool))
