"""Mixtures of several rows: the plan, and the teacher's targets against the oracle with the same overrides."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import exchange_parts as E
from tracr_jax.teacher.oracle import reads_after
from tracr_jax.train.mixing import Mix, mixed_states

LAYERS = E.LAYERS


def rows_of_text(count, *, length=None, seed=0):
    """Random brackets with the marker, the same number of tokens in each row: (values, teacher ids with BOS)."""
    s, rng = E.setup(), np.random.default_rng(seed)
    length = length or s.teacher.max_seq_len
    brackets = rng.choice(list("()[]"), size=(count, length - 2)).tolist()
    texts = [[*row, s.program.task.marker, " "] for row in brackets]
    return texts, np.array([s.teacher.encode(t) for t in texts], np.int32)


def values_at(state, *, of):
    """Values of a variable in teacher states [S, D]; None where none is held."""
    own = state[:, list(of.indices)]
    return [of.values[row.argmax()] if row.max() > 0.5 else None for row in own]


@functools.cache
def teacher_passes(seed, free):
    """(texts, plan, states as they are, mixed, and what the layers make of the mixture), without BOS."""
    s = E.setup()
    texts, ids = rows_of_text(8, seed=seed)
    mix = E.mix_of(seed, rows=8, free=free)
    own, mixed, want = E.passes(s.program.phi, jnp.asarray(ids), mix)
    return texts, mix, *(np.asarray(x)[:, :, 1:] for x in (own, mixed, want))


def overridden(mix, texts, own, row, layer):
    """The oracle's overrides for the variables that r_layer holds in a row, from each variable's source row."""
    s, out = E.setup(), {}
    for i, v in enumerate(s.teacher.variables):
        if v.name in s.oracle.names and v.kind == "categorical" and v.writer_layer <= layer:
            source = int(mix.source[i, row])
            for at, value in enumerate(values_at(own[layer, source], of=v)):
                out[v.name, at] = value
    return {k: v for k, v in out.items() if v is not None}


@pytest.mark.parametrize("seed", range(3))
def test_targets_of_a_free_row_are_the_oracles_after_the_same_overrides(seed):
    """All variables overridden at one layer, each by its own source's values, then everything that comes of it."""
    s = E.setup()
    texts, mix, own, _, want = teacher_passes(seed, 1.0)
    changed = 0
    for row, text in enumerate(texts):
        layer = int(mix.layer[row])
        overrides = overridden(mix, texts, own, row, layer)
        sees = reads_after(s.teacher, layer)
        found = s.oracle(text, overrides=overrides, sees=sees).values
        plain = s.oracle(text).values
        for v in s.teacher.variables:
            if v.name in found and v.kind == "categorical" and v.writer_layer > layer:
                read = values_at(want[-1, row], of=v)
                assert read == found[v.name], (row, layer, v.name)
                changed += read != plain[v.name]
    assert changed >= 3


def test_targets_of_a_mixed_row_are_one_step_of_the_oracle_at_every_layer():
    s = E.setup()
    texts, mix, own, _, want = teacher_passes(0, 0.0)
    for row, text in enumerate(texts):
        for layer in range(LAYERS):
            overrides = overridden(mix, texts, own, row, layer)
            found = s.oracle(text, overrides=overrides, sees=reads_after(s.teacher, layer)).values
            for v in s.teacher.variables:
                if v.name in found and v.kind == "categorical" and v.writer_layer == layer + 1:
                    assert values_at(want[layer + 1, row], of=v) == found[v.name], (row, layer, v.name)


def test_a_row_keeps_its_own_where_the_source_holds_no_single_value():
    """Nothing else can be written there, and the target must be of what the row holds."""
    owner = np.array([0, 0, 1, 1, 1])
    states = jnp.array([[[[1.0, 0, 0, 1, 0]], [[0, 1.0, 0, 0, 0]], [[0.5, 0.5, 0.97, 0, 0]]]])  # [1, 3, 1, 5]
    source = jnp.array([[1, 2, 0], [1, 2, 0]])
    mix = Mix(source, jnp.zeros(3, bool), jnp.full(3, -1))
    mixed = np.asarray(mixed_states(states, mix, owner))[0, :, 0]
    np.testing.assert_array_equal(
        mixed,
        np.array([[0, 1, 0, 1, 0], [0, 1, 0.97, 0, 0], [1, 0, 0, 1, 0]], np.float32),
    )


def test_the_plan():
    mix = E.mix_of(0, rows=8, free=0.5)
    np.testing.assert_array_equal(mix.free, [0, 0, 0, 0, 1, 1, 1, 1])
    for source in np.asarray(mix.source):
        assert len(set(source[:4].tolist())) == 4  # a permutation, cut where the free rows begin
        assert np.all((source[4:] >= 0) & (source[4:] < 8))
    assert np.all(np.asarray(mix.layer)[:4] == -1)
    assert np.all(np.isin(np.asarray(mix.layer)[4:], range(LAYERS)))
    kept = np.mean(np.asarray(mix.source)[:, 4:] == np.arange(4, 8))
    assert 0.1 < kept < 0.9
    at = np.stack([mix.at(layer) for layer in range(LAYERS)])
    assert np.all(at[:, :4])
    np.testing.assert_array_equal(at[:, 4:].sum(axis=0), 1)
