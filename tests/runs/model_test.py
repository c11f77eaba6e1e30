"""A model read back: from its folder alone, with the task's code at hand, from an export, from an older folder."""

import dataclasses
import io
import shutil
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import tracr_jax
from tests.helpers.programs_parts import LIMITS, SMALL, TASKS, model_and_tasks, write_tasks
from tracr_jax import cli
from tracr_jax.config import LayerMap, LossConfig
from tracr_jax.data.retention import retention_text
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.lm.load import load_lm
from tracr_jax.measure import answers
from tracr_jax.measure.interference import evaluate_programs
from tracr_jax.runs import model, program_files, task_bridge
from tracr_jax.tasks import kept, registry
from tracr_jax.tasks.registry import get_task
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.step import TrainState

SHORT, LONG = "What is the text x y x x\nAnswer:", "What is the text" + " x" * 20 + "\nAnswer:"
PARTS = ("values", "margins", "truth", "numbers", "true_numbers")


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """(the folder of a small run, the run as `inject` returned it); the task's file lies beside the folder."""
    folder = tmp_path_factory.mktemp("model")
    with model_and_tasks(folder):
        losses = LossConfig(variable_weights=(("final_result", 2.0),), result_weight=3.0)
        config = dataclasses.replace(SMALL, steps=2, eval_items=2, losses=losses)
        where = {"lm": str(folder / "lm"), "folder": folder / "run"}
        yield folder, tracr_jax.inject(f"{folder}/tasks.py:ODD", config=config, progress=False, **where)


@pytest.fixture
def alone(room, tmp_path, monkeypatch):
    """The run's folder on a machine that has nothing else, and where nothing else may be asked for."""

    def refuse(*_, **__):
        raise AssertionError("only the folder is there")

    folder = shutil.copytree(room[0] / "run", tmp_path / "elsewhere" / "copy")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("load_lm", "retention_text", "build_program"):
        monkeypatch.setattr(model, name, refuse)
    monkeypatch.setattr(task_bridge, "cached_compile", refuse)
    config = read_json(folder / "config.json")
    for path in (folder / "config.json", folder / "programs" / "0" / "program.json"):
        text = path.read_text().replace(str(room[0]), "/nowhere")
        path.write_text(text)
    assert config["format"] == 1
    return folder


def same(a, b, *parts):
    for name in parts:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_a_run_folder_is_all_that_decoding_takes(room, alone, capsys):
    run = tracr_jax.open(alone)
    same(tracr_jax.decode(run, SHORT), tracr_jax.decode(room[1], SHORT), *PARTS)
    assert run.program.layers == LayerMap(0, 1)
    cli.main(["decode", str(alone), SHORT.replace("\n", "\\n")])
    cli.main(["decode", str(alone)])
    shown = capsys.readouterr().out
    assert shown.count("variables at layer") == 2
    assert "final" in shown


def test_beyond_the_table_it_says_what_is_not_known_and_why(room, alone):
    before = tracr_jax.decode(room[1], LONG)
    # The folder keeps the task's file too; without it, and without the file, nothing can judge this text.
    same(tracr_jax.decode(tracr_jax.open(alone), LONG), before, *PARTS)
    shutil.rmtree(alone / "programs" / "0" / "task")
    d = tracr_jax.decode(tracr_jax.open(alone), LONG)
    same(d, before, "values", "margins", "numbers")
    assert not before.unknown
    assert (d.truth == -1).all()
    out = io.StringIO()
    Console(file=out, width=500).print(d)
    assert f"not known: {len(d.tokens)} tokens are more than the {room[1].program.length} of the" in out.getvalue()
    assert "the task's own code is needed and not at hand" in out.getvalue()
    assert "≠" not in out.getvalue()
    # From its first layer on, what was read is told, and not hidden as undefined.
    i = d.index("xs")
    first = d.variables[i].writer_layer
    assert d.read("xs") == [d.variables[i].values[v] for v in d.values[-1, i]]
    if first:
        assert set(d.read("xs", layer=first - 1)) == {None}
    # With the code at hand, it is judged as before.
    for given in (f"{room[0]}/tasks.py:ODD", room[1].program.task):
        same(tracr_jax.decode(tracr_jax.open(alone, task=given), LONG), before, *PARTS)
    with pytest.raises(UserError, match="holds no program 'more'"):
        tracr_jax.open(alone, task=f"{room[0]}/tasks.py:MORE")


