"""`tracr-jax interpret` from end to end on a random model: the file for the report, the tables, the refusals."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from tests.helpers.interpret_perfect import random_run
from tracr_jax import cli
from tracr_jax.errors import UserError
from tracr_jax.interpret.examples import describe_variables
from tracr_jax.interpret.study import interpret
from tracr_jax.report.terminal.summary import print_interpretation
from tracr_jax.types import Adapter


def untrained():
    """A random GPT-2 with a random adapter."""
    run = random_run()
    shape = (run.program.teacher.width, run.model.width)
    rows = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    program = run.program.trained(Adapter(rows, np.zeros(shape[0], np.float32)))
    return dataclasses.replace(run, programs=(program,))


SHARE = {"accuracy", "low", "high", "right", "total"}


def test_the_file_that_the_report_reads(tmp_path, monkeypatch):
    run = untrained()
    stages, said = [], []
    for module in ("noise", "swap"):
        monkeypatch.setattr(f"tracr_jax.interpret.{module}.report", lambda *now: stages.append(now))
    result = interpret(
        run,
        prompts=5,
        pairs=4,
        items=3,
        probe_items=200,
        seeds=(0, 1),
        folder=tmp_path,
        say=said.append,
    )
    assert json.loads((tmp_path / "interpretation.json").read_text()) == result
    depth, names = run.program.teacher.num_layers, [v.name for v in run.program.teacher.variables]
    assert result["about"]["depth"] == depth
    assert result["about"]["blocks"] == run.model.num_blocks
    assert set(result["about"]["seconds"]) == {"scorecard", "noise", "swaps", "examples"}
    assert [v["name"] for v in result["variables"]] == names
    assert result["scorecard"]["layers"] == depth + 1
    assert len(result["examples"][0]["layers"]) == depth + 1

    noise = result["noise"]
    assert set(noise["kinds"]) == {"result", "complement", "random"}
    for points in noise["kinds"].values():
        assert [p["strength"] for p in points] == [0, 5, 10, 30]
        assert all(set(p) >= SHARE and len(p["per_seed"]) == 2 for p in points)
        assert [p["total"] for p in points] == [5, 10, 10, 10]

    swapped = result["swaps"]
    assert swapped["cells"]
    for c in swapped["cells"]:
        assert set(c) >= {"variable", "layer", "total", "match", "controls", "ceiling", "unmoved", "flips"}
        assert set(c["controls"]) == {"random", "complement", "other"}
        assert all(set(s) == SHARE for s in (c["match"], c["ceiling"], c["unmoved"], *c["controls"].values()))
        assert c["ceiling"]["accuracy"] == 1
    # Each variable is swapped or left out with a reason.
    told = {o["variable"] for o in swapped["left_out"]}
    assert told | {c["variable"] for c in swapped["cells"]} == set(names)
    assert all(set(o) == {"variable", "layer", "reason"} for o in swapped["left_out"])
    assert [line for line in said if " " not in line] == ["noise", "swaps"]
    # A bar can be drawn: each part ends where it said it would.
    for what in ("noise", "swaps"):
        steps = [(done, of) for w, done, of in stages if w == what]
        assert steps[-1][0] == steps[-1][1] == len(steps)

    console = Console(width=100, record=True, file=io.StringIO())
    print_interpretation(console, result, result_name=run.program.teacher.result)
    text = console.export_text()
    for word in ("the result (rank 2)", "final_result_1", "ceiling", "reasons in interpretation.json"):
        assert word in text


def test_variables_with_their_layers():
    found = {v["name"].rsplit("_", 1)[0]: v for v in describe_variables(random_run())}
    depth = random_run().program.teacher.num_layers
    assert found["final_result"]["last_reader_layer"] == depth == found["final_result"]["writer_layer"]
    assert found["final_result"]["values"] == ["False", "True"]
    assert found["()_diffs"]["last_reader_layer"] == 2
    assert found["(_start_counts"]["writer_layer"] == 1
    assert found["one"]["kind"] == "numerical"
    assert found["one"]["last_reader_layer"] is None


def test_what_makes_no_sense_is_refused(tmp_path, capsys):
    with pytest.raises(UserError, match="prompts must be at least 1, got 0"):
        interpret(untrained(), prompts=0)
    with pytest.raises(UserError, match="number of seeds must be at least 1, got 0"):
        interpret(untrained(), seeds=())
    with pytest.raises(UserError, match=r"not a run folder, there is no config\.json"):
        interpret(tmp_path)
    with pytest.raises(SystemExit):
        cli.main(["interpret", str(tmp_path), "--pair", "3"])
    assert "did you mean --pairs" in capsys.readouterr().err
