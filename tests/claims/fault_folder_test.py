"""Run folders whose files are damaged, as the commands read them that come after training."""

import json
import shutil

import pytest

from tests.helpers import fault_parts as F
from tests.helpers.report_data import PROMPTS, make_run
from tests.train.checkpoint_test import state, write
from tracr_jax.config import RunConfig
from tracr_jax.config_file import read_config, to_dict
from tracr_jax.files import read_json, write_json
from tracr_jax.report.load import blaming, load_runs
from tracr_jax.report.page import page
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.metrics import JsonLines


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A small finished run: one example, ten steps."""
    folder = make_run(tmp_path_factory.mktemp("runs") / "run", prompts=PROMPTS[:1])
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[:10]))
    value = read_json(folder / "interpretation.json")
    sets = value["scorecard"]["sets"]
    value["scorecard"]["sets"] = {"test": {**sets["test"], "classes": {"all": sets["test"]["classes"]["all"]}}}
    write_json(folder / "interpretation.json", value)
    return folder


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("config.json", 40),
        ("run.json", 20),
        ("evaluation.json", 60),
        ("retention.json", 20),
        ("interpretation.json", 60),
    ],
)
def test_the_report_of_a_damaged_run(name, count, run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    whole = read_json(folder / name)

    def read(content):
        (folder / name).write_bytes(content)
        runs = load_runs([folder])
        with blaming(runs):
            page(runs)

    cases = [(str(i), F.odd_texts(whole, i + 1)) for i in range(count)]
    F.survives(f"report of a run's {name}", read, cases, says=str(folder), count=count, refused=count // 4)


def test_config_json_of_a_run(tmp_path):
    path = tmp_path / "config.json"
    whole = to_dict(RunConfig())

    def read(content):
        path.write_bytes(content)
        to_dict(read_config(tmp_path))

    cases = [(str(i), F.odd_texts(whole, i)) for i in range(F.CASES)]
    F.survives("config.json of a run", read, cases, says=str(path))


def test_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": i, "loss": 1.5, "alignment_parts": [1.0, 2.0]}) for i in range(20)]
    whole = ("\n".join(lines) + "\n").encode()

    def read(content):
        path.write_bytes(content)
        JsonLines(path, keep_below=10).close()

    cases = [(f"bytes {i}", F.damaged(whole, i)) for i in range(F.CASES // 2)]
    for i in range(F.CASES // 2):
        odd = [json.loads(x) for x in lines]
        odd[i % 20] = F.odd_json(odd[i % 20], i) if i % 3 else F.ODD[i % len(F.ODD)]
        cases.append((f"odd {i}", ("\n".join(map(json.dumps, odd)) + "\n").encode()))
    F.survives("metrics.jsonl", read, cases, says=str(path), refused=F.CASES // 4)


# Orbax leaves calls to its event loop behind when it fails.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_checkpoints(tmp_path):
    write(tmp_path / "whole", 1, 2)
    like = state(0)
    files = sorted(p for p in (tmp_path / "whole" / "2").rglob("*") if p.is_file())

    def read(number):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", folder)
        path = folder / files[number % len(files)].relative_to(tmp_path / "whole")
        kind = number // len(files) % 10
        if kind == 0:
            path.unlink()
        elif kind == 1:
            shutil.rmtree(path.parent)
        else:
            path.write_bytes(F.damaged(path.read_bytes() or b"\x00", number))
        checkpoints = Checkpoints(folder, read_only=True)
        try:
            if checkpoints.latest() is not None:  # the folder of the newest may be the one that is gone
                checkpoints.restore(like)
        finally:
            checkpoints.close()

    cases = [(f"{i}: {files[i % len(files)].name}", i) for i in range(F.CASES)]
    F.survives("checkpoints", read, cases, says=str(tmp_path / "run"), refused=F.CASES // 4, memory=1 << 33)
