"""The scorecard is perfect where the states are the teacher's, and no better than a constant where nothing is."""

import dataclasses
import io
import json

import numpy as np
import pytest
from rich.console import Console

from tests.helpers.interpret_parts import known_run, small_run
from tracr_jax.data.samples import reported_samples
from tracr_jax.errors import UserError
from tracr_jax.interpret.scorecard import scorecard
from tracr_jax.measure.answers import decode_samples
from tracr_jax.measure.variables.labelled import CLASSES
from tracr_jax.report.terminal.scorecard import scorecard_table

ITEMS = 30


@pytest.fixture(scope="module")
def card():
    run = known_run()
    return scorecard(run, items=ITEMS, probe_items=200)


def test_the_teachers_own_states_are_read_without_a_mistake(card):
    run = known_run()
    assert card["layers"] == run.program.teacher.num_layers + 1
    names = [v.name for v in run.program.teacher.variables if v.kind == "categorical"]
    assert "valid" not in card["sets"]
    for s in card["sets"].values():
        assert s["items"] == ITEMS
        assert list(s["classes"]) == list(CLASSES)
        assert all(list(variables) == names for variables in s["classes"].values())
    test = card["sets"]["test"]["classes"]
    for variable in (v for v in run.program.teacher.variables if v.kind == "categorical"):
        for c in CLASSES:
            entry = test[c][variable.name]
            w = variable.writer_layer
            assert entry["accuracy"] == [None] * w + [1.0] * (card["layers"] - w), (variable.name, c)
            assert entry["majority"] <= 1.0
            assert [x is None for x in entry["probe"]] == [x is None for x in entry["accuracy"]]
    assert test["marker"]["final_result_1"]["positions"] == ITEMS
    assert test["marker"]["final_result_1"]["majority"] < 0.8
    assert test["all"]["indices"]["majority"] < 0.2


def test_the_probe_finds_what_the_untouched_states_hold_and_no_more(card):
    """Untouched states are a random vector per token: they tell the token, and nothing of what came before."""
    test = card["sets"]["test"]["classes"]["all"]
    assert test["tokens"]["probe"][-1] == 1.0
    # At the marker every item looks alike.
    marker = card["sets"]["test"]["classes"]["marker"]
    for name in ("final_result_1", "[]_diffs_6"):
        name = next(n for n in marker if n.startswith(name.rsplit("_", 1)[0]))
        entry = marker[name]
        assert entry["probe"][-1] <= entry["majority"] + 0.05
    assert (
        test["indices"]["probe"][-1] < 0.75
    )  # the words of the prompt stand in fixed places, the brackets do not


def test_evaluation_counts_in_the_same_way(card):
    run = known_run()
    decoded = decode_samples(run, reported_samples(run.program.task, ITEMS))
    assert set(decoded) == set(card["sets"])
    for name, d in decoded.items():
        for ours, theirs in (("all", "all_positions"), ("answer", "answer_positions")):
            for variable, entry in card["sets"][name]["classes"][ours].items():
                other = d[theirs][variable]
                assert other["positions"] == entry["positions"]
                assert other["by_layer"] == pytest.approx(entry["accuracy"], abs=1e-4)


def test_an_untrained_adapter_is_no_better_than_a_constant():
    """The measure can fail: random states, random adapter."""
    run = small_run()
    card = scorecard(run, items=ITEMS, probe_items=100)
    entries = [e for s in card["sets"].values() for e in s["classes"]["all"].values()]
    lead = [e["accuracy"][-1] - e["majority"] for e in entries]
    assert np.mean(lead) < -0.1
    assert max(lead) < 0.1
    # The other way round: the probe of the same states is far better than this adapter.
    assert np.mean([e["probe"][-1] - e["accuracy"][-1] for e in entries]) > 0.2


def test_table_and_json(card):
    console = Console(width=80, file=io.StringIO())
    console.print(scorecard_table(card, result="final_result_1"))
    lines = console.file.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any("final_result_1" in line and "100.0" in line for line in lines)
    assert json.loads(json.dumps(card, allow_nan=False)) == card
    with pytest.raises(UserError, match="no set 'none'; there are test"):
        scorecard_table(card, result="final_result_1", chosen="none")


def test_a_wrong_adapter_row_shows_in_its_variable_only(card):
    run = known_run()
    variable = run.program.teacher.variable("final_result")
    rows = np.array(variable.indices)
    weight = run.adapter.weight.at[rows].set(run.adapter.weight[rows[::-1]])
    program = run.program.trained(run.adapter._replace(weight=weight))
    samples = {"test": reported_samples(run.program.task, ITEMS)["test"]}
    after = decode_samples(dataclasses.replace(run, programs=(program,)), samples)["test"]["answer_positions"]
    before = card["sets"]["test"]["classes"]["answer"]
    assert {n for n in after if after[n]["by_layer"] != before[n]["accuracy"]} == {variable.name}
    assert after[variable.name]["accuracy"] == 0.0
