"""Small programs, and a configuration that trains them in seconds; for tests of runs."""

import contextlib

import pytest

from tests.helpers.random_models import write_random_gpt2
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import DataConfig, OptimConfig, RunConfig

SMALL = RunConfig(
    steps=40,
    eval_items=6,
    checkpoint_every=20,
    data=DataConfig(batch=4, text_batch=1, text_length=8, text=str(SHORT_TEXT)),
    optim=OptimConfig(warmup_steps=0, learning_rate=1e-2),
)
LIMITS = "limits.txt"  # what the tasks' file reads
TASKS = """
from pathlib import Path

from tracr.rasp import rasp
from tracr_jax.tasks.strings import StringTask

LONGEST = int(Path(__file__).with_name("limits.txt").read_text())


def count(letter):
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == letter))


def task(name, build):
    return StringTask(name, build, letters=("x", "y"), max_length=LONGEST)


ODD = task("odd", lambda: rasp.Map(lambda n: n % 2 == 1, count("x").named("xs")))
MORE = task("more", lambda: rasp.SequenceMap(lambda x, y: x > y, count("x").named("xs"), count("y").named("ys")))
MANY = task("many", lambda: rasp.Map(lambda n: n > 2, count("y").named("ys")))
"""


def write_tasks(folder):
    """`TASKS` as "tasks.py", with what it reads."""
    (folder / "tasks.py").write_text(TASKS)
    (folder / LIMITS).write_text("12")


@contextlib.contextmanager
def model_and_tasks(folder):
    """A folder with a small random model "lm" and the files of `write_tasks`, and with caches of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", str(folder / "cache"))
        write_random_gpt2(folder / "lm", num_blocks=6, width=32, heads=2)
        write_tasks(folder)
        yield
