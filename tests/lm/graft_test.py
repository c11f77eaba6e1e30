"""A model with a module beside it: what is added where, what stays as it was, that all ways to run it agree."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models as M
from tests.helpers.bounds import assert_same
from tracr_jax.intervene import LayerEdit, ResidualEdit
from tracr_jax.lm.blocks import first_blocks
from tracr_jax.lm.generate import greedy
from tracr_jax.lm.graft import KEY, MAP, Beside, Grafted, alone, without_map

MARK, K = 7, 2  # the module speaks from the first 7 on


def read(weights, ids):
    """At each position from the mark on: 1, and how many marks there were."""
    marks = jnp.cumsum(ids == MARK, axis=1)
    return jnp.stack([jnp.minimum(marks, 1), marks], axis=-1).astype(jnp.float32) * weights


def make(family, block, **options):
    model, params = M.make(family, **options)
    model = Grafted.of(model, Beside(read, jnp.float32(0.5), K, block))
    weight = np.random.default_rng(3).standard_normal((K, model.width)).astype(np.float32)
    return model, params, model.with_map(params, jnp.asarray(weight))


def some_ids(batch=3, length=10):
    ids = np.array(M.ids(batch, length))
    ids[ids == MARK] = 8
    ids[0, 4] = ids[1, 3] = ids[1, 5] = MARK  # and none in the others
    return jnp.asarray(ids)


@pytest.mark.parametrize(("family", "block"), [("gpt2", 1), ("gpt2", 3), ("llama", 1)])
def test_the_map_adds_to_one_blocks_output_where_the_module_speaks(family, block):
    model, params, grafted = make(family, block)
    ids = some_ids()
    plain, out = M.run(alone(model), params, ids), M.run(model, grafted, ids)
    np.testing.assert_array_equal(out.hidden[: block + 1], plain.hidden[: block + 1])
    silent = np.asarray(jnp.cumsum(ids == MARK, axis=1) == 0)
    assert_same(out.logits[silent], plain.logits[silent])
    assert np.abs(out.logits - plain.logits)[~silent].max(axis=-1).min() > 1e-2
    if block < 3:  # the last state shown is behind the final norm
        h = np.asarray(plain.hidden[block + 1], np.float64)
        size = np.sqrt(np.mean(h**2, axis=-1, keepdims=True))
        added = np.asarray(read(0.5, ids)) @ np.asarray(grafted[KEY][MAP])
        assert_same(out.hidden[block + 1], (h + size * added).astype(np.float32))


def test_without_a_map_or_with_one_of_zeros_the_model_is_alone():
    model, params, grafted = make("gpt2", 3, scan_layers=False)
    ids = some_ids()
    want = M.run(alone(model), params, ids)
    assert_same(M.run(model, model.start(params), ids), want)
    assert_same(M.run(model, params, ids), want)
    assert without_map(grafted).keys() == params.keys()
    # One compiled program, two maps: where the module is silent not a bit differs, whatever the machine.
    run = jax.jit(model.apply)
    a, b = (run(p, ids).logits for p in (grafted, model.start(params)))
    silent = np.asarray(jnp.cumsum(ids == MARK, axis=1) == 0)
    np.testing.assert_array_equal(a[silent], b[silent])
    assert silent[2].all()
    assert not np.array_equal(a[0], b[0])


def test_generation_reads_again_what_it_wrote():
    """With a cache, rows of different lengths: the same tokens as whole passes give, one after the other."""
    model, _, params = make("llama", 2)
    ids, lengths = some_ids(3, 8), np.array([8, 7, 5])
    ids = jnp.where(jnp.arange(8)[None] < lengths[:, None], ids, 0)
    found = np.asarray(greedy(model, params, ids, jnp.asarray(lengths), num_tokens=4))
    run = jax.jit(model.apply)
    for row, length in enumerate(lengths):
        text = [*np.asarray(ids[row, :length])]
        for token in found[row]:
            padded = jnp.asarray([text + [0] * (12 - len(text))])
            assert token == int(run(params, padded).logits[0, len(text) - 1].argmax())
            text.append(token)
    without = greedy(model, without_map(params), ids, jnp.asarray(lengths), num_tokens=4)
    assert not np.array_equal(found, without)


def test_two_groups_memory_options_and_edits():
    model, _, params = make("gpt2", 3)
    ids, others = some_ids(4, 6), some_ids(3, 9)
    want = [M.run(model, params, x) for x in (ids, others)]
    assert_same(jax.jit(model.apply_beside)(params, ids, others), tuple(want))
    for options in ({"remat": True}, {"parts": 2}):
        assert_same(M.run(dataclasses.replace(model, **options), params, ids), want[0])
    # An edit comes after the map: at its own block, at an earlier one, before every block, at a traced one.
    wiped = M.run(model, params, ids, edit=ResidualEdit(3, jnp.zeros_like))
    assert_same(
        wiped.logits, M.run(model, params, jnp.zeros_like(ids), edit=ResidualEdit(3, jnp.zeros_like)).logits
    )
    traced = jax.jit(lambda p, x, b: model.apply(p, x, edit=ResidualEdit(b, jnp.zeros_like)))(params, ids, 3)
    assert_same(traced.logits, wiped.logits)
    edit = LayerEdit(lambda h, i: h + jnp.asarray(i, h.dtype))
    out, plain = (M.run(model, p, ids, edit=edit) for p in (params, without_map(params)))
    assert np.abs(out.logits - plain.logits)[:2].max() > 1e-2
    assert_same(out.logits[2:], plain.logits[2:])
    assert np.abs(out.logits - want[0].logits).max() > 1e-2


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("scan_layers", [True, False])
def test_the_first_blocks_have_the_map_where_its_block_is_among_them(block, scan_layers):
    model, params, grafted = make("gpt2", block, scan_layers=scan_layers)
    ids = some_ids()
    short, fewer = first_blocks(model, grafted, 2)
    whole, plain = M.run(model, grafted, ids), M.run(alone(model), params, ids)
    out, cut = M.run(short, fewer, ids), M.run(alone(short), without_map(fewer), ids)
    assert_same(out.hidden[:2], whole.hidden[:2])  # the last one is after the final norm
    for a, b in ((whole.hidden[2], plain.hidden[2]), (out.logits, cut.logits)):
        assert (np.abs(a - b).max() > 1e-2) == (block == 1)


def test_a_gradient_by_the_map_after_the_last_block_runs_through_no_block():
    """The blocks are scanned forward once: the gradient enters behind them."""
    model, _, params = make("gpt2", 3)

    ids = some_ids()

    def loss(weight):
        return jnp.sum(model.apply(model.with_map(params, weight), ids).logits ** 2)

    weight = params[KEY][MAP]
    scans = str(jax.make_jaxpr(jax.grad(loss))(weight)).count(" scan[")
    assert scans == 1
    assert np.abs(np.asarray(jax.jit(jax.grad(loss))(weight))).min() > 0
