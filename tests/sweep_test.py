"""A sweep: its runs in their order, what is skipped or continued, what is collected, the table and the picture."""

import dataclasses
import io
import json

import pytest
from rich.console import Console

from tracr_jax import cli
from tracr_jax.config_file import RUN_FORMAT, to_dict
from tracr_jax.errors import TrainingDivergedError, UserError
from tracr_jax.files import write_json
from tracr_jax.report.page import write_report
from tracr_jax.report.sweep import draw_sweep
from tracr_jax.report.terminal.sweep import print_sweep
from tracr_jax.stats import share
from tracr_jax.sweep import check, configured, plan, sweep


def planned(folder, **options):
    return plan(
        "dyck", **{"methods": ("variable", "lora:4"), "retention": (0.1, 2), "seeds": 2} | options, folder=folder
    )


def made(right):
    """A `make` that writes what a run would: `right` of ten by (method, set)."""

    def make(one):
        sets = {n: {"injected": share(right[one.method, n], 10)} for n in ("test", "near", "order")}
        kept = {"original": 40.0, "injected": 41.0, "kl": 1 / (1 + one.retention)}
        write_json(one.folder / "config.json", to_dict(one.config) | {"format": RUN_FORMAT})
        write_json(one.folder / "evaluation.json", {"sets": sets, "retention": kept})
        write_json(one.folder / "made.json", {})

    return make


RIGHT = {
    ("variable", "test"): 10, ("variable", "near"): 9, ("variable", "order"): 9,
    ("lora:4", "test"): 1, ("lora:4", "near"): 8, ("lora:4", "order"): 2,
}  # fmt: skip


def test_the_plan(tmp_path):
    methods = ("variable", "exchange+lora:16", "random:embeddings", "finetune")
    runs = planned(tmp_path, methods=methods, steps=7, eval_items=3)
    assert len({r.folder for r in runs}) == len(runs) == 4 * 2 * 2
    assert [r.config.seed for r in runs] == [0] * 8 + [1] * 8
    kinds = [(r.config.losses.alignment, r.config.train, r.config.lm) for r in runs[:8:2]]
    assert kinds == [
        ("variable", "program", "tiny"),
        ("exchange", "lora:16", "tiny"),
        ("variable", "embeddings", "random:tiny"),
        ("none", "program", "tiny"),
    ]
    assert [r.config.losses.retention_weight for r in runs[:2]] == [0.1, 2]
    assert {(r.config.steps, r.config.eval_items) for r in runs} == {(7, 3)}
    close = planned(tmp_path, methods=("variable",), retention=(0.1234567, 0.1234568))
    assert len({r.folder for r in close}) == len(close)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ("grift",)}, r"unknown method 'grift'; methods: exchange, .* what is trained: all, "),
        ({"methods": ("exchange+lora:0",)}, "unknown method 'lora:0'; methods: "),
        ({"methods": ("variable", "")}, "unknown method ''"),
        ({"methods": ("graft+lora:4",)}, "preset graft with train 'lora:4': a graft leaves the model as it is"),
        ({"methods": ()}, "nothing to run"),
        ({"seeds": 0}, "nothing to run"),
        ({"retention": (-1.0,)}, "retention_weight"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"eval_items": 0}, "eval_items must be at least 1, got 0"),
    ],
)
def test_what_cannot_be_planned(options, message, tmp_path):
    with pytest.raises(UserError, match=message):
        planned(tmp_path, **options)


def test_a_sweep_goes_on_where_it_was_stopped(tmp_path):
    runs = planned(tmp_path)
    make = made(RIGHT)

    def fails_at_third(one):
        if one is runs[2]:
            raise UserError("no memory")
        make(one)

    with pytest.raises(UserError, match="no memory"):
        sweep(runs, tmp_path, make=fails_at_third)
    kept = json.loads((tmp_path / "sweep.json").read_text())
    assert [p["folder"] for p in kept["points"]] == [r.folder.name for r in runs[:2]]
    before = [(r.folder / "made.json").stat().st_mtime_ns for r in runs[:2]]
    found = sweep(runs, tmp_path, make=make)
    assert [(r.folder / "made.json").stat().st_mtime_ns for r in runs[:2]] == before
    assert found == json.loads((tmp_path / "sweep.json").read_text())
    # "test" is the worst of all, and of training's own distribution.
    assert (found["set"], len(found["points"])) == ("order", 8)
    assert found["points"][2]["accuracy"] == share(2, 10)
    assert found["points"][0]["kl"] == pytest.approx(1 / 1.1)
    assert sweep(runs, tmp_path, by="near")["points"][2]["accuracy"] == share(8, 10)
    with pytest.raises(UserError, match="no evaluation set 'far'; sets: test, near, order"):
        sweep(runs, tmp_path, by="far")
    old = json.loads((runs[0].folder / "evaluation.json").read_text())
    del old["retention"]["kl"]
    write_json(runs[0].folder / "evaluation.json", old)
    with pytest.raises(UserError, match=r"without KL to the original; .*evaluate .*variable-retention0\.1"):
        sweep(runs, tmp_path, make=make)
    # A finished run of other options is another run.
    with pytest.raises(UserError, match=r"variable-retention0.1-seed0: .*steps 400 -> 7"):
        sweep(planned(tmp_path, steps=7), tmp_path, make=make)


