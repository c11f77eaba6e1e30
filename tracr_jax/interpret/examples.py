"""Single items for the report's token explorer: decoded and true values at every token and layer.

Each example is the prompt followed by the model's own answer: what stood before it while it answered.
"""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tracr_jax.data.samples import reported_sets, sample_of
from tracr_jax.errors import UserError
from tracr_jax.interpret.decode import decode_ids, padded_row, read_states
from tracr_jax.interpret.display import BETWEEN, Decoded
from tracr_jax.interpret.stepwise import generate, next_token
from tracr_jax.measure.answers import greedy_answers
from tracr_jax.measure.variables.labelled import oracle_values
from tracr_jax.measure.variables.reading import NOTHING
from tracr_jax.progress import Say
from tracr_jax.runs.model import Injected
from tracr_jax.tasks.base import Item
from tracr_jax.teacher.readers import last_read

_OTHER_SETS = 4  # beside "test"
_FEW = 4  # items of each set that are answered where it must be quick


def examples(
    run: Injected,
    *,
    per_set: int = 2,
    sets: Sequence[str] | None = None,
    candidates: int = 40,
    say: Say = lambda _: None,
) -> list[dict[str, Any]]:
    """A few items of each of some sets, right and wrong answers where there are both.

    Args:
      run: the model with the program.
      per_set: examples of each set.
      sets: names; by default "test" and the four others on which the model is worst, so that its faults are seen.
      candidates: items of each set to choose from, its first.
      say: receives one line before each piece of work.

    Returns:
      "examples" of interpretation.json: per layer the value and margin of every variable (in the teacher's order)
      at each token, and the truth. A value is a position in the variable's values; None for a numerical variable,
      and in the truth where the program holds nothing.

    Raises:
      UserError: an unknown set.
    """
    known = reported_sets(run.program.task)
    unknown = [n for n in sets or () if n not in known]
    if unknown:
        raise UserError(f"examples: no set {unknown[0]!r}; there are {', '.join(known)}")
    samples = {name: sample_of(known[name], candidates) for name in sets or known}
    say(f"examples: answers to {sum(map(len, samples.values()))} items")
    # All sets together: batches of like length, so that few programs are compiled.
    answers = iter(greedy_answers(run, run.params, [i for s in samples.values() for i in s]))
    answered = {name: [(item, next(answers)) for item in items] for name, items in samples.items()}
    if sets is None:
        shares = {n: float(np.mean([_right(run, *p) for p in pairs])) for n, pairs in answered.items()}
        answered = {n: answered[n] for n in _worst(shares)}
    return [
        _example(run, name, item, answer)
        for name, pairs in answered.items()
        for item, answer in _pick(run, pairs, per_set)
    ]


def first_examples(run: Injected, evaluation: Mapping[str, Any], *, candidates: int = 16) -> dict[str, Any]:
    """{"variables", "examples"} as `interpret` gives them, of a few short prompts: for the report after a run.

    Quick, because one program is compiled: of the language model, for one row. What the program holds is asked of
    its own evaluator.

    Args:
      run: the model with the program, and the task's own code.
      evaluation: the content of evaluation.json, which knows on which sets the model is worst.
      candidates: items of each set to choose from, its first.
    """
    program, known = run.program, run.program.task.eval_sets()
    samples = {name: _short(run, sample_of(known[name], candidates)) for name in evaluation["sets"]}
    fit = {n: [i for i in items if program.token_count(i) <= program.length] for n, items in samples.items()}
    shown = []
    for name in _worst({n: s["injected"]["accuracy"] for n, s in evaluation["sets"].items() if fit[n]}):
        found = {}
        for item in fit[name][:_FEW]:
            prompt, label = program.bridge.split(item)
            # An answer has as many tokens as the label: no end is looked for.
            found[item] = generate(lambda ids: next_token(run, ids), prompt, most=len(label), end=-1)
        for item, answer in _pick(run, [(i, answer) for i, (answer, *_) in found.items()], 2):
            ids = [*program.bridge.split(item)[0], *answer]
            held = oracle_values(program, padded_row(run, ids), [len(ids)])[0][:, 0]
            read = read_states(program, run.adapter, ids, found[item][1], held=held)
            shown.append(_shown(run, name, item, answer, read))
    return {"variables": describe_variables(run), "examples": shown}


