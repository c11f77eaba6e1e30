"""A run of the report's with nothing measured yet, and with sets of items: for sentences and verdicts."""

import dataclasses
from pathlib import Path

from tracr_jax.report.load import RunFiles
from tracr_jax.stats import share

RUN = RunFiles(
    folder=Path("run"),
    name="run",
    config={"losses": {"alignment": "variable"}},
    about={},
    metrics=[],
    evaluation=None,
    retention=None,
    interpretation=None,
)


def plain(text):
    return text.replace("\u00a0", " ").replace("\u202f", " ")


RULES = {"always_no": 0.5, "counting": 0.95}


def with_sets(rules=None, **right):
    """Sets of 100 items, the given number right; rules: what trivial rules get of a set, else 50 and 60."""
    sets = {
        name: {
            "injected": share(n, 100),
            "original": share(3, 100),
            "baselines": (rules or {}).get(name, {"always_no": 0.5, "even_length": 0.6}),
            "sample": 100,
        }
        for name, n in right.items()
    }
    return dataclasses.replace(RUN, evaluation={"sets": sets})
