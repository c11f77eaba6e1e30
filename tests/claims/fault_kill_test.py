"""kill -9 at random moments of a step, a checkpoint, the saving of a teacher and an export: nothing half is whole.

Ordinary tests have no room for it: a run that is killed has to be started (about 3 CPU seconds each).
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tracr_jax
from tests.helpers.random_models import write_random_gpt2
from tests.injection_test import USER_TASK
from tracr_jax.files import read_json
from tracr_jax.teacher import load_teacher
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.metrics import read_lines

pytestmark = pytest.mark.soak

# Seconds from the beginning of a phase within which the kill falls, a little more than the phase takes.
LASTS = {"teacher": 0.03, "step": 0.15, "checkpoint": 0.3, "export": 0.04}
# At which of its beginnings, counted in the process that is killed: behind a first checkpoint where there is one.
CALLS = {"teacher": (1, 3), "step": (4, 7), "checkpoint": (2, 4)}
CHAIN = ("teacher", "step", "checkpoint", "step", "checkpoint")


@pytest.fixture(scope="module")
def obey(tmp_path_factory):
    """An order to the process that forks -> the child's exit status."""
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.helpers.fault_process"],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    task = tmp_path_factory.mktemp("task") / "more.py"
    task.write_text(USER_TASK)
    text = task.with_name("text.txt")
    text.write_text("the number of this text is here\n" * 900)
    lm = task.with_name("lm")
    write_random_gpt2(lm, num_blocks=8, width=32, heads=2)
    common = {"task": f"{task}:TASK", "text": str(text), "lm": str(lm)}
    assert server.stdin
    assert server.stdout

    def order(**options):
        print(json.dumps(common | {k: str(v) if isinstance(v, Path) else v for k, v in options.items()}),
              file=server.stdin, flush=True)  # fmt: skip
        return int(server.stdout.readline())

    yield order
    server.stdin.close()
    assert server.wait(60) == 0
    server.stdout.close()


def assert_whole(folder, cache):
    """Whatever has a final name is whole; returns the step of the newest checkpoint."""
    for path in [*folder.glob("*.json")]:
        read_json(path)
    for path in [*folder.glob("programs/*/*.npz"), *cache.glob("**/*.npz")]:
        if not path.name.startswith("."):
            load_teacher(path).densify()
    lines = read_lines(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(len(lines)))
    if not (folder / "checkpoints").is_dir():
        return 0
    checkpoints = Checkpoints(folder / "checkpoints", read_only=True)
    found = checkpoints.latest() or 0
    checkpoints.close()
    assert found <= len(lines)  # a checkpoint never runs ahead of the numbers of its steps
    return found


def finished(folder):
    lines = read_lines(folder / "metrics.jsonl")
    return (
        read_json(folder / "evaluation.json")["sha256"],
        [{k: v for k, v in line.items() if k != "seconds"} for line in lines],
    )


def test_runs_that_are_killed_end_like_one_that_is_not(obey, tmp_path):
    rng = np.random.default_rng(20)
    straight = tmp_path / "straight"
    assert obey(do="inject", folder=straight, cache=tmp_path / "cache", resume=False) == 0
    kills, resumed = [], []
    for number in range(4):
        folder, cache = tmp_path / f"run{number}", tmp_path / f"cache{number}"
        for phase in CHAIN:
            there = assert_whole(folder, cache)
            moment = {"call": int(rng.integers(*CALLS[phase])), "delay": float(rng.uniform(0, LASTS[phase]))}
            whole = (folder / "config.json").exists()
            status = obey(do="inject", folder=folder, cache=cache, resume=whole, phase=phase, **moment)
            assert status in (0, -9)  # 0: the phase did not begin so often any more
            kills += [phase] * (status == -9)
            resumed.append(there)
            assert assert_whole(folder, cache) >= there
        whole = (folder / "config.json").exists()
        assert obey(do="inject", folder=folder, cache=cache, resume=whole) == 0
        assert finished(folder) == finished(straight)
        assert not [p for p in (folder / "checkpoints").iterdir() if not p.name.isdecimal()]
    places = ", ".join(f"{kills.count(phase)} in a {phase}" for phase in LASTS)
    print(f"fault: kill -9: {len(kills)} kills ({places}), 0 lost; they went on from steps {resumed}")
    assert len(kills) >= 18
    assert sum(there > 0 for there in resumed) >= 8  # the others start again, which proves less


def test_an_export_that_is_killed_leaves_no_folder(obey, tmp_path):
    rng = np.random.default_rng(21)
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert obey(do="inject", folder=run, cache=cache, resume=False) == 0
    out, killed, whole = tmp_path / "out", 0, 0
    for _ in range(40):  # until five fell into it: how long it takes differs from machine to machine
        if killed == 5:
            break
        delay = float(rng.uniform(0, LASTS["export"]))
        died = obey(do="export", folder=run, cache=cache, out=out, phase="export", call=1, delay=delay) == -9
        killed += died and not out.exists()
        if out.exists():  # not killed, or behind the last step: then it is all there
            tracr_jax.open(out)
            whole += 1
            out = tmp_path / f"out{whole}"
    assert obey(do="export", folder=run, cache=cache, out=out) == 0
    assert tracr_jax.open(out).adapter is not None
    print(f"fault: kill -9: {killed} kills in an export, {whole} more left a whole folder, 0 a half one")
    assert killed == 5
