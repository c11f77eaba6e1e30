"""What each injection did to the programs that were there before: every task's accuracy after every injection.

The interference matrix of a run with several programs is evaluation.json's "programs":

    tasks   names in the order of injection
    before  {task: {set: share}} of the original model
    after   for each injection {task, run, steps, sets: {task: {set: share}}, variables: {task: share}}

`variables`: mean decode accuracy of a program's variables on its test set, all positions, at its last layer; None
for a run without alignment. Rows of earlier injections are those of the earlier runs, measured on the same items.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tracr_jax.data.samples import reported_samples
from tracr_jax.interpret.decode import Trained
from tracr_jax.measure.answers import decode_samples, make_predictor
from tracr_jax.measure.stats import share
from tracr_jax.runs.build import Setup


def first_history(setup: Setup, evaluation: Mapping[str, Any], *, run: str) -> dict[str, Any]:
    """The matrix of a run with one program, from its evaluation.json."""
    task = setup.task.name
    return {
        "tasks": [task],
        "before": {task: _sets(evaluation, "original")},
        "after": [
            {
                "task": task,
                "run": run,
                "steps": setup.config.steps,
                "sets": {task: _sets(evaluation, "injected")},
                "variables": {task: _variables(setup, evaluation["decode"])},
            }
        ],
    }


def extend_history(
    history: Mapping[str, Any],
    setup: Setup,
    evaluation: Mapping[str, Any],
    *,
    run: str | Path,
    earlier: Sequence[Trained],
    items: Callable[[Setup], int | None],
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The matrix with the row of the newest injection.

    Args:
      history: the matrix before it.
      setup: the newest program.
      evaluation: its evaluation.
      run: its run folder.
      earlier: the other programs, each with the model as it is now and its adapter.
      items: how many items of each set of a program are asked; None for all.
      progress: called with one line before each program.
    """
    sets, variables = {}, {}
    for other in earlier:
        progress(f"{other.setup.task.name}, injected earlier")
        samples = reported_samples(other.setup.task, items(other.setup))
        predict, name = make_predictor(other.setup), other.setup.task.name
        right = {n: predict(other.params.lm, sample) for n, sample in samples.items()}
        sets[name] = {n: share(sum(r), len(r)) for n, r in right.items()}
        decoded = decode_samples(other.setup, other.params, {"test": samples["test"]})
        variables[name] = _variables(other.setup, decoded)
    own = first_history(setup, evaluation, run=str(run))
    row = own["after"][0]
    row["sets"], row["variables"] = sets | row["sets"], variables | row["variables"]
    return {key: _joined(history[key], own[key]) for key in own}


def _joined(before: Any, own: Any) -> Any:
    return {**before, **own} if isinstance(own, dict) else [*before, *own]


def _sets(evaluation: Mapping[str, Any], model: str) -> dict[str, Any]:
    return {name: s[model] for name, s in evaluation["sets"].items()}


def _variables(setup: Setup, decode: Mapping[str, Any]) -> float | None:
    if setup.config.losses.alignment == "none":
        return None
    found = [v["accuracy"] for v in decode["test"]["all_positions"].values() if v["accuracy"] is not None]
    return sum(found) / len(found) if found else None
