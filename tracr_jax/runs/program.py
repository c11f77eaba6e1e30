"""One program in a model: what decoding, scoring and writing need of it. Files: `tracr_jax.runs.program_files`."""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tracr_jax.config import LayerMap, RunConfig
from tracr_jax.data.bridge import Bridge
from tracr_jax.errors import UserError
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.tasks.base import Item, Task
from tracr_jax.tasks.kept import copy_of, own_spec
from tracr_jax.tasks.registry import get_task
from tracr_jax.teacher import Teacher, Variable, make_forward
from tracr_jax.teacher.forward import all_states
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.variables import NOTHING, VariableLayout, variable_layout
from tracr_jax.train.reserved import Reserved
from tracr_jax.train.step import ResidualsFn
from tracr_jax.trained import TrainedPart
from tracr_jax.types import Adapter, Codes

_EXAMPLES = 3  # of the test set, kept with the program


def examples_of(task: Task) -> tuple[Item, ...]:
    """The first items of the test set."""
    test = task.eval_sets()["test"]
    return tuple(test.item(i) for i in range(min(_EXAMPLES, test.size)))


def check_same_task(program: "Program", task: Task) -> None:
    """Refuse a task that was found by its name, and is not the one of that name that a program was made of.

    Raises:
      UserError: its test set begins with other items.
    """
    for kept, found in zip(program.examples, examples_of(task), strict=False):
        if kept != found:
            raise UserError(
                f"the run was made with another {task.name}: its test set begins with {kept.prompt!r} "
                f"({kept.label!r}), that of this name with {found.prompt!r} ({found.label!r}); give the task "
                "object with task="
            )


