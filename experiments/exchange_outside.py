"""Exchanging everything that no variable holds: what of it is a message, and what a disturbance.

    python -m experiments.exchange_outside RUN [RUN …]

`tracr-jax interpret` counts the answers that move when it takes a source item of another answer. Here the same
prompts also get a source of the same answer: what breaks then was not told by the source. Right answers only,
each cell of the swaps. Writes experiments/exchange/outside.json: for each run and layer, by the answers of base
and source, how many answers break of how many.
"""

import argparse
import dataclasses
from collections import defaultdict
from pathlib import Path

import numpy as np

from tracr_jax.files import read_json, write_json
from tracr_jax.interpret.pairs import PairFinder, Pairs, list_cells
from tracr_jax.interpret.pool import make_pool, sample_pool
from tracr_jax.interpret.swap import POOL, as_it_is, make_lm_swap, variable_bases
from tracr_jax.runs.model import Injected, open

FILE = Path(__file__).parent / "exchange" / "outside.json"


def broken(run: Injected, *, pairs: int, seed: int = 0) -> dict[str, dict[str, list[int]]]:
    """{layer: {"base answer <- source answer": [broken, of]}}; a source is any item as long as the base."""
    items, _ = sample_pool(run.program.task, run.program.bridge, items=POOL)
    pool = make_pool(run.program.task, run.program.bridge, items)
    answers = make_lm_swap(run, pool, variable_bases(run, pool))
    find, rng = PairFinder(pool, count=pairs, seed=seed), np.random.default_rng(seed)
    same_length = {i: group for group in pool.groups for i in group}
    results = [item.result for item in pool.items]
    out: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(lambda: [0, 0]))
    for cell in list_cells(run.program.teacher, pool.oracle)[0]:
        if not isinstance(found := find(cell), Pairs):
            continue
        own = [as_it_is(pool, p) for p in found.pairs if p.flips]
        right = [p for p, ok in zip(own, answers(cell, own, "none").answer, strict=True) if ok]
        for source in dict.fromkeys(results):
            chosen = []
            for p in right:
                others = [i for i in same_length[p.base] if i != p.base and results[i] == source]
                chosen += [dataclasses.replace(p, source=int(rng.choice(others)))] if others else []
            for p, kept in zip(chosen, answers(cell, chosen, "outside").answer, strict=True):
                count = out[str(cell.layer)][f"{_shown(results[p.base])} <- {_shown(source)}"]
                count[0] += not kept
                count[1] += 1
    return {layer: dict(of) for layer, of in sorted(out.items())}


def _shown(result: tuple) -> str:
    return " ".join(map(str, result))


def main() -> None:
    """Each run, the file rewritten after it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--pairs", type=int, default=60, help="for each cell")
    args = parser.parse_args()
    file = read_json(FILE) if FILE.exists() else {"runs": {}}
    for folder in args.runs:
        run = open(folder)
        config = run.program.config
        about = {"seed": config.seed, "steps": config.steps, "outside_share": config.exchange.outside_share}
        file["runs"][folder.name] = about | {"pairs": args.pairs, "layers": broken(run, pairs=args.pairs)}
        write_json(FILE, file)
        print(folder.name, file["runs"][folder.name], flush=True)


if __name__ == "__main__":
    main()
