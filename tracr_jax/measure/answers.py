"""How well a run answers and how well its variables decode; writes evaluation.json. Source: docs/method.md §9,
§11.

Exact match: greedy generation of as many tokens as the label has, without the hook, batched and jitted. Every
number is reported with its 95 % interval, the original model's accuracy, and trivial baselines.
"""

import contextlib
import hashlib
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from tracr_jax import __version__
from tracr_jax.data.samples import ROWS, reported_samples, round_up
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.lm.generate import greedy
from tracr_jax.measure.language import mean_kl, perplexity
from tracr_jax.measure.variables.counting import Counter, every_layer, total
from tracr_jax.measure.variables.labelled import CLASSES, Labeller
from tracr_jax.measure.variables.reading import DecodeCounts, over_layers
from tracr_jax.progress import Say, report
from tracr_jax.runs.model import Injected
from tracr_jax.stats import share
from tracr_jax.tasks.base import EvalSet, Item, Task
from tracr_jax.types import Params

# A graft's variables are in the program beside the model, and none in the model's states.
_NOTHING = {"unlabelled_values": 0, "all_positions": {}, "answer_positions": {}}


class ModelScores(NamedTuple):
    """What a language model does by itself, without adapter and hook."""

    right: dict[str, list[bool]]  # by set: whether each answer of its sample is right, token for token
    perplexity: float  # on held-out windows of the retention text, per token


def score_model(
    run: Injected, params: Params, samples: Mapping[str, Sequence[Item]], *, say: Say = lambda _: None
) -> ModelScores:
    """Answers to the items of named sets, and perplexity."""
    predict = make_predictor(run)
    right = {}
    for name, sample in samples.items():
        say(f"{name}: {len(sample)} items")
        right[name] = predict(params, sample)
    return ModelScores(right, perplexity(run.model, params, run.valid_text))


def score_once(
    run: Injected, path: Path, *, items: int | None, write: bool, say: Say = lambda _: None
) -> ModelScores:
    """`score_model` of the untouched model, on the first `items` items of every reported set (None: all).

    It is read from a file that holds it of the same items, model and version of this package.

    write: whether the file is made; of several processes one writes, and all read.
    """
    samples, of = reported_samples(run.program.task, items), run.digest
    with contextlib.suppress(UserError, KeyError, TypeError):  # damaged, or of another form
        kept = read_json(path)
        same = (kept["tracr_jax"], kept["weights"]) == (__version__, of)
        known = known_scores(kept, run, samples) if same else None
        if known:
            return known
    scores = score_model(run, run.original.params, samples, say=_before(say))
    if write:
        sets = {
            name: {"digest": items_digest(sample), "right": {"original": _bits(scores.right[name])}}
            for name, sample in samples.items()
        }
        about = {"tracr_jax": __version__, "weights": of}
        language = {"digest": text_digest(run), "original": scores.perplexity}
        write_json(path, about | {"sets": sets, "retention": language})
    return scores


def known_scores(
    evaluation: Mapping[str, Any], run: Injected, samples: Mapping[str, Sequence[Item]]
) -> ModelScores | None:
    """What an earlier `evaluate` found of the untouched model; None where it had other items or another text."""
    sets = {name: evaluation["sets"].get(name, {}) for name in samples}
    if any(sets[name].get("digest") != items_digest(sample) for name, sample in samples.items()):
        return None
    before = evaluation["retention"]["original"]
    if evaluation["retention"].get("digest") != text_digest(run):
        return None
    right = {name: [bit == "1" for bit in found["right"]["original"]] for name, found in sets.items()}
    return ModelScores(right, before)


def _before(say: Say) -> Say:
    return lambda line: say(f"before, {line}")


