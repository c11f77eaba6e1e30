"""Run folders as the report reads them: what is missing, what is damaged, what the runs are called."""

import pytest

from tests.helpers.report_data import make_run
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.report.load import load_runs


def test_names_are_the_shortest_that_differ(tmp_path):
    a, b, c = (make_run(tmp_path / x / y) for x, y in (("x", "run"), ("y", "run"), ("y", "other")))
    assert [r.name for r in load_runs([a, c])] == ["run", "other"]
    assert [r.name for r in load_runs([a, b, c])] == ["x/run", "y/run", "y/other"]


def test_missing_files_are_none(tmp_path):
    every = ("run.json", "evaluation.json", "retention.json", "interpretation.json", "metrics.jsonl")
    (r,) = load_runs([make_run(tmp_path / "run", leave_out=every)])
    assert (r.evaluation, r.retention, r.interpretation) == (None, None, None)
    assert (dict(r.about), list(r.metrics), dict(r.sets), list(r.variables)) == ({}, [], {}, [])
    assert r.part("noise") is None


def test_damage_is_one_line_with_the_file(tmp_path):
    folder = make_run(tmp_path / "run")
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match=r"evaluation\.json: damaged"):
        load_runs([folder])
    write_json(folder / "evaluation.json", [1])
    with pytest.raises(UserError, match=r"evaluation\.json: expected an object, got list"):
        load_runs([folder])
    write_json(folder / "evaluation.json", {"items_per_set": 3})
    with pytest.raises(UserError, match=r"evaluation\.json: no 'sets'"):
        load_runs([folder])


def test_a_part_of_another_version_is_named(tmp_path):
    folder = make_run(tmp_path / "run")
    value = read_json(folder / "interpretation.json")
    del value["swaps"]["cells"]
    write_json(folder / "interpretation.json", value)
    with pytest.raises(UserError, match=r"'swaps': no 'cells'"):
        load_runs([folder])


def test_the_baseline_is_known_by_its_losses(tmp_path):
    runs = load_runs([make_run(tmp_path / "a"), make_run(tmp_path / "b", baseline=True)])
    assert [r.is_baseline for r in runs] == [False, True]
