"""Everything a run is made of, built and checked before a step is taken or a file written.

The order: language model -> tokenizer with the task's merges -> length of the longest item -> teacher of that
length -> bridge and network, proved on items -> batches. A check that fails is one line with the numbers and what
to change.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from tracr_jax.config import DataConfig, RunConfig
from tracr_jax.data.batches import Batches
from tracr_jax.data.bridge import Bridge, BridgeReport, find_separator, make_bridge
from tracr_jax.data.encode import sequence_length
from tracr_jax.data.hub import PREFIX, hub_text
from tracr_jax.data.text import TextIds
from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.load import LoadedLM, load_lm
from tracr_jax.lm.tokenizer import Tokenizer
from tracr_jax.runs.proof import Proof, prove
from tracr_jax.tasks.base import Item, Task
from tracr_jax.tasks.registry import check_task, get_task
from tracr_jax.teacher import Teacher, cached_compile, make_forward
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.variables import VariableLayout, variable_layout
from tracr_jax.train.step import ResidualsFn, StepShape

_PROVED_ITEMS = 300  # training items on which the bridge is proved, beside the longest
_VALID_WINDOWS, _VALID_LENGTH = 64, 64

Say = Callable[[str], None]


@dataclass(frozen=True)
class Setup:
    """The parts of a run."""

    config: RunConfig
    task: Task
    lm: LoadedLM
    tokenizer: Tokenizer  # with the task's merges
    teacher: Teacher
    phi: Any  # teacher weights, an argument of the step
    residuals: ResidualsFn
    bridge: Bridge
    bridge_report: BridgeReport
    proof: Proof
    batches: Batches
    layout: VariableLayout
    shape: StepShape
    valid_text: Int[np.ndarray, "W U"]  # held-out windows of the retention corpus

    @property
    def sequence_length(self) -> int:
        """S: tokens of the longest training or in-distribution item, answer included."""
        return self.batches.S

    def token_count(self, item: Item) -> int:
        """Tokens of an item with its answer."""
        return sum(map(len, self.bridge.split(item)))

    @functools.cached_property
    def oracle(self) -> Oracle:
        """The program's own evaluator, for items of any length."""
        return Oracle(self.task.program(max_seq_len=self.teacher.max_seq_len))


def build(config: RunConfig, *, task: Task | str, lm: LoadedLM | str, say: Say = lambda _: None) -> Setup:
    """Build and check the parts of a run; nothing is written but the caches of teacher and text.

    Args:
      config: the run.
      task: a task, or a name for `get_task`.
      lm: a loaded model, or a name for `load_lm`.
      say: receives one line before each slow part.

    Raises:
      UserError: the first thing that does not fit, with its numbers.
    """
    if isinstance(task, str):
        task = get_task(task, as_coded=config.as_coded)
    else:
        task = check_task(task, type(task).__name__)
    if isinstance(lm, str):
        say(f"loading {lm}")
        lm = load_lm(lm, dtype=config.dtype)
    tokenizer = lm.tokenizer.filtered(task.keep_merge, as_coded_order=config.as_coded)
    strict = not config.as_coded
    separator = find_separator(task, tokenizer) if strict else None
    length = _table_length(task, tokenizer, config.data, separator=separator)
    _check_positions(lm, length)
    say(f"compiling {task.name} for {length} positions")
    teacher = cached_compile(
        lambda: task.program(max_seq_len=length),
        vocab=task.vocab(),
        max_seq_len=length,
        mlp_exactness=task.mlp_exactness(length),
    )
    bridge = make_bridge(task, tokenizer, teacher, strict=strict, separator=separator)
    proved = [*task.longest_items(), *(task.train_item(i, seed=config.seed) for i in range(_PROVED_ITEMS))]
    oracle = Oracle(task.program(max_seq_len=length))
    report = bridge.check(proved, strict=strict, oracle=oracle)
    say(f"{'warning: ' if report.first_mismatch else ''}{report}")
    proof = prove(task, bridge, proved, oracle=oracle, strict=strict, say=say)
    shape = _shape(teacher, task, lm, config, bridge, proved)
    d = config.data
    text, held_out = _texts(d, tokenizer, say)
    batches = Batches(
        task,
        tokenizer,
        bridge,
        text,
        batch=d.batch,
        text_batch=d.text_batch,
        text_length=d.text_length,
        seed=config.seed,
        free_items=d.free_items,
        free_supervised=d.free_supervised,
        answer_end=d.answer_end,
        as_coded_mask=d.as_coded_mask,
        as_coded_length=d.as_coded_length,
        as_coded_text=config.as_coded,
    )
    phi, residuals = make_forward(teacher, dtype=jnp.float32)
    return Setup(
        config=config,
        task=task,
        lm=lm,
        tokenizer=tokenizer,
        teacher=teacher,
        phi=phi,
        residuals=residuals,
        bridge=bridge,
        bridge_report=report,
        proof=proof,
        batches=batches,
        layout=variable_layout(teacher.variables, weights=dict(config.losses.variable_weights)),
        shape=shape,
        valid_text=held_out.windows(_VALID_WINDOWS, length=_VALID_LENGTH),
    )


