"""The main job on tiny random models: every task, the run folder, the user's own task, the errors."""

import dataclasses
import importlib
import json

import chex
import pytest

import tracr_jax
from tests.helpers.lm_models import LLAMA_TINY
from tests.helpers.random_models import TASK_WORDS, write_random_gpt2
from tests.helpers.small_runs import SMALL, trained
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import LossConfig
from tracr_jax.data.samples import reported_samples
from tracr_jax.errors import UserError
from tracr_jax.files import read_json
from tracr_jax.injection import inject
from tracr_jax.lm.llama import Llama
from tracr_jax.lm.load import load_lm
from tracr_jax.measure.answers import evaluate, greedy_answers, known_scores
from tracr_jax.presets import preset
from tracr_jax.report.load import load_runs
from tracr_jax.runs.build import build
from tracr_jax.runs.fits import check_options, check_result_rank, check_shift
from tracr_jax.runs.folder import default_folder, located
from tracr_jax.runs.model import untouched
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.train.metrics import read_lines

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(("task", "blocks"), [("dyck", 8), ("int_sum", 22), ("count", 14)])
def test_the_main_job_leaves_a_whole_run_folder(task, blocks, models, tmp_path):
    folder = tmp_path / "run"
    run = inject(task, lm=models(blocks), config=SMALL, folder=folder, progress=False)
    there = {p.name for p in folder.iterdir()}
    assert there == {
        "config.json",
        "run.json",
        "metrics.jsonl",
        "checkpoints",
        "model",
        "programs",
        "original.json",
        "evaluation.json",
        "examples.json",
    }
    assert [line["step"] for line in read_lines(folder / "metrics.jsonl")] == [0, 1, 2, 3]
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation == run.evaluation
    sets = evaluation["sets"]
    shown = read_json(folder / "examples.json")
    assert [v["name"] for v in shown["variables"]] == [v.name for v in run.program.teacher.variables]
    assert {"test"} < {e["set"] for e in shown["examples"]} <= set(sets)
    (examples,) = (r.part("examples") for r in load_runs([folder]))
    assert examples == shown["examples"]
    assert next(iter(sets)) == "test"
    assert sets["test"]["overlap_with_training"] == 0.0
    assert all(0 <= s["injected"]["low"] <= s["injected"]["high"] <= 1 for s in sets.values())
    assert any(n.startswith("final_result") for n in evaluation["decode"]["test"]["all_positions"])
    assert evaluation["retention"]["original"] > 1
    assert evaluation["retention"]["kl"] > 0
    about = json.loads((folder / "run.json").read_text())
    assert list(about["times"]) == ["setup_s", "before_s", "training_s", "evaluation_s"]
    assert min(about["times"].values()) > 0
    # The untouched model was scored beforehand, beside the compiler; that is not another number.
    assert evaluate(run, items=4) == evaluation
    # What is on disk is what was trained.
    chex.assert_trees_all_equal(trained(tracr_jax.open(folder)), trained(run))


def test_rows_that_begin_anywhere_do_not_align_their_places(models, tmp_path):
    """What was not aligned is not scored, and nothing is read or written there; the folder says the same."""
    config = dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, shift=9))
    run = inject("dyck", lm=models(8), config=config, folder=tmp_path / "run", progress=False)
    for found in (run, tracr_jax.open(tmp_path / "run")):
        program = found.program
        assert program.unaligned == ("indices",)
        places, tokens = (program.teacher.variable(name) for name in ("indices", "tokens"))
        assert program.why_unread(places, 0) == "it was not aligned, its weight is 0"
        assert program.layers_of(places) == []
        assert len(program.layers_of(tokens)) == program.depth + 1
        decoded = tracr_jax.decode(found, "Are parenthesis here correctly matched? ([])\nAnswer:")
        assert {str(v) for v in decoded.program("indices", layer=0)} == {str(decoded.program("indices")[0])}
    share = {k: v["accuracy"] for k, v in run.evaluation["decode"]["test"]["all_positions"].items()}
    assert share["indices"] is None
    assert share["tokens"] is not None


