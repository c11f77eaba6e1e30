"""What each injection did to the programs that were there before: every task's accuracy after every injection.

The interference matrix of a run with several programs is evaluation.json's "programs":

    tasks   names in the order of injection
    before  {task: {set: share}} of the original model
    after   for each injection {task, run, steps, sets: {task: {set: share}}, variables: {task: share}}

`variables`: mean decode accuracy of a program's variables on its test set, all positions, at its last layer; None
for a run without alignment. Rows of earlier injections are those of the earlier runs, measured on the same items.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracr_jax import __version__
from tracr_jax.data.samples import reported_samples
from tracr_jax.files import read_json, reading
from tracr_jax.measure.answers import ModelScores, decode_samples, evaluate, known_scores, make_predictor
from tracr_jax.progress import Say
from tracr_jax.runs.model import Injected
from tracr_jax.runs.record import Record, first_history, mean_decoded, read_record
from tracr_jax.stats import share
from tracr_jax.tasks.base import Item

OWN = -1  # as many items as the configuration of each program's run says


def evaluate_programs(
    run: Injected,
    *,
    items: int | None = OWN,
    original: ModelScores | None = None,
    record: Record | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """The content of a run's evaluation.json: of its newest program, and of several the matrix.

    Args:
      run: the model with all of its programs.
      items: of each set; None for all. By default, `OWN`, what each program's own run measured.
      original: `score_once` of as many items, where that is known already. By default what the run's folder
        says, where this version made it and its items are the same: the untouched model does not change.
      record: what the run began with, where it is known; by default as its folder says.
      say: receives one line before each piece of work.

    Raises:
      UserError: `items` is less than one, or a task's own code is not at hand.
    """

    def count(one: Injected) -> int | None:
        return one.program.config.eval_items if items == OWN else items

    samples = reported_samples(run.program.task, count(run))
    original = original or _measured_before(run, samples)
    evaluation = evaluate(run, items=count(run), samples=samples, original=original, say=say)
    if len(run.programs) > 1:
        assert run.folder
        record = record or read_record(run.folder)
        assert record  # where there are several programs, it was read to find them
        evaluation["programs"] = extend_history(record.history, run, evaluation, items=count, say=say)
    return evaluation


def _measured_before(run: Injected, samples: Mapping[str, Sequence[Item]]) -> ModelScores | None:
    files = [run.folder / f"{name}.json" for name in ("evaluation", "run")] if run.folder else []
    if not files or not all(path.exists() for path in files):
        return None
    with reading(files[0], "delete it: tracr-jax evaluate makes it again"):
        evaluation, about = map(read_json, files)
        return known_scores(evaluation, run, samples) if about.get("tracr_jax") == __version__ else None


def extend_history(
    history: Mapping[str, Any],
    run: Injected,
    evaluation: Mapping[str, Any],
    *,
    items: Callable[[Injected], int | None],
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """The matrix with the row of the newest injection.

    Args:
      history: the matrix before it.
      run: the model as it is now, with all of its programs.
      evaluation: of the newest program.
      items: how many items of each set of a program are answered; None for all.
      say: receives one line before each program.
    """
    sets, variables = {}, {}
    for name in (p.name for p in run.programs[:-1]):
        say(f"{name}, injected earlier")
        other = run.of(name)
        samples = reported_samples(other.program.task, items(other))
        predict = make_predictor(other)
        right = {n: predict(other.params, sample) for n, sample in samples.items()}
        sets[name] = {n: share(sum(r), len(r)) for n, r in right.items()}
        decoded = decode_samples(other, {"test": samples["test"]})
        variables[name] = mean_decoded(decoded, other.program.config)
    program = run.program
    own = first_history(evaluation, task=program.name, config=program.config, run=str(run.folder))
    row = own["after"][0]
    row["sets"], row["variables"] = sets | row["sets"], variables | row["variables"]
    return {key: _joined(history[key], own[key]) for key in own}


def _joined(before: Any, own: Any) -> Any:
    return {**before, **own} if isinstance(own, dict) else [*before, *own]
