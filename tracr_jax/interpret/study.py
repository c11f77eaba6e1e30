"""What a trained run shows and uses of its program, in one file. Library form of `tracr-jax interpret`.

The parts of interpretation.json: the scorecard of decoded variables, noise in the result subspace, counterfactual
swaps, and a few items shown token by token. Source: docs/method.md §11; the swaps are ours.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tracr_jax.errors import UserError
from tracr_jax.files import write_json
from tracr_jax.interpret.examples import describe_variables, examples
from tracr_jax.interpret.noise import SEEDS, noise_curves
from tracr_jax.interpret.scorecard import scorecard
from tracr_jax.interpret.swap import swaps
from tracr_jax.progress import Say
from tracr_jax.runs.folder import about
from tracr_jax.runs.model import Injected
from tracr_jax.runs.model import opened as opened_run


def interpret(
    run: str | Path | Injected,
    *,
    prompts: int = 1000,
    pairs: int = 100,
    items: int = 300,
    probe_items: int = 2000,
    seeds: Sequence[int] = SEEDS,
    as_coded: bool = False,
    folder: str | Path | None = None,
    say: Say = lambda line: None,
) -> dict[str, Any]:
    """Measure what a run's model shows and uses of its program, and write interpretation.json into its folder.

    Args:
      run: the folder of a run or of an export, or what `inject` or `open` returned.
      prompts: test items under noise.
      pairs: pairs for each swapped variable and layer.
      items: items of each set in the scorecard.
      probe_items: training items that the scorecard's probe learns from.
      seeds: of the noise, each a pass over all prompts; the first also decides pairs and random directions.
      as_coded: the original's uniform rows for the random subspace.
      folder: where the file goes; default the run's own folder.
      say: receives a line before each stage.

    Returns:
      The content of interpretation.json.

    Raises:
      UserError: a number is less than one, a seed none of 32 bits, no seed is given, or the folder is no run.
    """
    sizes = {"prompts": prompts, "pairs": pairs, "items": items, "probe_items": probe_items}
    for name, value in (sizes | {"number of seeds": len(seeds)}).items():
        if value < 1:
            raise UserError(f"interpret: {name} must be at least 1, got {value}")
    if wrong := [seed for seed in seeds if not 0 <= seed < 1 << 32]:
        raise UserError(f"interpret: seeds must be from 0 to {(1 << 32) - 1:,}, got {wrong[0]}")
    started = time.time()
    if isinstance(run, str | Path):
        say("opening the run")
    asked = sizes | {"seeds": list(seeds), "as_coded": as_coded}
    opened = opened_run(run)
    opened.trained_adapter  # noqa: B018 - says why there is none, before anything is computed
    folder = folder or opened.folder
    seconds: dict[str, float] = {}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        before = time.perf_counter()
        found = part()
        seconds[name] = round(time.perf_counter() - before, 1)
        return found

    card = timed("scorecard", lambda: scorecard(opened, items=items, probe_items=probe_items, say=say))
    say("noise")
    noise = timed("noise", lambda: noise_curves(opened, prompts=prompts, seeds=seeds, as_coded=as_coded))
    say("swaps")
    swapped = timed("swaps", lambda: swaps(opened, pairs=pairs, seed=seeds[0]))
    shown = timed("examples", lambda: examples(opened, say=say))
    blocks, depth = opened.model.num_blocks, opened.program.depth
    result = {
        "about": about(started) | {"seconds": seconds, "blocks": blocks, "depth": depth, "asked": asked},
        "weights": opened.digest,  # what is read later is of no others
        "variables": describe_variables(opened),
        "scorecard": card,
        "noise": noise,
        "swaps": swapped,
        "examples": shown,
    }
    if folder:
        write_json(Path(folder) / "interpretation.json", result)
    return result
