"""A dry run: what can be verified about a program and a language model before training.

The same steps as `build`, with the same errors, without the model's weights, the retention text or an optimizer.
"""

from dataclasses import dataclass
from typing import Any

from tracr_jax.data.bridge import Bridge, BridgeReport
from tracr_jax.lm.load import load_lm
from tracr_jax.names import BUNDLED
from tracr_jax.presets import preset
from tracr_jax.progress import Say
from tracr_jax.runs.fits import blocks_needed, check_result_rank
from tracr_jax.runs.proof import Proof, example, labels_by_program, prove
from tracr_jax.runs.task_bridge import check_sets, make_task_bridge, proved_items, told_of_test
from tracr_jax.tasks.again import check_again
from tracr_jax.tasks.base import Item, Task
from tracr_jax.tasks.registry import called, check_task, get_task, preset_name
from tracr_jax.teacher.model import Teacher, Variable
from tracr_jax.teacher.oracle import Oracle

_EXAMPLES = 3


@dataclass(frozen=True)
class CheckedVariable:
    """A variable of the program."""

    variable: Variable
    operation: str
    """What computes it: Map, SequenceMap, Aggregate, SelectorWidth, or input."""
    ahead: str
    """Whether its selector would attend to later positions: "" no, "yes", or "by index" for positions only."""


@dataclass(frozen=True)
class Question:
    """An item as the language model and the program read it."""

    item: Item
    pieces: tuple[str, ...]
    """Text of each token, including the answer."""
    values: tuple[Any, ...]
    """The program's input value at each token."""
    mapped: tuple[bool, ...]
    """Whether the token maps to a value of its own rather than to the fill value."""


@dataclass(frozen=True)
class Checked:
    """What `check` found."""

    task: Task
    lm: str
    blocks: int
    """Of the language model."""
    needed: int
    """Blocks that the teacher's layers and the hook of the task's preset require."""
    teacher: Teacher
    bridge_report: BridgeReport
    proof: Proof
    variables: tuple[CheckedVariable, ...]
    questions: tuple[Question, ...]
    whole_string: str
    """One sentence comparing the causal answers with those of the program on the whole string."""
    trivial: str = ""
    """One sentence where nearly all of the test set is right without the program; or empty."""


def check(
    task: Task | str = "dyck",
    *,
    lm: str = BUNDLED,
    tracr: bool = False,
    say: Say = lambda _: None,
) -> Checked:
    """Compile a task's program for a model's tokenizer, and prove both bridge and network.

    Args:
      task: a task, or a name for `get_task`.
      lm: a name for `load_lm`; its weights are not read.
      tracr: also compile with tracr, slowly, and compare all weights.
      say: receives one line before each slow part.

    Raises:
      UserError: the first thing that `inject` would refuse, too few blocks apart.
    """
    named = task
    task = get_task(task) if isinstance(task, str) else check_task(task, called(task))
    if isinstance(named, str):
        check_again(named, task)
    model = load_lm(lm, weights=False)
    config = preset(task=preset_name(named), lm=lm)  # a file is not the built-in task of its name
    bridge = make_task_bridge(config, task=task, lm=model, say=say)
    teacher = bridge.teacher
    check_sets(task, bridge, config, lm=model)
    check_result_rank(len(teacher.variable(task.result).indices), model.model.width, name=model.name)
    items = proved_items(task, seed=config.seed)
    oracle = Oracle(task.program(max_seq_len=teacher.max_seq_len))
    report = bridge.check(task, items, oracle=oracle)
    proof = prove(task, bridge, items, oracle=oracle, tracr=tracr, every_meaning=True)
    test = task.eval_sets()["test"]
    examples = [test.item(i) for i in range(min(_EXAMPLES, test.size))]
    return Checked(
        task=task,
        lm=model.name,
        blocks=model.model.num_blocks,
        needed=blocks_needed(config, depth=teacher.num_layers),
        teacher=teacher,
        bridge_report=report,
        proof=proof,
        variables=_variables(teacher, oracle, proof),
        questions=tuple(_question(item, bridge) for item in examples),
        whole_string=_whole_string(task, proof, items),
        trivial=told_of_test(task, config),
    )


def _variables(teacher: Teacher, oracle: Oracle, proof: Proof) -> tuple[CheckedVariable, ...]:
    found = []
    for name in oracle.names:
        variable = next(v for v in teacher.variables if v.name == name)
        operation = type(oracle.expression(name)).__name__
        meaning = proof.meaning
        ahead = "by index" if name in meaning.by_index else "yes" if name in meaning.ahead else ""
        found.append(CheckedVariable(variable, "input" if operation.endswith("Type") else operation, ahead))
    return tuple(sorted(found, key=lambda v: v.variable.writer_layer))


def _question(item: Item, bridge: Bridge) -> Question:
    prompt, answer = bridge.split(item)
    ids = [*prompt, *answer]
    own = set(bridge.mapped.tolist())
    return Question(
        item,
        tuple(bridge.tokenizer.token_text(i) for i in ids),
        tuple(bridge.teacher_values(ids)),
        tuple(i in own for i in ids),
    )


def _whole_string(task: Task, proof: Proof, items: list[Item]) -> str:
    meaning = proof.meaning
    if meaning.first is None:
        return f"the same answers on the whole string ({meaning.answers} compared)"
    if proof.warning:
        return f"warning: {proof.warning}"
    assert not labels_by_program(task)
    return (
        f"on the whole string {meaning.differ} of {meaning.answers} answers differ, the causal ones are the "
        f"task's labels: {example(meaning.first, items)}"
    )
