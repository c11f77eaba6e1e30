"""The projector, the edit, and what the hook lets through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models as M
from tests.helpers.bounds import FLOAT32, assert_same
from tracr_jax.errors import UserError
from tracr_jax.intervene import LayerEdit, ResidualEdit, detach_and_roll, project, subspace_basis
from tracr_jax.lm.gpt2 import GPT2, GPT2Config

CONFIG = GPT2Config(vocab_size=40, n_positions=16, n_embd=24, n_layer=5, n_head=3)


@pytest.fixture(params=[True, False], ids=["scan", "loop"])
def model(request):
    return GPT2(CONFIG, scan_layers=request.param)


def basis(rank=2):
    return subspace_basis(np.random.default_rng(1).normal(size=(rank, 24)).astype(np.float32))


@pytest.mark.parametrize("rank", [1, 2, 10])
def test_projector(rank):
    rows = np.random.default_rng(0).normal(size=(rank, 24)).astype(np.float32)
    p = np.asarray(project(jnp.eye(24), subspace_basis(rows)))
    assert_same(p, np.linalg.pinv(rows) @ rows)
    assert_same(p @ p, p)
    assert_same(p, p.T)
    np.testing.assert_allclose(np.trace(p), rank, rtol=FLOAT32)


def test_edit_leaves_earlier_states_and_changes_later_ones(model):
    params = model.init(jax.random.key(0))
    ids = np.arange(20).reshape(2, 10) % 40
    plain = model.apply(params, ids).hidden
    same = model.apply(params, ids, edit=ResidualEdit(2, lambda h: h)).hidden
    np.testing.assert_array_equal(plain, same)
    edited = model.apply(params, ids, edit=ResidualEdit(2, lambda h: h + 1.0)).hidden
    np.testing.assert_array_equal(edited[:3], plain[:3])
    assert_same(edited[3], plain[3] + 1.0)
    assert np.abs(edited[4] - plain[4]).max() > 0.5


@pytest.mark.parametrize("block", [-1, 5, np.int64(5), jnp.int32(5)])
@pytest.mark.parametrize("before", [True, False])
def test_an_edit_at_a_block_that_there_is_not_is_refused(model, block, before):
    edit = (ResidualEdit(0, lambda h: h), ResidualEdit(block, lambda h: 0 * h, before=before))
    with pytest.raises(UserError, match=f"edit at block {block}: the blocks are 0 to 4"):
        model.apply(model.init(jax.random.key(0)), np.zeros((1, 3), np.int32), edit=edit)


def test_supervised_gradient_reaches_early_blocks_only_through_the_subspace(model):
    """A change of the early states outside the subspace has no gradient; inside it has one."""
    params = model.init(jax.random.key(0))
    ids = np.arange(20).reshape(2, 10) % 40
    q = basis()

    def loss(shift):
        hook = detach_and_roll(q, block=2)
        edit = ResidualEdit(2, lambda h: hook.fn(h + shift))
        return jnp.sum(model.apply(params, ids, edit=edit).logits[..., 3] ** 2)

    grad = jax.grad(loss)(jnp.zeros((2, 10, 24)))
    inside = project(grad, q)
    assert np.abs(inside).max() > 1e-3
    np.testing.assert_allclose(grad, inside, atol=1e-4 * float(np.abs(inside).max()))


def test_roll_exchanges_complements_and_is_the_identity_for_one_example(model):
    params = model.init(jax.random.key(0))
    ids = np.arange(20).reshape(2, 10) % 40
    q = basis()
    one = model.apply(params, ids[:1], edit=detach_and_roll(q, block=2))
    assert_same(one.logits, model.apply(params, ids[:1]).logits)
    h = model.apply(params, ids).hidden[3]
    out = model.apply(params, ids, edit=detach_and_roll(q, block=2)).hidden[3]
    assert_same(project(out, q), project(h, q))
    assert_same(out - project(out, q), (h - project(h, q))[::-1])


@pytest.mark.parametrize("scan", [True, False], ids=["scan", "loop"])
@pytest.mark.parametrize("family", M.MODELS)
def test_layer_edit_changes_what_every_block_reads(family, scan):
    """Each block by itself: its output is what it gives when the edited state alone is put before it."""
    model, params = M.make(family, scan_layers=scan)
    ids, others = M.ids(), M.ids(2, 6, seed=3)
    added = jnp.asarray(np.random.default_rng(2).normal(size=(4, 1, 1, 32)), jnp.float32)
    added = added.at[1].set(0)  # one block reads its state as it is
    edit = LayerEdit(lambda h, i: h + added[i])
    out, beside = jax.jit(lambda p: model.apply_beside(p, ids, others, edit=edit))(params)

    @jax.jit
    def alone(params, state, i):
        return model.apply(params, ids, edit=ResidualEdit(i, lambda _: state, before=True))

    plain = alone(params, out.hidden[0], 0)  # the embedding put before block 0: no edit at all
    np.testing.assert_array_equal(out.hidden[0], plain.hidden[0])
    for i in range(4):
        single = alone(params, out.hidden[i] + added[i], i)
        assert_same(out.hidden[i + 1], single.hidden[i + 1])
    assert_same(out.logits, single.logits)
    assert np.abs(out.logits - plain.logits).max() > 1e-2
    again = jax.jit(model.apply)(params, others)
    assert_same(beside.logits, again.logits)  # the text beside it is not edited
