"""A program of your own, from RASP to a table of its variables inside a language model.

    python experiments/own_program.py                 # the bundled model; about two minutes on two cores
    python experiments/own_program.py FOLDER STEPS    # another model, more steps

Afterwards, for any text:  tracr-jax decode runs/own_program "What is the text x z y\\nAnswer:"
"""

import sys
from pathlib import Path

from rich.console import Console
from tracr.rasp import rasp

import tracr_jax


def an_x_before_a_y():
    """True once some y has an x somewhere before it."""
    xs = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "x")).named(
        "xs_so_far"
    )
    hit = rasp.SequenceMap(lambda n, token: n > 0 and token == "y", xs, rasp.tokens).named("y_after_an_x")
    hits = rasp.SelectorWidth(rasp.Select(hit, rasp.tokens, lambda key, query: key)).named("hits_so_far")
    return rasp.Map(lambda n: n > 0, hits).named("found")


TASK = tracr_jax.StringTask("an_x_before_a_y", an_x_before_a_y, letters=("x", "y", "z"))


def main(lm: str = "tiny", steps: int = 150, folder: str = "runs/own_program") -> None:
    config = tracr_jax.RunConfig(
        steps=steps, eval_items=60, data=tracr_jax.DataConfig(batch=8, text_batch=2, text_length=32)
    )
    run = tracr_jax.inject(f"{Path(__file__).resolve()}:TASK", lm=lm, config=config, folder=folder)
    for name, numbers in run.evaluation["sets"].items():
        print(f"{name}: {numbers['injected']['accuracy']:.0%} right, {numbers['original']['accuracy']:.0%} before")
    Console().print(tracr_jax.decode(run, "What is the text z y x z y\nAnswer:"))


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(int, sys.argv[2:3]))
