"""What must hold for every family: scan = loop, edits, causality, logit positions, cache, dtype, errors.

Two forms of one pass are compared in float64; the last tests are those of the types.
"""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models as M
from tests.helpers.bounds import assert_same
from tracr_jax.errors import UserError
from tracr_jax.intervene import ResidualEdit, detach_and_roll
from tracr_jax.lm.blocks import first_blocks, last_blocks, stack_blocks, unstack_blocks
from tracr_jax.measure.language.scores import mean_kl, perplexity

pytestmark = pytest.mark.usefixtures("x64")
make = functools.partial(M.make, dtype="float64")
families = pytest.mark.parametrize("family", ["gpt2", "llama"])
forms = pytest.mark.parametrize("scan_layers", [True, False])


@families
def test_scan_equals_loop(family):
    ids = M.ids()
    scan, loop = (make(family, scan_layers=s) for s in (True, False))
    a, b = (M.run(m, p, ids) for m, p in (scan, loop))
    assert_same(a, b)
    assert a.hidden.shape == (5, 3, 10, 32)
    assert a.logits.shape == (3, 10, 61)


@families
def test_stacking_and_unstacking_are_inverse(family):
    _, params = make(family)
    looped = unstack_blocks(params)
    assert set(looped) - set(params) == {f"block_{i}" for i in range(4)}
    chex.assert_trees_all_equal(stack_blocks(looped), params)
    loop = M.MODELS[family](M.CONFIGS[family], scan_layers=False)
    chex.assert_trees_all_equal_shapes(jax.eval_shape(loop.init, jax.random.key(0)), looped)


@families
@forms
def test_first_blocks_give_the_same_states_up_to_there(family, scan_layers):
    model, params = make(family, scan_layers=scan_layers)
    ids = M.ids()
    short, fewer = first_blocks(model, params, 2)
    assert short.num_blocks == 2
    assert sum(x.size for x in jax.tree.leaves(fewer)) < sum(x.size for x in jax.tree.leaves(params))
    cut, whole = M.run(short, fewer, ids), M.run(model, params, ids)
    assert_same(cut.hidden[:2], whole.hidden[:2])
    assert np.abs(cut.hidden[2] - whole.hidden[2]).max() > 1e-3


@families
@forms
@pytest.mark.parametrize("start", [0, 1, 3])
def test_last_blocks_go_on_from_a_state(family, scan_layers, start):
    model, params = make(family, scan_layers=scan_layers)
    ids = M.ids()
    whole = M.run(model, params, ids)
    rest, fewer = last_blocks(model, params, start)
    assert rest.num_blocks == 4 - start
    resumed = M.run(rest, fewer, 0 * ids, edit=ResidualEdit(0, lambda _: whole.hidden[start], before=True))
    assert_same(resumed.hidden[1:], whole.hidden[start + 1 :])
    assert_same(resumed.logits, whole.logits)


@families
@forms
def test_a_pass_that_skips_blocks_goes_on_from_a_state(family, scan_layers):
    """One compiled program for all blocks; those below are not computed: there are no numbers in them."""
    model, params = make(family, scan_layers=scan_layers)
    ids = M.ids()
    whole = M.run(model, params, ids)

    @jax.jit
    def go_on(params, state, block):
        edit = ResidualEdit(block, lambda _: state, before=True, skip=True)
        return model.apply(params, 0 * ids, edit=edit)

    for block in range(4):
        below = {"blocks": slice(block)} if scan_layers else {f"block_{i}": slice(None) for i in range(block)}
        broken = params | {
            k: jax.tree.map(lambda x, s=s: x.at[s].set(jnp.nan), params[k]) for k, s in below.items()
        }
        out = go_on(broken, whole.hidden[block], block)
        assert_same(out.hidden[block + 1 :], whole.hidden[block + 1 :])
        assert_same(out.logits, whole.logits)
    cache, edit = model.init_cache(*ids.shape), ResidualEdit(1, lambda h: h, before=True, skip=True)
    with pytest.raises(ValueError, match="without a cache"):
        model.apply_cached(params, ids, cache, positions=jnp.zeros_like(ids), edit=edit)


@families
@forms
@pytest.mark.parametrize("block", [0, 2, 3])
def test_edit_changes_only_what_comes_after_it(family, scan_layers, block):
    model, params = make(family, scan_layers=scan_layers)
    ids = M.ids()
    plain = M.run(model, params, ids)
    edited = M.run(model, params, ids, edit=ResidualEdit(block, lambda h: h + 1.0 + 0.5 * h**2))
    np.testing.assert_array_equal(edited.hidden[: block + 1], plain.hidden[: block + 1])
    assert np.abs(edited.hidden[block + 1] - plain.hidden[block + 1]).min(axis=-1).max() > 1e-3
    assert np.abs(edited.logits - plain.logits).max() > 1e-2
    if block < 3:
        before = plain.hidden[block + 1]
        assert_same(edited.hidden[block + 1], before + 1.0 + 0.5 * before**2)


