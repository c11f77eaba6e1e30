"""The table of the zoo: what it shows of its file."""

import pytest

from experiments import marked, zoo
from tracr_jax.errors import UserError
from tracr_jax.files import read_json


def share(right, total):
    return {"right": right, "total": total, "accuracy": right / total if total else None}


def cell(variable, layer, right, total=10):
    return {"variable": variable, "layer": layer, "followed": {"answer": {"swap": share(right, total)}}}


def test_a_variable_counts_by_its_lowest_layer():
    cells = [cell("a", 1, 9), cell("a", 2, 4), cell("a", 3, 0, total=0), cell("b", 1, 0, total=0)]
    assert zoo.lowest(cells) == {"a": 0.4, "b": None}


def run(test, near, far, **more):
    sets = {"test": test, "near": near, "far": far}
    one = {"sets": sets, "kl": 0.5, "result": "out"}
    return one | {"config": {"steps": 5, "seed": 0}} | more


def row(table, task, method):
    (line,) = [x for x in table.splitlines() if x.startswith(f"| {task} | {method} |")]
    return [x.strip() for x in line.strip("|").split("|")[2:]]


def test_the_table_shows_the_hardest_set_of_all_methods_and_what_was_not_run():
    read = {"decoded": {"out": 1.0, "x": 0.75}, "followed": {"out": 1.0, "x": 0.5, "y": None}}
    runs = {"variable": {"0": run(0.25, 0.5, 1.0, **read), "1": run(0.75, 1.0, 1.0, **read)}}
    runs["finetune"] = {"0": run(1.0, 0.25, 0.0) | {"kl": 0.25}}
    file = {"tasks": ["sort", "parity"], "methods": ["variable", "finetune"], "pairs": 30, "runs": {"sort": runs}}
    file["trivial"] = {"sort": {"test": 0.5, "near": 0.25, "far": 0.0}}
    table = zoo.table(file)
    # near: 1.75 of three, far: 2; test is training's own.
    assert row(table, "sort", "variable") == [
        "2", "50.0 (25–75)", "75.0 (50–100) near", "25.0", "75.0", "100.0", "50.0", "0.500"
    ]  # fmt: skip
    assert row(table, "sort", "finetune") == ["1", "100.0", "25.0 near", "25.0", "–", "–", "–", "0.250"]
    assert row(table, "parity", "all")[0] == "not run"
    del runs["finetune"]
    assert row(zoo.table(file), "sort", "finetune")[0] == "not run"
    assert "30 pairs" in table
    runs["variable"]["1"]["config"] = {"steps": 5, "seed": 1}
    assert row(zoo.table(file), "sort", "variable")[0] == "2"
    runs["variable"]["0"]["digest"] = runs["variable"]["1"]["digest"] = "one"
    assert row(zoo.table(file), "sort", "variable")[0] == "2"
    runs["variable"]["1"]["digest"] = "other"
    with pytest.raises(UserError, match="sort's runs were asked different items"):
        zoo.table(file)
    del runs["variable"]["1"]["digest"]
    runs["variable"]["1"]["config"] = {"steps": 50, "seed": 1}
    with pytest.raises(UserError, match="the seeds of sort, variable ran with different options"):
        zoo.table(file)


def test_the_short_table_names_a_method_that_ran_and_what_it_did_not():
    runs = {"sort": {"variable": {"0": run(0.25, 0.5, 1.0), "1": run(0.5, 1.0, 1.0)}, "graft": {}}}
    lines = zoo.short_table({"runs": runs}).splitlines()
    assert len(lines) == 3  # one method
    assert row(lines[2], "injection", "not run")[0] == "37.5 (25–50)"


def test_the_pages_are_what_the_file_says():
    file = read_json(zoo.FILE)
    for page, table in (("experiments/results.md", zoo.table(file)), ("README.md", zoo.short_table(file))):
        text = (zoo.HERE.parent / page).read_text(encoding="utf-8")
        assert marked.between(text, "zoo") == table, "run: python -m experiments.zoo --write"
