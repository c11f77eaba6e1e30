"""The model's answer beside the program's: values become tokens as the task's items spell them."""

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.runs.program import Program
from tracr_jax.tasks.base import Item
from tracr_jax.teacher.forward import last_state
from tracr_jax.teacher.variables import DEFINED

MOST = 16  # tokens of an answer that are generated
_ITEMS = 60  # training items that show how values are spelled

Spelling = Mapping[tuple[int, Any], int]  # (place in the answer, value of the result) -> LM token
Endings = frozenset[tuple[int, Any]]  # (place behind an answer, value of the result)


class Answer(NamedTuple):
    """Both answers to one prompt."""

    model: str
    """The text that the model generates."""
    ends: bool
    """Whether the model ends it by itself; else it is cut at the length of the longest answer."""
    program: str | None
    """The text that the program's values stand for; None where that is not known."""
    values: list[str]
    """The result's values where the answer is due, one for each token."""
    agree: bool | None
    """Whether both say the same; None where that is not known."""
    unknown: str
    """Why it is not known what the program answers."""


def items_of(program: Program, *, drawn: int = _ITEMS) -> list[Item]:
    """The examples that every folder holds, and where the task's own code is at hand, items of its training."""
    items = list(program.examples)
    with contextlib.suppress(UserError):
        task, seed = program.task, program.config.seed
        items += [*task.longest_items(), *(task.train_item(i, seed=seed) for i in range(drawn))]
    return items


def longest_answer(program: Program) -> int:
    """Tokens of the longest answer that the items show, at most MOST."""
    return min(MOST, max(len(program.bridge.split(i)[1]) for i in items_of(program)))


def spelling(program: Program) -> tuple[Spelling, Endings]:
    """(which token stands for a value of the result, values that stand where an answer is over).

    From items on which the compiled program gives the answer. A value can be both: int_sum's 0, of 12 and of 120.
    """
    run, result = last_state(program.teacher), program.teacher.variable(program.result)
    out: dict[tuple[int, Any], int] = {}
    endings: set[tuple[int, Any]] = set()
    for item in items_of(program):
        prompt, answer = program.bridge.split(item)
        ids = [*prompt, *answer]
        if len(ids) > program.teacher.max_seq_len:
            ids = ids[:-1]  # what stands behind such an answer is not known
        if len(ids) > program.teacher.max_seq_len:
            continue
        state = run(program.bridge.to_teacher(np.array([ids], np.int32)))[0, len(prompt) :]  # BOS is in front
        held = state[:, list(result.indices)]
        defined, values = held.max(axis=1) > DEFINED, [result.values[k] for k in held.argmax(axis=1)]
        if defined[: len(answer)].all():
            for j, (value, token) in enumerate(zip(values, answer, strict=False)):
                out.setdefault((j, value), token)
            if defined[len(answer) :].any():
                endings.add((len(answer), values[-1]))
    return out, frozenset(endings)


def compare(
    program: Program,
    answer: Sequence[int],
    ends: bool,
    values: Sequence[Any],
    written: Sequence[int],
    *,
    spelling: Spelling,
    unknown: str,
) -> Answer:
    """The model's tokens beside the program's values, more where it goes on, and the tokens `written` for them."""
    decode = program.tokenizer.decode
    whole = len(written) == len(values) > 0
    agree = None
    if values and not unknown:
        stands_for = {(j, token): value for (j, value), token in spelling.items()}
        pairs = list(zip(answer, values, strict=False))
        same = [spelling[j, v] == t if (j, v) in spelling else None for j, (t, v) in enumerate(pairs)]
        # A value that no item spells is another one than a token that stands for a value.
        same = [False if s is None and (j, pairs[j][0]) in stands_for else s for j, s in enumerate(same)]
        known = None not in same and len(values) >= len(answer)
        agree = False if len(values) > len(answer) or False in same else True if known else None
    text = decode(list(written)).strip() if whole else None
    return Answer(decode(list(answer)).strip(), ends, text, [str(v) for v in values], agree, unknown)