@families
@forms
def test_an_edit_before_a_block_is_seen_by_its_reader_only(family, scan_layers):
    """The same states and logits as the edit behind the block below, but for the edited state itself."""
    model, params = make(family, scan_layers=scan_layers)
    ids = M.ids()
    plain = M.run(model, params, ids)
    behind = M.run(model, params, ids, edit=ResidualEdit(0, lambda h: h + 1.0 + 0.5 * h**2))
    before = M.run(model, params, ids, edit=ResidualEdit(1, lambda h: h + 1.0 + 0.5 * h**2, before=True))
    np.testing.assert_array_equal(before.hidden[:2], plain.hidden[:2])
    assert_same(before.hidden[2:], behind.hidden[2:])
    assert_same(before.logits, behind.logits)
    assert np.abs(behind.hidden[1] - plain.hidden[1]).max() > 1e-3


@families
@forms
def test_an_edit_that_returns_its_input_changes_nothing(family, scan_layers):
    model, params = make(family, scan_layers=scan_layers)
    plain, same = (
        jax.jit(lambda p, x, e=e: model.apply(p, x, edit=e))(params, M.ids())
        for e in (None, ResidualEdit(1, lambda h: h))
    )
    assert_same(same, plain)


@families
@forms
def test_stop_gradient_edit_cuts_the_gradient_to_earlier_blocks(family, scan_layers):
    model, params = make(family, scan_layers=scan_layers)
    edit = ResidualEdit(1, jax.lax.stop_gradient)

    def loss(p):
        return jnp.sum(model.apply(p, M.ids(), edit=edit).logits ** 2)

    grads = jax.jit(jax.grad(loss))(params)
    grads = grads if scan_layers is False else unstack_blocks(grads)
    for i in range(4):
        size = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads[f"block_{i}"]))
        assert (size == 0.0) if i <= 1 else (size > 0.0)


@families
def test_causality_by_gradients(family):
    """The derivative of logits[t] by h_1[s] is zero exactly for s > t; an additive edit reaches the state."""
    model, params = make(family)
    ids = M.ids(batch=1, length=6)

    def logits(nudge):
        return M.run(model, params, ids, edit=ResidualEdit(0, lambda h: h + nudge)).logits[0].sum(-1)

    jacobian = jax.jit(jax.jacrev(logits))(jnp.zeros((1, 6, 32)))[:, 0]
    reach = jnp.abs(jacobian).max(-1)
    np.testing.assert_array_equal(reach > 0, np.tril(np.ones((6, 6), bool)))


@families
@forms
@pytest.mark.parametrize("rows", [(4, 6), (3, 1)])
def test_a_pass_beside_other_sequences_is_two_passes(family, scan_layers, rows):
    """Of other counts and lengths; edit and chosen positions concern the first, gradients are the sums of both."""
    model, params = first_blocks(*make(family, scan_layers=scan_layers), 2)
    ids, others = M.ids(rows[0], 10), M.ids(rows[1], 7, seed=2)
    where = jnp.asarray(np.random.default_rng(3).integers(0, 10, (rows[0], 2)))
    edit = detach_and_roll(jnp.linalg.qr(jax.random.normal(jax.random.key(4), (32, 3)))[0], block=0)
    options = {"edit": edit, "logit_positions": where}

    def apart(p):
        return model.apply(p, ids, **options), model.apply(p, others)

    def together(p):
        return model.apply_beside(p, ids, others, **options)

    def loss_of(run):
        def loss(p):
            first, second = run(p)
            total = jnp.mean(first.logits**2) + jnp.mean(jnp.sin(second.logits)) + jnp.mean(first.hidden[1] ** 2)
            return total, (first, second)

        return jax.jit(jax.grad(loss, has_aux=True))

    (grad, out), (grad_apart, out_apart) = (loss_of(run)(params) for run in (together, apart))
    assert_same(out, out_apart)
    assert_same(grad, grad_apart)


@families
@forms
def test_positions_of_tokens(family, scan_layers):
    """From 0 on they are the usual ones; a shifted row is one of a shifted table, or the same where only distances
    are seen (by angles of float32).
    """
    model, params = make(family, scan_layers=scan_layers)
    ids, others, starts = M.ids(4, 10), M.ids(2, 7, seed=2), np.array([0, 14, 3, 9])
    at = jnp.asarray(starts[:, None] + np.arange(10)[None])
    usual, moved = M.run(model, params, ids), M.run(model, params, ids, positions=at)
    assert_same(M.run(model, params, ids, positions=jnp.broadcast_to(jnp.arange(10), (4, 10))), usual)
    for row, start in enumerate(starts):
        rolled = params
        if model.learnt_positions:
            rolled = params | {"wpe": {"embedding": jnp.roll(params["wpe"]["embedding"], -int(start), axis=0)}}
        alone = M.run(model, rolled, ids[row : row + 1]).hidden[:, 0]
        assert_same(moved.hidden[:, row], alone, bound=None if model.learnt_positions else 1e-6)
    assert (np.abs(moved.hidden - usual.hidden)[:, 1].max() > 1e-3) == model.learnt_positions
    beside = jax.jit(lambda p: model.apply_beside(p, ids, others, positions=at))(params)
    assert_same(beside, (moved, M.run(model, params, others)))


