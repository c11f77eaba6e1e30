"""The proof before training: a network that is not its program is refused, and look-ahead is said."""

import dataclasses
import json
import re

import numpy as np
import pytest
from tracr.rasp import rasp

import tracr_jax
from tests.helpers.random_models import write_random_gpt2
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.errors import UserError
from tracr_jax.lm.load import load_lm
from tracr_jax.runs import task_bridge
from tracr_jax.runs.build import build, build_program
from tracr_jax.runs.proof import prove
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.registry import get_task
from tracr_jax.teacher import cached_compile
from tracr_jax.teacher.meaning import compare_meanings, positional_lookahead
from tracr_jax.teacher.oracle import Oracle

CONFIG = tracr_jax.RunConfig(
    steps=1, eval_items=4, data=tracr_jax.DataConfig(batch=4, text_batch=2, text_length=16, text=str(SHORT_TEXT))
)


def odd():
    ones = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "x")).named("xs")
    return rasp.Map(lambda n: n % 2 == 1, ones).named("odd")


def from_the_end():
    """Two x at an even distance from the end: causally every position is the end, and every x counts."""
    behind = rasp.SelectorWidth(rasp.Select(rasp.indices, rasp.indices, lambda key, query: key > query))
    behind = behind.named("behind")
    even = rasp.SequenceMap(lambda n, t: t == "x" and n % 2 == 0, behind, rasp.tokens).named("even")
    count = rasp.SelectorWidth(rasp.Select(even, rasp.tokens, lambda key, query: key)).named("count")
    return rasp.Map(lambda n: n >= 2, count).named("two")


def is_sorted():
    """Counts for each letter the greater ones, before it or anywhere."""
    greater = rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: {key, query} <= set("xyz") and key > query)
    bad = rasp.SelectorWidth(greater).named("greater")
    worst = rasp.SelectorWidth(rasp.Select(bad, rasp.tokens, lambda key, query: key > 0)).named("violations")
    return rasp.Map(lambda n: n == 0, worst).named("sorted")


def string_task(program, name="mine"):
    return tracr_jax.StringTask(name, program, letters=("x", "y", "z"), max_length=8)


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    return write_random_gpt2(tmp_path_factory.mktemp("lm"), num_blocks=8, width=64, heads=2)


@pytest.mark.parametrize("part", ["linear_2", "value", "token_embed"])
def test_a_corrupted_network_is_refused_before_anything_is_written(monkeypatch, tmp_path, lm, part):
    def corrupted(*args, **kwargs):
        teacher = cached_compile(*args, **kwargs)
        name, coo = next((n, c) for n, c in teacher.weights.items() if n.endswith(part) and len(c.value))
        value = coo.value.copy()
        # Of the embedding, a letter that every item may hold; PAD's row is read by nothing.
        at = np.flatnonzero(coo.row == teacher.vocab["x"])[0] if part == "token_embed" else len(value) // 2
        value[at] *= -1
        return dataclasses.replace(teacher, weights={**teacher.weights, name: coo._replace(value=value)})

    monkeypatch.setattr(task_bridge, "cached_compile", corrupted)
    with pytest.raises(UserError) as caught:
        tracr_jax.inject(string_task(odd), lm=lm, config=CONFIG, folder=tmp_path / "run")
    line = str(caught.value)
    assert "the compiled network is not its program: " in line
    assert " at position " in line
    assert "expected" in line
    assert "the teacher holds [" in line
    assert "SelectorWidth" in line  # what to change
    assert not (tmp_path / "run").exists()


def test_a_blunt_teacher_is_told_from_a_wrong_one(lm):
    """The advice names the sharpness that the table needs."""
    with pytest.raises(UserError, match=r"_counts_\d+ at position .* mlp_exactness is 100, \d+ positions need 1"):
        build(CONFIG, task=Dyck(as_coded_exactness=True), lm=lm)


def test_as_coded_only_warns(lm):
    """The original trains on its blurred network, and so does its preset."""
    said, fidelity = [], tracr_jax.preset("paper").fidelity
    setup = build(dataclasses.replace(CONFIG, fidelity=fidelity), task="dyck", lm=lm, say=said.append)
    assert not setup.proof.network.ok
    assert any(line.startswith("warning: dyck: the compiled network is not its program") for line in said)


