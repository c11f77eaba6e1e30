"""The sweep goes on where it was killed and trains nothing twice; its table is its results file, no more."""

import copy
import json
import re
import shutil
import statistics
from pathlib import Path

import pytest

import tracr_jax.injection
import tracr_jax.sweep
from experiments import marked
from experiments.reproduce import results as R
from experiments.reproduce import sweep as reproduce
from experiments.reproduce import table as T
from tests.helpers.random_models import write_random_gpt2
from tracr_jax.config import RunConfig
from tracr_jax.config_file import to_dict
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.files import read_json
from tracr_jax.sweep import Planned
from tracr_jax.tasks.dyck import Dyck

ROOT = Path(__file__).resolve().parents[2]

VALUES = {
    "accuracy/test": 0.99,
    "accuracy/near_miss": 0.5,
    "decode/final_result_1": 0.98,
    "decode/diff": 0.75,
    "decode_at_answer/final_result_1": 0.97,
    "perplexity/before": 20.0,
    "perplexity/after": 20.5,
    "perplexity/ratio": 1.025,
    "seconds/training": 90.0,
}


def made_results(seeds=(0, 1)):
    """A results file for dyck and one method, as `record` would leave it."""
    results = R.empty("tiny")
    R.plan(results, task="dyck", method="variable", config=to_dict(RunConfig()), seed=2)
    R.plan(results, task="dyck", method="finetune", config=to_dict(RunConfig()), seed=0)
    cell = results["cells"]["dyck"]["variable"]
    for seed in seeds:
        values = {k: v + 0.02 * seed * k.startswith("accuracy") for k, v in VALUES.items()}
        cell["runs"][str(seed)] = {
            "command": R.shown_command(["/a/experiments/reproduce/__main__.py"]),
            "environment": 0,
            "values": values,
        }
    cell["sets"] = {
        name: {"sample": 300, "original": 0.0, "baselines": {"always_no": 0.5, "even_length": 0.75}}
        for name in ("test", "near_miss")
    }
    cell["majority"] = {"decode/final_result_1": 0.96, "decode_at_answer/final_result_1": 0.51}
    cell["summary"] = R.summarise({k: run["values"] for k, run in cell["runs"].items()})
    results["environments"] = [{"packages": {"jax": "0.10.2"}, "device": "1 x cpu"}]
    R.stamp(results, "python -m experiments.reproduce")
    return results


def row(table, title):
    (line,) = [x for x in table.splitlines() if x.startswith(f"| {title} |")]
    return [x.strip() for x in line.strip("|").split("|")[1:]]


def test_mean_and_sample_deviation_by_quantity():
    summary = R.summarise({"0": {"a": 1.0, "b": 5.0}, "1": {"a": 2.0}, "2": {"a": 6.0}})
    assert summary["a"] == {"mean": 3.0, "spread": statistics.stdev([1, 2, 6]), "values": {"0": 1, "1": 2, "2": 6}}
    assert summary["b"] == {"mean": 5.0, "spread": None, "values": {"0": 5.0}}


def test_table_shows_means_counts_and_what_is_missing():
    table = T.markdown(made_results())
    assert row(table, "**dyck**") == ["", "", "–", "–", "seeds: 2"]
    assert row(table, "test (300)") == ["0.0", "75.0", "–", "–", "100.0 ± 1.4"]
    assert row(table, "near_miss (300)")[-1] == "51.0 ± 1.4"
    assert row(table, "decoded: result") == ["", "96.0", "–", "–", "98.0 ± 0.0"]
    assert row(table, "decoded: result, at the answer") == ["", "51.0", "–", "–", "97.0 ± 0.0"]
    assert row(table, "decoded: worst variable")[-1] == "75.0 ± 0.0 `diff`"
    assert row(table, "perplexity on held-out text") == ["20.00", "", "–", "–", "×1.025 ± 0.000"]
    assert row(table, "minutes of training")[-1] == "1.5 ± 0.0"
    assert table.startswith("`python -m experiments.reproduce`: 2 runs on 1 x cpu (")
    assert "Not yet run: dyck variable (seed 2); dyck finetune (seed 0)." in table


def test_one_seed_has_no_spread_and_a_failure_is_told():
    results = made_results(seeds=(1,))
    R.record_failure(results, task="dyck", method="variable", seed=2, message="step 7: loss not finite")
    table = T.markdown(results)
    assert row(table, "**dyck**")[-1] == "seeds: 1"
    assert row(table, "near_miss (300)")[-1] == "52.0"
    assert "Failed: dyck, variable, seed 2: step 7: loss not finite" in table


