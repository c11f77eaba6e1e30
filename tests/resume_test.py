"""A run goes on where it was cut, is made longer, and is not taken for another."""

import dataclasses
import json
import shutil

import chex
import jax.numpy as jnp
import pytest

import tracr_jax
from tests.helpers.small_runs import SMALL, trained
from tracr_jax import cli
from tracr_jax.cli import interrupt as cli_interrupt
from tracr_jax.config_file import RUN_FORMAT, read_config
from tracr_jax.errors import UserError
from tracr_jax.files import read_json
from tracr_jax.injection import inject
from tracr_jax.measure.answers import evaluate
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.metrics import read_lines
from tracr_jax.train.step import TrainParams, TrainState

pytestmark = pytest.mark.usefixtures("own_cache")


def test_resume_by_command_is_bit_for_bit(models, tmp_path, capsys, monkeypatch):
    common = ["inject", "dyck", "--lm", models(8), "--steps", "4", "--batch", "2", "--eval-items", "2"]
    common += ["--text-batch", "1", "--text-length", "8", "--checkpoint-every", "2"]
    cli.main([*common, "--folder", str(tmp_path / "straight")])
    folder = shutil.copytree(tmp_path / "straight", tmp_path / "cut")
    # As if killed during step 3: the newest checkpoint is gone, the metrics have more lines than it.
    shutil.rmtree(folder / "checkpoints" / "4")
    with pytest.warns(UserWarning, match="2 of 4 steps are done; finish it: tracr-jax resume"):
        tracr_jax.open(folder)
    with pytest.raises(SystemExit):  # its evaluation is of other weights
        cli.main(["export", str(folder), str(tmp_path / "exported")])
    assert "2 of 4 steps are done; finish it: tracr-jax resume" in capsys.readouterr().err
    (folder / "evaluation.json").unlink()
    slow = [line | {"seconds": 1000.0} for line in read_lines(folder / "metrics.jsonl")]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in slow))
    assert cli_interrupt.standing(folder) == (f"interrupted; tracr-jax resume {folder} goes on after step 2 of 4")
    monkeypatch.chdir(tmp_path)  # nothing is retyped, and nothing depends on where it is typed
    cli.main(["resume", str(folder)])
    assert "resumed after 2 of 4 steps" in capsys.readouterr().out
    assert 2000 < json.loads((folder / "run.json").read_text())["times"]["training_s"] < 2900  # of all steps
    a, b = (trained(tracr_jax.open(tmp_path / n)) for n in ("straight", "cut"))
    chex.assert_trees_all_equal(a, b)
    lines = [
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(tmp_path / n / "metrics.jsonl")]
        for n in ("straight", "cut")
    ]
    assert lines[0] == lines[1]
    evaluations = [(tmp_path / n / "evaluation.json").read_text() for n in ("straight", "cut")]
    assert evaluations[0] == evaluations[1]
    assert cli_interrupt.standing(folder).startswith("interrupted; all 4 steps are trained and saved, tracr-jax")


def test_a_finished_run_is_made_longer(models, tmp_path, capsys):
    common = ["inject", "dyck", "--lm", models(8), "--batch", "2", "--eval-items", "2", "--text-batch", "1"]
    common += ["--text-length", "8", "--checkpoint-every", "1", "--folder", str(tmp_path / "run")]
    cli.main([*common, "--steps", "2"])
    folder, before = tmp_path / "run", (tmp_path / "run" / "evaluation.json").read_bytes()
    for steps in ("2", "1"):
        with pytest.raises(SystemExit):
            cli.main(["resume", str(folder), "--steps", steps])
        assert "is a run of 2 steps; give more, or leave out --steps" in " ".join(capsys.readouterr().err.split())
    assert (folder / "evaluation.json").read_bytes() == before
    cli.main(["resume", str(folder), "--steps", "3"])
    assert "resumed after 2 of 3 steps" in capsys.readouterr().out
    assert read_config(folder).steps == 3
    told = json.loads((folder / "run.json").read_text())
    assert told["steps_before"] == [{"steps": 2, "until": 2}]
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [0, 1, 2]
    assert (folder / "evaluation.json").read_bytes() != before
    cli.main(["resume", str(folder)])  # nothing to do; what was said of it stays
    assert json.loads((folder / "run.json").read_text())["steps_before"] == told["steps_before"]
    # By the rate of a run of three steps from there on: it is not the run that had them from its beginning.
    shutil.rmtree(folder / "checkpoints" / "3")
    cli.main(["resume", str(folder), "--steps", "4"])
    assert json.loads((folder / "run.json").read_text())["steps_before"][1] == {"steps": 3, "until": 2}


def test_a_built_in_task_with_other_settings_is_not_taken_for_the_one_of_its_name(models, tmp_path):
    task, folder, message = Dyck(min_length=6), tmp_path / "run", "the run was made with another dyck"
    inject(task, lm=models(8), config=SMALL, folder=folder, progress=False)
    with pytest.raises(UserError, match=message):
        evaluate(tracr_jax.open(folder))
    with pytest.raises(UserError, match=message):
        tracr_jax.resume(folder, progress=False)
    assert tracr_jax.open(folder, task=task).program.task is task
    tracr_jax.resume(folder, task=task, progress=False)


def test_weights_that_were_not_measured_are_refused(models, tmp_path):
    """As one flipped bit in what orbax wrote would leave them; its data have no checksum."""
    folder = tmp_path / "run"
    run = inject("dyck", lm=models(8), config=SMALL, folder=folder, progress=False)
    assert read_json(folder / "evaluation.json")["weights"] == run.digest == tracr_jax.open(folder).digest
    saved = Checkpoints(folder / "checkpoints", read_only=True)
    like = TrainParams(run.params, tuple(p.trainable for p in run.programs))
    held = saved.restore_params(like)
    saved.close()
    held.lm["wpe"]["embedding"] = held.lm["wpe"]["embedding"].at[3, 5].add(1e-3)
    shutil.rmtree(folder / "checkpoints")
    others = Checkpoints(folder / "checkpoints")
    others.save(TrainState(jnp.int32(SMALL.steps), held, {"unused": jnp.zeros(1)}))
    others.close()
    with pytest.raises(UserError, match=r"the weights \([0-9a-f]{12}\) are not those that evaluation.json was"):
        tracr_jax.open(folder)
    (folder / "evaluation.json").unlink()
    assert tracr_jax.open(folder).digest != run.digest


def test_folders_are_not_mixed(models, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty and holds no run"):
        inject("dyck", lm=models(8), config=SMALL, folder=run, progress=False)
    (run / "notes.txt").unlink()
    with pytest.raises(UserError, match="nothing to resume"):
        inject("dyck", lm=models(8), config=SMALL, folder=run, resume=True, progress=False)
    saved = dataclasses.replace(SMALL, task="dyck", lm=models(8))
    (run / "config.json").write_text(json.dumps(dataclasses.asdict(saved) | {"format": RUN_FORMAT}))
    with pytest.raises(UserError, match="already holds a run"):
        inject("dyck", lm=models(8), config=SMALL, folder=run, progress=False)
    with pytest.raises(UserError, match=r"other options \(steps 4 -> 5\)"):
        inject(
            "dyck",
            lm=models(8),
            config=dataclasses.replace(SMALL, steps=5),
            folder=run,
            resume=True,
            progress=False,
        )
