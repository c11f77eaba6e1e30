"""Everything that training needs, built and checked before the first step and before any file is written.

The order: language model -> tokenizer with the task's merges -> length of the longest item -> teacher of that
length -> bridge and network, verified on items -> batches. A failed check raises one line with the numbers and
what to change. What remains after training is a `Program`, see `tracr_jax.runs.program`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from tracr_jax.config import LossConfig, RunConfig
from tracr_jax.data.batches import Batches, batch_length, items_at
from tracr_jax.data.bridge import BridgeReport
from tracr_jax.data.retention import held_out_windows, retention_text
from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.graft import Grafted
from tracr_jax.lm.load import LoadedLM, load_lm, scanned
from tracr_jax.progress import Say
from tracr_jax.runs.fits import check_depth, check_options, check_result_rank, check_shift
from tracr_jax.runs.graft import check_open, grafted
from tracr_jax.runs.original import check_dtype
from tracr_jax.runs.program import Program, examples_of, make_program
from tracr_jax.runs.proof import Proof, prove
from tracr_jax.runs.task_bridge import check_sets, make_task_bridge, proved_items, told_of_test
from tracr_jax.tasks.base import Item, Task
from tracr_jax.tasks.registry import called, check_task, get_task
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.readers import last_read
from tracr_jax.train import mesh as M
from tracr_jax.train.exchange import make_exchange_loss_fn
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.reserved import Reserved, directions, reserve
from tracr_jax.train.step import (
    Frozen,
    LossFn,
    StepShape,
    TrainParams,
    TrainState,
    init_adapter,
    make_loss_fn,
    make_step,
    sum_losses,
)
from tracr_jax.train.trainable import beside_frozen, in_stacks, pair_key, split
from tracr_jax.types import Batch, Params

_STEPS = 30  # whose items are looked at for the longest answer


@dataclass(frozen=True, eq=False)
class Setup:
    """What training one program needs."""

    config: RunConfig
    lm: LoadedLM
    """The original model, with its own tokenizer."""
    program: Program
    """With the initial adapter."""
    bridge_report: BridgeReport
    proof: Proof
    batches: Batches
    shape: StepShape
    valid_text: Int[np.ndarray, "W U"]
    """Held-out windows of the retention text."""
    done: int = 0
    """Training steps in earlier runs: its items continue from there."""


def build(config: RunConfig, *, task: Task | str, lm: LoadedLM | str, say: Say = lambda _: None) -> Setup:
    """Build and check what training a program needs; only the caches of teacher and text are written.

    Args:
      config: the run.
      task: a task, or a name for `get_task`.
      lm: a loaded model, or a name for `load_lm`.
      say: receives one line before each slow part.

    Raises:
      UserError: the first check that fails, with its numbers.
    """
    if isinstance(task, str):
        task = get_task(task, as_coded=config.fidelity.as_coded)
    else:
        task = check_task(task, called(task))
    if isinstance(lm, str):
        say(f"loading {lm}")
        lm = load_lm(lm, dtype=config.dtype, seed=config.seed)
    check_dtype(lm, config.dtype)
    lm = scanned(lm)
    program = build_program(config, task=task, lm=lm, say=say)
    check_sets(task, program.bridge, config, lm=lm)
    if trivial := told_of_test(task, config):
        say(f"warning: {trivial}")
    proved = proved_items(task, seed=config.seed)
    oracle, strict = program.oracle, not config.fidelity.as_coded
    report = program.bridge.check(task, proved, strict=strict, oracle=oracle)
    say(f"{'warning: ' if report.first_mismatch else ''}{report}")
    if program.grafted:
        check_open(program, proved)
    proof = prove(task, program.bridge, proved, oracle=oracle, strict=strict, say=say)
    shape = _shape(program, lm, [*proved, *_drawn(task, config)])
    text, held_out = retention_text(config.data, program.tokenizer, say=say)
    return Setup(
        config=config,
        lm=lm,
        program=program,
        bridge_report=report,
        proof=proof,
        batches=Batches(
            task,
            program.bridge,
            text,
            config.data,
            seed=config.seed,
            fidelity=config.fidelity,
            answers=shape.max_answers,
        ),
        shape=shape,
        valid_text=held_out_windows(held_out),
    )


def build_program(config: RunConfig, *, task: Task, lm: LoadedLM, say: Say = lambda _: None) -> Program:
    """The program of a run for a language model, with the initial adapter.

    Raises:
      UserError: the first thing that does not fit, with its numbers.
    """
    bridge = make_task_bridge(config, task=task, lm=lm, say=say)
    teacher = bridge.teacher
    width, reserved = lm.model.width, None
    if config.losses.alignment == "exchange":
        if task.marker not in teacher.vocab:
            raise UserError(
                f"exchange: the marker of {task.name}, {task.marker!r}, is no value of its vocabulary, and where "
                "an answer begins decides the weights; make it the token at which answers begin"
            )
        oracle = Oracle(task.program(max_seq_len=teacher.max_seq_len))
        reserved = reserve(teacher, oracle, config.exchange, seed=config.seed)
    program = make_program(
        bridge,
        config,
        name=task.name,
        result=task.result,
        length=batch_length(task, bridge, config.data, fidelity=config.fidelity),
        examples=examples_of(task),
        adapter=init_adapter(jax.random.key(config.seed), width=width, directions=teacher.width),
        reserved=reserved,
        task=task,
    )
    return program if reserved is None else _with_codes(program, reserved, width=width)


def _with_codes(program: Program, reserved: Reserved, *, width: int) -> Program:
    """The program with its codes as they are before training."""
    basis = directions(program.config.seed, width=width, count=reserved.total)
    return replace(program, reserved=reserved).trained(reserved.init(basis))


def as_begun(setup: Setup, reserved: Reserved | None) -> Setup:
    """The setup of a run that began with these directions: another version may reserve others, or draw codes."""
    if reserved is None:
        return setup
    return replace(setup, program=_with_codes(setup.program, reserved, width=setup.lm.model.width))


def make_parts(
    setups: Sequence[Setup], *, mesh: Mesh | None = None, lm_params: Params | None = None
) -> tuple[TrainState, Frozen, Callable]:
    """(initial state, frozen parameters, jitted step) of a run; the step donates its state.

    Args:
      setups: of each program, the newest last: the run's own.
      mesh: the devices; by default one.
      lm_params: initial parameters of the model, if not the original model's.
    """
    newest, mesh = setups[-1], mesh or M.make_mesh()
    config, part = newest.config, newest.program.part
    optimizer = make_optimizer(config.optim, steps=config.steps)
    original = M.put_params(in_stacks(part, newest.lm.params), mesh)
    theta = original if lm_params is None else M.put_params(in_stacks(part, lm_params), mesh)
    base = None
    model = replace(grafted(newest.lm.model, newest.program), remat=config.remat, parts=config.accumulate)
    if isinstance(model, Grafted):
        theta = M.put(model.start({}), M.replicated(mesh)) | theta
    if part.kind != "all":
        theta, base = split(part, theta, key=pair_key(config.seed))
        theta = M.put_params(theta, mesh) if part.kind == "lora" else theta  # the others lie where they should
    adapters = tuple(a for s in setups if (a := s.program.trainable) is not None)  # all have one
    params = TrainParams(theta, M.put_params(adapters, mesh))
    frozen = Frozen(original, M.put(tuple(s.program.phi for s in setups), M.replicated(mesh)), base)
    # There is one retention loss, with the newest run's text, tokenizer and weight; a frozen model needs none.
    weights = [replace(s.config.losses, retention_weight=0.0) for s in setups]
    if part.kind != "adapter":
        weights[-1] = newest.config.losses
    losses = [_loss_fn(s, model, one, mesh) for s, one in zip(setups, weights, strict=True)]
    loss = sum_losses(losses, names=[s.program.name for s in setups])
    loss = loss if base is None else beside_frozen(loss)
    state, places = M.init_sharded_state(mesh, params, optimizer)
    step = make_step(loss, optimizer, steps=config.steps)
    return state, frozen, jax.jit(step, donate_argnums=0, out_shardings=(places, M.replicated(mesh)))


def _loss_fn(setup: Setup, model: LanguageModel, losses: LossConfig, mesh: Mesh) -> LossFn:
    program = setup.program
    if losses.alignment == "exchange":
        assert program.reserved is not None
        tokens = program.teacher.variable("tokens")
        return make_exchange_loss_fn(
            model,
            program.residuals,
            program.teacher,
            reserved=program.reserved,
            marker=tokens.indices[tokens.values.index(program.task.marker)],
            losses=losses,
            config=setup.config.exchange,
            shape=setup.shape,
            seed=setup.config.seed,
            keep_rows=M.keep_rows(mesh),
        )
    return make_loss_fn(
        model,
        program.residuals,
        config=losses,
        shape=setup.shape,
        layout=program.layout,
        keep_rows=M.keep_rows(mesh),
    )


def make_batch_at(setups: Sequence[Setup], *, mesh: Mesh | None = None) -> Callable[[int], tuple[Batch, ...]]:
    """Step -> the batch of each program, the newest last."""
    mesh = mesh or M.make_mesh()
    parts = [(M.sharded_batches(s.batches, mesh, s.config.data), s.done) for s in setups]
    return lambda step: tuple(batch_at(first + step) for batch_at, first in parts)


def _drawn(task: Task, config: RunConfig) -> list[Item]:
    """Items of the first steps, one for each answer: those of the program's whole domain may be longer."""
    steps = (items_at(task, config.data, seed=config.seed, step=step)[0] for step in range(_STEPS))
    return list({item.label: item for items in steps for item in items}.values())


