"""A run knows which model it began with, and every reader of its folder refuses another."""

import dataclasses
import json
import shutil

import chex
import jax
import pytest

import tracr_jax
from tests.helpers.programs_parts import SMALL, model_and_tasks
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.load import load_lm, read_model
from tracr_jax.measure.answers import evaluate
from tracr_jax.runs.program_files import is_hub_id, save_program

CONFIG = dataclasses.replace(SMALL, steps=2, eval_items=2, checkpoint_every=1)


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(folder, the run): two steps of all weights in folder/run, of the model in folder/lm; folder/export."""
    folder = tmp_path_factory.mktemp("original")
    with model_and_tasks(folder):
        run = inject(folder, folder / "run", lm=str(folder / "lm"))
        tracr_jax.export_run(run, folder / "export")
        yield folder, run


def inject(folder, to, *, task="ODD", **options):
    config = dataclasses.replace(CONFIG, train=options.pop("train", "all"))
    return tracr_jax.inject(f"{folder}/tasks.py:{task}", config=config, folder=to, progress=False, **options)


@pytest.fixture
def changed(room):
    """The folder, in which the model that the run began with has other weights of the same shape."""
    folder, _ = room
    shutil.copytree(folder / "lm", folder / "kept")
    lm = load_lm(str(folder / "lm"))
    save_hf_folder(folder / "lm", lm.model, jax.tree.map(lambda x: x + 0.01, lm.params), lm.tokenizer)
    yield folder
    shutil.rmtree(folder / "lm")
    (folder / "kept").rename(folder / "lm")


@pytest.mark.parametrize("name", ["run", "export"])
def test_the_original_is_the_model_it_began_with(room, monkeypatch, name):
    folder, run = room
    monkeypatch.chdir(folder)  # an export has no path of the machine it was made on, only the last name
    chex.assert_trees_all_equal(tracr_jax.open(folder / name).original.params, run.original.params)
    lm = load_lm(str(folder / "lm"))
    chex.assert_trees_all_equal(tracr_jax.open(folder / name, lm=lm).original.params, lm.params)


@pytest.mark.parametrize("name", ["run", "export"])
def test_another_model_of_the_same_name_is_refused(changed, monkeypatch, name):
    monkeypatch.chdir(changed)
    opened = tracr_jax.open(changed / name)  # reading what was trained needs no original
    with pytest.raises(UserError, match=r"has changed since the run began.*its weights were \w{12}, these are"):
        _ = opened.original
    with pytest.raises(UserError, match="has changed since the run began"):
        tracr_jax.open(changed / name, lm=load_lm(str(changed / "lm")))


def test_a_run_of_all_weights_does_not_go_on_with_another_original(changed, tmp_path):
    copy = shutil.copytree(changed / "run", tmp_path / "run")
    with pytest.raises(UserError, match="has changed since the run began"):
        tracr_jax.resume(copy, progress=False)
    with pytest.raises(UserError, match="has changed since the run began"):
        inject(changed, tmp_path / "second", task="MANY", onto=copy)


def test_a_run_does_not_go_on_with_another_tokenizer_or_text(room, tmp_path):
    """What it is trained on from there on would be something else; nothing of its folder is touched."""
    folder, _ = room
    room = shutil.copytree(folder / "lm", tmp_path / "lm")
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time there was a girl. " * 60)
    data = dataclasses.replace(CONFIG.data, text=str(text))
    options = {"lm": str(room), "config": dataclasses.replace(CONFIG, data=data), "progress": False}
    run = tracr_jax.inject(f"{folder}/tasks.py:ODD", folder=tmp_path / "run", **options)
    shutil.rmtree(run.folder / "checkpoints" / "2")
    kept = {p: p.read_bytes() for p in sorted((run.folder / "programs").rglob("*")) if p.is_file()}

    def refused():
        with pytest.raises(
            UserError, match=r"the batches are not those of the run so far .* text, its model's tok"
        ):
            tracr_jax.resume(run.folder, progress=False)
        assert {p: p.read_bytes() for p in kept} == kept

    text.write_text("Once upon a time there was a girl. " * 59 + "Once upon a time there was a grrl. ")
    refused()
    text.write_text("Once upon a time there was a girl. " * 60)
    file = room / "tokenizer.json"
    before = file.read_text()
    said = json.loads(before)
    vocab = said["model"]["vocab"]
    a, b = (next(t for t, i in vocab.items() if i == k) for k in (300, 301))
    vocab[a], vocab[b] = vocab[b], vocab[a]
    file.write_text(json.dumps(said))
    refused()
    file.write_text(before)
    assert len(tracr_jax.resume(run.folder, progress=False).evaluation["sets"]) > 0


def test_a_finished_runs_numbers_are_read_with_it(room, tmp_path):
    folder, run = room
    assert tracr_jax.open(folder / "run").evaluation == run.evaluation
    copy = shutil.copytree(folder / "run", tmp_path / "run")
    (copy / "evaluation.json").unlink()
    assert tracr_jax.open(copy).evaluation is None
    with pytest.raises(UserError, match=r"needs the model's measured numbers: .* by tracr-jax evaluate .*run"):
        tracr_jax.export_run(tracr_jax.open(copy), tmp_path / "export")


def test_a_model_that_has_diverged_is_said_and_measured_no_further(room):
    folder, _ = room
    run = tracr_jax.open(folder / "run")
    large = dataclasses.replace(run, params=jax.tree.map(lambda x: x * 1e6, run.params))
    with pytest.raises(TrainingDivergedError, match=r"the trained model has diverged: .* its perplexity is inf"):
        evaluate(large, items=2)


def test_a_trained_model_is_named_by_its_folder_and_a_run_that_begins_with_it_is_read_back(room, tmp_path):
    folder, run = room
    assert run.lm.name == str(run.folder)
    second = inject(folder, tmp_path / "second", lm=run.lm, train="blocks:0-3")
    assert json.loads((tmp_path / "second" / "config.json").read_text())["lm"] == str(run.folder)
    again = tracr_jax.open(tmp_path / "second", lm=run.lm)
    chex.assert_trees_all_equal(again.params, second.params)
    chex.assert_trees_all_equal(again.original.params, run.params)
    with pytest.raises(UserError, match="of a run, not of a model; write its model first: tracr-jax export"):
        _ = tracr_jax.open(tmp_path / "second").original
    with pytest.raises(UserError, match="of a run, not of a model"):
        read_model(run.folder)


@pytest.mark.parametrize(
    ("lm", "kept"),
    [
        ("random:openai-community/gpt2", "random:openai-community/gpt2"),
        ("random:./mymodel", "random:mymodel"),
        ("random:tiny", "random:tiny"),
        ("/home/me/mymodel", "mymodel"),
        ("owner/model", "owner/model"),
    ],
)
def test_an_export_says_that_a_model_was_untrained(room, tmp_path, lm, kept):
    _, run = room
    program = dataclasses.replace(run.program, config=dataclasses.replace(run.program.config, lm=lm))
    save_program(tmp_path, program, width=run.model.width, shareable=True)
    assert json.loads((tmp_path / "program.json").read_text())["run"]["lm"] == kept
    assert not is_hub_id("random:owner/model")


def test_an_evaluation_is_of_its_program(room, tmp_path):
    _, run = room
    earlier = dataclasses.replace(run.program, name="earlier")
    both = dataclasses.replace(run, programs=(earlier, run.program))
    assert both.of(run.program.name).evaluation is run.evaluation
    assert both.of("earlier").evaluation is None
    with pytest.raises(UserError, match=f"the evaluation is of {run.program.name}, the export of earlier"):
        tracr_jax.export_run(both.of("earlier"), tmp_path / "out", evaluation=run.evaluation)
    assert not (tmp_path / "out").exists()


def test_a_model_that_computes_in_another_type_is_refused(room, tmp_path):
    """The configuration's type is the run's; without one it is the loaded model's."""
    folder, _ = room
    lm = load_lm(str(folder / "lm"), dtype="bfloat16")
    message = "was loaded to compute in bfloat16, the run's configuration says float32; load it by load_lm"
    for use in (
        lambda: inject(folder, tmp_path / "run", lm=lm),
        lambda: tracr_jax.resume(folder / "run", lm=lm),
        lambda: tracr_jax.open(folder / "run", lm=lm),
    ):
        with pytest.raises(UserError, match=message):
            use()
    assert not (tmp_path / "run").exists()
