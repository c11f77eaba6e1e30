"""Intervals for measured shares."""

import math
from collections.abc import Iterable, Mapping
from typing import Any


def wilson(right: float, total: int, *, z: float = 1.96) -> tuple[float, float]:
    """95 % score interval (E. B. Wilson, 1927) of a share right/total; (0, 1) where nothing was measured."""
    if total == 0:
        return 0.0, 1.0
    p, zz = right / total, z * z
    centre = (p + zz / (2 * total)) / (1 + zz / total)
    half = z / (1 + zz / total) * math.sqrt(p * (1 - p) / total + zz / (4 * total * total))
    # At the ends exactly 0 and 1: rounding would leave them a little inside, or outside.
    return 0.0 if right == 0 else max(0.0, centre - half), 1.0 if right == total else min(1.0, centre + half)


def share(right: int, total: int) -> dict[str, Any]:
    """A measured share with its 95 % interval, as the JSON files hold it; the accuracy of nothing is 0."""
    low, high = wilson(right, total)
    return {"accuracy": right / max(total, 1), "low": low, "high": high, "right": right, "total": total}


def above(one: Mapping[str, Any], others: Iterable[Mapping[str, Any]]) -> bool:
    """Whether the whole interval of a share lies above those of all others; not where there is no other."""
    return one["low"] > max((s["high"] for s in others), default=1.0)


def followed_above(found: Mapping[str, Any]) -> bool:
    """Whether a swap is followed above every control, by intervals: shares by change, of one place of "followed".

    "faithful" is no control, it should be followed too.
    """
    return above(found["swap"], [s for change, s in found.items() if change not in ("swap", "faithful")])
