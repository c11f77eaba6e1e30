"""Counting right readings of a whole run, layer by layer: the one way used by evaluation and scorecard."""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.lm.blocks import states_at
from tracr_jax.measure.variables.labelled import LabelledRows
from tracr_jax.measure.variables.reading import DecodeCounts, best_values, count_right
from tracr_jax.runs.model import Injected
from tracr_jax.train.losses import apply_adapter
from tracr_jax.types import Adapter, Hidden, Params


def aligned_states(run: Injected, lm_params: Params, ids) -> Hidden:
    """The states that r_0..r_L are read from, in float32; the blocks after the last of them do not run."""
    return states_at(run.model, lm_params, ids, run.program.states).astype(jnp.float32)


def every_layer(adapter: Adapter, *, layers: int) -> Adapter:
    """The adapter once for each of `layers` layers, as `Counter` takes it: [L+1, D, d] and [L+1, D]."""
    return Adapter(*(jnp.broadcast_to(x[None], (layers, *x.shape)) for x in adapter))


class Counter:
    """Counts for a model and a reader per layer; jitted once per shape of rows, so make one and keep it."""

    def __init__(self, run: Injected):
        """For the model and the variables of the newest program."""
        layout = run.program.layout

        def count(lm_params, readers, ids, truth, masks):
            def one_layer(x):
                h, truth_here, reader = x
                reader = Adapter(reader.weight[layout.order], reader.bias[layout.order])
                read = best_values(apply_adapter(reader, h), layout=layout)
                return count_right(read, truth_here, masks, layout=layout)

            # Layer by layer: all readings together would be hundreds of megabytes.
            return jax.lax.map(one_layer, (aligned_states(run, lm_params, ids), truth, readers))

        self._count = jax.jit(count)

    def __call__(self, lm_params: Params, readers: Adapter, rows: LabelledRows) -> DecodeCounts:
        """Counts of some rows, [L+1, C, …].

        Args:
          lm_params: the trained model's, or the untouched one's for a probe.
          readers: one affine map per layer, weight [L+1, D, d] and bias [L+1, D].
          rows: from `Labeller.rows`.
        """
        return self._count(lm_params, readers, rows.ids, rows.truth, rows.masks)


def total(counts: Iterable[DecodeCounts]) -> DecodeCounts:
    """The sum, on the host in float64."""
    return jax.tree.map(lambda *x: np.sum(np.stack(x).astype(np.float64), axis=0), *counts)
