"""Two runs on the same items: which is right more often, and whether that is more than chance.

Both answer the items of the same evaluation sets, so the test is paired: McNemar's, exact (a binomial test on the
items that only one of them answers rightly), and for the difference of accuracies a bootstrap over items; where
all items differ alike, that has no width, and the interval is Newcombe's, of scores (Statistics in Medicine 17,
1998, method 10).
evaluation.json holds which answers were right; of a run without that, and of an export, they are measured again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from tracr_jax.data.samples import reported_samples
from tracr_jax.errors import UserError
from tracr_jax.files import read_json
from tracr_jax.measure.answers import items_digest, make_predictor
from tracr_jax.progress import Say
from tracr_jax.runs.model import Injected, open
from tracr_jax.stats import share, wilson

_RESAMPLES = 9_999
_FEW = 10  # items that differ
_AT_ONCE = 3_000_000  # drawn items; all at once would be 1.4 GB for the sets of int_sum


@dataclass(frozen=True)
class SetComparison:
    """Two runs on one evaluation set."""

    items: int
    first: dict[str, Any]
    """Accuracy of the first run with its 95 % interval (Wilson)."""
    second: dict[str, Any]
    difference: float
    """Accuracy of the second run minus that of the first."""
    low: float
    """95 % interval of the difference: percentiles of a bootstrap over items, or Newcombe's score interval."""
    high: float
    only_first: int
    """Items that only the first run answers rightly."""
    only_second: int
    p: float
    """McNemar's exact test, two-sided; of this set alone, not corrected for the number of sets."""


@dataclass(frozen=True)
class Comparison:
    """Two runs on every evaluation set."""

    first: str
    second: str
    task: str
    sets: Mapping[str, SetComparison]

    def record(self) -> dict[str, Any]:
        """For JSON."""
        method = {
            "difference": "accuracy of the second run minus that of the first, on the same items",
            "interval": f"95 %, percentiles of a paired bootstrap over items, {_RESAMPLES:,} resamples; "
            f"Newcombe's score interval where all items differ alike, or fewer than {_FEW} differ",
            "p": "McNemar's exact test, two-sided, of each set alone",
        }
        sets = {name: asdict(one) for name, one in self.sets.items()}
        return {"first": self.first, "second": self.second, "task": self.task, "method": method, "sets": sets}


@dataclass(frozen=True)
class Answers:
    """Which answers of a run are right."""

    name: str
    task: str
    items: int | None
    """Items of each set that were asked for."""
    sets: Mapping[str, tuple[str, Sequence[bool]]]
    """Of each set, the digest of its items and whether each answer is right."""


def compare(
    first: Injected | Path | str,
    second: Injected | Path | str,
    *,
    task: str | None = None,
    say: Say = lambda _: None,
) -> Comparison:
    """Compare two finished runs, or exports, on the items of every evaluation set.

    Args:
      first: a run, from `inject`, or the folder of a run or an export.
      second: another, of the same task.
      task: the task's own code, path/to/file.py:NAME, where answers are measured again and it is not found.
      say: receives one line before answers are measured again.

    Raises:
      UserError: they are one run, of different tasks, or answered different items.
    """
    both = [one if isinstance(one, Injected) else Path(one) for one in (first, second)]
    one, other = (x.resolve() if isinstance(x, Path) else x for x in both)
    if one == other:  # the same folder, or the same object
        raise UserError(f"compare: {first} is given twice")
    known = [_written(one) for one in both]
    items = next((k.items for k in known if k), -1)
    found = [k or _measured(one, items, task, say) for k, one in zip(known, both, strict=True)]
    return paired(found[0], found[1])


