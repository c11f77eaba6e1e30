"""A linear probe of the untouched model, for what was there before anything was injected.

A high decode accuracy proves nothing where the original model's states show the variable linearly anyway. So the
same positions of the run's own training items, domain items included, give each layer a linear classifier of
its own (the adapter is one for all layers: the probe has the advantage), which is then scored exactly like the
adapter.

The classifier is Fisher's discriminant with a shared covariance: like ridge regression on one-hots it is in closed
form from one Gram matrix per layer and the sum of states of each value, but values in the middle of an order (a
count of 3 among 0..6) are not masked by their neighbours, as they are in the regression (Hastie, Tibshirani and
Friedman, The Elements of Statistical Learning, 4.2 and 4.3).
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from tracr_jax.data.batches import items_at
from tracr_jax.measure.variables.counting import aligned_states
from tracr_jax.measure.variables.labelled import Labeller
from tracr_jax.measure.variables.reading import one_hot
from tracr_jax.runs.model import Injected
from tracr_jax.tasks.base import Item
from tracr_jax.teacher.variables import VariableLayout
from tracr_jax.train.mesh import own_device
from tracr_jax.types import Adapter

_SHRINKAGE = 1e-3  # of the covariance, in units of each coordinate's variance within a value
_FLOOR = 1e-6  # the same in units of its whole variance: a token may determine a coordinate
_ABSENT = -1e4  # score of a value that training never showed


def fit_probe(run: Injected, labeller: Labeller, *, items: int = 2000) -> Adapter:
    """One linear reader per layer of the untouched model: weight [L+1, D, d] and bias [L+1, D].

    Args:
      run: whose original model is probed.
      labeller: gives the program's values.
      items: training items to learn from, the run's first.
    """
    layout = run.program.layout

    def moments(lm_params, ids, truth, own):
        def one_layer(x):
            h, values = x
            x = jnp.concatenate([h, jnp.ones((*h.shape[:-1], 1), h.dtype)], axis=-1) * own[..., None]
            y = one_hot(values, layout=layout) * own[..., None]
            return jnp.einsum("bsi,bsj->ij", x, x), jnp.einsum("bsi,bsk->ki", x, y)

        return jax.lax.map(one_layer, (aligned_states(run, lm_params, ids), truth))

    moments = jax.jit(moments)
    parts = [
        moments(run.original.params, rows.ids, rows.truth, rows.masks[0])
        for rows in labeller.rows(training_items(run, items))
    ]
    gram, sums = (np.sum(np.stack(x).astype(np.float64), axis=0) for x in zip(*parts, strict=True))
    weight = np.zeros((len(gram), run.program.teacher.width, gram.shape[-1] - 1), np.float32)
    bias = np.zeros(weight.shape[:2], np.float32)
    grouped = layout.order[: sums.shape[1]]
    for layer in range(len(gram)):
        weight[layer, grouped], bias[layer, grouped] = discriminant(gram[layer], sums[layer], layout=layout)
    # Committed as the run's adapter is: the counter of both is compiled once.
    return Adapter(*(jax.device_put(x, own_device()) for x in (weight, bias)))


def training_items(run: Injected, count: int) -> list[Item]:
    """The items of the run's first batches, supervised and domain items as they come."""
    program = run.program
    items: list[Item] = []
    step = 0
    while len(items) < count:
        for some in items_at(program.task, program.config.data, seed=program.config.seed, step=step):
            items += some
        step += 1
    return items[:count]


def discriminant(
    gram: Float[np.ndarray, "d1 d1"], sums: Float[np.ndarray, "K d1"], *, layout: VariableLayout
) -> tuple[Float[np.ndarray, "K d"], Float[np.ndarray, " K"]]:
    """Weights and biases of Fisher's discriminant for every value of every categorical variable, grouped order.

    Args:
      gram: sum of x xᵀ over all positions, x = (h, 1).
      sums: for each value, the sum of x over the positions that hold it; its last column is their number.
      layout: which rows of `sums` belong to one variable.
    """
    everywhere = gram[-1]
    total = max(float(everywhere[-1]), 1.0)
    mean = everywhere[:-1] / total
    spread = np.sqrt(np.maximum(np.diag(gram)[:-1] / total - mean**2, 1e-12))
    # Standardised coordinates: one floor for all.
    second = (gram[:-1, :-1] / total - np.outer(mean, mean)) / np.outer(spread, spread)
    number = sums[:, -1]
    centre = (sums[:, :-1] / np.maximum(number, 1)[:, None] - mean) / spread
    weight, bias = np.zeros_like(centre), np.full(len(centre), _ABSENT)
    for size, count, first in layout.groups:
        for start in range(first, first + count * size, size):
            values = np.arange(start, start + size)
            seen = values[number[values] > 0]
            if not len(seen):
                bias[values] = 0.0  # the layer never holds the variable
                continue
            share = number[seen] / total
            means = centre[seen]
            within = second - (means * share[:, None]).T @ means
            rest = 1.0 - share.sum()
            if rest > 0.5 / total:  # positions that hold nothing are a class of their own
                other = -(means * share[:, None]).sum(axis=0) / rest
                within -= rest * np.outer(other, other)
            ridge = _SHRINKAGE * np.diag(np.maximum(np.diag(within), 0.0)) + _FLOOR * np.eye(len(within))
            solved = np.linalg.solve(within + ridge, means.T).T
            weight[seen] = solved / spread
            bias[seen] = np.log(share) - 0.5 * (solved * means).sum(axis=1) - weight[seen] @ mean
    return weight, bias
