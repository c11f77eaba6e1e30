"""experiments/record.py keeps a run's numbers as they are, and says in one line what is not there."""

import pytest

from experiments import record
from tracr_jax.files import read_json, write_json


def test_a_record_is_the_run_folders_files(tmp_path):
    run, out = tmp_path / "run", tmp_path / "out.json"
    run.mkdir()
    files = {"run": {"times": {"training_s": 1.5}}, "config": {"steps": 3}, "evaluation": {"sets": {}}}
    for name, content in files.items():
        write_json(run / f"{name}.json", content)
    record.main([str(run), str(out)])
    assert read_json(out) == files
    found = {"about": {"command": ["x"]}, "noise": [1], "swaps": [2]}
    write_json(run / "interpretation.json", found | {"scorecard": [3]})
    record.main(["--interpretation", str(run), str(out)])
    assert read_json(out) == found


def test_what_is_not_there_is_one_line_and_nothing_is_written(tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "out.json"
    run.mkdir()
    write_json(run / "interpretation.json", {"about": {}, "noise": []})
    for argv, said in (([], "run.json"), (["--interpretation"], "has no swaps; run tracr-jax interpret")):
        with pytest.raises(SystemExit) as stop:
            record.main([*argv, str(run), str(out)])
        assert stop.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ")
        assert said in line
    assert not out.exists()
