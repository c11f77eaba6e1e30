"""Examples for the token explorer keep the report's contract and show right and wrong answers."""

import json

import numpy as np
import pytest

from tests.helpers.interpret_parts import DYCK, small_run
from tracr_jax.errors import UserError
from tracr_jax.interpret import examples as module
from tracr_jax.interpret.decode import decode_ids
from tracr_jax.interpret.examples import examples


@pytest.fixture
def answers(monkeypatch):
    """Answers that are right for every second item."""

    def answer(run, items):
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


def test_the_models_own_answers_and_chosen_sets():
    run = small_run()
    found = examples(run, per_set=1, sets=["near_miss"], candidates=4)
    assert [e["set"] for e in found] == ["near_miss"]
    assert found[0]["answer"] not in ("yes", "no")  # an untrained model says anything
    assert found[0]["prompt"] in {DYCK.eval_sets()["near_miss"].item(i).prompt for i in range(4)}
    with pytest.raises(UserError, match="no set 'x'; there are test, near_miss, length_ood"):
        examples(run, sets=["x"])
