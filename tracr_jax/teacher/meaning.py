"""What a program says when its selectors look ahead, and where a causal network must say something else.

RASP's selectors select among all positions of the string. The compiled network is causal: a position selects
itself and what stands before it, and a program that was meant for the whole string silently gets another meaning.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracr.rasp import rasp

from tracr_jax.teacher.oracle import Oracle


class Other(NamedTuple):
    """An answer that differs between the two meanings."""

    input: int  # number of the input
    position: int  # number of the answer's token
    causal: Any
    whole: Any
    variable: str  # the first that differs: its selector looks ahead


@dataclass(frozen=True)
class Meaning:
    """The causal meaning compared with that of the whole string, on some inputs."""

    answers: int
    """Answers compared."""
    differ: int
    """Of these, the answers that differ."""
    first: Other | None
    """The first of them."""
    ahead: tuple[str, ...]
    """Variables whose selector selects later positions of these inputs."""
    by_index: tuple[str, ...]
    """Of these, the ones whose selector compares positions only: there, looking ahead is what was asked for."""


def compare_meanings(oracle: Oracle, inputs: Sequence[Sequence[Any]], prompts: Sequence[int]) -> Meaning:
    """Compare the answers: for each of its tokens, the whole string is what stands before it.

    Args:
      oracle: of the program, causal.
      inputs: tokens of prompt and answer.
      prompts: of each input, the number of tokens before the answer.
    """
    whole = Oracle(oracle.program, causal=False)
    ends = [(i, end) for i, tokens in enumerate(inputs) for end in range(prompts[i], len(tokens))]
    ours = [e.values[oracle.result] for e in oracle.evaluate(inputs, names=[oracle.result])]
    theirs = whole.evaluate((inputs[i][:end] for i, end in ends), names=[whole.result])
    both = [(ours[i][end - 1], e.values[whole.result][-1]) for (i, end), e in zip(ends, theirs, strict=True)]
    differ = [k for k, (a, b) in enumerate(both) if a != b]
    first = None
    if differ:
        (i, end), (a, b) = ends[differ[0]], both[differ[0]]
        causal, other = oracle(inputs[i]).values, whole(inputs[i][:end]).values
        # A variable comes after what it is computed from, so the first that differs is where they part.
        variable = next(n for n in oracle.names if causal[n][:end] != other[n])
        first = Other(i, end - prompts[i], a, b, variable)
    return Meaning(len(ends), len(differ), first, whole.ahead, _positional(whole))


def positional_lookahead(oracle: Oracle, *, length: int) -> tuple[str, ...]:
    """Variables whose selector compares positions only, and selects later ones within a length."""
    whole = Oracle(oracle.program, causal=False)
    if any(map(_of_positions, whole.selectors.values())):
        whole([None] * length)
    return _positional(whole)


def _positional(whole: Oracle) -> tuple[str, ...]:
    return tuple(n for n in whole.ahead if _of_positions(whole.selectors[n]))


def _of_positions(expr: rasp.RASPExpr) -> bool:
    """Whether an expression is a function of a position's index alone."""
    if isinstance(expr, rasp.Select | rasp.Map | rasp.SequenceMap):
        return all(map(_of_positions, expr.children))
    return isinstance(expr, rasp.IndicesType)
