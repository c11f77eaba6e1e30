"""Is the answer read from the result subspace? Noise on the output of the hooked block. Source:
docs/method.md §11.

Noise of a given length is added at every position, inside the span of the adapter's result rows, inside its
complement, or inside a random subspace of the same rank; if the program's result is what the model uses, only
the first should hurt. Differs from the original: isotropic Gaussian rows span the random subspace (`as_coded`:
uniform ones, which lie close to one direction), several seeds, intervals, and batches instead of single prompts.
"""

import functools
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from tracr_jax.data.samples import FINE, ROWS, padded_rows, round_up, sample_of
from tracr_jax.interpret.answers import would_answer
from tracr_jax.intervene import ResidualEdit, project, result_basis
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.blocks import first_blocks, last_blocks
from tracr_jax.progress import report
from tracr_jax.runs.model import Injected
from tracr_jax.runs.program import Program
from tracr_jax.stats import share, wilson
from tracr_jax.types import Array, Params

Kind = Literal["result", "complement", "random"]
KINDS: tuple[Kind, ...] = ("result", "complement", "random")
STRENGTHS = (0.0, 5.0, 10.0, 30.0)
SEEDS = (0, 1, 2)

_FLOOR = 1e-7  # of the length that noise is divided by, docs/method.md §11


def noise(
    key: Array,
    shape: tuple[int, ...],
    basis: Float[Array, "d R"],
    *,
    strength: float | Float[Array, ""],
    complement: bool | Bool[Array, ""],
) -> Float[Array, "*B d"]:
    """Gaussian noise in a subspace, or in its complement, scaled to length `strength` at every position."""
    g = jax.random.normal(key, shape)
    inside = project(g, basis)
    q = jnp.where(complement, g - inside, inside)
    return strength * q / (jnp.linalg.norm(q, axis=-1, keepdims=True) + _FLOOR)


def random_basis(seed: int, *, rank: int, width: int, as_coded: bool = False) -> Float[np.ndarray, "d R"]:
    """Basis of a random subspace: of Gaussian rows, so in no preferred direction, or of the original's uniform."""
    rng = np.random.default_rng((seed, 0x5EED))
    rows = rng.random((rank, width)) if as_coded else rng.standard_normal((rank, width))
    return np.linalg.qr(rows.T)[0].astype(np.float32)


def noise_curves(
    run: Injected,
    *,
    prompts: int | None = 1000,
    seeds: Sequence[int] = SEEDS,
    strengths: Sequence[float] = STRENGTHS,
    as_coded: bool = False,
    set_name: str = "test",
) -> dict[str, Any]:
    """Exact-match accuracy under noise, for every kind and strength: the "noise" of interpretation.json.

    Each seed draws its own noise and its own random subspace. `right` and `total` are sums over prompts and
    seeds. These trials are not independent: the interval, `low` to `high`, is that of the mean for as many prompts
    as there are, and as wide as the seeds, `per_seed`, lie apart.

    Args:
      run: the model with the program.
      prompts: the first so many items of the set; None for all.
      seeds: one pass over the prompts for each.
      strengths: length ε of the noise at each position, in units of the residual stream.
      as_coded: the original's uniform rows for the random subspace.
      set_name: the evaluation set.
    """
    model, config = run.model, run.program.config.losses
    block = config.hook_block(run.program.top)
    items = sample_of(run.program.task.eval_sets()[set_name], prompts)
    # Longest first: neighbours share a padded shape.
    items = sorted(items, key=run.program.token_count, reverse=True)
    count = max(len(run.program.bridge.split(i)[1]) for i in items)
    size = min(ROWS, len(items))
    shared, answers = _make_run(model, run.params, block=block, count=count)
    batches = []
    for start in range(0, len(items), size):
        chosen = items[start : start + size]
        longest = run.program.token_count(chosen[0])
        length = min(round_up(longest, to=FINE), max(longest, run.program.length))
        ids, masks = padded_rows(run.program.bridge, chosen, batch=size, length=length)
        batches.append((shared(ids), ids, masks[1], len(chosen)))
    result = _result_basis(run.program)
    settings: list[tuple[Kind, float, int]] = [(k, e, s) for k in KINDS for e in strengths if e for s in seeds]
    steps, done = len(batches) * (len(settings) + (0 in strengths)), 0

    def measure(kind: Kind, strength: float, seed: int) -> int:
        nonlocal done
        basis = result
        if kind == "random":
            basis = random_basis(seed, rank=result.shape[1], width=model.width, as_coded=as_coded)
        # The same draws for every kind and strength: what differs is only where they are put.
        key, right = jax.random.key(seed), 0
        for i, (state, ids, mask, held) in enumerate(batches):
            hits = answers(state, basis, ids, mask, jax.random.fold_in(key, i), strength, kind == "complement")
            right += int(np.sum(np.asarray(hits)[:held]))
            done += 1
            report("noise", done, steps)
        return right

    # Without noise all kinds and seeds are one measurement.
    silent = measure("result", 0.0, seeds[0]) if 0 in strengths else 0
    hits = {setting: measure(*setting) for setting in settings}

    def point(kind: Kind, strength: float) -> dict[str, Any]:
        found = [hits[kind, strength, s] for s in seeds] if strength else [silent]
        return {"strength": strength, **_over_seeds(found, prompts=len(items), seeds=len(seeds))}

    return {
        "set": set_name,
        "prompts": len(items),
        "rank": result.shape[1],
        "block": block,
        "seeds": list(seeds),
        "strengths": list(strengths),
        "as_coded": as_coded,
        "kinds": {kind: [point(kind, e) for e in strengths] for kind in KINDS},
    }