def test_the_table_and_the_picture(tmp_path):
    found = sweep(planned(tmp_path), tmp_path, make=made(RIGHT))
    for width in (60, 120):
        console = Console(width=width, file=io.StringIO())
        print_sweep(console, found)
        lines = console.file.getvalue().splitlines()
        assert max(map(len, lines)) <= width
        row = next(line for line in lines if line.strip().startswith("lora:4") and " 0.1 " in line)
        assert ("20.0 (20.0 to 20.0)" in row) == (width == 120)
        assert "0.909" in row
    assert draw_sweep(tmp_path).read_bytes().startswith(b"\x89PNG")
    page = write_report(tmp_path).read_text()
    assert page.count("<tr>") == 1 + len(found["points"])
    assert "20.0 (" in page
    assert ('src="data:image/png;base64,' in page, "<script" in page) == (True, False)
    for content in ({}, found | {"points": [{"method": "variable"}]}, found | {"points": 3}):
        write_json(tmp_path / "sweep.json", content)
        with pytest.raises(UserError, match=r"sweep\.json"):
            write_report(tmp_path)


def test_what_a_file_says_is_text_on_the_page(tmp_path):
    found = sweep(planned(tmp_path), tmp_path, make=made(RIGHT))
    evil = "<img src=x onerror=alert(1)>"
    write_json(tmp_path / "sweep.json", {**found, "task": evil, "set": evil})
    page = write_report(tmp_path).read_text()
    assert evil not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") >= 3


def test_the_command_refuses_before_it_computes(capsys, tmp_path):
    for words, message in (
        (["--retention", "much"], "--retention must be numbers with commas between them, got 'much'"),
        (["--methods", "grift"], "unknown method 'grift'; methods: exchange, variable,"),
        (["--by", "near_mis"], "no evaluation set 'near_mis'; sets: "),
    ):
        with pytest.raises(SystemExit):
            cli.main(["sweep", "dyck", *words, "--folder", str(tmp_path / "none")])
        assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "none").exists()


def test_an_untrained_model_is_no_other_recipe(tmp_path):
    """The preset of the model that it has the shape of, "random:" once, and the sweep's own model by its name."""
    for method in ("variable", "exchange", "finetune"):
        own, other = (configured(m, task="dyck") for m in (method, f"random:{method}"))
        assert dataclasses.replace(other, lm="tiny") == own
        assert configured(f"random:{method}", task="dyck", lm="random:tiny") == other
    for lm, methods in (("random:tiny", ("lora:4",)), ("tiny", ("random:lora:4", "lora:4"))):
        runs = planned(tmp_path / lm[:4], lm=lm, methods=methods, seeds=1)
        right = {(m, n): 5 for m in methods for n in ("test", "near", "order")}
        assert sweep(runs, tmp_path / lm[:4], make=made(right))["lm"] == lm


def test_runs_that_were_asked_other_items_are_no_picture(tmp_path):
    runs = planned(tmp_path)
    sweep(runs, tmp_path, make=made(RIGHT))
    path = runs[3].folder / "evaluation.json"
    before = json.loads(path.read_text())
    for sets in (
        before["sets"] | {"near": {"injected": share(90, 100)}},
        {n: s for n, s in before["sets"].items() if n != "near"},
        before["sets"] | {"more": before["sets"]["near"]},
    ):
        write_json(path, before | {"sets": sets})
        with pytest.raises(UserError, match="is not that of"):
            check(runs)  # before any is made
        with pytest.raises(UserError, match=rf"{runs[3].folder.name}: its set '(near|more)' is not that of "):
            sweep(runs, tmp_path)


def test_the_command_ends_with_what_failed(tmp_path, monkeypatch, capsys):
    def diverges(one, **_):
        raise TrainingDivergedError("loss is nan at step 3")

    monkeypatch.setattr("tracr_jax.sweep.make_run", diverges)
    words = ["--methods", "variable", "--retention", "1", "--seeds", "2", "--folder", str(tmp_path / "s")]
    with pytest.raises(SystemExit):
        cli.main(["sweep", "dyck", *words])
    said = " ".join(capsys.readouterr().err.split())
    assert "2 of 2 runs failed, variable-retention1-seed0: loss is nan at step 3" in said
    assert not (tmp_path / "s" / "report.html").exists()


def test_other_items_in_the_same_number_are_told_by_their_digest(tmp_path):
    runs = planned(tmp_path)
    sweep(runs, tmp_path, make=made(RIGHT))
    for run, digest in ((runs[0], "1"), (runs[1], "1"), (runs[2], "2")):
        path = run.folder / "evaluation.json"
        evaluation = json.loads(path.read_text())
        evaluation["sets"]["near"]["digest"] = digest
        write_json(path, evaluation)
        if digest == "1":  # the others are of an earlier version, and say nothing
            sweep(runs, tmp_path)
    with pytest.raises(UserError, match="its set 'near' is not that of"):
        sweep(runs, tmp_path)


def test_a_run_that_diverges_is_said_and_the_others_go_on(tmp_path):
    runs, make, lines = planned(tmp_path), made(RIGHT), []

    def diverges(one):
        if one is runs[1]:
            raise TrainingDivergedError("loss is nan at step 3")
        make(one)

    found = sweep(runs, tmp_path, make=diverges, say=lines.append)
    assert len(found["points"]) == len(runs) - 1
    (failed,) = found["failed"]
    assert (failed["folder"], failed["why"]) == (runs[1].folder.name, "loss is nan at step 3")
    assert "failed: loss is nan at step 3" in lines
    console = Console(width=60, file=io.StringIO())
    print_sweep(console, found)
    assert "failed: loss is nan at step 3" in " ".join(console.file.getvalue().split())
    assert "failed: loss is nan at step 3" in write_report(tmp_path).read_text()
    assert sweep(runs, tmp_path, make=make)["failed"] == []  # tried again