CHANGES = {
    "another task": lambda text: text.replace('task("odd"', 'task("even"'),
    "a renamed variable": lambda text: text.replace('named("xs")', 'named("exes")'),
    "another letter": lambda text: text.replace('letters=("x", "y")', 'letters=("x", "y", "z")'),
    "no Python": lambda text: text + "def (",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_goes_by_its_own_program_whatever_becomes_of_the_file(room, tmp_path, change):
    folder = shutil.copytree(room[0] / "run", tmp_path / "copy")
    write_tasks(tmp_path)
    (tmp_path / "tasks.py").write_text(CHANGES[change](TASKS))
    for path in (folder / "config.json", folder / "programs" / "0" / "program.json"):
        path.write_text(path.read_text().replace(f"{room[0]}/tasks.py", f"{tmp_path}/tasks.py"))
    line = rf"^{tmp_path}/tasks.py has changed since this run began; the run goes by its own copy in .*programs/0$"
    with pytest.warns(UserWarning, match=line):
        run = tracr_jax.open(folder)
    same(tracr_jax.decode(run, SHORT), tracr_jax.decode(room[1], SHORT), *PARTS)
    same(tracr_jax.decode(run, LONG), tracr_jax.decode(room[1], LONG), *PARTS)
    assert run.program.task.eval_sets()["test"].item(1) == room[1].program.task.eval_sets()["test"].item(1)
    # As it was again, nothing is said (a warning would fail here).
    write_tasks(tmp_path)
    assert tracr_jax.open(folder).program.name == "odd"
    # What the file reads belongs to it.
    (tmp_path / LIMITS).write_text("11")
    with pytest.warns(UserWarning, match=line.replace("tasks.py", LIMITS)):
        assert tracr_jax.open(folder).program.task.max_length == 12


def test_a_moved_run_whose_file_is_gone_does_all_that_it_did(room, alone, capsys, monkeypatch):
    monkeypatch.setattr(model, "retention_text", retention_text)  # bundled, and not the user's
    monkeypatch.setattr(model, "load_lm", lambda name, **_: load_lm(str(room[0] / "lm")))
    cli.main(["evaluate", str(alone), "--items", "2"])
    assert read_json(alone / "evaluation.json")["sets"] == room[1].evaluation["sets"]
    cli.main(["interpret", str(alone), "--prompts", "4", "--pairs", "2", "--items", "2", "--seeds", "0"])
    cli.main(["report", str(alone)])
    cli.main(["export", str(alone), "exported"])
    capsys.readouterr()
    exported = Path("exported").resolve()
    monkeypatch.undo()
    same(tracr_jax.decode(tracr_jax.open(exported), SHORT), tracr_jax.decode(room[1], SHORT), *PARTS)


def test_the_copy_of_a_task_is_not_asked_again(room, tmp_path, monkeypatch):
    """Its methods were asked when the run was made, which draws every set; another file was not."""
    run, asked = shutil.copytree(room[0] / "run", tmp_path / "run"), []
    monkeypatch.setattr(registry, "check_contract", lambda task, spec: asked.append(spec))
    assert tracr_jax.open(run).program.task.letters == ("x", "y")
    assert asked == []
    shutil.rmtree(run / "programs" / "0" / "task")
    assert tracr_jax.open(run).program.task.letters == ("x", "y")
    assert asked == [f"{room[0]}/tasks.py:ODD"]


def test_what_a_task_imports_beside_it_is_kept_with_it(tmp_path):
    (tmp_path / "words").mkdir()
    for name, text in {
        # A text of 100 characters that no file can be called: it has 300 bytes.
        "task.py": f"import helper\nfrom words.more import X\nimport json\nD = {'値' * 100!r}\n",
        "helper.py": "import task\n",
        "words/__init__.py": "",
        "words/more.py": "X = 1\n",
        "unused.py": "",
    }.items():
        (tmp_path / name).write_text(text)
    spec, folder = f"{tmp_path}/task.py:TASK", tmp_path / "run"
    kept.keep_files(spec, folder)
    files = sorted(p.relative_to(folder / "task").as_posix() for p in (folder / "task").rglob("*.py"))
    assert files == ["helper.py", "task.py", "words/__init__.py", "words/more.py"]
    assert kept.own_spec(spec, folder) == spec
    (tmp_path / "helper.py").write_text("import task  # changed\n")
    assert kept.changed(spec, folder) == ["helper.py"]
    assert kept.own_spec(spec, folder) == f"{folder}/task/task.py:TASK"
    kept.keep_files(spec, folder)  # once only
    assert "changed" not in (folder / "task" / "helper.py").read_text()
    assert kept.own_spec("dyck", folder) == "dyck"
    assert kept.located("a/b.py") == f"{Path('a/b.py').resolve()}"
    assert kept.located("a/b.py:T") == f"{Path('a/b.py').resolve()}:T"


READS = {
    "beside the file": """Path(__file__).with_name("words.txt").read_text()""",
    "in a folder beside it": """(Path(__file__).parent / "data" / "deep" / "words.txt").read_text()""",
    "from the current folder": """Path("words.txt").read_text()""",
    "from a folder of the current one": """Path("data/deep/words.txt").read_text()""",
    "in what it imports": """__import__("helper").WORDS""",
}


@pytest.mark.parametrize("elsewhere", [False, True])
@pytest.mark.parametrize("reads", READS)
def test_data_that_a_task_reads_are_kept_with_it(tmp_path, monkeypatch, reads, elsewhere):
    """Called in the file's folder or in another one that holds the data; then all of it is deleted."""
    home, other, folder = tmp_path / "home", tmp_path / "other", tmp_path / "run"
    for place in (home, other):
        (place / "data" / "deep").mkdir(parents=True)
        for path in (place / "words.txt", place / "data" / "deep" / "words.txt"):
            path.write_text("x y")
    (home / "unused.txt").write_text("")
    (home / "helper.py").write_text("from pathlib import Path\n\nWORDS = Path('words.txt').read_text()\n")
    text = TASKS.replace('("x", "y")', f"tuple({READS[reads]}.split())")
    text = text.replace("import rasp", "import rasp\nimport helper").replace("limits.txt", "words.txt")
    (home / "task.py").write_text(text.replace(".read_text())", ".read_text().count(' ') + 11)"))
    monkeypatch.chdir(other if elsewhere else home)
    spec = f"{home}/task.py:ODD"
    sys.modules.pop("helper", None)
    assert get_task(spec).letters == ("x", "y")
    kept.keep_files(spec, folder)
    assert not (folder / "task" / "unused.txt").exists()
    assert kept.own_spec(spec, folder) == spec
    moved = folder.rename(tmp_path / "moved")
    shutil.rmtree(home)
    shutil.rmtree(other)
    monkeypatch.chdir(tmp_path)
    copy = kept.own_spec(spec, moved)
    assert copy == f"{moved}/task/task.py:ODD"
    sys.modules.pop("helper")
    assert get_task(copy).letters == ("x", "y")
    assert sys.modules.pop("helper").__file__ == f"{moved}/task/helper.py"


def test_large_data_are_left_out_and_it_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "_LARGEST", 1000)
    (tmp_path / "task.py").write_text("""WORDS = open("words.txt").read()""")
    (tmp_path / "words.txt").write_text("x" * 1001)
    with pytest.warns(UserWarning, match="words.txt is not kept with the run: it has more than 0 MiB"):
        kept.keep_files(f"{tmp_path}/task.py", tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "task").iterdir()] == ["task.py"]
    assert kept.changed(f"{tmp_path}/task.py", tmp_path / "run") == []