def test_baseline_shows_no_decode_accuracy():
    results = made_results()
    results["cells"]["dyck"]["finetune"] = copy.deepcopy(results["cells"]["dyck"]["variable"])
    table = T.markdown(results)
    assert row(table, "test (300)")[2] == "100.0 ± 1.4"
    assert row(table, "decoded: result")[2] == "–"


def test_several_commands_are_one_with_placeholders():
    results = made_results()
    runs = results["cells"]["dyck"]["variable"]["runs"]
    for seed, method in (("0", "variable"), ("1", "cosine")):
        runs[seed]["command"] = f"python experiments/reproduce.py --tasks dyck --methods {method} --out /a/b.json"
    assert T.markdown(results).startswith(
        "`python -m experiments.reproduce --tasks TASK --methods METHOD`: 2 runs"
    )


def test_pages_are_written_between_markers_and_missing_ones_are_one_line(tmp_path, capsys, monkeypatch):
    experiments, readme = tmp_path / "experiments", tmp_path / "README.md"
    experiments.mkdir()
    page = experiments / "results.md"
    for name in ("tiny", "smollm2"):
        shutil.copy(ROOT / "experiments" / f"results_{name}.json", experiments)
    page.write_text("before\n<!-- results tiny -->\nold\n<!-- /results tiny -->\n")
    monkeypatch.setattr(reproduce, "HERE", experiments)
    assert "<!-- results smollm2 --> and" in fails(capsys, "--write")
    page.write_text(page.read_text() + "<!-- results smollm2 -->\n<!-- /results smollm2 -->\nafter\n")
    readme.write_text("<!-- comparison -->\n<!-- /comparison -->\n")
    reproduce.main(["--write"])
    text = page.read_text()
    assert text.startswith("before\n<!-- results tiny -->\n`python -m")
    assert text.endswith("<!-- /results smollm2 -->\nafter\n")
    assert marked.between(text, "results tiny") == T.markdown(read_json(experiments / "results_tiny.json")).strip(
        "\n"
    )
    assert marked.between(readme.read_text(), T.COMPARISON).count("\n") == 7
    reproduce.main(["--table", str(experiments / "results_tiny.json")])
    assert capsys.readouterr().out.strip("\n") == marked.between(text, "results tiny")


def test_the_pages_are_what_the_results_files_say():
    files = {p.stem.removeprefix("results_"): read_json(p) for p in (ROOT / "experiments").glob("results_*.json")}
    page = (ROOT / "experiments" / "results.md").read_text(encoding="utf-8")
    for results in files.values():
        stands = marked.between(page, T.block(results))
        assert stands == T.markdown(results).strip("\n"), "run: python -m experiments.reproduce --write"
    stands = marked.between((ROOT / "README.md").read_text(encoding="utf-8"), T.COMPARISON)
    assert stands == T.comparison(files), "run: python -m experiments.reproduce --write"
    assert "32.5" in page  # something is there


def test_the_comparison_shows_what_the_files_hold():
    files = {p.stem.removeprefix("results_"): read_json(p) for p in (ROOT / "experiments").glob("results_*.json")}
    cell = files["tiny"]["cells"]["count"]["finetune"]
    cell["summary"]["accuracy/x_only"] = {"mean": 0.123, "spread": None, "values": {"0": 0.123}}
    assert row(T.comparison(files), "count: texts of x alone")[2] == "12.3"


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        reproduce.main(argv)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_wrong_options_are_one_line(capsys, tmp_path):
    assert "invalid choice: 'dick'" in fails(capsys, "--tasks", "dick")
    assert "at least 1, got '0'" in fails(capsys, "--steps", "0")
    assert "no such file" in fails(capsys, "--table", str(tmp_path / "none.json"))


def test_order_is_all_cells_of_a_seed_first():
    runs = reproduce.plan(reproduce._parser().parse_args([]))
    assert len(runs) == 27
    assert [run.config.seed for run in runs] == [0] * 9 + [1] * 9 + [2] * 9
    assert len({(run.config.task, run.method) for run in runs[:9]}) == 9
    assert {run.config.losses.alignment for run in runs if run.method == "finetune"} == {"none"}


@pytest.fixture(scope="module")
def lm_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm") / "random"
    write_random_gpt2(folder, num_blocks=9, width=32)
    return folder