def _worst(shares: Mapping[str, float]) -> list[str]:
    """Of named sets the test set and the few with the lowest shares of right answers, in their own order."""
    others = sorted((n for n in shares if n != "test"), key=shares.__getitem__)
    return [n for n in shares if n in {"test", *others[:_OTHER_SETS]}]


def _short(run: Injected, items: Sequence[Item]) -> list[Item]:
    """Short ones first, they fit a screen; the very shortest are trivial and left out."""
    return sorted(items, key=run.program.token_count)[len(items) // 8 :]


def describe_variables(run: Injected) -> list[dict[str, Any]]:
    """Name, kind, values and layers of every variable of the teacher, in its order.

    "unread": for each layer why the adapter reads nothing of it, empty where it does. "alike": values that share a
    centroid, named by the first, which stands for all of them. "last_reader_layer": the last l for which something
    is computed from the variable in r_l: L for the result, None where nothing reads it (or only the layer that
    writes it does); left out where the task's own code, which knows it, is not at hand.
    """
    program = run.program
    out = [
        {
            "name": v.name,
            "kind": v.kind,
            "values": [str(value) for value in v.values],
            "writer_layer": v.writer_layer,
            "unread": [program.why_unread(v, layer) for layer in range(program.depth + 1)],
            "alike": program.alike_by_key(v.name),
        }
        for v in program.teacher.variables
    ]
    with contextlib.suppress(UserError):
        oracle = program.oracle
        for described, v in zip(out, program.teacher.variables, strict=True):
            described["last_reader_layer"] = last_read(program.teacher, oracle, v.name)
    return out


def _right(run: Injected, item: Item, answer: Sequence[int]) -> bool:
    return list(answer) == list(run.program.bridge.split(item)[1])


def _pick(run: Injected, pairs, count: int) -> list[tuple[Item, list[int]]]:
    """Right and wrong ones in turn, of both labels if possible."""
    given = dict(pairs)
    pairs = [(item, given[item]) for item in _short(run, list(given))]
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
    return _shown(run, name, item, answer, decode_ids(run, [*run.program.bridge.split(item)[0], *answer]))


def _shown(run: Injected, name: str, item: Item, answer: list[int], read: Decoded) -> dict[str, Any]:
    prompt = run.program.bridge.split(item)[0]
    return {
        "set": name,
        "prompt": item.prompt,
        "label": item.label,
        "answer": run.program.tokenizer.decode(answer).strip(),
        "answer_positions": list(range(len(prompt) - 1, len(prompt) - 1 + len(answer))),
        **as_json(read),
    }


def as_json(d: Decoded) -> dict[str, Any]:
    """Tokens, values, margins and truth of a decoded text, as the token explorer's scripts take them.

    With reserved directions also "between": for some variables the tokens at which no centroid is near.
    """
    none = d.values == NOTHING
    margins = np.round(d.margins.astype(float), 2).astype(object)
    margins[none] = None
    layers: list[dict[str, Any]] = [
        {"value": _indices(v), "margin": m.tolist()} for v, m in zip(d.values, margins, strict=True)
    ]
    if d.away is not None:
        for layer, far in zip(layers, (d.away > BETWEEN) & ~none, strict=True):
            layer["between"] = {str(i): np.flatnonzero(row).tolist() for i, row in enumerate(far) if row.any()}
    return {"tokens": list(d.tokens), "layers": layers, "truth": [_indices(t) for t in d.truth]}


def _indices(values: np.ndarray) -> list[list[int | None]]:
    return [[None if x == NOTHING else int(x) for x in row] for row in values]
