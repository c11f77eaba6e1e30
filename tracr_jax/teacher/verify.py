"""Compare a teacher with its oracle, and with tracr, on random inputs.

Implements docs/teacher.md §3, §5: the compiled network is right where every variable's coordinates are the one-hot
(or the number) that the program computes. Positions where the program holds a mixture have no single right value
and are counted, not compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.compile import build_program
from tracr_jax.teacher.fallback import compile_with_tracr
from tracr_jax.teacher.forward import make_forward
from tracr_jax.teacher.model import Teacher
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.variables import DEFINED


@dataclass(frozen=True)
class Wrong:
    """Where the teacher and the program part: input, position (without BOS), variable, value and coordinates."""

    tokens: tuple[Any, ...]
    position: int
    variable: str
    expected: Any
    got: tuple[float, ...]
    deviation: float

    def __str__(self) -> str:
        near = ", ".join(f"{x:.3g}" for x in self.got[:8]) + (", ..." if len(self.got) > 8 else "")
        return (
            f"{self.variable} at position {self.position} of {list(self.tokens)}: expected {self.expected!r}, "
            f"the teacher holds [{near}], off by {self.deviation:.3g}"
        )


@dataclass(frozen=True)
class VerifyReport:
    """What `verify` measured. Deviations are absolute, in coordinates of the last state r_L."""

    inputs: int
    compared: int  # (variable, position) pairs
    mixtures: int  # pairs without a single right value
    largest_deviation: float  # where the program has a value
    largest_at: str  # variable
    largest_leak: float  # largest coordinate where it has none: tracr's softmax leak
    first_wrong: Wrong | None
    tracr_weight_deviation: float | None  # None: tracr was not asked

    @property
    def ok(self) -> bool:
        """No wrong position, and tracr's weights where they were compared."""
        return self.first_wrong is None and not self.tracr_weight_deviation

    def __str__(self) -> str:
        text = (
            f"{self.inputs} inputs, {self.compared} values compared ({self.mixtures} mixtures left out), "
            f"largest deviation {self.largest_deviation:.2g} in {self.largest_at}, "
            f"largest leak into undefined values {self.largest_leak:.2g}"
        )
        if self.tracr_weight_deviation is not None:
            text += f", weights off tracr's by {self.tracr_weight_deviation:.2g}"
        return text if self.first_wrong is None else f"{text}; first wrong: {self.first_wrong}"


def verify(
    teacher: Teacher,
    program: Callable[[], rasp.SOp] | rasp.SOp,
    *,
    num: int = 32,
    seed: int = 0,
    tolerance: float = 0.1,
    inputs: list | None = None,
    tracr: bool = False,
) -> VerifyReport:
    """Run the teacher and the oracle on `num` random inputs of random lengths.

    Args:
      teacher: compiled from `program`.
      program: the program or its builder.
      num: number of inputs (tokens uniform over the vocabulary, lengths over 1..max_seq_len).
      seed: of NumPy's generator.
      tolerance: a value further from the program's than this is wrong; tracr's softmax leaks by design, up to
        0.02 at 40 positions and more beyond (docs/teacher.md §3b). An undefined value is wrong where a coordinate
        exceeds 0.5, where the losses would take it for held.
      inputs: token sequences to use in place of random ones.
      tracr: also compile with tracr, slowly, and compare all weights and labels.

    Raises:
      UserError: the program's variables are not the teacher's.
    """
    program = build_program(program)
    oracle = Oracle(program)
    variables = [v for v in teacher.variables if v.name in set(oracle.names)]
    missing = [n for n in oracle.names if n not in {v.name for v in variables}]
    if missing or oracle.result != teacher.result:
        raise UserError(
            f"teacher: it is not of this program, whose variable {(missing or [oracle.result])[0]!r} it lacks"
        )
    rng = np.random.default_rng(seed)
    if inputs is None:
        choices = [t for t in teacher.vocab if t not in (teacher.bos, teacher.pad)]
        lengths = rng.integers(1, teacher.max_seq_len + 1, num)
        inputs = [[choices[i] for i in rng.integers(0, len(choices), n)] for n in lengths]
    ids = np.full((len(inputs), teacher.max_seq_len + 1), teacher.pad_id, np.int32)
    for row, tokens in enumerate(inputs):
        ids[row, : len(tokens) + 1] = teacher.encode(tokens)
    phi, residuals = make_forward(teacher)
    last = np.asarray(jax.jit(lambda phi, ids: residuals(phi, ids)[-1])(phi, ids))[:, 1:]

    compared = mixtures = 0
    largest, largest_at, leak, first_wrong = 0.0, "no variable", 0.0, None
    for row, tokens in enumerate(inputs):
        truth = oracle(tokens)
        wrong = []
        for variable in variables:
            want, defined = _expected(variable, truth.values[variable.name], truth.mixed[variable.name])
            mixtures += int(np.sum(truth.mixed[variable.name]))
            compared += int(defined.sum())
            got = last[row, : len(tokens)][:, list(variable.indices)]
            off = np.where(defined, np.max(np.abs(got - want), axis=1), 0.0)
            off = np.where(np.isnan(off), np.inf, off)
            empty = np.array([v is None for v in truth.values[variable.name]])
            leak = max(leak, float(np.max(off[empty], initial=0.0)))
            if np.max(off[~empty], initial=0.0) > largest:
                largest, largest_at = float(np.max(off[~empty])), variable.name
            for t in np.flatnonzero(off > np.where(empty, DEFINED, tolerance))[:1]:
                wrong.append((int(t), variable.writer_layer, variable, got[t], float(off[t])))
        if wrong and first_wrong is None:
            t, _, variable, got, off = min(wrong, key=lambda w: w[:2])
            expected = truth.values[variable.name][t]
            first_wrong = Wrong(tuple(tokens), t, variable.name, expected, tuple(map(float, got)), off)
    against = _tracr_deviation(teacher, program) if tracr else None
    return VerifyReport(len(inputs), compared, mixtures, largest, largest_at, leak, first_wrong, against)


def _expected(variable, values: list, mixed: list[bool]) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates [positions, values] and where they are defined; an undefined categorical value is all zeros."""
    want = np.zeros((len(values), len(variable.indices)))
    defined = ~np.array(mixed, bool)
    index = {v: i for i, v in enumerate(variable.values)}
    for t, value in enumerate(values):
        if value is None:
            defined[t] &= variable.kind == "categorical"
        elif variable.kind == "numerical":
            want[t] = value
        elif value in index:
            want[t, index[value]] = 1.0
        else:
            want[t] = np.inf  # a value the compiler thought impossible
    return want, defined


def _tracr_deviation(teacher: Teacher, program: rasp.SOp) -> float:
    vocab = {t for t in teacher.vocab if t not in (teacher.bos, teacher.pad)}
    reference = compile_with_tracr(
        program,
        vocab=vocab,
        max_seq_len=teacher.max_seq_len,
        bos=teacher.bos,
        pad=teacher.pad,
        exactness=teacher.mlp_exactness,
    )
    if reference.residual_labels != teacher.residual_labels or set(reference.weights) != set(teacher.weights):
        return float("inf")
    ours, theirs = teacher.densify(), reference.densify()
    if any(ours[m][p].shape != theirs[m][p].shape for m in ours for p in ours[m]):
        return float("inf")
    return max(float(np.max(np.abs(ours[m][p] - theirs[m][p]))) for m in ours for p in ours[m])