def test_the_untouched_model_is_asked_once(models, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise RuntimeError("as if killed")

    said, folder = [], tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("tracr_jax.injection.evaluate_programs", stop)
        with pytest.raises(RuntimeError, match="as if killed"):
            inject("dyck", lm=models(8), config=SMALL, folder=folder, progress=False, say=said.append)
    first = [line for line in said if line.startswith("before, ")]
    assert first[0].startswith("before, test: ")
    run = tracr_jax.resume(folder, progress=False, say=said.append)
    assert [line for line in said if line.startswith("before, ")] == first
    assert evaluate(run, items=SMALL.eval_items) == run.evaluation
    assert not (folder / "untouched.json").exists()
    # Of another held-out text, what was found before is of no use: half of the ratio would be of each.
    samples = reported_samples(run.program.task, SMALL.eval_items)
    assert known_scores(run.evaluation, run, samples) is not None
    edited = dataclasses.replace(run, windows=run.valid_text[:, ::-1])
    assert known_scores(run.evaluation, edited, samples) is None


def test_paper_preset_warns_about_coverage_instead_of_refusing(tmp_path):
    """As coded the model emits " 12" as one token where the program writes digits (docs/differences.md B15)."""
    words = (*TASK_WORDS, *(f" {n}" for n in range(10, 41)))
    lm = write_random_gpt2(tmp_path / "lm", num_blocks=14, width=32, heads=2, words=words)
    said = []
    config = preset("paper", task="count")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, text=str(SHORT_TEXT)))
    build(config, task="count", lm=lm, say=said.append)
    (line,) = (line for line in said if line.startswith("warning: bridge:"))
    assert "first mismatch" in line
    assert "the answer's token is" in line


USER_TASK = '''
"""Is the first letter the same as the last? A user's own program."""
from dataclasses import dataclass
from tracr.rasp import rasp
from tracr_jax.tasks.base import EvalSet, Item, TokenMap
from tracr_jax.tasks.split import draw, split_of


@dataclass(frozen=True)
class More:
    """More x than y?"""

    name = "more_x"
    result = "final_result"
    marker = "?"

    def program(self, *, max_seq_len):
        def count(token):
            return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k == token))

        xs, ys = count("x").named("xs"), count("y").named("ys")
        more = rasp.SequenceMap(lambda x, y: x > y, xs, ys).named("more")
        return rasp.SequenceMap(lambda m, t: m if t == "?" else False, more, rasp.tokens).named("final_result")

    def vocab(self):
        return frozenset({"x", "y", "?", "other"})

    def mlp_exactness(self, max_seq_len):
        return 10_000.0

    def token_map(self):
        return TokenMap({"x": "x", "y": "y", ":": "?"}, fill="other")

    def keep_merge(self, left, right):
        return True

    def item(self, words):
        more = words.count("x") > words.count("y")
        return Item("What is " + " ".join(words) + "\\nAnswer:", "yes" if more else "no")

    def _make(self, r):
        return self.item(["xy"[k] for k in r.integers(0, 2, int(r.integers(2, 9)))])

    def train_item(self, index, *, seed):
        return draw(self._make, seed, index, 1, accept=lambda i: split_of(i.prompt) == "train")

    free_item = train_item

    def in_training(self, prompt):
        return split_of(prompt) == "train"

    def eval_sets(self):
        def held_out(i):
            return draw(self._make, 9, i, 1, accept=lambda i: split_of(i.prompt) == "test")

        return {"test": EvalSet("test", 50, held_out, "held out")}

    def longest_items(self):
        return (self.item(["x"] * 8), self.item(["y"] * 8))

    def teacher_label(self, item):
        return (item.label == "yes",)

    def baselines(self):
        return {"always_no": lambda prompt: "no"}


TASK = More()
BROKEN = object()
'''


