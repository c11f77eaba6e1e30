"""Verification before training: the compiled network computes its program, and the program is the intended one.

The network is compared with the program's own evaluator on the items whose answers the bridge proved, and on
random inputs of every length up to the teacher's table: every variable, every position. A disagreement is an
error: a network that does not compute its program must not train anything. A program that was written for the
whole string is not an error, since its causal meaning may be intended, but it gives a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracr_jax.data.bridge import Bridge
from tracr_jax.errors import UserError
from tracr_jax.progress import Say
from tracr_jax.tasks.base import Item, Task
from tracr_jax.tasks.strings import StringTask
from tracr_jax.teacher.compile import default_exactness
from tracr_jax.teacher.meaning import Meaning, Other, compare_meanings, positional_lookahead
from tracr_jax.teacher.model import Teacher
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.verify import VerifyReport, random_inputs, verify

_MOST_LENGTHS = 128  # of random inputs; a longer table is covered evenly
_FEW = 32  # items read as whole strings where the causal meaning is known to be the task's


@dataclass(frozen=True)
class Proof:
    """What was compared before training."""

    network: VerifyReport
    meaning: Meaning
    warning: str
    """One line if the program was probably written for the whole string; empty otherwise."""

    def record(self) -> dict[str, Any]:
        """For run.json."""
        network = {
            "inputs": self.network.inputs,
            "positions": self.network.positions,
            "values_compared": self.network.compared,
            "mixtures": self.network.mixtures,
            "largest_deviation": self.network.largest_deviation,
            "agrees": self.network.ok,
        }
        meaning = {
            "answers": self.meaning.answers,
            "differ_on_the_whole_string": self.meaning.differ,
            "selectors_that_look_ahead": list(self.meaning.ahead),
            "warning": self.warning,
        }
        return {"proof": {"network": network, "meaning": meaning}}


def prove(
    task: Task,
    bridge: Bridge,
    items: Sequence[Item],
    *,
    oracle: Oracle,
    strict: bool = True,
    tracr: bool = False,
    every_meaning: bool = False,
    say: Say = lambda _: None,
) -> Proof:
    """Compare the bridge's teacher with its program, and the program's causal meaning with the whole string's.

    Args:
      task: whose program it is.
      bridge: turns items into the teacher's input.
      items: those that the bridge proved, the longest among them.
      oracle: of the task's program.
      strict: refuse a network that disagrees; False (as-coded switches) only warns.
      tracr: also compile with tracr, which may be slow, and compare all weights.
      every_meaning: compare the two meanings on all items, also where the labels show which is meant.
      say: receives the warnings.

    Raises:
      UserError: the network disagrees: input, position, variable, both values, and what to change.
    """
    teacher = bridge.teacher
    inputs, prompts = [], []
    for item in items:
        prompt, answer = bridge.split(item)
        # Under the as-coded switches an item may be longer than the table; the network is causal.
        tokens = bridge.teacher_values([*prompt, *answer])[: teacher.max_seq_len]
        inputs.append(tokens)
        prompts.append(len(prompt))
    count = min(teacher.max_seq_len, _MOST_LENGTHS)
    lengths = np.unique(np.linspace(1, teacher.max_seq_len, count).round().astype(int))
    report = verify(teacher, oracle, inputs=[*inputs, *random_inputs(teacher, lengths.tolist())], tracr=tracr)
    if not report.ok:
        line = _refusal(task.name, teacher, report)
        if strict:
            raise UserError(line)
        say(f"warning: {line}")
    # Labels by other means than the program were proved to be the causal answers: then these are meant, unless a
    # selector of nothing but positions looks ahead, which asks for what no causal network can give.
    doubtful = labels_by_program(task) or bool(positional_lookahead(oracle, length=teacher.max_seq_len))
    compared = slice(None) if doubtful or every_meaning else slice(_FEW)
    meaning = compare_meanings(oracle, inputs[compared], prompts[compared])
    warning = _warning(task, meaning, items) if doubtful else ""
    if warning:
        say(f"warning: {warning}")
    return Proof(report, meaning, warning)


def _refusal(name: str, teacher: Teacher, report: VerifyReport) -> str:
    wrong = report.first_wrong
    if wrong is None:
        return f"{name}: the compiled network's weights are off tracr's by {report.tracr_weight_deviation:.3g}"
    needed = default_exactness(teacher.max_seq_len)
    kind = next(v.kind for v in teacher.variables if v.name == wrong.variable)
    if teacher.mlp_exactness < needed:
        advice = (
            f"the teacher's mlp_exactness is {teacher.mlp_exactness:g}, {teacher.max_seq_len} positions need "
            f"{needed:g}"
        )
    elif kind == "numerical":
        advice = f"write {wrong.variable} with counts (SelectorWidth) and a Map of two of them, not as a mean"
    else:
        advice = (
            f"write {wrong.variable} in another way, for instance with counts (SelectorWidth) where it is made of "
            "means or of rasp.numerical values"
        )
    return f"{name}: the compiled network is not its program: {wrong}; {advice}"


def _warning(task: Task, meaning: Meaning, items: Sequence[Item]) -> str:
    other = meaning.first
    if other is None:
        return ""
    return (
        f"{task.name} answers otherwise when it may read the whole string, in {meaning.differ} of "
        f"{meaning.answers} answers: {example(other, items)}; the causal answers are trained, where each position "
        "selects only itself and earlier ones"
    )


def labels_by_program(task: Task) -> bool:
    """Whether the items' labels are the program's own causal answers, and so no evidence of what was meant."""
    return isinstance(task, StringTask) and getattr(task, "truth", None) is None


def example(other: Other, items: Sequence[Item]) -> str:
    """The item on which the two meanings part first, with both values."""
    where = f"token {other.position + 1} of the answer to " if other.position else ""
    return (
        f"for {where}{items[other.input].prompt!r} the program's value is {other.causal!r} causally and "
        f"{other.whole!r} on the whole string (from {other.variable} on)"
    )
