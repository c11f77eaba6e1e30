"""The items that swaps are made of, with what the program holds at each of their positions. No model code."""

import functools
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from tracr_jax.data.bridge import Bridge
from tracr_jax.data.samples import ROWS, reported_sets, sample_of
from tracr_jax.tasks.base import Item, Task
from tracr_jax.teacher.oracle import Oracle, States, Values
from tracr_jax.types import Params


@dataclass(frozen=True)
class Known:
    """An item and what the program holds at its P + n - 1 positions (the last answer token emits nothing)."""

    prompt: tuple[int, ...]  # LM tokens, P
    answer: tuple[int, ...]  # LM tokens, n
    tokens: tuple[Any, ...]  # the teacher's
    states: States
    values: Values
    result: tuple[Any, ...]  # the program's answer, n values

    @property
    def emitting(self) -> range:
        """The positions that emit the answer."""
        return range(len(self.prompt) - 1, len(self.tokens))


@dataclass(frozen=True, eq=False)
class Pool:
    """Items to make pairs of. Items that share a number of prompt and of answer tokens form a group."""

    task: Task
    oracle: Oracle
    bridge: Bridge
    items: tuple[Known, ...]
    tokens: dict[tuple[int, Any], int]  # (index in the answer, value) -> LM token
    groups: tuple[tuple[int, ...], ...]

    @property
    def length(self) -> int:
        """Tokens of the longest item with its answer."""
        return max((len(k.prompt) + len(k.answer) for k in self.items), default=0)

    @functools.cached_property
    def held(self) -> dict[str, frozenset]:
        """For each variable the values that some item holds somewhere."""
        return {
            name: frozenset(v for k in self.items for v in k.values[name] if v is not None)
            for name in self.oracle.names
        }


def sample_pool(task: Task, bridge: Bridge, *, items: int) -> tuple[list[Item], list[str]]:
    """Items of the test set (half of them) and of other sets, and the names of these sets.

    The test set alone may hold no item that differs from a right one in one variable only. Left out: sets with
    items beyond the teacher's table, items that training may have shown, and the valid set.
    """
    length = bridge.teacher.max_seq_len
    sets = reported_sets(task)
    share = items if len(sets) == 1 else max(1, items // (2 * (len(sets) - 1)))
    chosen: list[Item] = []
    names: list[str] = []
    for name, s in sets.items():
        sample = sample_of(s, max(items // 2, share) if name == "test" else share)
        if any(sum(map(len, bridge.split(i))) > length for i in sample):
            continue
        unseen = [i for i in sample if not task.in_training(i.prompt)]
        if unseen:
            chosen += unseen
            names.append(name)
    return chosen, names


def make_pool(task: Task, bridge: Bridge, items: Sequence[Item]) -> Pool:
    """Evaluate the program on items; those whose answer it does not give token for token are left out."""
    oracle = Oracle(task.program(max_seq_len=bridge.teacher.max_seq_len))
    known, tokens, groups = [], {}, defaultdict(list)
    for item in items:
        prompt, answer = bridge.split(item)
        if len(prompt) + len(answer) > bridge.teacher.max_seq_len:
            continue
        seen = bridge.teacher_values([*prompt, *answer[:-1]])
        states = oracle.states(seen)
        values = oracle(seen, states=states).values
        result = tuple(values[oracle.result][len(prompt) - 1 :])
        if result != tuple(task.teacher_label(item)):
            continue
        # One value must always be one token (the first digit of " 12" as one token is neither " 1" nor unique).
        if any(tokens.setdefault((j, v), t) != t for j, (v, t) in enumerate(zip(result, answer, strict=True))):
            continue
        groups[len(prompt), len(answer)].append(len(known))
        known.append(Known(tuple(prompt), tuple(answer), tuple(seen), states, values, result))
    # Values that the sample may lack but a swap may lead to: a 0 where every number begins with another digit.
    for item in task.longest_items():
        values, answer = task.teacher_label(item), bridge.split(item)[1]
        if len(values) == len(answer):
            for j, (v, t) in enumerate(zip(values, answer, strict=True)):
                tokens.setdefault((j, v), t)
    return Pool(task, oracle, bridge, tuple(known), tokens, tuple(tuple(g) for g in groups.values()))


def padded(pool: Pool, tokens: Sequence[int]) -> Int[np.ndarray, " S"]:
    """Tokens as a row of the pool's length."""
    row = np.full(pool.length, pool.bridge.tokenizer.eos_id, np.int32)
    row[: len(tokens)] = tokens
    return row


def padded_items(pool: Pool) -> Int[np.ndarray, "M S"]:
    """Every item with its answer."""
    return np.stack([padded(pool, k.prompt + k.answer) for k in pool.items])


def in_batches(states: Callable, params: Params, ids: Int[np.ndarray, "M S"]) -> np.ndarray:
    """states(params, ids) [L1, M, S, d] for many rows, on the host."""
    size = min(ROWS, len(ids))
    padded = np.pad(ids, ((0, -len(ids) % size), (0, 0)))
    parts = [np.asarray(states(params, padded[i : i + size])) for i in range(0, len(padded), size)]
    return np.concatenate(parts, axis=1)
