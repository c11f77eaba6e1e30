"""A task's program compiled for a language model, the bridge between them, and the items that prove both.

What needs neither the model's weights nor anything of training: `check` and `tasks` use no more.
"""

from collections import Counter

from tracr_jax.config import RunConfig
from tracr_jax.data.bridge import Bridge, find_separator, make_bridge
from tracr_jax.data.encode import sequence_length
from tracr_jax.data.samples import reported_samples, round_up, sample_of
from tracr_jax.errors import UserError
from tracr_jax.lm.load import LoadedLM
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.progress import Say
from tracr_jax.stats import wilson
from tracr_jax.tasks.base import Item, Task
from tracr_jax.teacher import cached_compile
from tracr_jax.teacher.store import check_storable

_NEARLY_ALL = 0.95  # share of the test set that makes a rule without the program a warning
_FEWEST = 20  # test items, of which all right leaves an accuracy of 84 % possible
_PROVED_ITEMS = 300  # training items on which the bridge is verified, in addition to the longest


def make_task_bridge(config: RunConfig, *, task: Task, lm: LoadedLM, say: Say = lambda _: None) -> Bridge:
    """The compiled program of a task and the bridge to it from a language model, whose weights are not used.

    Raises:
      UserError: the first thing that does not fit, with its numbers.
    """
    tokenizer = lm.tokenizer.filtered(task.keep_merge, as_coded_order=config.fidelity.as_coded)
    strict = not config.fidelity.as_coded
    separator = find_separator(task, tokenizer) if strict else None
    length = _table_length(task, tokenizer, config, separator=separator)
    _check_positions(lm, length)
    if config.part.kind == "graft":  # which answers nothing that is longer than the table
        longest = max(_longest_sampled(task, tokenizer, config, separator=separator or "").values())
        length = max(length, min(round_up(longest), lm.model.max_positions))
    say(f"compiling {task.name} for {length} positions")
    teacher = cached_compile(
        lambda: task.program(max_seq_len=length),
        vocab=task.vocab(),
        max_seq_len=length,
        mlp_exactness=task.mlp_exactness(length),
    )
    check_storable(teacher, who=f"task {task.name}")
    return make_bridge(task, tokenizer, teacher, strict=strict, separator=separator)


def proved_items(task: Task, *, seed: int) -> list[Item]:
    """Items on which the teacher is verified against the program's own evaluator before training.

    Raises:
      UserError: their answer is always the same.
    """
    items = [*task.longest_items(), *(task.train_item(i, seed=seed) for i in range(_PROVED_ITEMS))]
    if len({item.label for item in items}) == 1:
        raise UserError(
            f"task {task.name}: the answer is {items[0].label!r} in all of {len(items)} items, a constant that is "
            "learned without the program; let the sampler draw others, or mend the program"
        )
    return items


def check_sets(task: Task, bridge: Bridge, config: RunConfig, *, lm: LoadedLM) -> None:
    """Refuse a task of which the end of the run would evaluate an item that the model has no room for.

    Raises:
      UserError: the set, the item's tokens, and the model's positions.
    """
    most = lm.model.max_positions
    for name, longest in _longest_sampled(task, bridge.tokenizer, config, separator=bridge.separator).items():
        if longest > most:
            raise UserError(
                f"{lm.name}: an item of the set {name} has {longest} tokens, the model {most} positions; choose a "
                "model with more, or shorter items"
            )


def told_of_test(task: Task, config: RunConfig) -> str:
    """One sentence where the test set says little; or empty.

    It has few items, or the usual answer, or that of a length, is right on nearly all of them.
    """
    test = task.eval_sets()["test"]
    if test.size < _FEWEST:
        low, _ = wilson(test.size, test.size)
        return (
            f"{task.name}: the test set has {test.size} items, of which all right leaves an accuracy of "
            f"{100 * low:.0f} % possible; give more letters or longer strings (MAX_LENGTH, max_length)"
        )
    sample = sample_of(test, config.eval_items)
    label, usual = Counter(item.label for item in sample).most_common(1)[0]
    right = {f"always {label!r}": usual}
    if of_length := task.baselines().get("of_length"):
        right["the usual answer of each length"] = sum(of_length(i.prompt) == i.label for i in sample)
    rule = max(right, key=lambda name: right[name])
    if len(sample) < _FEWEST or right[rule] < _NEARLY_ALL * len(sample):
        return ""
    return (
        f"{task.name}: {rule} is right in {right[rule]} of {len(sample)} test items without the program, which "
        "these hardly test; choose letters, lengths or items of which more have another answer"
    )


def _check_positions(lm: LoadedLM, length: int) -> None:
    if length > lm.model.max_positions:
        raise UserError(
            f"{lm.name}: the longest training item has {length} tokens, the model "
            f"{lm.model.max_positions} positions; choose a model with more, or shorter items"
        )


def _table_length(task: Task, tokenizer: Tokenizer, config: RunConfig, *, separator: str | None) -> int:
    """Positions of the teacher's table: the longest item, or the original's tables under its switch."""
    if config.fidelity.as_coded_length and hasattr(task, "as_coded_table"):
        return task.as_coded_table  # pyright: ignore[reportAttributeAccessIssue]
    return sequence_length(task, tokenizer, answer_end=config.data.answer_end, separator=separator)


def _longest_sampled(task: Task, tokenizer: Tokenizer, config: RunConfig, *, separator: str) -> dict[str, int]:
    """Of each set, tokens of the longest item that the end of the run evaluates; whole sets may have longer."""

    def longest(sample: list[Item]) -> int:
        return max(map(len, tokenizer.encode_batch([i.prompt + separator + i.label for i in sample])), default=0)

    return {name: longest(sample) for name, sample in reported_samples(task, config.eval_items).items()}