@dataclass(frozen=True, eq=False)
class Program:
    """One program in a model: everything that decoding or scoring it needs."""

    name: str
    """Name of its task."""
    config: RunConfig
    """Of the run that injected it."""
    teacher: Teacher
    bridge: Bridge
    layout: VariableLayout
    """The teacher directions of its variables."""
    result: str
    """Full name of the result variable."""
    length: int
    """S: tokens of the longest training item, answer included. `oracle` gives the values of longer texts."""
    examples: tuple[Item, ...]
    """The first items of the test set."""
    forward: Callable[[], tuple[Any, ResidualsFn]]
    """Makes `phi` and `residuals`, once: not every reader needs them."""
    adapter: Adapter | None = None
    """None in the export of a run without alignment, in which it was not trained."""
    layers: LayerMap = field(default_factory=LayerMap)
    reserved: Reserved | None = None
    """Which variables have reserved directions; `codes` holds the trained codes. None for an affine adapter."""
    codes: Codes | None = None
    given: Task | None = None
    """The task object, if it was given; see `task`."""
    kept: Path | None = None
    """The folder with the run's copy of the task's files, see `tracr_jax.tasks.kept`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, without the merges that this program's task refuses."""
        return self.bridge.tokenizer

    @property
    def phi(self) -> Any:
        """The teacher's weights."""
        return self.forward()[0]

    @property
    def residuals(self) -> ResidualsFn:
        """The function (φ, teacher ids [B, T]) -> r_0..r_L."""
        return self.forward()[1]

    @functools.cached_property
    def teacher_states(self) -> Callable[[Int[np.ndarray, "B T"]], Float[np.ndarray, "L1 B T D"]]:
        """The function teacher ids -> r_0..r_L in NumPy; for a few texts sooner than `residuals`."""
        return all_states(self.teacher)

    @property
    def depth(self) -> int:
        """L, the layers of the teacher."""
        return self.teacher.num_layers

    @property
    def states(self) -> tuple[int, ...]:
        """The hidden states of the model that are aligned with the teacher's layers 0..L."""
        return self.layers.states(self.depth)

    @property
    def top(self) -> int:
        """The last of `states`: the block that reads it is the first that may compute the answer."""
        return self.layers.top(self.depth)

    @property
    def part(self) -> TrainedPart:
        """What of the model its run trains; "program" with the number of the last block."""
        return self.config.part.of_program(self.top)

    @property
    def trainable(self) -> Adapter | Codes | None:
        """The trained parameters of the adapter."""
        return self.adapter if self.codes is None else self.codes

    @property
    def coded(self) -> tuple[Reserved, Codes] | None:
        """The reserved directions with their trained codes; None for an affine adapter."""
        return None if self.reserved is None or self.codes is None else (self.reserved, self.codes)

    @property
    def result_rows(self) -> tuple[int, ...]:
        """Rows of the adapter that read the result."""
        return self.teacher.variable(self.result).indices

    @property
    def grafted(self) -> bool:
        """Whether it stands beside the model, see `tracr_jax.runs.graft`."""
        return self.config.part.kind == "graft"

    @property
    def aligned(self) -> bool:
        """Whether the run that injected it trained the adapter."""
        return self.config.losses.alignment != "none"

    def token_count(self, item: Item) -> int:
        """Tokens of an item with its answer."""
        return sum(map(len, self.bridge.split(item)))

    @functools.cached_property
    def task(self) -> Task:
        """The task object: the one given, a built-in task, or the run's copy of the one its configuration names.

        Raises:
          UserError: it is not at hand.
        """
        if self.given is not None:
            return self.given
        try:
            spec = own_spec(self.config.task, self.kept)
            new = copy_of(self.config.task, self.kept) is None  # else it was asked when the run was made
            task = get_task(spec, as_coded=self.config.fidelity.as_coded, contract=new)
        except UserError as e:
            raise UserError(f"the task's own code is needed and not at hand ({e}); give it with task=") from e
        if task.name != self.name:
            raise UserError(f"{self.name}: {self.config.task} is now the task {task.name}; give task=")
        check_same_task(self, task)
        return task

    @functools.cached_property
    def oracle(self) -> Oracle:
        """The program's own evaluator, for texts of any length; needs `task`."""
        return Oracle(self.task.program(max_seq_len=self.teacher.max_seq_len))

    def trained(self, adapter: Adapter | Codes | None) -> "Program":
        """The same program with another adapter; given codes, the affine map is computed from them."""
        if not isinstance(adapter, Codes):
            return dataclasses.replace(self, adapter=adapter)
        assert self.reserved is not None
        return dataclasses.replace(self, adapter=self.reserved.adapter(adapter), codes=adapter)

    def why_unread(self, variable: Variable, layer: int) -> str:
        """Why the adapter reads nothing of a variable at a teacher layer; empty where it does."""
        if not 0 <= layer <= self.depth:
            return f"the program has the layers 0 to {self.depth}"
        if layer < variable.writer_layer and (self.reserved is None or variable.name in self.reserved.names):
            return f"the program writes it at layer {variable.writer_layer}"
        if self.reserved is not None:
            return self.reserved.why_unread(variable.name, layer)
        return "it was not aligned, its weight is 0" if variable.name in self.unaligned else ""

    @functools.cached_property
    def unaligned(self) -> tuple[str, ...]:
        """Names of the variables to which variable alignment gave no weight."""
        if self.config.losses.alignment != "variable":
            return ()
        return tuple(n for n, weight in zip(self.layout.names, self.layout.weights, strict=True) if not weight)

    def layers_of(self, variable: Variable) -> list[int]:
        """The teacher layers at which the adapter reads a variable."""
        return [layer for layer in range(self.depth + 1) if not self.why_unread(variable, layer)]

    def alike(self, name: str) -> dict[int, str]:
        """Values of a variable that share a centroid, by the place of that which stands for all: {1: "1…45"}."""
        return {} if self.reserved is None else self.reserved.alike(self.teacher, name)

    def alike_by_key(self, name: str) -> dict[str, str]:
        """`alike` as files hold it: the keys of JSON are texts."""
        return {str(k): label for k, label in self.alike(name).items()}

    def readable(self, truth: Int[np.ndarray, "L1 *B n"]) -> Int[np.ndarray, "L1 *B n"]:
        """The program's values (in layout order) as far as the adapter is trained to represent them."""
        if self.reserved is None:
            left_out = [n in self.unaligned for n in self.layout.names[: truth.shape[-1]]]  # no numbers in truth
            return np.where(left_out, NOTHING, truth) if any(left_out) else truth
        return self.reserved.readable(self.teacher, truth, names=self.layout.names)


def make_program(
    bridge: Bridge,
    config: RunConfig,
    *,
    name: str,
    result: str,
    length: int,
    examples: tuple[Item, ...],
    adapter: Adapter | None = None,
    reserved: Reserved | None = None,
    task: Task | None = None,
) -> Program:
    """A program from its parts, with everything derived from them.

    Raises:
      UserError: a weight of the variables names none, or there is no result.
    """
    teacher, losses = bridge.teacher, config.losses
    result = teacher.variable(result).name
    weights, times = dict(losses.variable_weights), {result: losses.result_weight}
    if config.data.shift:
        times["indices"] = 0.0  # a shifted row does not tell its tokens' places; see `check_shift`
    return Program(
        name=name,
        config=config,
        teacher=teacher,
        bridge=bridge,
        layout=variable_layout(teacher.variables, weights=weights, times=times),
        result=result,
        length=length,
        examples=examples,
        forward=functools.cache(functools.partial(make_forward, teacher)),
        adapter=adapter,
        layers=config.layers,
        reserved=reserved,
        given=task,
    )
