"""Where a program's variables lie among the directions of the teacher, grouped so that no array is padded."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tracr_jax.errors import UserError
from tracr_jax.teacher.model import Variable

NOTHING = -1  # in place of a value where the program holds none
DEFINED = 0.5  # a categorical variable is defined where its largest teacher coordinate exceeds this
ALONE = 0.9  # where that exceeds this, it holds one value and no mixture of several; `verify` allows no less


class VariableLayout(NamedTuple):
    """Where each variable sits, grouped by number of values so that no coordinate is padded or gathered twice.

    A group (m, n, first) holds n variables of m values each; `order` lists all teacher directions group by group.
    Compared as an object, so that it can be a static argument of jit.
    """

    order: np.ndarray  # [D] int: teacher direction of each coordinate in grouped order
    groups: tuple[tuple[int, int, int], ...]  # (values m, number of variables n, first coordinate)
    names: tuple[str, ...]  # categorical variables in grouped order, then the numerical ones
    numerical: tuple[int, int]  # (first coordinate, number) of the single-coordinate variables
    weights: np.ndarray  # [len(names)] float, mean 1

    __hash__ = object.__hash__
    __eq__ = object.__eq__


def variable_layout(
    variables: Sequence[Variable],
    *,
    weights: Mapping[str, float] | None = None,
    times: Mapping[str, float] | None = None,
) -> VariableLayout:
    """Group a teacher's variables for `variable_alignment`.

    Args:
      variables: of the teacher.
      weights: by name prefix, 1 where not named.
      times: a further factor, by name.

    Raises:
      UserError: a weight names no variable, or all are 0.
    """
    weights = dict(weights or {})
    unknown = [k for k in weights if not any(v.name.startswith(k) for v in variables)]
    if unknown:
        known = ", ".join(v.name for v in variables)
        raise UserError(f"variable weight for {unknown[0]!r}: the program has no such variable; it has {known}")
    categorical = sorted((v for v in variables if v.kind == "categorical"), key=lambda v: len(v.indices))
    numerical = [v for v in variables if v.kind != "categorical"]
    groups, order = [], []
    for size in sorted({len(v.indices) for v in categorical}):
        members = [v for v in categorical if len(v.indices) == size]
        groups.append((size, len(members), len(order)))
        order += [i for v in members for i in v.indices]
    first_numerical = len(order)
    order += [v.indices[0] for v in numerical]
    names = tuple(v.name for v in categorical + numerical)
    raw = np.array([next((w for k, w in weights.items() if n.startswith(k)), 1.0) for n in names])
    raw *= [(times or {}).get(name, 1.0) for name in names]
    if not raw.any():
        raise UserError("the weights of all variables are 0: nothing is aligned; give one of them another weight")
    return VariableLayout(
        np.array(order), tuple(groups), names, (first_numerical, len(numerical)), raw / raw.mean()
    )
