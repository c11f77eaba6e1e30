"""Models that do not run the program, measured as the injected one is: what is read and used without an injection.

A linear map can be fitted to any model, and reads something from all of them; a swap moves something in all of
them. Each control is a model whose weights stay as they are, with an affine adapter fitted to it, in a run folder
of its own below the run's: the untouched model, the same architecture untrained, a fine-tuned model that answers
without the program, and the injected model itself with an adapter that has seen nothing of its training. Source:
docs/method.md §11.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.injection import inject
from tracr_jax.interpret.study import interpret
from tracr_jax.lm.load import LoadedLM, load_lm
from tracr_jax.names import RANDOM
from tracr_jax.presets import preset
from tracr_jax.progress import Say
from tracr_jax.report.data import last_layer, telling_noise
from tracr_jax.runs.baseline import check_baseline
from tracr_jax.runs.folder import about, check_folder, located
from tracr_jax.runs.model import Injected, opened
from tracr_jax.runs.original import began_with
from tracr_jax.runs.program_files import FILE as PROGRAM

FILE = "controls.json"
KINDS = ("untouched", "random", "refitted")
_STEPS = 300


def controls(
    run: str | Path | Injected,
    *,
    kinds: Sequence[str] = ("untouched", "random"),
    finetuned: str | Path | Injected | None = None,
    steps: int | None = None,
    prompts: int = 300,
    pairs: int = 60,
    items: int = 100,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure a run beside models without its program, and write controls.json into its folder.

    What is finished in the folders below RUN/controls is read, not made again.

    Args:
      run: the folder of a run, or what `inject` or `open` returned; an interpretation.json of it is read.
      kinds: of `KINDS`.
      finetuned: a run of the same task and model that was trained without alignment, as a further control.
      steps: in which an adapter is fitted; default those of the run, at most 300.
      prompts: test items under noise.
      pairs: pairs for each swapped variable and layer.
      items: items of each set, in the scorecard.
      say: receives a line before each stage.

    Returns:
      {"about", "rows"}, a row for the run and one for each control, see `row`.

    Raises:
      UserError: an unknown kind, the run lies in no folder, or the fine-tuned model is none of the same task.
    """
    unknown = sorted(set(kinds) - set(KINDS))
    if unknown:
        raise UserError(f"controls: unknown {', '.join(unknown)}; there are {', '.join(KINDS)}")
    started, run = time.time(), opened(run)
    folder, config = run.folder, run.program.config
    if folder is None or (folder / PROGRAM).exists():
        raise UserError(
            "controls: give the folder of a run, where the results are written; an export cannot hold them"
        )
    sizes = {"prompts": prompts, "pairs": pairs, "items": items, "seeds": (config.seed,)}
    fitted = fitting(config, steps=steps)
    others = models(run, kinds, finetuned)  # refused before anything is measured
    # Measured by other numbers of pairs and items its row would be no match for the others; the user's stays.
    apart, found = folder, _measured(folder, sizes, run.digest)
    if found is None and (folder / "interpretation.json").exists():
        apart = folder / "controls" / "injected"
        say(f"{folder / 'interpretation.json'}: of other sizes or weights; the run is measured again")
        found = _measured(apart, sizes, run.digest)
    found = found or interpret(run, folder=apart, say=say, **sizes)
    rows = {"injected": row(found)}
    for name, (source, model) in others.items():
        at = folder / "controls" / name
        own = dataclasses.replace(fitted, task=run.program.task.name, lm=source)
        there = (at / "config.json").exists()
        lm = dataclasses.replace(model(), name=own.lm)
        if there:
            try:
                check_folder(at, located(own), resume=True)
            except UserError as e:
                raise UserError(f"{at}: was fitted otherwise; remove that folder to fit it again ({e})") from e
            if not began_with(at, lm):  # of a run that has gone on since, or was made anew
                raise UserError(
                    f"{at}: was fitted to other weights of {own.lm}; remove that folder to fit it again"
                )
        found = _measured(at, sizes)
        if found is None:
            say(f"{name}: fitting an adapter")
            made = inject(run.program.task, lm=lm, config=own, folder=at, resume=there, progress=False)
            found = interpret(made, say=lambda line, name=name: say(f"{name}: {line}"), **sizes)
        rows[name] = row(found)
    result = {
        "about": about(started) | {"steps": fitted.steps} | sizes | {"seeds": [config.seed]},
        "weights": run.digest,
        "rows": rows,
    }
    write_json(folder / FILE, result)
    return result


