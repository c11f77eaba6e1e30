"""Several programs in one model: what a run onto another trains, keeps, measures and refuses."""

import dataclasses
import shutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import tracr_jax
from tests.helpers.bounds import assert_same
from tests.helpers.programs_parts import SMALL, model_and_tasks
from tests.helpers.random_models import write_random_gpt2
from tracr_jax import cli
from tracr_jax.config import LossConfig, RunConfig
from tracr_jax.config_file import read_config
from tracr_jax.data.samples import reported_samples
from tracr_jax.errors import UserError
from tracr_jax.export.card import model_card
from tracr_jax.files import read_json, write_json
from tracr_jax.injection import inject
from tracr_jax.lm.load import load_lm
from tracr_jax.measure.answers import make_predictor
from tracr_jax.runs.build import build, make_batch_at, make_parts
from tracr_jax.runs.folder import default_folder
from tracr_jax.runs.onto import open_earlier
from tracr_jax.runs.program_files import describe_program
from tracr_jax.runs.record import read_record
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.metrics import read_lines
from tracr_jax.train.step import Frozen, TrainParams, TrainState, make_loss_fn


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A folder with a small random model, the tasks' file, and three runs, each onto the one before."""
    folder = tmp_path_factory.mktemp("programs")
    with model_and_tasks(folder):
        onto = None
        for name in ("ODD", "MORE", "MANY"):
            # The second program has other losses and another seed than the first: each keeps its own.
            losses = LossConfig(alignment="cosine" if name == "MORE" else "variable")
            config = dataclasses.replace(SMALL, losses=losses, seed=len(name), steps=40 if name == "ODD" else 30)
            where = {"lm": str(folder / "lm")} if onto is None else {"onto": onto}
            onto = folder / name.lower()
            inject(f"{folder}/tasks.py:{name}", config=config, folder=onto, progress=False, **where)
        yield folder


def opened(room, name, onto):
    """What `open_earlier` gives a further run, with nothing trained yet."""
    config = dataclasses.replace(SMALL, lm=str(room / "lm"), onto=str(room / onto))
    return open_earlier(build(config, task=f"{room}/tasks.py:{name}", lm=config.lm))


def test_it_starts_from_the_trained_weights_and_keeps_the_original_for_the_language(room):
    setups, lm_params, _ = opened(room, "MANY", "more")
    state, frozen, _ = make_parts(setups, lm_params=lm_params)
    before = tracr_jax.open(room / "more")
    chex.assert_trees_all_equal(state.params.lm, before.params)
    chex.assert_trees_all_equal(frozen.lm, load_lm(str(room / "lm")).params)
    assert len(state.params.adapters) == len(frozen.teachers) == 3
    chex.assert_trees_all_equal(state.params.adapters[:2], tuple(p.adapter for p in before.programs))
    assert state.params.adapters[2].weight.shape == (setups[-1].program.teacher.width, 32)


def test_each_step_adds_alignment_and_answer_of_the_earlier_programs_as_their_own_runs_had_them(room):
    setups, lm_params, _ = opened(room, "MANY", "more")
    state, frozen, step = make_parts(setups, lm_params=lm_params)
    batches = make_batch_at(setups)(1)
    # odd was trained for 40 steps and then for 30 more, more for 30: their items go on from there.
    for s, batch, at in zip(setups, batches, (1 + 70, 1 + 30, 1), strict=True):
        chex.assert_trees_all_equal(batch, s.batches.batch_at(at))
    assert [s.config.seed for s in setups[:-1]] == [3, 4]

    off = [dataclasses.replace(s.config.losses, retention_weight=0.0) for s in setups[:-1]]
    alone = []
    for i, (s, config) in enumerate(zip(setups, (*off, setups[-1].config.losses), strict=True)):
        p = s.program
        loss = make_loss_fn(s.lm.model, p.residuals, config=config, shape=s.shape, layout=p.layout)
        own = TrainParams(state.params.lm, (state.params.adapters[i],))
        alone.append(jax.jit(loss)(own, Frozen(frozen.lm, (p.phi,)), (batches[i],))[1])
    assert "retention" in alone[2]
    expected = alone[2]["loss"]
    for s, terms in zip(setups[:-1], alone, strict=False):
        expected += terms["supervised"] + s.config.losses.alignment_weight * terms["alignment"]
    _, terms = step(state, frozen, batches)
    assert_same(terms["loss"], expected)
    for name, i in (("odd.", 0), ("more.", 1), ("", 2)):
        np.testing.assert_allclose(terms[f"{name}alignment_parts"], alone[i]["alignment_parts"], rtol=1e-4)
    assert "odd.retention" not in terms


