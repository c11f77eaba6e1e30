"""Counts by length, against hand-worked ones; the rest of evaluation is tested on whole runs (run_test.py)."""

import pytest

from tracr_jax.measure.answers import by_length


def test_right_answers_are_counted_at_each_length():
    assert by_length([True, False, True, True], [9, 4, 9, 30]) == [
        {"length": 4, "right": 0, "total": 1},
        {"length": 9, "right": 2, "total": 2},
        {"length": 30, "right": 1, "total": 1},
    ]
    assert by_length([], []) == []


def test_lengths_and_answers_must_match():
    with pytest.raises(ValueError, match="longer"):
        by_length([True], [3, 4])