def test_a_users_own_task_from_a_file_and_as_an_object(models, tmp_path):
    file = tmp_path / "my_task.py"
    file.write_text(USER_TASK)
    folder = tmp_path / "by_file"
    run = tracr_jax.inject(f"{file}:TASK", lm=models(8), config=SMALL, folder=folder, progress=False)
    assert set(run.evaluation["sets"]) == {"test"}
    assert tracr_jax.open(folder).program.task.name == "more_x"
    other = tracr_jax.inject(
        run.program.task, lm=run.original, config=SMALL, folder=tmp_path / "b", progress=False
    )
    chex.assert_trees_all_equal(trained(run), trained(other))
    with pytest.raises(UserError, match="lacks name, result, marker"):
        tracr_jax.inject(f"{file}:BROKEN", lm=models(8), config=SMALL, folder=tmp_path / "c", progress=False)


def test_a_model_as_a_loop_of_blocks_is_trained_as_a_scan(models, tmp_path):
    """As checkpoints and folders hold it; --train blocks has stacks to take parts of."""
    config = dataclasses.replace(SMALL, train="blocks:0-3")
    loop, scan = (load_lm(models(8), scan_layers=scan) for scan in (False, True))
    runs = [
        tracr_jax.inject("dyck", lm=lm, config=config, folder=tmp_path / name, progress=False)
        for name, lm in (("loop", loop), ("scan", scan))
    ]
    chex.assert_trees_all_equal(*map(trained, runs))
    again = tracr_jax.open(tmp_path / "loop", lm=loop)
    chex.assert_trees_all_equal(trained(again), trained(runs[0]))


def refused(message, folder, *args, **kwargs):
    with pytest.raises(UserError, match=message) as e:
        inject(*args, folder=folder, progress=False, **kwargs)
    assert "\n" not in str(e.value)
    assert not folder.exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(models, tmp_path):
    folder = tmp_path / "run"
    refused(r"8 blocks, too few for int_sum: .* 21 layers", folder, "int_sum", lm=models(8), config=SMALL)
    own = dataclasses.replace(SMALL, task="int_sum", lm=models(8))  # of which nothing is said beside it
    refused(r"8 blocks, too few for int_sum: .* 21 layers", folder, config=own)
    refused("no such folder", folder, "dyck", lm="./nowhere", config=SMALL)
    refused("neither one of dyck, int_sum, count", folder, "dick", lm=models(8), config=SMALL)
    blocks = dataclasses.replace(SMALL, train="blocks:0-8")
    refused("the model has 8 blocks, the last is 7", folder, "dyck", lm=models(8), config=blocks)
    exchange = preset("exchange", lm=models(8))
    deep = dataclasses.replace(exchange, exchange=dataclasses.replace(exchange.exchange, lower_layers=99))
    with pytest.raises(UserError, match="lower_layers is 99, the program has 4 layers"):
        check_options(load_lm(models(8), weights=False).model, deep, depth=4)
    more = dataclasses.replace(SMALL, layer_blocks=(1,) * 8)
    refused(r"layer_blocks 1 1 1 1 1 1 1 1: the program has 7 layers", folder, "dyck", lm=models(8), config=more)
    moved = {
        shift: dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, shift=shift)) for shift in (1, 9999)
    }
    refused(
        "shift 9999: rows of [0-9]+ tokens would end at .*; give [0-9]+ or less",
        folder,
        "dyck",
        lm=models(8),
        config=moved[9999],
    )
    with pytest.raises(UserError, match="shift 1: Llama sees distances only"):
        check_shift(Llama(LLAMA_TINY), moved[1], length=8, places=False)
    cosine = dataclasses.replace(moved[1], losses=LossConfig(alignment="cosine"))
    for task, config in (("dyck", cosine), ("count", moved[1])):  # of which the second reads it
        refused("shift 1: 'indices' is aligned", folder, task, lm=models(14), config=config)
    weights = dataclasses.replace(SMALL, losses=LossConfig(variable_weights=(("nothing", 2.0),)))
    refused("no such variable", folder, "dyck", lm=models(8), config=weights)
    missing = dataclasses.replace(SMALL, data=dataclasses.replace(SMALL.data, text="./none.txt"))
    refused("no such file", folder, "dyck", lm=models(8), config=missing)
    short = tmp_path / "short"
    write_random_gpt2(short, num_blocks=8, width=32, heads=2, positions=40)
    refused(
        r"longest training item has \d+ tokens, the model 40 positions",
        folder,
        "dyck",
        lm=str(short),
        config=SMALL,
    )