@pytest.mark.soak  # four runs, each of which compiles
def test_killed_sweep_goes_on_and_a_finished_one_trains_nothing(lm_folder, tmp_path, monkeypatch, capsys):
    runs, out = tmp_path / "runs", tmp_path / "results.json"
    argv = (
        f"--lm {lm_folder} --tasks dyck --methods variable finetune --seeds 0 --steps 2 --batch 4 --eval-items 4"
    )
    argv = [*argv.split(), "--runs", str(runs), "--out", str(out)]
    calls, steps = [], []

    # Two sets instead of nine: their shapes are most of the time.
    few = {k: v for k, v in Dyck().eval_sets().items() if k in ("test", "near_miss")}
    monkeypatch.setattr(Dyck, "eval_sets", lambda _: few)

    def inject(task, *, inject=tracr_jax.sweep.inject, **options):
        calls.append((options["config"].losses.alignment, options["resume"]))
        return inject(task, **options)

    def write(display, step, values, original=reproduce.Display.write):
        steps.append(step)
        original(display, step, values)

    monkeypatch.setattr(tracr_jax.sweep, "inject", inject)
    monkeypatch.setattr(reproduce.Display, "write", write)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as m:
        m.setattr(tracr_jax.injection, "evaluate_programs", killed)
        with pytest.raises(SystemExit) as stop:
            reproduce.main(argv)
    assert stop.value.code == 130
    assert not out.exists()
    assert (calls, steps) == ([("variable", False)], [0, 1])

    reproduce.main(argv)  # the first run only lacks its evaluation; the second is new
    assert calls[1:] == [("variable", True), ("none", False)]
    assert steps[2:] == [0, 1]
    results = read_json(out)
    cell = results["cells"]["dyck"]["variable"]
    evaluation = read_json(runs / "dyck-variable-seed0" / "evaluation.json")
    assert cell["planned_seeds"] == [0]
    assert cell["config"]["steps"] == 2
    assert "seed" not in cell["config"]
    test = cell["summary"]["accuracy/test"]
    assert test == {
        "mean": evaluation["sets"]["test"]["injected"]["accuracy"],
        "spread": None,
        "values": {"0": test["mean"]},
    }
    assert cell["sets"]["near_miss"]["sample"] == 4
    assert all(0 < m <= 1 for m in cell["majority"].values())
    lines = [json.loads(x) for x in (runs / "dyck-variable-seed0" / "metrics.jsonl").read_text().splitlines()]
    assert cell["summary"]["seconds/training"]["mean"] == pytest.approx(sum(x["seconds"] for x in lines))
    assert {"decode/final_result", "perplexity/before", "seconds/evaluation"} <= {
        re.sub(r"(final_result)_\d+", r"\1", k) for k in cell["summary"]
    }

    before = {p: p.read_bytes() for p in runs.rglob("*.json*")}
    reproduce.main(argv)
    assert len(calls) == 3
    assert len(steps) == 4
    assert {p: p.read_bytes() for p in runs.rglob("*.json*")} == before
    assert read_json(out) == results
    assert "2 of 2 runs finished" in capsys.readouterr().out

    # Other options would mix two settings under one name, in the folder as in the results file.
    argv[argv.index("--steps") + 1] = "3"
    assert "steps 2 -> 3" in fails(capsys, *argv)
    argv[argv.index("--runs") + 1] = str(tmp_path / "elsewhere")
    assert "--replace" in fails(capsys, *argv)
    assert read_json(out) == results


def test_measured_cells_refuse_other_options_planned_ones_take_them(tmp_path):
    results = made_results()
    for cell in results["cells"]["dyck"].values():
        del cell["config"]["data"]["domain_supervised"]  # as if the field were newer than the file
    folder = tmp_path / "run"
    same = Planned("variable", RunConfig(), folder)
    other = Planned("finetune", RunConfig(steps=9), folder)
    reproduce.check([same, other], results, out=tmp_path / "out.json", replace=False)
    assert list(results["cells"]["dyck"]) == [
        "variable"
    ]  # nothing was measured in the other: it may be planned anew
    changed = Planned("variable", RunConfig(steps=9), folder)
    with pytest.raises(UserError, match="steps 400 -> 9"):
        reproduce.check([changed], results, out=tmp_path / "out.json", replace=False)


def test_a_diverged_run_is_entered_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    calls, out = [], tmp_path / "results.json"

    def inject(task, *, config, **_):
        calls.append(config.seed)
        raise TrainingDivergedError("step 3: loss not finite; stopped, there is no earlier checkpoint")

    monkeypatch.setattr(tracr_jax.sweep, "inject", inject)
    monkeypatch.setattr(reproduce, "load_lm", lambda name, dtype: object())
    argv = f"--tasks count --methods cosine --seeds 0 1 --runs {tmp_path / 'runs'} --out {out}".split()
    with pytest.raises(SystemExit) as stop:
        reproduce.main(argv)
    assert stop.value.code == 1
    assert calls == [0, 1]
    cell = read_json(out)["cells"]["count"]["cosine"]
    assert cell["failed"] == {str(seed): "step 3: loss not finite" for seed in (0, 1)}
    assert "0 of 2 runs finished" in capsys.readouterr().out
    assert "Failed: count, cosine, seed 1: step 3: loss not finite" in T.markdown(read_json(out))
