"""The optimiser's update alone, in the forms that it could have: what flat buffers and smaller moments would save.

  python -m experiments.benchmarks.update

AdamW on the parameters of gpt2's shape and Muon on the matrices of the bundled model's blocks, in turn: plain, as
one flat vector, with moments in bfloat16, and with each block's matrix by itself.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from experiments.benchmarks import common
from tracr_jax.lm.gpt2 import GPT2, GPT2Config
from tracr_jax.lm.load import load_lm

_RATE = 1e-4
_PLAIN = "plain"  # as in the step, without its limit of the norm and its schedules


def side(optimizer: optax.GradientTransformation, params: Any) -> Callable[[], Any]:
    """One update of its own copy of the parameters, which are donated as in the step."""
    held = [jax.tree.map(lambda x: jnp.array(x, copy=True), params), jax.jit(optimizer.init)(params)]
    gradients = jax.tree.map(lambda x: jnp.full_like(x, 1e-3), params)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, state, gradients):
        with jax.numpy_dtype_promotion("standard"):
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

    def run() -> Any:
        held[:] = update(*held, gradients)
        return held[0]

    return common.waiting(run)


def small_moments(rate: float) -> optax.GradientTransformation:
    """AdamW whose moments are both kept in bfloat16: optax keeps the second in the parameters' precision."""
    usual = optax.adamw(rate)

    def stored(state, dtype):
        return optax.tree_utils.tree_map_params(usual, lambda x: x.astype(dtype), state)

    def init(params):
        return stored(usual.init(params), jnp.bfloat16)

    def update(gradients, state, params=None):
        updates, state = usual.update(gradients, stored(state, jnp.float32), params)
        return updates, stored(state, jnp.bfloat16)

    return optax.GradientTransformation(init, update)  # pyright: ignore[reportArgumentType]


def flat(params: Any) -> jax.Array:
    """All parameters as one vector."""
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(params)])


def muon(params: Any) -> optax.GradientTransformation:
    """As `tracr_jax.train.optimizer` has it for the bundled model: three iterations on the last two axes."""
    axes = jax.tree.map(lambda x: contrib.MuonDimensionNumbers(x.ndim - 2, x.ndim - 1), params)
    return contrib.muon(_RATE, ns_steps=3, consistent_rms=0.2, muon_weight_dimension_numbers=axes)


def adamw_sides(*, small: bool) -> dict[str, Callable[[], Any]]:
    """Forms of AdamW on gpt2's shape, the plain one first."""
    model = GPT2(GPT2Config(n_layer=2, n_embd=48, n_head=2, vocab_size=300) if small else GPT2Config())
    params = jax.jit(model.init)(jax.random.key(0))
    return {
        _PLAIN: side(optax.adamw(_RATE), params),
        "one flat vector": side(optax.adamw(_RATE), flat(params)),
        "first moment in bfloat16": side(optax.adamw(_RATE, mu_dtype=jnp.bfloat16), params),
        "both moments in bfloat16": side(small_moments(_RATE), params),
    }


def muon_sides(*, small: bool) -> dict[str, Callable[[], Any]]:
    """Forms of Muon on the matrices of the bundled model's blocks, the plain one first."""
    blocks = load_lm("tiny").params["blocks"]
    stacked = {str(i): x for i, x in enumerate(jax.tree.leaves(blocks)) if x.ndim == 3}
    stacked = {k: x[:2] for k, x in stacked.items()} if small else stacked
    loose = {f"{k}/{i}": x[i] for k, x in stacked.items() for i in range(len(x))}
    return {_PLAIN: side(muon(stacked), stacked), "each matrix by itself": side(muon(loose), loose)}


def main() -> None:
    args = common.parser(__doc__ or "", repetitions=9).parse_args()
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    about, results, rows = common.machine(), {}, []
    for name, sides in (("AdamW, gpt2", adamw_sides), ("Muon, bundled model", muon_sides)):
        timed = common.in_turn(
            {k: common.timed(run) for k, run in sides(small=args.small).items()}, repetitions=args.repetitions
        )
        usual = timed[_PLAIN]["seconds"]
        for form, found in timed.items():
            of = common.ratio(found["seconds"], usual)
            results[f"{name}: {form}"] = common.summary(found["seconds"]) | {"of_the_first": of}
            median = 1000 * results[f"{name}: {form}"]["median_s"]
            rows.append({"optimiser": name, "form": form, "ms": median, "of the plain": of["median"]})
    common.finish("update", args, about, results, title="the update alone, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