def evaluate(
    run: Injected,
    *,
    items: int | None = 300,
    samples: Mapping[str, Sequence[Item]] | None = None,
    original: ModelScores | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Accuracy on every set, decode accuracy per variable, retention: the content of evaluation.json.

    Args:
      run: the model with the program.
      items: at most this many items of each set (its first ones: a fixed sample); None for all.
      samples: `reported_samples` of as many items, where they are drawn already.
      original: `score_once` of as many items, where that is known already.
      say: receives one line before each piece of work.

    Raises:
      UserError: `items` is less than one.
      TrainingDivergedError: the language that is left is not finite.
    """
    task = run.program.task
    samples, chosen = samples or reported_samples(task, items), task.eval_sets()
    original = original or score_model(run, run.original.params, samples, say=_before(say))
    injected = score_model(run, run.params, samples, say=say)
    say("KL to the original")
    kl = mean_kl(run.model, run.params, run.original.params, run.valid_text)
    if not math.isfinite(injected.perplexity + kl):
        raise TrainingDivergedError(
            f"{run.folder}: the trained model has diverged: on held-out text its perplexity is "
            f"{injected.perplexity:g} and its KL to the original {kl:g} nats per token; nothing else is measured; "
            "train again with a smaller learning rate"
        )
    say("decoding variables")
    return {
        "task": run.program.name,
        "result": run.program.result,
        "items_per_set": items,
        "weights": run.digest,  # `open` compares them: these numbers are of no others
        "sets": {
            name: _of_set(run, chosen[name], sample, original=original.right[name], injected=injected.right[name])
            for name, sample in samples.items()
        },
        "decode": decode_samples(run, samples) if not run.program.grafted else {n: _NOTHING for n in samples},
        "retention": {
            "text": "held-out windows of the retention corpus, perplexity per token",
            "digest": text_digest(run),
            "original": original.perplexity,
            "injected": injected.perplexity,
            "kl": kl,  # (original ‖ injected), nats per token, mean
        },
    }


def _of_set(
    run: Injected, chosen: EvalSet, sample: Sequence[Item], *, original: list[bool], injected: list[bool]
) -> dict[str, Any]:
    return {
        "note": chosen.note,
        "size": chosen.size,
        "sample": len(sample),
        "overlap_with_training": _overlap(run, sample),
        "injected": share(sum(injected), len(injected)),
        "original": share(sum(original), len(original)),
        "baselines": baseline_shares(run.program.task, sample),
        "by_length": by_length(injected, [len(run.program.bridge.split(i)[0]) for i in sample]),
        # Of each item in order, for paired tests (`tracr_jax.measure.compare`).
        "digest": items_digest(sample),
        "right": {"injected": _bits(injected), "original": _bits(original)},
    }


def baseline_shares(task: Task, sample: Sequence[Item]) -> dict[str, float]:
    """The share of these items that each of the task's trivial baselines answers rightly."""
    return {k: float(np.mean([f(i.prompt) == i.label for i in sample])) for k, f in task.baselines().items()}


def items_digest(sample: Sequence[Item]) -> str:
    """The same for the same items in the same order."""
    text = json.dumps([[i.prompt, i.label] for i in sample])
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def text_digest(run: Injected) -> str:
    """The same for the same held-out windows: a text file can be edited, a hub's text made again."""
    windows = np.ascontiguousarray(run.valid_text, "<i4")
    return hashlib.blake2b(windows.tobytes(), digest_size=8).hexdigest()


def _bits(right: Sequence[bool]) -> str:
    return "".join("1" if r else "0" for r in right)


def by_length(right: Sequence[bool], lengths: list[int]) -> list[dict[str, int]]:
    """How many answers are right at each length of the prompt (in tokens), shortest first."""
    return [
        {
            "length": n,
            "right": sum(r for r, m in zip(right, lengths, strict=True) if m == n),
            "total": lengths.count(n),
        }
        for n in sorted(set(lengths))
    ]


def make_predictor(run: Injected) -> Callable[[Params, Sequence[Item]], list[bool]]:
    """A function (model parameters, items) -> whether each answer is right, token for token."""

    def predict(params: Params, items: Sequence[Item]) -> list[bool]:
        answers = greedy_answers(run, params, items)
        return [a == list(run.program.bridge.split(i)[1]) for a, i in zip(answers, items, strict=True)]

    return predict


def greedy_answers(run: Injected, params: Params, items: Sequence[Item]) -> list[list[int]]:
    """The model's own answer to each item, of as many tokens as the label has.

    What all prompts begin with, the question, is computed once for a batch.
    """
    out: list[list[int]] = [[] for _ in items]
    encoded = [run.program.bridge.split(i) for i in items]
    shared = shared_tokens([prompt for prompt, _ in encoded])
    prefix = jnp.asarray(encoded[0][0][:shared], jnp.int32) if shared else None
    encoded = [(prompt[shared:], label) for prompt, label in encoded]
    # Longest first: neighbours share a padded shape.
    order = sorted(range(len(items)), key=lambda k: -len(encoded[k][0]))
    batch = min(ROWS, len(items))
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest, count = (max(len(encoded[k][part]) for k in chosen) for part in (0, 1))
        room = run.model.max_positions - shared - count + 1  # the last token is not read again
        length = round_up(longest, most=room)
        ids = np.full((batch, length), run.program.tokenizer.eos_id, np.int32)
        lengths = np.ones(batch, np.int32)
        for row, k in enumerate(chosen):
            ids[row, : len(encoded[k][0])] = encoded[k][0]
            lengths[row] = len(encoded[k][0])
        tokens = np.asarray(
            greedy(run.model, params, jnp.asarray(ids), jnp.asarray(lengths), num_tokens=count, prefix=prefix)
        )
        for row, k in enumerate(chosen):
            out[k] = tokens[row, : len(encoded[k][1])].tolist()
        report(f"answers to {len(items)} items", min(start + batch, len(items)), len(items))
    return out


def shared_tokens(prompts: Sequence[list[int]]) -> int:
    """Tokens with which all prompts begin, never all of one; a multiple of 4, so that sets share programs."""
    first, last = min(prompts), max(prompts)  # these differ where any two do
    same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False)))
    return min(same, min(map(len, prompts)) - 1) // 4 * 4


def _overlap(run: Injected, items: Sequence[Item]) -> float:
    return float(np.mean([run.program.task.in_training(i.prompt) for i in items]))


def decode_samples(run: Injected, samples: Mapping[str, Sequence[Item]]) -> dict[str, Any]:
    """Decode accuracy of every categorical variable on items of named sets, against the program's own values.

    Values for which the teacher has no direction, in items longer than its table, are counted apart
    ("unlabelled"). "accuracy", "majority" and "positions" are those of the last layer that encodes the variable.
    """
    labeller, counter = Labeller(run), Counter(run)
    readers = every_layer(run.adapter, layers=run.program.depth + 1)
    out = {}
    for name, sample in samples.items():
        parts, unlabelled = [], 0
        for number, rows in enumerate(labeller.rows(sample), start=1):
            parts.append(counter(run.params, readers, rows))
            report(f"decoding {name}", min(number * ROWS, len(sample)), len(sample))
            unlabelled += rows.unlabelled
        counts = total(parts)
        out[name] = {
            "unlabelled_values": unlabelled,
            "all_positions": _table(run, counts, "all"),
            "answer_positions": _table(run, counts, "answer"),
        }
    return out


def _table(run: Injected, counts: DecodeCounts, position_class: str) -> dict[str, Any]:
    at = CLASSES.index(position_class)
    return {
        name: {
            "accuracy": latest.accuracy,
            "majority": latest.majority,
            "positions": latest.positions,
            "by_layer": by_layer,
        }
        for name, (latest, by_layer) in over_layers(counts, layout=run.program.layout, position_class=at).items()
    }