def paired(a: Answers, b: Answers) -> Comparison:
    """Compare the answers of two runs to the same items.

    Raises:
      UserError: the items are not the same.
    """
    if a.task != b.task:
        raise UserError(f"{a.name} is a run of {a.task}, {b.name} of {b.task}: they have no items in common")
    if a.sets.keys() != b.sets.keys():
        odd = sorted(a.sets.keys() ^ b.sets.keys())
        raise UserError(f"only one of {a.name} and {b.name} has the sets {', '.join(odd)}: not the same task")
    sets = {}
    for name, (known, ours) in a.sets.items():
        other, theirs = b.sets[name]
        if not len(ours):
            raise UserError(
                f"set {name}: {a.name} answered no item of it; measure more: tracr-jax evaluate {a.name}"
            )
        if len(ours) != len(theirs):
            few, more = (a, b) if len(ours) < len(theirs) else (b, a)
            raise UserError(
                f"set {name}: {a.name} answered {len(ours)} items, {b.name} {len(theirs)}; measure the same: "
                f"tracr-jax evaluate {few.name} {'--full' if more.items is None else f'--items {more.items}'}"
            )
        if known != other:
            raise UserError(f"set {name}: {a.name} and {b.name} answered different items; the task was changed")
        sets[name] = compare_answers(np.asarray(ours), np.asarray(theirs))
    return Comparison(a.name, b.name, a.task, sets)


def compare_answers(first: np.ndarray, second: np.ndarray) -> SetComparison:
    """Compare which answers are right: two arrays of booleans over the same items."""
    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    changed = only_first + only_second
    low, high = _interval(first, second)
    return SetComparison(
        items=len(first),
        first=share(int(first.sum()), len(first)),
        second=share(int(second.sum()), len(second)),
        difference=(only_second - only_first) / len(first),
        low=low,
        high=high,
        only_first=only_first,
        only_second=only_second,
        p=float(stats.binomtest(only_first, changed, 0.5).pvalue) if changed else 1.0,
    )


def _interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    # Of few items that differ, draws often have none: an interval that no test would agree with.
    if int(np.sum(first != second)) < _FEW or np.ptp(second.astype(int) - first) == 0:
        return _score_interval(first, second)
    data = (first.astype(np.float64), second.astype(np.float64))

    def difference(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        return y.mean(axis=axis) - x.mean(axis=axis)

    found = stats.bootstrap(
        data,
        difference,
        paired=True,
        n_resamples=_RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(0),
        batch=max(1, _AT_ONCE // len(first)),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _score_interval(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Newcombe's hybrid score interval of a difference of paired shares."""
    n, both = len(first), int(np.sum(first & second))
    a, b, c = both, int(second.sum()) - both, int(first.sum()) - both
    d = n - a - b - c
    p, q = (a + b) / n, (a + c) / n
    (p_low, p_high), (q_low, q_high) = wilson(a + b, n), wilson(a + c, n)
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    covers = a * d - b * c
    phi = (max(covers - n / 2, 0) if covers > 0 else covers) / margins**0.5 if margins else 0.0

    def width(up: float, down: float) -> float:
        return (up * up - 2 * phi * up * down + down * down) ** 0.5

    return p - q - width(p - p_low, q_high - q), p - q + width(p_high - p, q - q_low)


def _written(run: Injected | Path) -> Answers | None:
    """The answers of its evaluation; None where there is none, or one of an earlier version."""
    if isinstance(run, Path) and not run.exists():
        raise UserError(f"{run}: no such folder")
    if isinstance(run, Injected):
        evaluation = run.measured
    else:
        path = run / "evaluation.json"
        evaluation = read_json(path) if path.is_file() else None
    if evaluation is None:
        return None
    try:
        sets = {
            name: (one["digest"], [x == "1" for x in one["right"]["injected"]])
            for name, one in evaluation["sets"].items()
        }
        return Answers(_name(run), evaluation["task"], evaluation["items_per_set"], sets)
    except (KeyError, TypeError, AttributeError):
        return None


def _name(run: Injected | Path) -> str:
    return str((run.folder or run.program.name) if isinstance(run, Injected) else run)


def _measured(one: Injected | Path, items: int | None, task: str | None, say: Say) -> Answers:
    say(f"{_name(one)}: holds no answers of each item; they are measured again")
    run = one if isinstance(one, Injected) else open(one, task=task, finished=True)
    items = run.program.config.eval_items if items == -1 else items
    samples, predict = reported_samples(run.program.task, items), make_predictor(run)
    sets = {name: (items_digest(sample), predict(run.params, sample)) for name, sample in samples.items()}
    return Answers(_name(one), run.program.name, items, sets)
