"""Readings, margins and counts on numbers worked out by hand."""

import jax.numpy as jnp
import numpy as np

from tracr_jax.measure.variables.reading import (
    NOTHING,
    DecodeCounts,
    best_values,
    count_right,
    held_values,
    margins,
    one_hot,
    over_layers,
    scores,
)
from tracr_jax.teacher.model import Variable
from tracr_jax.teacher.variables import variable_layout

# Teacher order: three values, a number, two values, one value. Grouped: c (1), b (2), a (3), then x.
VARIABLES = [
    Variable("a", "categorical", (0, 1, 2), (0, 1, 2), 0),
    Variable("x", "numerical", (3,), (), 0),
    Variable("b", "categorical", (4, 5), (4, 5), 0),
    Variable("c", "categorical", (6,), (6,), 0),
]
LAYOUT = variable_layout(VARIABLES)


def grouped(*rows):
    return jnp.array(rows, jnp.float32)[:, LAYOUT.order]


def test_the_largest_coordinate_of_each_variable_and_its_margin():
    reading = grouped([0.1, 2.0, -1.0, 9.0, 3.0, 3.5, -7.0], [5.0, 5.0, 1.0, 0.0, -1.0, -4.0, 2.0])
    assert LAYOUT.names == ("c", "b", "a", "x")
    np.testing.assert_array_equal(best_values(reading, layout=LAYOUT), [[0, 1, 1], [0, 0, 0]])
    np.testing.assert_allclose(margins(reading, layout=LAYOUT), [[0, 0.5, 1.9], [0, 3, 0]], atol=1e-6)


def test_a_state_holds_nothing_where_its_largest_coordinate_is_small():
    states = grouped([0, 0, 1, 9, 0.5, 0.5, 1], [0.3, 0.3, 0.4, 0, 0, 1, 0])
    held = held_values(states, layout=LAYOUT)
    np.testing.assert_array_equal(held, [[0, NOTHING, 2], [NOTHING, 1, NOTHING]])
    expected = np.zeros((2, 6))
    expected[0, [0, 5]] = expected[1, 2] = 1
    np.testing.assert_array_equal(one_hot(held, layout=LAYOUT), expected)


def test_counts_and_scores_by_hand():
    truth = jnp.array([[[0, 1, 2], [0, 0, NOTHING], [NOTHING, 1, 2], [0, 1, 1]]])
    read = jnp.array([[[0, 1, 2], [0, 1, 0], [0, 1, 0], [0, 0, 1]]])
    masks = jnp.array([[[1.0, 1, 1, 0]], [[0, 0, 1, 1]]])
    counts = count_right(read, truth, masks, layout=LAYOUT)
    np.testing.assert_array_equal(counts.right, [[2, 2, 1], [1, 1, 1]])
    np.testing.assert_array_equal(counts.held, [[2, 3, 2], [1, 2, 2]])
    layered = DecodeCounts(*(x[None] for x in counts))
    first = {s.name: s for s in scores(layered, layout=LAYOUT, position_class=0, layer=0)}
    assert [(s.accuracy, s.majority, s.positions) for s in first.values()] == [
        (1.0, 1.0, 2),
        (2 / 3, 2 / 3, 3),
        (0.5, 1.0, 2),
    ]
    empty = DecodeCounts(*(jnp.zeros_like(x) for x in layered))
    assert all(s.accuracy is s.majority is None for s in scores(empty, layout=LAYOUT, position_class=1, layer=0))


def test_a_variable_is_scored_at_the_last_layer_that_encodes_it():
    """Layer 0 has a and b, layer 1 has b, no layer has c."""
    truth = jnp.array([[[[NOTHING, 1, 2], [NOTHING, 0, 2]]], [[[NOTHING, 1, NOTHING], [NOTHING, 1, NOTHING]]]])
    read = jnp.array([[[[0, 0, 2], [0, 0, 1]]], [[[0, 1, 0], [0, 1, 0]]]])
    masks = jnp.ones((1, 1, 2))
    each = [count_right(r, t, masks, layout=LAYOUT) for r, t in zip(read, truth, strict=True)]
    counts = DecodeCounts(*map(jnp.stack, zip(*each, strict=True)))
    found = over_layers(counts, layout=LAYOUT, position_class=0)
    assert {name: (latest.accuracy, latest.positions) for name, (latest, _) in found.items()} == {
        "c": (None, 0),
        "b": (1.0, 2),
        "a": (0.5, 2),
    }
    assert {name: shares for name, (_, shares) in found.items()} == {
        "c": [None, None],
        "b": [0.5, 1.0],
        "a": [0.5, None],
    }
