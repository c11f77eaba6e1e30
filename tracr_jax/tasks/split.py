"""Which prompts are for training and which for testing: decided by a hash of the prompt, never by a list.

The original draws its splits again at every stage, so that "test" items of a later stage are mostly training items
(docs/differences.md C28), and 13 % of dyck's test prompts are in train (docs/differences.md C24). A hash gives
every stage the same answer without a file.
"""

import hashlib
from collections.abc import Callable
from typing import Literal

import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.tasks.base import EvalSet, Item

Split = Literal["train", "valid", "test"]

# First seed of the evaluation streams. numpy reads a number in words of 32 bits: the key (2**32 + s, i) is that of
# (s, 1, i), and (2**32, 1) is (0, 1, 1), which begins a training item. Streams that meet draw different things
# from the same numbers; that no test prompt is in training, the hash alone decides.
EVALUATION = 2**32
_TEST, _VALID = 0.10, 0.02  # shares of all prompts
_TRIES = 100_000


def split_of(prompt: str, *, test: float = _TEST, valid: float = _VALID) -> Split:
    """The split of a prompt, the same in every process; `test` and `valid` are shares of all prompts."""
    u = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") / 2**64
    return "test" if u < test else "valid" if u < test + valid else "train"


def rng(*key: int) -> np.random.Generator:
    """A generator that depends on nothing but the key."""
    return np.random.default_rng(key)


def pick(stream: int, make: Callable[[np.random.Generator], Item]) -> Callable[[int], Item]:
    """The candidates of an evaluation set, by index; each stream has its own."""
    return lambda i: make(rng(EVALUATION + stream, i))


def draw(make: Callable[[np.random.Generator], Item], *key: int, accept: Callable[[Item], bool]) -> Item:
    """The first acceptable item of the stream that `key` starts."""
    source = rng(*key)
    for _ in range(_TRIES):
        item = make(source)
        if accept(item):
            return item
    raise UserError(f"no acceptable item among {_TRIES} of the stream {key}: the condition cannot be met")


def available_set(
    name: str,
    size: int,
    candidate: Callable[[int], Item],
    *,
    note: str,
    split: Split | None = "test",
    tries: int = 3000,
) -> EvalSet:
    """`distinct_set` with as many items as the first `tries` candidates hold, at most `size`; found at once.

    Raises:
      UserError: there is none.
    """
    found: dict[str, Item] = {}
    for i in range(tries):
        item = candidate(i)
        if split is None or split_of(item.prompt) == split:
            found.setdefault(item.prompt, item)
        if len(found) == size:
            break
    if not found:
        raise UserError(
            f"set {name}: none of {tries} samples lies in the {split} split; sample more different prompts"
        )
    items = list(found.values())
    return EvalSet(name, len(items), items.__getitem__, shrunk(note, len(items), size))


def shrunk(note: str, size: int, wanted: int) -> str:
    """The note of a set, which says where it holds fewer items than it should."""
    return note if size == wanted else f"{note} Only {size} of {wanted} items exist or were found."


def distinct_set(
    name: str, size: int, candidate: Callable[[int], Item], *, note: str, split: Split | None = "test"
) -> EvalSet:
    """An evaluation set: the candidates 0, 1, 2, … that lie in a split, each prompt once, in order.

    Args:
      name: the set's name.
      size: number of items.
      candidate: item by index; must yield enough distinct prompts.
      note: one sentence.
      split: None takes candidates of every split.
    """
    found: list[Item] = []
    seen: set[str] = set()
    state = {"next": 0}

    def item(index: int) -> Item:
        if not 0 <= index < size:
            raise IndexError(f"{name}: item {index} of {size}")
        tries = 0
        while len(found) <= index:
            one = candidate(state["next"])
            state["next"] += 1
            tries += 1
            if tries > _TRIES:
                raise UserError(f"{name}: only {len(found)} distinct items found, {size} promised")
            if one.prompt not in seen and (split is None or split_of(one.prompt) == split):
                seen.add(one.prompt)
                found.append(one)
        return found[index]

    return EvalSet(name, size, item, note)