@pytest.mark.parametrize("name", ["dyck", "int_sum", "count"])
def test_the_bundled_tasks_are_proved_without_a_warning(name):
    lm, said, task = load_lm("tiny"), [], get_task(name)
    program = build_program(tracr_jax.preset(task=name), task=task, lm=lm)
    items = [*task.longest_items(), *(task.train_item(i, seed=0) for i in range(60))]
    proof = prove(task, program.bridge, items, oracle=program.oracle, say=said.append)
    assert proof.network.ok
    assert proof.network.largest_deviation < 0.02
    assert proof.network.inputs == len(items) + program.teacher.max_seq_len
    assert proof.network.compared > 40_000
    assert said == []


def test_a_run_records_its_proof_and_says_what_looks_ahead(monkeypatch, tmp_path, lm):
    said = []

    def training_begins(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("tracr_jax.runs.training.make_parts", training_begins)
    task = string_task(from_the_end, "from_the_end")
    with pytest.raises(KeyboardInterrupt):
        tracr_jax.inject(task, lm=lm, config=CONFIG, folder=tmp_path / "run", say=said.append)
    warnings = [line for line in said if line.startswith("warning: ")]
    assert len(warnings) == 1
    assert "from_the_end answers otherwise when it may read the whole string" in warnings[0]
    assert "for 'What is the text " in warnings[0]
    assert re.search(
        r"value is (True causally and False|False causally and True) on the whole string", warnings[0]
    )
    assert "(from behind_" in warnings[0]
    proof = json.loads((tmp_path / "run" / "run.json").read_text())["proof"]
    assert proof["network"]["agrees"]
    assert proof["meaning"]["warning"] == warnings[0].removeprefix("warning: ")
    assert any(n.startswith("behind") for n in proof["meaning"]["selectors_that_look_ahead"])


@pytest.mark.parametrize(
    ("program", "ahead", "by_index"),
    [
        (odd, {"xs"}, set()),
        (is_sorted, {"greater", "violations"}, set()),
        (from_the_end, {"behind", "count"}, {"behind"}),
    ],
)
def test_which_selectors_look_ahead(program, ahead, by_index):
    oracle = Oracle(string_task(program).program(max_seq_len=8))
    inputs = [list("xyx?"), list("yxy?"), list("yyx?")]
    meaning = compare_meanings(oracle, [[*i, "other"] for i in inputs], [4, 4, 4])
    base = lambda names: {n.rsplit("_", 1)[0] for n in names}  # noqa: E731
    assert base(meaning.ahead) == ahead
    assert base(meaning.by_index) == base(positional_lookahead(oracle, length=8)) == by_index


def test_both_meanings_by_brute_force():
    """Sorted so far, and sorted as a whole, by plain Python on every string of up to five letters."""
    oracle = Oracle(string_task(is_sorted).program(max_seq_len=8))
    whole = Oracle(oracle.program, causal=False)
    for n in range(1, 6):
        for bits in range(2**n):
            letters = ["xy"[bits >> k & 1] for k in range(n)]
            falls = any(a > b for i, a in enumerate(letters) for b in letters[i + 1 :])
            varied = any(a > b for a in letters for b in letters)
            tokens = [*letters, "?"]
            assert oracle(tokens).values[oracle.result][-1] is not falls
            assert whole(tokens).values[whole.result][-1] is not varied
            meaning = compare_meanings(oracle, [[*tokens, "other"]], [len(tokens)])
            assert (meaning.answers, meaning.differ) == (1, int(falls != varied))


def test_a_program_with_one_meaning_is_not_warned_about(lm):
    said = []
    proof = build(CONFIG, task=string_task(odd), lm=lm, say=said.append).proof
    assert proof.meaning.answers > 300
    assert proof.meaning.differ == 0
    assert proof.meaning.ahead  # it counts, so it would count later letters too
    assert not [line for line in said if "warning" in line]
