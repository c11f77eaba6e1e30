"""How well a run answers and how well its variables decode; writes evaluation.json. Source: method.md 9, 11.

Exact match: greedy generation of as many tokens as the label has, without the hook, batched and jitted. Every
number stands beside its 95 % interval, the untouched model's, and predictors that know nothing of the program.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tracr_jax.generate import greedy
from tracr_jax.interpret.decode import DecodeCounts, decode_counts, scores
from tracr_jax.lm.blocks import first_blocks
from tracr_jax.retention import perplexity
from tracr_jax.samples import ROWS, padded_rows, round_up, sample_of
from tracr_jax.setup import Setup
from tracr_jax.stats import wilson
from tracr_jax.tasks.base import Item
from tracr_jax.train import TrainParams
from tracr_jax.types import Params

Progress = Callable[[str], None]


def evaluate(
    setup: Setup, params: TrainParams, *, items: int | None = 300, progress: Progress = lambda _: None
) -> dict[str, Any]:
    """Accuracy on every set, decode accuracy per variable, retention: the content of evaluation.json.

    Args:
      setup: the run's parts.
      params: trained model and adapter.
      items: at most this many items of each set (its first ones: a fixed sample); None for all.
      progress: called with one line before each piece of work.
    """
    predict = make_predictor(setup)
    sets = {}
    for name, chosen in setup.task.eval_sets().items():
        if name == "valid":
            continue  # for choosing settings, not for reporting
        sample = sample_of(chosen, items)
        progress(f"{name}: {len(sample)} items")
        sets[name] = {
            "note": chosen.note,
            "size": chosen.size,
            "sample": len(sample),
            "overlap_with_training": _overlap(setup, sample),
            "injected": _share(predict(params.lm, sample), sample),
            "original": _share(predict(setup.lm.params, sample), sample),
            "baselines": {
                k: float(np.mean([f(i.prompt) == i.label for i in sample]))
                for k, f in setup.task.baselines().items()
            },
        }
    progress("decoding variables")
    return {
        "items_per_set": items,
        "sets": sets,
        "decode": decode_sets(setup, params, items=items),
        "retention": {
            "text": "held-out windows of the retention corpus, perplexity per token",
            "original": perplexity(setup.lm.model, setup.lm.params, setup.valid_text),
            "injected": perplexity(setup.lm.model, params.lm, setup.valid_text),
        },
    }


def make_predictor(setup: Setup) -> Callable[[Params, Sequence[Item]], list[bool]]:
    """A function (model parameters, items) -> whether each answer is right, token for token."""

    def predict(params: Params, items: Sequence[Item]) -> list[bool]:
        right: list[bool] = [False] * len(items)
        encoded = [setup.bridge.split(i) for i in items]
        # Longest first: neighbours share a padded shape.
        order = sorted(range(len(items)), key=lambda k: -len(encoded[k][0]))
        batch = min(ROWS, len(items))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            length = round_up(max(len(encoded[k][0]) for k in chosen))
            count = max(len(encoded[k][1]) for k in chosen)
            ids = np.full((batch, length), setup.tokenizer.eos_id, np.int32)
            lengths = np.ones(batch, np.int32)
            for row, k in enumerate(chosen):
                ids[row, : len(encoded[k][0])] = encoded[k][0]
                lengths[row] = len(encoded[k][0])
            out = np.asarray(
                greedy(setup.lm.model, params, jnp.asarray(ids), jnp.asarray(lengths), num_tokens=count)
            )
            for row, k in enumerate(chosen):
                label = encoded[k][1]
                right[k] = out[row, : len(label)].tolist() == list(label)
        return right

    return predict


def _share(right: Sequence[bool], items: Sequence[Item]) -> dict[str, Any]:
    hits, total = int(sum(right)), len(items)
    low, high = wilson(hits, total)
    return {"accuracy": hits / max(total, 1), "low": low, "high": high, "right": hits, "total": total}


def _overlap(setup: Setup, items: Sequence[Item]) -> float:
    return float(np.mean([setup.task.in_training(i.prompt) for i in items]))


def decode_sets(setup: Setup, params: TrainParams, *, items: int | None = 300) -> dict[str, Any]:
    """Decode accuracy of every categorical variable on every set, against the program's own values.

    Items that fit the teacher's table are compared with the teacher's states; longer ones with the oracle's
    values, and values for which the teacher has no direction are counted apart ("unlabelled").
    """
    count = _make_counter(setup)
    out = {}
    for name, chosen in setup.task.eval_sets().items():
        if name == "valid":
            continue
        sample = sample_of(chosen, items)
        total, unlabelled = count(params, sample)
        out[name] = {
            "unlabelled_values": unlabelled,
            "all_positions": _table(setup, total, mask=0),
            "answer_positions": _table(setup, total, mask=1),
        }
    return out


def _table(setup, counts, *, mask):
    depth = setup.shape.depth
    per_layer = {s.name: [] for s in scores(counts, layout=setup.layout, mask=mask, layer=depth)}
    for layer in range(depth + 1):
        for s in scores(counts, layout=setup.layout, mask=mask, layer=layer):
            per_layer[s.name].append(s.accuracy)
    return {
        s.name: {
            "accuracy": s.accuracy,
            "majority": s.majority,
            "positions": s.positions,
            "by_layer": per_layer[s.name],
        }
        for s in scores(counts, layout=setup.layout, mask=mask, layer=depth)
    }


def _make_counter(setup: Setup):
    depth, layout = setup.shape.depth, setup.layout

    def states(params, ids):
        # h_L is the input of block L: the blocks after it need not run.
        model, lm = first_blocks(setup.lm.model, params.lm, depth + 1)
        return model.apply(lm, ids).hidden[: depth + 1].astype(jnp.float32)

    @jax.jit
    def on_device(params, phi, ids, teacher_ids, masks):
        hidden = states(params, ids)
        truth = setup.residuals(phi, teacher_ids)[:, :, 1:]
        return decode_counts(params.adapter, hidden, truth, masks, layout=layout)

    @jax.jit
    def against(params, ids, truth, masks):
        hidden = states(params, ids)[depth][None]
        return decode_counts(params.adapter, hidden, truth, masks, layout=layout)

    def run(params: TrainParams, items: Sequence[Item]) -> tuple[DecodeCounts, int]:
        parts, unlabelled = [], 0
        fits = [i for i in items if setup.token_count(i) <= setup.sequence_length]
        batch = min(ROWS, len(items))
        for start in range(0, len(fits), batch):
            chosen = fits[start : start + batch]
            ids, masks = padded_rows(setup, chosen, batch=batch, length=setup.sequence_length)
            teacher_ids = setup.bridge.to_teacher(ids)
            parts.append(on_device(params, setup.phi, ids, teacher_ids, masks))
        longer = [i for i in items if setup.token_count(i) > setup.sequence_length]
        for start in range(0, len(longer), batch):
            chosen = longer[start : start + batch]
            length = round_up(max(setup.token_count(i) for i in longer))
            ids, masks = padded_rows(setup, chosen, batch=batch, length=length)
            truth, missing = setup.oracle_states(chosen, ids)
            last = against(params, ids, truth[None], masks)
            unlabelled += missing
            # Only the last aligned layer is known to the oracle; the others stay empty.
            parts.append(jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (depth, 0), (0, 0))), last))
        return jax.tree.map(lambda *x: np.sum(np.stack(x), axis=0), *parts), unlabelled

    return run
