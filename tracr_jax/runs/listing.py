"""The built-in tasks, each with the size of its network and an example prompt: `tracr-jax tasks`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tracr_jax.lm.load import load_lm
from tracr_jax.presets import preset
from tracr_jax.runs.task_bridge import make_task_bridge
from tracr_jax.tasks.base import Item
from tracr_jax.tasks.registry import BUILT_IN, get_task


@dataclass(frozen=True)
class Listed:
    """One task."""

    name: str
    layers: int
    """Of the compiled program; the language model needs one block more."""
    width: int
    """Directions D of the compiled program."""
    positions: int
    """Tokens of the longest training item."""
    example: Item


def list_tasks(lm: str = "tiny", *, say: Callable[[str], None] = lambda _: None) -> Iterator[Listed]:
    """Every task, compiled for a language model's tokenizer; a second or so for one that was never compiled.

    Args:
      lm: a name for `load_lm`; its weights are not read.
      say: receives one line before each task is compiled.
    """
    model = load_lm(lm, weights=False)
    for name in BUILT_IN:
        task = get_task(name)
        teacher = make_task_bridge(preset(task=name, lm=lm), task=task, lm=model, say=say).teacher
        example = task.train_item(0, seed=0)
        yield Listed(name, teacher.num_layers, teacher.width, teacher.max_seq_len, example)