def test_an_export_is_read_as_the_run_is(room, alone, tmp_path, monkeypatch):
    monkeypatch.undo()
    export = tracr_jax.export_run(room[1], tmp_path / "export")
    back = tracr_jax.open(export)
    same(tracr_jax.decode(back, SHORT), tracr_jax.decode(room[1], SHORT), *PARTS)
    assert [p.name for p in back.programs] == ["odd"]
    # Neither is a folder that training can go on from.
    with pytest.raises(UserError, match=r"export.*"):
        tracr_jax.inject(
            f"{room[0]}/tasks.py:MORE", onto=back, config=SMALL, folder=tmp_path / "x", progress=False
        )
    assert not (tmp_path / "x").exists()


def as_format_0(folder):
    """The folder as the version before wrote it: no programs, and the adapter by itself in its checkpoint."""
    run = tracr_jax.open(folder)
    shutil.rmtree(folder / "programs")
    shutil.rmtree(folder / "model")
    shutil.rmtree(folder / "checkpoints")
    checkpoints = Checkpoints(folder / "checkpoints")
    state = TrainState(jnp.int32(2), {"lm": run.params, "adapter": run.adapter}, {"unused": jnp.zeros(1)})
    checkpoints.save(state)  # pyright: ignore[reportArgumentType]
    checkpoints.close()
    config = read_json(folder / "config.json")
    del config["format"]
    write_json(folder / "config.json", config)


def test_a_folder_of_the_format_before_is_read_and_not_continued(room, tmp_path):
    folder = shutil.copytree(room[0] / "run", tmp_path / "old")
    as_format_0(folder)
    run = tracr_jax.open(folder)
    chex.assert_trees_all_equal((run.params, run.adapter), (room[1].params, room[1].adapter))
    same(tracr_jax.decode(run, SHORT), tracr_jax.decode(room[1], SHORT), *PARTS)
    config = room[1].program.config
    with pytest.raises(UserError, match="a run of format 0, which this version reads but does not continue"):
        tracr_jax.inject(config.task, lm=config.lm, config=config, folder=folder, resume=True, progress=False)
    write_json(folder / "config.json", read_json(folder / "config.json") | {"format": 9})
    with pytest.raises(UserError, match=r"format 9, this version reads 0 to 1"):
        tracr_jax.open(folder)


