"""Compare a teacher with its oracle, and with tracr, on given or random inputs.

Implements docs/teacher.md §3, §5: the compiled network is right where every variable's coordinates are the one-hot
(or the number) that the program computes. Positions where the program holds a mixture have no single right value
and are counted, not compared.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.compile import build_program
from tracr_jax.teacher.forward import last_state
from tracr_jax.teacher.model import Teacher, Variable
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.reference import compile_with_tracr
from tracr_jax.teacher.variables import DEFINED

_NUMERICAL = 1e-3  # a number's deviation, absolute below 1 and relative above
_NUMBERS = 1 << 18  # of one state of the inputs that run together; more of them leave the cache
_NO_VALUE, _IMPOSSIBLE = -1, -2  # columns of an undefined value, and of one that the compiler ruled out


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
    positions: int  # of all inputs, without BOS
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
    program: Callable[[], rasp.SOp] | rasp.SOp | Oracle,
    *,
    num: int = 32,
    seed: int = 0,
    tolerance: float = 0.1,
    inputs: Sequence[Sequence[Any]] | None = None,
    tracr: bool = False,
) -> VerifyReport:
    """Compare the teacher's last state r_L with the program's own values: every variable, every position.

    The state is that of the layers which `make_forward` compiles, run in NumPy (`last_state`).

    Args:
      teacher: compiled from `program`.
      program: the program, its builder, or its oracle.
      num: number of random inputs of random lengths, where `inputs` is not given.
      seed: of NumPy's generator.
      tolerance: a coordinate of a categorical variable further from the program's than this is wrong; tracr's
        softmax leaks by design, up to 0.02 at 40 positions and more beyond (docs/teacher.md §3b). An undefined
        value is wrong where a coordinate exceeds 0.5, where the losses would take it for held. A number is wrong
        where it is off by more than 0.001, or by more than 0.001 of its size. What is not finite is always wrong.
      inputs: token sequences, no longer than the teacher's table.
      tracr: also compile with tracr, slowly, and compare all weights and labels.

    Raises:
      UserError: the program's variables are not the teacher's.
    """
    oracle = program if isinstance(program, Oracle) else Oracle(build_program(program))
    variables = [v for v in teacher.variables if v.name in set(oracle.names)]
    missing = [n for n in oracle.names if n not in {v.name for v in variables}]
    if missing or oracle.result != teacher.result:
        raise UserError(
            f"teacher: it is not of this program, whose variable {(missing or [oracle.result])[0]!r} it lacks"
        )
    if inputs is None:
        lengths = np.random.default_rng(seed).integers(1, teacher.max_seq_len + 1, num)
        inputs = random_inputs(teacher, lengths.tolist(), seed=seed)
    inputs = [list(tokens) for tokens in inputs]
    run = last_state(teacher)
    tally = _Tally(variables, oracle, tolerance)
    # The longest first: rows of like length need no padding.
    order = sorted(range(len(inputs)), key=lambda i: -len(inputs[i]))
    while order:
        longest = len(inputs[order[0]])
        rows = max(1, _NUMBERS // ((longest + 1) * teacher.width))
        chunk, order = order[:rows], order[rows:]
        ids = np.full((len(chunk), longest + 1), teacher.pad_id, np.int32)
        for row, i in enumerate(chunk):
            ids[row, : len(inputs[i]) + 1] = teacher.encode(inputs[i])
        tally.add(run(ids)[:, 1:], chunk, [inputs[i] for i in chunk])
    against = _tracr_deviation(teacher, oracle.program) if tracr else None
    first_wrong = None
    if tally.wrong:
        i, t, _, variable, got, off = min(tally.wrong, key=lambda w: w[:3])
        first_wrong = Wrong(
            tuple(inputs[i]), t, variable.name, oracle(inputs[i]).values[variable.name][t], got, off
        )
    return VerifyReport(
        inputs=len(inputs),
        positions=sum(map(len, inputs)),
        compared=tally.compared,
        mixtures=tally.mixtures,
        largest_deviation=tally.largest,
        largest_at=tally.largest_at,
        largest_leak=tally.leak,
        first_wrong=first_wrong,
        tracr_weight_deviation=against,
    )


def random_inputs(teacher: Teacher, lengths: Sequence[int], *, seed: int = 0) -> list[list[Any]]:
    """One input of each length, its tokens uniform over the vocabulary without BOS and PAD."""
    rng = np.random.default_rng(seed)
    choices = [t for t in teacher.vocab if t not in (teacher.bos, teacher.pad)]
    return [[choices[i] for i in rng.integers(0, len(choices), n)] for n in lengths]


class _Tally:
    """What `verify` counts over chunks of inputs."""

    def __init__(self, variables: Sequence[Variable], oracle: Oracle, tolerance: float):
        self._variables, self._oracle, self._tolerance = variables, oracle, tolerance
        self._columns = [{v: k for k, v in enumerate(variable.values)} for variable in variables]
        self.compared = self.mixtures = 0
        self.largest, self.largest_at, self.leak = 0.0, "no variable", 0.0
        self.wrong: list[
            tuple[int, int, int, Variable, tuple[float, ...], float]
        ] = []  # at most one of each input

    def add(self, states: np.ndarray, numbers: Sequence[int], inputs: Sequence[Sequence[Any]]) -> None:
        """The teacher's states [B, T, D] of inputs with these numbers, compared with what the program says."""
        truths = self._oracle.states_of(inputs)
        lengths = [len(tokens) for tokens in inputs]
        row = np.repeat(np.arange(len(lengths)), lengths)
        position = np.concatenate([np.arange(n) for n in lengths])
        states = states[row, position]
        first: dict[int, tuple] = {}
        for variable, columns in zip(self._variables, self._columns, strict=True):
            codes, at = np.unique(np.concatenate([t[variable.name] for t in truths]), return_inverse=True)
            values, mixtures = self._oracle.read(codes.tolist())
            mixed = np.array(mixtures, bool)[at]
            got = states[:, list(variable.indices)]
            off, limit, compared = self._deviations(variable, columns, got, values, at, mixed)
            self.mixtures += int(mixed.sum())
            self.compared += int(compared.sum())
            defined = compared & np.array([v is not None for v in values], bool)[at]
            self.leak = max(self.leak, float(np.max(off[compared & ~defined], initial=0.0)))
            largest = float(np.max(off[defined], initial=0.0))
            if largest > self.largest:
                self.largest, self.largest_at = largest, variable.name
            for k in np.flatnonzero(off > limit)[::-1]:
                i, t = numbers[int(row[k])], int(position[k])
                if i not in first or (t, variable.writer_layer) < first[i][1:3]:
                    first[i] = (i, t, variable.writer_layer, variable, tuple(got[k].tolist()), float(off[k]))
        self.wrong += first.values()

    def _deviations(
        self, variable: Variable, columns: dict, got: np.ndarray, values: list, at: np.ndarray, mixed: np.ndarray
    ):
        """How far each position is off [P], how far it may be, and where there is something to compare.

        `at` [P]: which of the program's `values` is that of the position.
        """
        if variable.kind == "numerical":
            want = np.array([np.nan if v is None else v for v in values], np.float64)[at]
            compared = ~np.isnan(want) & ~mixed
            off = np.where(compared, np.abs(got[:, 0] - want), 0.0)
            limit = _NUMERICAL * np.maximum(1.0, np.abs(np.nan_to_num(want)))
        else:
            column = np.array([_NO_VALUE if v is None else columns.get(v, _IMPOSSIBLE) for v in values], int)[at]
            compared = ~mixed
            off = np.abs(got)
            one = np.flatnonzero(column >= 0)
            off[one, column[one]] = np.abs(got[one, column[one]] - 1.0)
            off = np.where(compared, off.max(axis=1), 0.0)
            off[column == _IMPOSSIBLE] = np.inf
            limit = np.where(column == _NO_VALUE, DEFINED, self._tolerance)
        off[~np.isfinite(got).all(axis=1)] = np.inf
        return off, limit, compared


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
