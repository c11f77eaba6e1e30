"""The probe in closed form finds labels that are linearly there, also those in the middle of an order."""

import numpy as np

from tests.helpers.interpret_parts import known_run, small_setup
from tracr_jax.interpret.probe import discriminant, training_items
from tracr_jax.teacher.model import Variable
from tracr_jax.teacher.variables import variable_layout

RNG = np.random.default_rng(0)
COUNTS, FLAGS, COINS, D, N = 7, 2, 2, 12, 4000

LAYOUT = variable_layout(
    [
        Variable("count", "categorical", tuple(range(7)), tuple(range(7)), 0),
        Variable("flag", "categorical", (7, 8), (7, 8), 0),
        Variable("coin", "categorical", (9, 10), (9, 10), 0),
    ]
)


def sample(rng):
    """States [N, D] that show a count along one direction and a flag along another, but not the coin."""
    labels = {
        "count": rng.integers(0, COUNTS, N),
        "flag": rng.integers(0, FLAGS, N),
        "coin": rng.integers(0, COINS, N),
    }
    h = 0.12 * rng.standard_normal((N, D))
    directions = np.linalg.qr(np.random.default_rng(7).standard_normal((D, 2)))[0].T
    h += labels["count"][:, None] * directions[0] + labels["flag"][:, None] * directions[1]
    return 50 + 3 * h, labels


def moments(h, labels, *, missing=()):
    x = np.concatenate([h, np.ones((len(h), 1))], axis=1)
    sizes = {"count": COUNTS, "flag": FLAGS, "coin": COINS}
    y = {n: np.eye(sizes[n])[v] * (n not in missing) for n, v in labels.items()}
    return x.T @ x, np.concatenate([y[n] for n in LAYOUT.names], axis=1).T @ x


def accuracy(weight, bias, h, labels):
    z, out = h @ weight.T + bias, {}
    k = 0
    for size, count, first in LAYOUT.groups:
        for i in range(count):
            part = z[:, first + i * size : first + (i + 1) * size]
            out[LAYOUT.names[k]] = np.mean(part.argmax(axis=1) == labels[LAYOUT.names[k]])
            k += 1
    return out


def test_finds_what_is_there_and_not_what_is_not():
    weight, bias = discriminant(*moments(*sample(RNG)), layout=LAYOUT)
    found = accuracy(weight, bias, *sample(RNG))
    assert found["count"] > 0.99
    assert found["flag"] > 0.99
    assert abs(found["coin"] - 0.5) < 0.04


def test_ridge_regression_would_miss_the_middle_of_an_order():
    """Why it is a discriminant: the same moments by regression on one-hots."""
    h, labels = sample(RNG)
    gram, sums = moments(h, labels)
    both = np.linalg.solve(gram + 1e-3 * np.eye(D + 1), sums.T).T
    regression = accuracy(both[:, :-1], both[:, -1], *sample(RNG))
    assert regression["count"] < 0.7


def test_a_variable_that_is_never_held_and_a_value_never_seen():
    h, labels = sample(RNG)
    labels["count"] = np.where(labels["count"] == 5, 4, labels["count"])
    weight, bias = discriminant(*moments(h, labels, missing=("flag",)), layout=LAYOUT)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()
    z = h @ weight.T + bias
    size, _, start = LAYOUT.groups[-1]  # the count: the largest group
    assert size == COUNTS
    chosen = z[:, start : start + size].argmax(axis=1)
    assert 5 not in chosen
    assert np.mean(chosen == labels["count"]) > 0.9


def test_positions_that_hold_nothing_do_not_disturb():
    """Half of the states show nothing, and lie far away from the others."""
    h, labels = sample(RNG)
    absent = RNG.random(N) < 0.5
    h = np.where(absent[:, None], 90 * RNG.standard_normal(D) + RNG.standard_normal((N, D)), h)
    x = np.concatenate([h, np.ones((N, 1))], axis=1)
    gram, _ = moments(h, labels)
    y = np.concatenate([np.eye(LAYOUT.groups[0][0])[labels[n]] for n in LAYOUT.names[:2]], axis=1)
    count = np.eye(COUNTS)[labels["count"]] * ~absent[:, None]
    sums = np.concatenate([y, count], axis=1).T @ x
    found = accuracy(
        *discriminant(gram, sums, layout=LAYOUT), *((h[~absent], {n: v[~absent] for n, v in labels.items()}))
    )
    assert found["count"] > 0.98


def test_learns_from_the_runs_own_batches():
    run = known_run()
    items = training_items(run, 10)
    steps = [small_setup().batches.items_at(step) for step in range(3)]
    assert items == [item for supervised, free in steps for item in (*supervised, *free)][:10]