def _over_seeds(right: Sequence[int], *, prompts: int, seeds: int) -> dict[str, Any]:
    """Right answers of each seed, or once where all are alike, as a share with the interval of `noise_curves`."""
    per_seed = [r / prompts for r in right]
    low, high = wilson(sum(right) / len(right), prompts)
    return {
        **share(sum(right), prompts * len(right)),
        "low": min(low, *per_seed),
        "high": max(high, *per_seed),
        "per_seed": per_seed if len(right) == seeds else per_seed * seeds,
    }


def _result_basis(program: Program) -> Float[Array, "d R"]:
    """The subspace that the answer was trained to come from."""
    if coded := program.coded:
        reserved, codes = coded
        return reserved.basis(codes)[:, reserved.coordinates(program.result)]
    assert program.adapter is not None
    rows = program.adapter.weight[np.array(program.result_rows)].astype(jnp.float32)
    return result_basis(rows, span=program.config.losses.result_span)


def _make_run(model: LanguageModel, params: Params, *, block: int, count: int):
    """Functions (ids -> what the noise is added to) and (that, basis, … -> whether the answer is right)."""
    # All settings share the blocks up to the noise. Behind the last block only its norm is left: nothing to share.
    start = block + 1 if block + 1 < model.num_blocks else 0
    lower, below = first_blocks(model, params, start + 1)
    upper, above = last_blocks(model, params, start)

    @jax.jit
    def shared(below: Params, ids: Int[Array, "B S"]) -> Float[Array, "B S d"]:
        return lower.apply(below, ids).hidden[start]

    @jax.jit
    def run(
        above: Params,
        state: Float[Array, "B S d"],
        basis: Float[Array, "d R"],
        ids: Int[Array, "B S"],
        mask: Float[Array, "B S"],
        key: Array,
        strength: Float[Array, ""],
        complement: Bool[Array, ""],
    ) -> Bool[Array, " B"]:
        # Drawn here, not in the edit: that runs inside the scan over blocks, once for each of them.
        drawn = noise(key, state.shape, basis, strength=strength, complement=complement).astype(state.dtype)
        if start:
            edit = ResidualEdit(0, lambda _: state + drawn, before=True)
        else:
            edit = ResidualEdit(block, lambda h: h + drawn)
        return would_answer(upper, above, ids, mask, count=count, edit=edit)

    return functools.partial(shared, below), functools.partial(run, above)
