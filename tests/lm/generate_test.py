"""Greedy decoding with the cache gives what repeated uncached forward passes give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import lm_models as M
from tracr_jax.errors import UserError
from tracr_jax.intervene import ResidualEdit
from tracr_jax.lm.generate import generate_ids, greedy

families = pytest.mark.parametrize("family", ["gpt2", "llama"])


def slowly(forward, prompt, count):
    """Uncached; the causal model may see the zeros behind the text, so that one program serves all lengths."""
    ids, end = np.zeros((1, 16), np.int32), len(prompt)
    ids[0, :end] = prompt
    for i in range(end, end + count):
        ids[0, i] = int(jnp.argmax(forward(ids)[0, i - 1]))
    return ids[0, end : end + count].tolist()


@families
@pytest.mark.parametrize("scan_layers", [True, False])
@pytest.mark.parametrize("edited", [False, True])
def test_equals_uncached_argmax(family, scan_layers, edited):
    model, params = M.make(family, seed=5, scan_layers=scan_layers)
    edit = ResidualEdit(1, lambda h: h * 0.5 + jnp.roll(h, 1, axis=-1)) if edited else None
    ids, lengths = M.ids(batch=4, length=9, seed=3), [9, 2, 5, 1]
    out = greedy(model, params, ids, jnp.asarray(lengths), num_tokens=6, edit=edit)
    forward = jax.jit(lambda x: model.apply(params, x, edit=edit).logits)
    want = [slowly(forward, row[:n], 6) for row, n in zip(np.asarray(ids), lengths, strict=True)]
    np.testing.assert_array_equal(out, want)
    assert len(np.unique(want)) > 4  # seed 5 gives varied answers


@families
@pytest.mark.parametrize("edited", [False, True])
def test_a_shared_prefix_is_computed_once_and_changes_nothing(family, edited):
    model, params = M.make(family, seed=5)
    edit = ResidualEdit(1, lambda h: h * 0.5 + jnp.roll(h, 1, axis=-1)) if edited else None
    ids, lengths = M.ids(batch=4, length=9, seed=3), np.array([9, 6, 5, 7])
    ids = ids.at[:, :4].set(ids[0, :4])
    want = greedy(model, params, ids, jnp.asarray(lengths), num_tokens=6, edit=edit)
    rest = jnp.asarray(lengths - 4)
    out = greedy(model, params, ids[:, 4:], rest, num_tokens=6, edit=edit, prefix=ids[0, :4])
    np.testing.assert_array_equal(out, want)
    assert len(np.unique(want)) > 4
    seen = []  # rows of each pass: the prefix is one row

    def look(h):
        seen.append(h.shape[:2])
        return h

    generate_ids(model, params, ids[:, 4:], rest, num_tokens=1, edit=ResidualEdit(1, look), prefix=ids[0, :4])
    assert set(seen) == {(1, 4), (4, 5)}
    with pytest.raises(UserError, match="prompts of 20 tokens and 6 new ones need 25 positions"):
        greedy(model, params, M.ids(batch=4, length=16), rest, num_tokens=6, prefix=ids[0, :4])


def test_padding_is_never_read():
    model, params = M.make("gpt2", seed=5)
    ids, lengths = M.ids(batch=2, length=8), jnp.asarray([3, 5])
    other = jnp.where(jnp.arange(8)[None] < lengths[:, None], ids, 60 - ids)
    a, b = (greedy(model, params, x, lengths, num_tokens=5) for x in (ids, other))
    np.testing.assert_array_equal(a, b)


def test_an_edit_may_depend_on_the_step():
    """Step 0 is the prompt; from step 2 on an edit that wipes the state makes the output constant."""
    model, params = M.make("gpt2", seed=5)

    def edit(step):
        return ResidualEdit(3, lambda h: jnp.where(step >= 2, 0.0 * h, h))

    ids, lengths = M.ids(batch=3, length=6), jnp.asarray([6, 4, 5])
    out = np.asarray(jax.jit(lambda p: generate_ids(model, p, ids, lengths, num_tokens=5, edit=edit))(params))
    plain = np.asarray(greedy(model, params, ids, lengths, num_tokens=5))
    np.testing.assert_array_equal(out[:, :2], plain[:, :2])
    assert len(np.unique(out[:, 2:])) == 1
    assert len(np.unique(plain[:, 2:])) > 1


def test_one_program_for_all_batches():
    model, params = M.make("gpt2", seed=5)
    before = greedy._cache_size()
    for seed in range(3):
        greedy(model, params, M.ids(batch=2, length=7, seed=seed), jnp.asarray([7, 3 + seed]), num_tokens=2)
    assert greedy._cache_size() == before + 1


def test_too_many_positions_is_one_line():
    model, params = M.make("gpt2", seed=5)
    greedy(model, params, M.ids(length=20), jnp.asarray([20, 1, 2]), num_tokens=5)
    with pytest.raises(UserError, match="20 tokens and 6 new ones need 25 positions, the model has 24"):
        greedy(model, params, M.ids(length=20), jnp.asarray([20, 1, 2]), num_tokens=6)
    with pytest.raises(UserError, match="at least 1"):
        greedy(model, params, M.ids(length=20), jnp.asarray([20, 1, 2]), num_tokens=0)
