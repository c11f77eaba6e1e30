"""Single items for the report's token explorer: what the model shows at every token and layer, beside the truth.

Each example is the prompt followed by the model's own answer: what stood before it while it answered.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracr_jax.data.samples import sample_of
from tracr_jax.errors import UserError
from tracr_jax.interpret.decode import decode_ids
from tracr_jax.interpret.display import Decoded
from tracr_jax.measure.answers import greedy_answers
from tracr_jax.measure.variables.reading import NOTHING
from tracr_jax.runs.model import Injected
from tracr_jax.tasks.base import Item
from tracr_jax.teacher.readers import last_read

_OTHER_SETS = 4  # beside "test"


def examples(
    run: Injected,
    *,
    per_set: int = 2,
    sets: Sequence[str] | None = None,
    candidates: int = 40,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """A few items of each of some sets, right and wrong answers where there are both.

    Args:
      run: the model with the program.
      per_set: examples of each set.
      sets: names; by default "test" and the four others on which the model is worst, so that its faults are seen.
      candidates: items of each set to choose from, its first.
      progress: called with one line before each piece of work.

    Returns:
      "examples" of interpretation.json: per layer the value and margin of every variable (in the teacher's order)
      at each token, and the truth. A value is a position in the variable's values; None for a numerical variable,
      and in the truth where the program holds nothing.

    Raises:
      UserError: an unknown set.
    """
    known = {n: s for n, s in run.program.task.eval_sets().items() if n != "valid"}
    unknown = [n for n in sets or () if n not in known]
    if unknown:
        raise UserError(f"examples: no set {unknown[0]!r}; there are {', '.join(known)}")
    samples = {name: sample_of(known[name], candidates) for name in sets or known}
    progress(f"examples: answers to {sum(map(len, samples.values()))} items")
    # All sets together: batches of like length, so that few programs are compiled.
    answers = iter(greedy_answers(run, run.params, [i for s in samples.values() for i in s]))
    answered = {name: [(item, next(answers)) for item in items] for name, items in samples.items()}
    if sets is None:
        others = sorted((n for n in known if n != "test"), key=lambda n: _share_right(run, answered[n]))
        chosen = {*others[:_OTHER_SETS], "test"}
        answered = {n: a for n, a in answered.items() if n in chosen}
    return [
        _example(run, name, item, answer)
        for name, pairs in answered.items()
        for item, answer in _pick(run, pairs, per_set)
    ]


def describe_variables(run: Injected) -> list[dict[str, Any]]:
    """Name, kind, values and layers of every variable of the teacher, in its order.

    The last reader's layer is the last l for which something is computed from the variable in r_l: L for the
    result, None where nothing reads it (or only the layer that writes it does).
    """
    oracle = run.program.oracle
    return [
        {
            "name": v.name,
            "kind": v.kind,
            "values": [str(value) for value in v.values],
            "writer_layer": v.writer_layer,
            "last_reader_layer": last_read(run.program.teacher, oracle, v.name),
        }
        for v in run.program.teacher.variables
    ]


def _right(run: Injected, item: Item, answer: Sequence[int]) -> bool:
    return list(answer) == list(run.program.bridge.split(item)[1])


def _share_right(run: Injected, pairs) -> float:
    return float(np.mean([_right(run, *p) for p in pairs]))


def _pick(run: Injected, pairs, count: int) -> list[tuple[Item, list[int]]]:
    """Right and wrong ones in turn, of both labels if possible; short ones first, they fit a screen."""
    pairs = sorted(pairs, key=lambda p: run.program.token_count(p[0]))
    # The very shortest are trivial.
    pairs = pairs[len(pairs) // 8 :]
    queues = [[p for p in pairs if _right(run, *p) is state] for state in (True, False)]
    out: list[tuple[Item, list[int]]] = []
    while len(out) < count and any(queues):
        for queue in queues:
            if queue and len(out) < count:
                seen = {item.label for item, _ in out}
                fresh = next((k for k, (item, _) in enumerate(queue) if item.label not in seen), 0)
                out.append(queue.pop(fresh))
    return out


def _example(run: Injected, name: str, item: Item, answer: list[int]) -> dict[str, Any]:
    prompt = run.program.bridge.split(item)[0]
    return {
        "set": name,
        "prompt": item.prompt,
        "label": item.label,
        "answer": run.program.tokenizer.decode(answer).strip(),
        "answer_positions": list(range(len(prompt) - 1, len(prompt) - 1 + len(answer))),
        **as_json(decode_ids(run, [*prompt, *answer])),
    }


def as_json(d: Decoded) -> dict[str, Any]:
    """Tokens, values, margins and truth of a decoded text, as the token explorer's scripts take them."""
    margins = np.round(d.margins.astype(float), 2)
    return {
        "tokens": list(d.tokens),
        "layers": [{"value": _indices(v), "margin": m.tolist()} for v, m in zip(d.values, margins, strict=True)],
        "truth": [_indices(t) for t in d.truth],
    }


def _indices(values: np.ndarray) -> list[list[int | None]]:
    return [[None if x == NOTHING else int(x) for x in row] for row in values]