def fitting(config: RunConfig, *, steps: int | None = None) -> RunConfig:
    """The options of a run that fits an affine adapter to a frozen model, with another's layers and items.

    Of a run with reserved directions, what fits an affine adapter is that of the default preset: alignment by
    variables, its rate, and the contrasts of the result's rows as its subspace.
    """
    losses, optim = config.losses, config.optim
    if losses.alignment not in ("variable", "cosine"):
        usual = preset("variable", task=config.task, lm=config.lm)
        losses = dataclasses.replace(losses, alignment="variable", result_span=usual.losses.result_span)
        optim = dataclasses.replace(optim, adapter_learning_rate=usual.optim.adapter_learning_rate)
    return dataclasses.replace(
        config,
        train="adapter",
        onto="",
        steps=min(config.steps, _STEPS) if steps is None else steps,
        losses=dataclasses.replace(losses, hook=False, retention_weight=0.0),
        optim=optim,
    )


def models(
    run: Injected, kinds: Sequence[str], finetuned: str | Path | Injected | None
) -> dict[str, tuple[str, Callable[[], LoadedLM]]]:
    """By name of the control: where its model comes from, and what loads it.

    Raises:
      UserError: see `check_baseline`.
    """
    config = run.program.config
    random = RANDOM + config.lm.removeprefix(RANDOM)
    known: dict[str, tuple[str, Callable[[], LoadedLM]]] = {
        "untouched": (config.lm, lambda: run.original),
        "random": (random, lambda: load_lm(random, dtype=config.dtype, seed=config.seed)),
        "refitted": (str(run.folder), lambda: run.lm),
    }
    out = {kind: known[kind] for kind in dict.fromkeys(kinds)}
    if finetuned is not None:
        other = opened(finetuned)
        check_baseline(other.program.config, config, folder=other.folder or "the fine-tuned run")
        out["finetuned"] = str(other.folder), lambda: other.lm
    return out


def row(interpretation: Mapping[str, Any]) -> dict[str, Any]:
    """What an interpretation.json says in a line; shares, None where nothing could be counted.

    "decoded": values read rightly on the test items at the last layer that encodes the variable, the mean over
    variables; "probe": the same of a linear probe of the untouched model, at that layer. "used" of "swapped"
    variables: as of `swaps`; "followed": the median over cells of the swaps that the answer follows where the base
    is right; "causal_abstraction_error": as of `swaps`. "noise": exact match by subspace, at the
    strength, also given, at which the result's and random directions differ most.
    """
    test = interpretation["scorecard"]["sets"]["test"]["classes"]["all"].values()
    at = [(v, layer) for v in test if (layer := last_layer(v["accuracy"])) is not None]
    last = {kind: [v[kind][layer] for v, layer in at] for kind in ("accuracy", "probe")}
    swapped, noise = interpretation["swaps"], telling_noise(interpretation["noise"])
    shares = [c["followed"]["answer"]["swap"] for c in swapped["cells"]]
    followed = [s["accuracy"] for s in shares if s["total"]]
    return {
        "decoded": _mean(last["accuracy"]),
        "probe": _mean(last["probe"]),
        "used": len(swapped["used"]),
        "swapped": len(swapped["swapped"]),
        "followed": median(followed) if followed else None,
        "causal_abstraction_error": swapped["causal_abstraction_error"],
        "noise": {kind: point["accuracy"] for kind, point in noise.items()},
        "strength": noise["result"]["strength"],
        "answered": interpretation["noise"]["kinds"]["result"][0]["accuracy"],
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _measured(folder: Path, sizes: Mapping[str, Any], weights: str | None = None) -> Mapping[str, Any] | None:
    """The folder's interpretation.json; None where it is missing, too old, or of other weights or sizes."""
    path = folder / "interpretation.json"
    found = read_json(path) if path.exists() else {}
    asked = found.get("about", {}).get("asked", {})
    same = all(asked.get(name) == (list(n) if isinstance(n, tuple) else n) for name, n in sizes.items())
    whole = "causal_abstraction_error" in found.get("swaps", {})
    return found if whole and same and weights in (None, found.get("weights")) else None
