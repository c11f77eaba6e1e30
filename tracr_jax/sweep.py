"""What an injection pays for its answers: one task by several methods, weights of the language term, and seeds.

Every run is `tracr_jax.inject` in a folder of its own. A finished one is read, a started one continues from its
newest checkpoint, and sweep.json is rewritten after each: a sweep can be stopped at any time. Seeds are the
outermost loop, so that the picture is whole, if uncertain, after the first.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from tracr_jax.config import RunConfig
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.injection import inject
from tracr_jax.lm.load import LoadedLM
from tracr_jax.names import BUNDLED, RANDOM, SWEEP
from tracr_jax.presets import METHODS, check_train, preset
from tracr_jax.progress import Say
from tracr_jax.runs.folder import check_folder, located
from tracr_jax.runs.model import Injected
from tracr_jax.stats import share
from tracr_jax.tasks.registry import get_task
from tracr_jax.train.metrics import MetricWriter
from tracr_jax.trained import FORMS, trained_part

_LEARNT = ("test", "valid")  # sets of training's own distribution, which show no more than that it was learnt


@dataclass(frozen=True)
class Planned:
    """One run of a sweep."""

    method: str
    """As it was asked for, see `configured`."""
    config: RunConfig
    folder: Path

    @property
    def retention(self) -> float:
        """Weight of the language term."""
        return self.config.losses.retention_weight

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.method}, retention {self.retention:g}, seed {self.config.seed}"

    @property
    def started(self) -> bool:
        """Whether the folder holds a run."""
        return (self.folder / "config.json").exists()

    @property
    def finished(self) -> bool:
        """evaluation.json is the last thing that a sweep needs of a run, and is written whole."""
        return (self.folder / "evaluation.json").exists()


def plan(
    task: str,
    *,
    lm: str = BUNDLED,
    methods: Sequence[str],
    retention: Sequence[float],
    seeds: int = 3,
    folder: Path,
    steps: int | None = None,
    eval_items: int | None = None,
) -> list[Planned]:
    """The runs in their order.

    Args:
      task: a name for `get_task`.
      lm: a name for `load_lm`.
      methods: names for `configured`.
      retention: weights of the language term.
      seeds: how many, from 0 on.
      folder: of the sweep; each run has one below it.
      steps: of each run; default the preset's.
      eval_items: items of each evaluation set; default the preset's.

    Raises:
      UserError: an unknown task or method, a weight below zero, or nothing to run.
    """
    if not methods or not retention or seeds < 1:
        raise UserError("sweep: nothing to run; give one method, one weight of retention and one seed, or more")
    get_task(task)  # before the first run is begun
    out = []
    for seed in range(seeds):
        for method in dict.fromkeys(methods):
            config = configured(method, task=task, lm=lm, seed=seed, steps=steps, eval_items=eval_items)
            for weight in dict.fromkeys(retention):
                losses = dataclasses.replace(config.losses, retention_weight=weight)
                short = f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)
                name = f"{method}-retention{short}-seed{seed}".replace(":", "")
                out.append(Planned(method, dataclasses.replace(config, losses=losses), folder / name))
    return out


def configured(
    method: str,
    *,
    task: str,
    lm: str = BUNDLED,
    seed: int = 0,
    steps: int | None = None,
    eval_items: int | None = None,
    full: bool = False,
) -> RunConfig:
    """The options of one run by a method's name.

    Args:
      method: a preset ("variable", "finetune", …), what is trained ("lora:16", with the preset "variable"), or
        both ("exchange+lora:16"); with random: in front, the model is untrained ("random:embeddings").
      task: a name for `get_task`.
      lm: a name for `load_lm`.
      seed: of the run.
      steps: default the preset's.
      eval_items: of each evaluation set; default the preset's.
      full: as experiments/reproduce runs it, see `preset`.

    Raises:
      UserError: an unknown method.
    """
    named = method.removeprefix(RANDOM)
    base, plus, part = named.partition("+")
    if not plus and base not in METHODS:
        base, part = ("graft" if named.startswith("graft:") else "variable"), named
    known = f"methods: {', '.join(METHODS)}, or what is trained: {FORMS}, or both, as exchange+lora:16"
    if base not in METHODS or not named:
        raise UserError(f"unknown method {method!r}; {known}")
    try:
        trained_part(part or "all")
    except UserError as e:
        raise UserError(f"unknown method {part!r}; {known}") from e
    untrained = RANDOM + lm.removeprefix(RANDOM)
    config = preset(base, task=task, lm=lm if named == method else untrained, full=full)
    given = {"steps": steps, "eval_items": eval_items}
    sizes = {name: value for name, value in given.items() if value is not None}
    try:
        check_train(base, part or config.train)
        return dataclasses.replace(config, seed=seed, train=part or config.train, **sizes)
    except UserError as e:
        raise UserError(f"method {method!r}: {e}") from e


def check(planned: Sequence[Planned]) -> None:
    """That no folder holds a run of other options, finished or not, and finished ones were asked the same items.

    Raises:
      UserError: one does; the message has the folder and what differs.
    """
    for one in planned:
        check_folder(one.folder, located(one.config), resume=one.started)
    _check_items([(p, read_json(p.folder / "evaluation.json")) for p in planned if p.finished])


def sweep(
    planned: Sequence[Planned],
    folder: Path,
    *,
    by: str = "",
    make: Callable[[Planned], Any] | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """Make every run that is not finished, and collect what they reach.

    Args:
      planned: from `plan`.
      folder: receives sweep.json.
      by: name of the evaluation set that decides; default the hardest, see `collect`.
      make: makes or continues a run; default `make_run`.
      say: receives one line before each run.

    Returns:
      The content of sweep.json: that of `collect`, and "failed": the runs whose training diverged, with "why".

    Raises:
      UserError: a folder holds a run of other options, or a run cannot be made; what is finished stays.
    """
    check(planned)
    result: dict[str, Any] = {}
    failed: list[dict[str, Any]] = []
    for i, one in enumerate(planned):
        if not one.finished:
            say(f"run {i + 1} of {len(planned)}: {one.name}")
            try:
                (make or make_run)(one)
            except TrainingDivergedError as e:
                # A run that diverges is a result, too; the others go on, and the next call tries it again.
                failed.append(_named(one) | {"why": str(e)})
                say(f"failed: {e}")
            jax.clear_caches()  # every method has programs of its own
        result = collect(planned, by=by) | {"failed": failed}
        write_json(folder / SWEEP, result)
    return result


def check_set(task: str, name: str) -> None:
    """That a task has an evaluation set of this name.

    Raises:
      UserError: it has none; the message names those that there are.
    """
    names = list(get_task(task).eval_sets())
    if name not in names:
        raise UserError(f"sweep: no evaluation set {name!r}; sets: {', '.join(names)}")


def make_run(
    planned: Planned,
    *,
    lm: LoadedLM | None = None,
    writers: tuple[MetricWriter, ...] = (),
    progress: bool = False,
    say: Say = lambda _: None,
) -> Injected:
    """Make one run, or continue it where its folder holds a checkpoint; `lm` if it is already loaded."""
    config = planned.config
    return inject(
        config.task, lm=lm or config.lm, config=config, folder=planned.folder, resume=planned.started,
        writers=writers, progress=progress, say=say,
    )  # fmt: skip


def collect(planned: Sequence[Planned], *, by: str = "") -> dict[str, Any]:
    """What the finished runs reach: {"set", "points"}.

    A point has "method", "retention", "seed", "folder", its "accuracy" (right of total on the set, with the 95 %
    interval) and "kl": from the original model on held-out windows of its text, nats per token, mean. The set is
    the one that all methods together answer worst, training's own distribution apart.

    Raises:
      UserError: no run has a set of the name `by`, or one run was asked other items than another.
    """
    found = [(p, read_json(p.folder / "evaluation.json")) for p in planned if p.finished]
    _check_items(found)
    names = list(found[0][1]["sets"]) if found else []
    if by and found and by not in names:
        raise UserError(f"sweep: no evaluation set {by!r}; sets: {', '.join(names)}")
    chosen = by or hardest([{n: s["injected"]["accuracy"] for n, s in e["sets"].items()} for _, e in found])
    points = []
    for p, evaluation in found:
        s = evaluation["sets"][chosen]["injected"]
        points.append(_named(p) | {"accuracy": share(s["right"], s["total"]), "kl": _kl(p, evaluation)})
    # The "random:" of a method, as in random:embeddings, is not of the sweep.
    of_sweep = [p.config.lm for p in planned if not p.method.startswith(RANDOM)]
    return {
        "task": planned[0].config.task,
        "lm": of_sweep[0] if of_sweep else planned[0].config.lm.removeprefix(RANDOM),
        "set": chosen,
        "runs": len(planned),
        "points": points,
    }


def _named(one: Planned) -> dict[str, Any]:
    return {
        "method": one.method,
        "retention": one.retention,
        "seed": one.config.seed,
        "folder": one.folder.name,
    }


def _check_items(found: Sequence[tuple[Planned, Mapping[str, Any]]]) -> None:
    """Accuracies of other items are not compared; an evaluation of an earlier version has no digest of its own."""
    for p, evaluation in found:
        first, sets = found[0][1]["sets"], evaluation["sets"]
        for name in {**first, **sets}:
            a, b = first.get(name), sets.get(name)
            known = [s["digest"] for s in (a, b) if s and "digest" in s]
            same = a and b and a["injected"]["total"] == b["injected"]["total"]
            if not same or (len(known) == 2 and known[0] != known[1]):
                raise UserError(
                    f"{p.folder}: its set {name!r} is not that of {found[0][0].folder} (other items, or another "
                    "number); measure both again with one --items: tracr-jax evaluate RUN"
                )


def _kl(planned: Planned, evaluation: Mapping[str, Any]) -> float:
    """KL to the original of a finished run."""
    if "kl" not in evaluation["retention"]:
        raise UserError(
            f"{planned.folder}: evaluated by an earlier version, without KL to the original; measure it again: "
            f"tracr-jax evaluate {planned.folder}"
        )
    return evaluation["retention"]["kl"]


def hardest(accuracies: Sequence[Mapping[str, float]]) -> str:
    """The evaluation set that some runs together answer worst, training's own distribution apart; "" of no run.

    accuracies: of each run, by set.
    """
    names = list(accuracies[0]) if accuracies else []
    hard = [n for n in names if n not in _LEARNT] or names
    return min(hard, key=lambda n: sum(a[n] for a in accuracies), default="")