def test_files_that_do_not_belong_together(room, tmp_path):
    folder = shutil.copytree(room[0] / "run", tmp_path / "run")
    path = folder / "programs" / "0" / program_files.FILE
    whole = read_json(path)
    for damage, message in (
        ({"states": [0, 2]}, "damaged"),
        ({"states": None}, "damaged"),
        ({"states": None, "layer_map": 3}, "damaged"),
        ({"states": None, "layer_map": [0, 2]}, "damaged"),
        ({"bridge": whole["bridge"] | {"fill": "none"}}, "damaged"),
        ({"bridge": whole["bridge"] | {"longest_item": 999}}, "damaged"),
        ({"bridge": whole["bridge"] | {"tokens": [{"id": 10**6, "value": "x"}]}}, "damaged"),
        ({"variables": whole["variables"][:1], "directions": len(whole["variables"][0]["directions"])}, "belong"),
        ({"run": {"steps": "many"}}, "damaged"),
    ):
        write_json(path, whole | damage)
        with pytest.raises(UserError, match=message) as e:
            tracr_jax.open(folder)
        assert "\n" not in str(e.value)
    write_json(path, whole | {"states": None, "layer_map": [0, 1]})  # as the version before said it
    assert tracr_jax.open(folder).program.states == tuple(whole["states"])
    write_json(path, whole)
    (folder / "programs" / "0" / program_files.TEACHER).unlink()
    with pytest.raises(UserError, match=r"teacher\.npz: no such file"):
        tracr_jax.open(folder)


def test_what_reads_the_trained_model_and_the_original_is_compiled_once(room):
    """A committed argument and another are two programs for jax.jit, however alike."""
    folder, run = room
    opened = tracr_jax.open(folder / "run", task=run.program.task)
    for one in (run, opened):
        lm = one.original if one is run else dataclasses.replace(one, base=load_lm(str(folder / "lm"))).original
        norm = jax.jit(lambda params: sum(jnp.vdot(x, x) for x in jax.tree.leaves(params)))
        norm(one.params), norm(lm.params)
        assert norm._cache_size() == 1


def test_the_result_weighs_more_by_its_role(room):
    """Whatever its name is: 2 by its name, times 3, against 1 for every other variable."""
    program = room[1].program
    weights = dict(zip(program.layout.names, program.layout.weights, strict=True))
    result = weights.pop(program.result)
    assert weights
    np.testing.assert_allclose(result / np.array(list(weights.values())), 6.0)


@pytest.mark.parametrize(("items", "models"), [(2, 1), (3, 2)])
def test_the_untouched_model_answers_the_same_items_once(room, tmp_path, monkeypatch, items, models):
    """Its scores are the run's own: of two items of each set, as the run asked; three are others."""
    copy, asked = shutil.copytree(room[0] / "run", tmp_path / "run"), []
    score = answers.score_model
    monkeypatch.setattr(answers, "score_model", lambda *a, **k: asked.append(a[1]) or score(*a, **k))
    again = evaluate_programs(tracr_jax.open(copy), items=items)
    assert len(asked) == models
    if items == 2:
        assert again == read_json(copy / "evaluation.json")


@pytest.mark.parametrize("damage", [[], {"sets": 3}, {"retention": {}}])
def test_a_damaged_evaluation_is_one_line_that_says_what_to_do(room, tmp_path, damage):
    copy = shutil.copytree(room[0] / "run", tmp_path / "run")
    path = copy / "evaluation.json"
    write_json(path, read_json(path) | damage if damage else damage)
    with pytest.raises(UserError, match=r"evaluation\.json: damaged .*; delete it: tracr-jax evaluate") as e:
        evaluate_programs(tracr_jax.open(copy), items=2)
    assert "\n" not in str(e.value)


def test_another_task_of_the_same_name_is_refused(room):
    folder, _ = room
    other = dataclasses.replace(get_task(f"{folder}/tasks.py:MORE"), name="odd")
    with pytest.raises(
        UserError, match=r"was made with another odd: its test set begins with '.*' \('(yes|no)'\)"
    ):
        tracr_jax.open(folder / "run", task=other)
    same = get_task(f"{folder}/tasks.py:ODD")
    assert tracr_jax.open(folder / "run", task=same).program.task is same
