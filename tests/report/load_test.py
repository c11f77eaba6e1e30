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


@pytest.mark.parametrize("name", ["interpretation", "retention", "controls"])
def test_what_was_measured_of_other_weights_is_left_out_and_said(tmp_path, name):
    folder = make_run(tmp_path / "run")
    path, evaluation = folder / f"{name}.json", folder / "evaluation.json"
    write_json(evaluation, read_json(evaluation) | {"weights": "b" * 64})
    value = read_json(path) if path.exists() else {"rows": {}}
    write_json(path, value)  # of a version that did not say
    assert getattr(load_runs([folder])[0], name) == value
    write_json(path, value | {"weights": "b" * 64})
    assert getattr(load_runs([folder])[0], name) is not None
    write_json(path, value | {"weights": "a" * 64})
    with pytest.warns(
        UserWarning, match=r"of other weights \(aaaaaaaaaaaa\) than evaluation\.json \(bbbbbbbbbbbb\)"
    ):
        (run,) = load_runs([folder])
    assert getattr(run, name) is None