def test_the_folder_holds_every_program_and_is_read_as_a_run_of_the_newest(room):
    names = {p.name for p in (room / "many").iterdir()}
    assert names >= {"config.json", "programs.json", "checkpoints", "programs", "evaluation.json"}
    assert [p.task for p in read_record(room / "many").programs] == ["odd", "more", "many"]
    assert read_record(room / "odd") is None
    assert [p.name for p in tracr_jax.open(room / "many").programs] == ["odd", "more", "many"]
    runs = [tracr_jax.open(room / "many", program=n) for n in ("odd", "more", None)]
    assert [r.program.name for r in runs] == ["odd", "more", "many"]
    for r in runs:
        chex.assert_trees_all_equal(r.params, runs[0].params)
        assert r.adapter.weight.shape == (r.program.teacher.width, 32)
    # The earlier adapters went on being trained.
    assert not np.array_equal(runs[0].adapter.weight, tracr_jax.open(room / "odd").adapter.weight)
    with pytest.raises(UserError, match="no program 'dyck'; its programs: odd, more, many"):
        tracr_jax.open(room / "many", program="dyck")
    with pytest.raises(UserError, match="no program 'more'; its programs: odd"):
        tracr_jax.open(room / "odd", program="more")


def test_the_interference_matrix_is_what_each_model_answers(room):
    table = read_json(room / "many" / "evaluation.json")["programs"]
    assert table["tasks"] == ["odd", "more", "many"]
    assert [(row["task"], row["steps"]) for row in table["after"]] == [("odd", 40), ("more", 30), ("many", 30)]
    assert [list(row["sets"]) for row in table["after"]] == [["odd"], ["odd", "more"], ["odd", "more", "many"]]
    for row, folder in zip(table["after"], ("odd", "more", "many"), strict=True):
        assert row["run"] == str(room / folder)
        for name, sets in row["sets"].items():
            run = tracr_jax.open(room / folder, program=name)
            predict = make_predictor(run)
            for set_name, items in reported_samples(run.program.task, 6).items():
                share = sets[set_name]
                assert (share["right"], share["total"]) == (sum(predict(run.params, items)), 6)
                before = table["before"][name][set_name]
                assert before["right"] == sum(predict(run.original.params, items))
            assert 0 < row["variables"][name] < 1


def test_the_card_of_an_export_names_the_other_programs(room):
    run = tracr_jax.open(room / "more")
    evaluation = read_json(room / "more" / "evaluation.json")
    odd = evaluation["programs"]["after"][-1]["sets"]["odd"]["test"]["accuracy"]
    content = describe_program(run.program, width=run.model.width)
    card = model_card(run.program, evaluation, content=content)
    assert f"injected before more: *odd* ({100 * odd:.1f} % of its test set)." in card
    assert content["run"]["onto"] == "odd"  # no folder of the machine


def metrics(folder):
    """Every number of metrics.jsonl but the times."""
    return [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(folder / "metrics.jsonl")]


def resume(room, folder, *, onto):
    """Go on with the run "many", which was copied to `folder`."""
    config = read_config(room / "many")
    return inject(config.task, config=config, onto=onto, folder=folder, resume=True, progress=False)