def _shape(program: Program, lm: LoadedLM, items: Sequence[Item]) -> StepShape:
    rows, depth, config = program.result_rows, program.depth, program.config
    check_options(lm.model, config, depth=depth)
    if not program.grafted:  # which needs no block of the model for its layers
        check_depth(lm.model, config, name=lm.name, task=program.name, depth=depth)
        check_result_rank(len(rows), lm.model.width, name=lm.name)
    if config.data.shift:
        check_shift(lm.model, config, length=program.length, places=_told_places(program))
    if config.fidelity.as_coded_mask:
        answers = max(len(i.label) for i in items)
    else:
        answers = max(len(program.bridge.split(i)[1]) for i in items) + int(config.data.answer_end)
    return StepShape(
        depth=depth,
        result_rows=rows,
        pad_id=program.tokenizer.eos_id,
        max_answers=answers,
        aligned_only=config.data.domain_items - config.data.domain_supervised,
        layers=program.layers,
    )


def _told_places(program: Program) -> bool:
    """Whether what is aligned tells each token's place in its row."""
    alignment = program.config.losses.alignment
    if alignment == "variable":  # the indices have no weight where rows are shifted
        return last_read(program.teacher, program.oracle, "indices") is not None
    return alignment == "cosine" or (program.reserved is not None and "indices" in program.reserved.names)