def test_a_pass_beside_too_long_sequences_is_refused():
    model, params = make("gpt2")
    with pytest.raises(UserError, match="25 tokens, but n_positions is 24"):
        model.apply_beside(params, M.ids(), M.ids(1, 25))


@families
def test_logits_at_chosen_positions(family):
    model, params = make(family)
    ids, where = M.ids(), jnp.array([[0, 9], [4, 4], [7, 2]])
    full = M.run(model, params, ids).logits
    some = M.run(model, params, ids, logit_positions=where).logits
    assert_same(some, np.take_along_axis(np.asarray(full), where[:, :, None], 1))


@families
def test_unembed_reads_the_last_hidden_state(family):
    model, params = make(family)
    out = M.run(model, params, M.ids())
    assert_same(model.unembed(params, out.hidden[-1]), out.logits)


@families
@forms
def test_cache_in_pieces_equals_one_pass(family, scan_layers):
    """Rows of different lengths: prefill padded prompts, then feed three more tokens at each row's own place."""
    model, params = make(family, scan_layers=scan_layers)
    ids, lengths = M.ids(batch=3, length=12), jnp.array([4, 7, 9])
    full = M.run(model, params, ids)
    cache, apply_cached = model.init_cache(3, 12), jax.jit(model.apply_cached)
    pads = jnp.where(jnp.arange(9)[None] < lengths[:, None], ids[:, :9], 60)
    positions = jnp.broadcast_to(jnp.arange(9)[None], (3, 9))
    out, cache = apply_cached(params, pads, cache, positions=positions)
    for row, n in enumerate(lengths):
        assert_same(out.hidden[:, row, :n], full.hidden[:, row, :n])
    for step in range(3):
        here = (lengths + step)[:, None]
        token = jnp.take_along_axis(ids, here, axis=1)
        out, cache = apply_cached(params, token, cache, positions=here)
        want = jnp.take_along_axis(full.logits, here[:, :, None], axis=1)
        assert_same(out.logits, want)


@families
def test_remat_changes_neither_values_nor_gradients(family):
    plain, params = make(family)
    remat, _ = make(family, remat=True)

    def loss(model):
        return jax.jit(jax.value_and_grad(lambda p: jnp.mean(model.apply(p, M.ids()).logits ** 2)))

    assert_same(loss(plain)(params), loss(remat)(params))
    text = str(jax.make_jaxpr(lambda p: remat.apply(p, M.ids()))(params))
    assert "remat" in text or "checkpoint" in text


@families
def test_bfloat16_computes_in_bfloat16_from_float32_parameters(family):
    model, params = M.make(family, dtype="bfloat16")
    exact, _ = M.make(family)
    out, want = M.run(model, params, M.ids()), M.run(exact, params, M.ids())
    assert out.hidden.dtype == jnp.bfloat16
    # Logits near 32 would be rounded to quarters, and two tokens tie where one is ahead.
    assert out.logits.dtype == model.unembed(params, out.hidden[-1]).dtype == jnp.float32
    error = jnp.linalg.norm(out.logits.astype(jnp.float32) - want.logits) / jnp.linalg.norm(want.logits)
    assert 0 < error < 0.05


@families
def test_too_long_is_one_clear_line(family):
    model, params = M.make(family)
    with pytest.raises(UserError, match=r"25 tokens, but .* is 24"):
        M.run(model, params, M.ids(length=25))


@families
@pytest.mark.parametrize("wrong", [-1, 61, 2**31 - 1])
def test_an_id_beyond_the_vocabulary_is_refused(family, wrong):
    model, params = M.make(family)
    ids = np.zeros((2, 5), np.int32)
    ids[1, 3] = wrong
    for given in (ids, jnp.asarray(ids)):
        for call in (
            lambda ids: model.apply(params, ids),
            lambda ids: model.apply_beside(params, np.zeros((1, 4), np.int32), ids),
            lambda ids: model.apply_cached(params, ids, model.init_cache(2, 5), positions=ids),
            lambda ids: perplexity(model, params, ids),
            lambda ids: mean_kl(model, params, params, ids),
        ):
            with pytest.raises(
                UserError, match=f"token id {wrong}, but the model has embeddings for 0 to 60 only"
            ):
                call(given)
