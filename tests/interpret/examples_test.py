"""Examples for the token explorer keep the report's contract and show right and wrong answers."""

import json

import numpy as np
import pytest

from tests.helpers.interpret_parts import DYCK, small_run
from tracr_jax.errors import UserError
from tracr_jax.interpret import examples as module
from tracr_jax.interpret.decode import decode_ids
from tracr_jax.interpret.examples import as_json, examples, first_examples
from tracr_jax.measure.answers import greedy_answers
from tracr_jax.tasks.base import Item


@pytest.fixture
def answers(monkeypatch):
    """Answers that are right for every second item."""

    def answer(run, params, items):
        words = [i.label if k % 2 == 0 else {"yes": "no", "no": "yes"}[i.label] for k, i in enumerate(items)]
        return [run.program.tokenizer.encode(f" {w}") for w in words]

    monkeypatch.setattr(module, "greedy_answers", answer)


def test_contract_and_content(answers):
    run = small_run()
    found = examples(run, per_set=2, candidates=12)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert [e["set"] for e in found] == [n for n in ("test", "near_miss", "length_ood") for _ in range(2)]
    for name in ("test", "near_miss", "length_ood"):
        states = [e["answer"] == e["label"] for e in found if e["set"] == name]
        assert states == [True, False]
    layers, variables = run.program.teacher.num_layers + 1, run.program.teacher.variables
    for e in found:
        count = len(e["tokens"])
        assert e["answer_positions"] == [count - 2]
        assert "".join(e["tokens"]) == f"{e['prompt']} {e['answer']}"
        assert np.shape(e["truth"]) == (layers, len(variables), count)
        for layer in e["layers"]:
            assert np.shape(layer["value"]) == np.shape(layer["margin"]) == (len(variables), count)
    e = found[1]
    text = run.program.tokenizer.encode(e["prompt"]) + run.program.tokenizer.encode(f" {e['answer']}")
    d = decode_ids(run, text)
    for i, variable in enumerate(variables):
        value, truth = e["layers"][-1]["value"][i], e["truth"][-1][i]
        if variable.kind == "numerical":
            assert set(value) == set(truth) == {None}
            continue
        assert value == d.values[-1, i].tolist()
        assert [None if t is None else variable.values[t] for t in truth] == d.program(variable.name)
        assert e["layers"][-1]["margin"][i] == pytest.approx(d.margins[-1, i], abs=0.006)
    assert {v for row in e["truth"][0] for v in row} != {None}
    assert set(e["truth"][0][d.index("final_result")]) == {None}


def test_the_first_examples_are_short_and_read_as_decode_reads():
    """No teacher is compiled for them: the oracle says what the program holds."""
    run = small_run()
    sets = {n: {"injected": {"accuracy": a}} for n, a in (("test", 1.0), ("near_miss", 0.5), ("length_ood", 0.1))}
    found = first_examples(run, {"sets": sets})
    assert [v["name"] for v in found["variables"]] == [v.name for v in run.program.teacher.variables]
    assert {e["set"] for e in found["examples"]} == {"test", "near_miss"}  # the others are too long
    for e in found["examples"]:
        ids = run.program.tokenizer.encode(e["prompt"])
        answer = greedy_answers(run, run.params, [Item(e["prompt"], e["label"])])[0]
        assert e["answer"] == run.program.tokenizer.decode(answer).strip()
        again = as_json(decode_ids(run, [*ids, *answer]))
        assert {k: e[k] for k in ("tokens", "truth")} == {k: again[k] for k in ("tokens", "truth")}
        assert [x["value"] for x in e["layers"]] == [x["value"] for x in again["layers"]]


def test_the_models_own_answers_and_chosen_sets():
    run = small_run()
    found = examples(run, per_set=1, sets=["near_miss"], candidates=4)
    assert [e["set"] for e in found] == ["near_miss"]
    assert found[0]["answer"] not in ("yes", "no")  # an untrained model says anything
    assert found[0]["prompt"] in {DYCK.eval_sets()["near_miss"].item(i).prompt for i in range(4)}
    with pytest.raises(UserError, match="no set 'x'; there are test, near_miss, length_ood"):
        examples(run, sets=["x"])