def test_cut_and_resumed_is_bit_for_bit(room, tmp_path):
    straight, folder = room / "many", tmp_path / "cut"
    shutil.copytree(straight, folder)
    # As if killed during the last step: its checkpoint is gone, the metrics have a line more than the one before.
    shutil.rmtree(folder / "checkpoints" / "30")
    (folder / "evaluation.json").unlink()
    cut = resume(room, folder, onto=room / "more")
    there = tracr_jax.open(straight)
    chex.assert_trees_all_equal(cut.params, there.params)
    for a, b in zip(cut.programs, there.programs, strict=True):
        chex.assert_trees_all_equal(a.adapter, b.adapter)
    assert metrics(folder) == metrics(straight)
    assert {"odd.alignment", "more.supervised", "retention"} <= set(metrics(folder)[29])
    texts = [(f / "evaluation.json").read_text().replace(str(f), "") for f in (folder, straight)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("written", [(), ("2",), ("2", "1")])
def test_killed_before_its_programs_were_written_it_begins_again(room, tmp_path, written):
    """They are written in this order, each with program.json as its last file."""
    straight, folder = room / "many", tmp_path / "cut"
    shutil.copytree(straight, folder, ignore=shutil.ignore_patterns("checkpoints", "*.json*", "programs"))
    for name in ("config.json", "programs.json"):
        shutil.copy(straight / name, folder)
    for number in written:
        shutil.copytree(straight / "programs" / number, folder / "programs" / number)
    half = folder / "programs" / str(2 - len(written))
    half.mkdir(parents=True)
    shutil.copy(straight / "programs" / half.name / "teacher.npz", half)
    resume(room, folder, onto=room / "more")
    assert metrics(folder) == metrics(straight)


def test_onto_a_model_whose_weights_are_not_its_folders_is_refused(room, tmp_path):
    held = tracr_jax.open(room / "odd")
    moved = dataclasses.replace(held, params=jax.tree.map(lambda x: x + 1, held.params))
    for onto, message in (
        (moved, "onto: its weights .* are not those of its folder"),
        (dataclasses.replace(held, folder=None), "onto: a model that lies in no folder"),
    ):
        with pytest.raises(UserError, match=message):
            inject(f"{room}/tasks.py:MORE", config=SMALL, onto=onto, folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_changed_earlier_run_is_refused(room, tmp_path):
    """Copies of "many" and of the run it went on from, which is then changed."""
    base, folder = tmp_path / "base", tmp_path / "run"
    shutil.copytree(room / "more", base)
    shutil.copytree(room / "many", folder)
    shutil.rmtree(folder / "checkpoints" / "30")
    write_json(folder / "config.json", read_json(folder / "config.json") | {"onto": str(base)})
    untouched = {f: (folder / f).read_bytes() for f in ("metrics.jsonl", "programs.json", "evaluation.json")}
    # Other weights after as many steps, as another seed would leave them: one number of one adapter.
    before = tracr_jax.open(base)
    first, second = (p.adapter for p in before.programs)
    adapters = (first._replace(bias=first.bias.at[0].add(1e-3)), second)
    shutil.rmtree(base / "checkpoints")
    checkpoints = Checkpoints(base / "checkpoints")
    checkpoints.save(TrainState(jnp.int32(30), TrainParams(before.params, adapters), {"unused": jnp.zeros(1)}))
    checkpoints.close()
    with pytest.raises(
        UserError, match=r"base has changed since .*run began: its weights were [0-9a-f]{12} after 30 "
    ):
        resume(room, folder, onto=base)
    # The same weights, other options.
    shutil.rmtree(base)
    shutil.copytree(room / "more", base)
    write_json(base / "config.json", read_json(base / "config.json") | {"seed": 5})
    with pytest.raises(UserError, match="its programs or their options are others"):
        resume(room, folder, onto=base)
    assert {f: (folder / f).read_bytes() for f in untouched} == untouched
    # What is done is read without the earlier run.
    shutil.rmtree(base)
    with pytest.warns(UserWarning, match="20 of 30 steps are done; finish it: tracr-jax resume"):
        assert tracr_jax.open(folder, program="odd").program.name == "odd"


def test_what_does_not_fit_is_one_line_and_writes_nothing(room, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "run"
    shutil.copytree(room / "odd", base)

    def refused(message, task="MORE", onto=base, **options):
        with pytest.raises(UserError, match=message) as e:
            inject(f"{room}/tasks.py:{task}", config=SMALL, onto=onto, folder=folder, progress=False, **options)
        assert "\n" not in str(e.value)
        assert not folder.exists()

    refused("nowhere: no such folder", onto=tmp_path / "nowhere")
    refused(r"already holds odd \(its programs: odd, more, many\)", task="ODD", onto=room / "many")
    write_random_gpt2(tmp_path / "other", num_blocks=6, width=32, heads=2, seed=1)
    refused(r"began with the model .*lm, this run with .*other", lm=str(tmp_path / "other"))
    shutil.rmtree(base / "checkpoints" / "40")
    refused("20 of 40 steps are done; finish it: tracr-jax resume ")
    (base / "evaluation.json").write_text("{}")
    refused(r"evaluation.json: damaged \(KeyError: 'sets'\)")
    (base / "evaluation.json").unlink()
    refused("evaluation.json: no such file; tracr-jax resume .* finishes that run")
    broken = tmp_path / "broken"
    shutil.copytree(room / "more", broken)
    for text in ("{}", '{"programs": 3}', '{"programs": [{"config": {}}]}', "[]"):
        (broken / "programs.json").write_text(text)
        refused(r"programs.json: damaged \(", onto=broken)
    (broken / "programs.json").unlink()
    refused("programs.json: no such file", onto=broken)


def test_by_command(room, tmp_path, capsys, monkeypatch):
    """The command hands on the earlier run's model; `evaluate` keeps the matrix; `decode` finds a program."""
    monkeypatch.chdir(tmp_path)
    folder, given = tmp_path / "more", {}
    shutil.copytree(room / "more", folder)

    def stand_in(task, **options):
        given.update(options, task=task, default=str(default_folder(options["config"])))
        return dataclasses.replace(tracr_jax.open(folder), evaluation=read_json(folder / "evaluation.json"))

    monkeypatch.setattr("tracr_jax.injection.inject", stand_in)
    cli.main(["inject", f"{room}/tasks.py:MORE", "--onto", str(room / "odd")])
    assert (given["lm"], given["config"].onto) == (str(room / "lm"), str(room / "odd"))
    assert given["default"] == "runs/tasks-more-lm-variable-seed0-onto-odd"
    shown = capsys.readouterr().out
    assert "after each injection" in " ".join(shown.split())
    assert 'class="plain programs"' in (folder / "report.html").read_text()

    before = read_json(folder / "evaluation.json")
    write_json(folder / "evaluation.json", {"sets": {}})
    cli.main(["evaluate", str(folder), "--items", "6"])
    again = read_json(folder / "evaluation.json")
    again["programs"]["after"][1]["run"] = str(room / "more")
    assert again == before
    capsys.readouterr()
    for options, shown in ((["--program", "odd"], "xs"), ([], "ys")):
        cli.main(["decode", str(folder), *options])
        assert shown in capsys.readouterr().out


def test_folders_are_named_after_both_runs():
    config = RunConfig(task="count", onto="runs/dyck-tiny-variable-seed0")
    assert str(default_folder(config)) == "runs/count-tiny-variable-seed0-onto-dyck-tiny-variable-seed0"