def _texts(data: DataConfig, tokenizer: Tokenizer, say: Say) -> tuple[TextIds, TextIds]:
    """(retention text, held-out text of the same kind)."""
    name = data.text
    if name.startswith(PREFIX):
        here, all_of = jax.process_index(), jax.process_count()
        name = str(hub_text(name, megabytes=data.text_megabytes, process=here, processes=all_of, say=say))
    say(f"tokenising retention text: {name}")
    text = TextIds.open(name, tokenizer)
    if name == "bundled":
        return text, TextIds.open("bundled", tokenizer, split="valid")
    return text.hold_out(_VALID_WINDOWS * _VALID_LENGTH, row=_VALID_LENGTH)


def _check_positions(lm: LoadedLM, length: int) -> None:
    if length > lm.model.max_positions:
        raise UserError(
            f"{lm.name}: the longest training item has {length} tokens, the model "
            f"{lm.model.max_positions} positions; choose a model with more, or shorter items"
        )


def check_depth(model: LanguageModel, *, name: str, task: str, depth: int, hook_block: int) -> None:
    """The teacher's L layers and the hook must lie inside the model: L <= N - 1 and the hook's block < N."""
    blocks = model.num_blocks
    needed = max(depth, hook_block) + 1
    if blocks < needed:
        raise UserError(
            f"{name} has {blocks} blocks, too few for {task}: its teacher has {depth} layers and the hook sits on "
            f"block {hook_block}, so at least {needed} blocks are needed; choose a deeper --lm"
        )


def check_result_rank(rank: int, width: int, *, name: str) -> None:
    """With as many result directions as the model is wide, the projector is the identity: no hook at all."""
    if rank >= width:
        raise UserError(
            f"{name}: the result variable has {rank} values and the model is {width} wide; the result subspace "
            "would be the whole space and the hook would do nothing; choose a wider --lm"
        )


def _shape(
    teacher: Teacher, task: Task, lm: LoadedLM, config: RunConfig, bridge: Bridge, items: Sequence[Item]
) -> StepShape:
    rows = teacher.result_indices(task.result)
    depth = teacher.num_layers
    check_depth(lm.model, name=lm.name, task=task.name, depth=depth, hook_block=config.losses.hook_block(depth))
    check_result_rank(len(rows), lm.model.width, name=lm.name)
    if config.data.as_coded_mask:
        answers = max(len(i.label) for i in items)
    else:
        answers = max(len(bridge.split(i)[1]) for i in items) + int(config.data.answer_end)
    return StepShape(
        depth=depth,
        result_rows=rows,
        pad_id=bridge.tokenizer.eos_id,
        max_answers=answers,
        free_rows=config.data.free_items - config.data.free_supervised,
    )


def _table_length(task: Task, tokenizer: Tokenizer, data: DataConfig, *, separator: str | None) -> int:
    """Positions of the teacher's table: the longest item, or the original's tables under its switch."""
    if data.as_coded_length and hasattr(task, "as_coded_table"):
        return task.as_coded_table  # pyright: ignore[reportAttributeAccessIssue]
    return sequence_length(task, tokenizer, answer_end=data.answer_end, separator=separator)