def test_a_set_that_the_model_has_no_room_for_is_refused(tmp_path):
    lm, folder = tmp_path / "lm", tmp_path / "run"
    write_random_gpt2(lm, num_blocks=9, width=32, heads=2, positions=48)
    message = r"an item of the set length_ood has \d+ tokens, the model 48 positions"
    refused(message, folder, "dyck", lm=str(lm), config=dataclasses.replace(SMALL, eval_items=40))


def test_answers_are_asked_up_to_the_last_position(tmp_path):
    """Rows are padded to few lengths, but not beyond what the model holds."""
    write_random_gpt2(tmp_path / "lm", num_blocks=9, width=32, heads=2, positions=99)
    task = Dyck()
    run = untouched(build(dataclasses.replace(SMALL, eval_items=1), task=task, lm=str(tmp_path / "lm")))
    item = next(i for n in range(80, 99) if len(run.program.bridge.split(i := task.item("(" * n))[0]) == 99)
    assert len(greedy_answers(run, run.params, [item])[0]) == 1
    assert len(greedy_answers(run, run.params, [item, task.item("()")])) == 2


def test_result_subspace_as_large_as_the_width_is_refused():
    with pytest.raises(UserError, match="10 values and the model is 8 wide"):
        check_result_rank(10, 8, name="small")
    check_result_rank(2, 8, name="small")


def test_default_folder_names_task_model_method_and_seed():
    assert str(default_folder(preset("finetune", task="count"))) == "runs/count-tiny-finetune-seed0"
    assert (
        str(default_folder(preset("variable", task="a/b.py:TASK", lm="./x/Gpt")))
        == "runs/b-task-gpt-variable-seed0"
    )
    assert str(default_folder(preset(task="my.py"))) == "runs/my-tiny-variable-seed0"


def test_a_task_folder_is_its_one_file(tmp_path, monkeypatch):
    """As a shell completes it; else its code would be an object's, which no run can keep."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "square.py").write_text("")
    (tmp_path / "dyck").mkdir()  # a built-in name is that, whatever lies here
    for spec in ("mine", "mine/", str(tmp_path / "mine")):
        config = preset(task=spec)
        assert located(config).task == str(tmp_path / "mine" / "square.py")
        assert str(default_folder(config)) == "runs/square-tiny-variable-seed0"
    assert located(preset(task="dyck")).task == "dyck"


@pytest.mark.parametrize("task", ["dyck", "count"])  # whose presets train the program's blocks, and all
def test_default_folder_names_what_is_trained_where_the_preset_trains_something_else(task):
    usual = preset(task=task)
    parts = ("all", "program", "lora:4")
    found = {part: default_folder(dataclasses.replace(usual, train=part)).name for part in parts}
    assert found.pop(usual.train) == f"{task}-tiny-variable-seed0"
    assert found == {part: f"{task}-tiny-variable-{part.replace(':', '')}-seed0" for part in found}


def test_public_names_resolve_and_stay_functions():
    for name in tracr_jax.__all__:
        home = importlib.import_module(f"tracr_jax.{tracr_jax._HOME[name]}")
        assert getattr(tracr_jax, name) is getattr(home, name)
    assert callable(tracr_jax.inject)
    assert dir(tracr_jax) == sorted([*tracr_jax.__all__, "__version__"])
    assert sorted(tracr_jax._HOME) == sorted(tracr_jax.__all__)
    assert all(getattr(tracr_jax, old) is getattr(tracr_jax, new) for old, new in tracr_jax._RENAMED.items())
    assert tracr_jax.OpenedRun is tracr_jax.Injected
    with pytest.raises(AttributeError, match="no attribute"):
        tracr_jax.nothing  # noqa: B018
