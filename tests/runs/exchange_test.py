"""Exchange training as a run: its folder, what is read back, what decode shows, and a second program beside it."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers import interpret_parts as P
from tests.helpers.exchange_run import CONFIG, small_exchange_run
from tests.helpers.random_models import write_random_gpt2
from tracr_jax.config import ExchangeConfig, LossConfig
from tracr_jax.config_file import RUN_FORMAT, from_dict, to_dict
from tracr_jax.errors import UserError
from tracr_jax.explore.session import Change, Explorer
from tracr_jax.export import export_run
from tracr_jax.export.activations import write_activations
from tracr_jax.export.benchmark import write_benchmark
from tracr_jax.files import read_json
from tracr_jax.injection import inject
from tracr_jax.interpret.decode import decode
from tracr_jax.interpret.examples import describe_variables
from tracr_jax.interpret.exchange import WEIGHTS, exchange
from tracr_jax.interpret.swap import held_coordinates, swaps
from tracr_jax.interpret.write import write
from tracr_jax.presets import METHODS, preset
from tracr_jax.runs.model import open as open_run
from tracr_jax.teacher.readers import is_special
from tracr_jax.train.losses import apply_adapter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    with small_exchange_run(tmp_path_factory.mktemp("exchange")) as made:
        yield made


def test_what_was_trained(run):
    program = run.program
    assert program.states == (1, 2, 3, 4, 5, 6, 7)
    basis = np.asarray(program.codes.basis)
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-6)
    start = program.reserved.start
    moved = [np.abs(np.asarray(c) - s).max() for c, s in zip(program.codes.centroids, start, strict=True)]
    fixed = [s.shape[1] == 2 for s in start]
    assert any(fixed)
    assert [m == 0 for m in moved] == fixed
    adapter = program.reserved.adapter(program.codes)
    np.testing.assert_array_equal(adapter.weight, run.adapter.weight)
    sets = run.evaluation["decode"]["test"]["all_positions"]
    assert sets["final_result_1"]["accuracy"] is not None
    assert sets["indices"]["accuracy"] is None  # nothing is reserved for it: not counted
    # A variable whose directions are handed on is scored at the last layer that encodes it.
    for name in program.reserved.names:
        at = program.layers_of(program.teacher.variable(name))[-1]
        assert sets[name]["accuracy"] == sets[name]["by_layer"][at], name
        assert sets[name]["positions"] > 0, name
        assert sets[name]["majority"] is not None, name


def test_the_folder_holds_all_that_is_read(run):
    again = open_run(run.folder, task=P.DYCK)
    for one, other in zip(jax.tree.leaves(run.program.codes), jax.tree.leaves(again.program.codes), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(again.adapter.weight, run.adapter.weight)
    assert again.program.reserved.names == run.program.reserved.names
    assert again.program.states == run.program.states


def test_decode_shows_what_the_directions_can_hold(run):
    program = run.program
    found = decode(run, program.examples[0].prompt)
    r = program.reserved
    for v in program.teacher.variables:
        truth = found.truth[:, found.index(v.name)]
        if v.name not in r.names:
            assert np.all(truth == -1)
            continue
        alive = r.alive[:, r.names.index(v.name)]
        assert np.all(truth[~alive] == -1)
        assert np.any(truth[alive] >= 0)
        first = set(r.standing(program.teacher, v.name).tolist())
        assert set(truth.ravel().tolist()) <= first | {-1}
        assert set(found.values[alive, found.index(v.name)].ravel().tolist()) <= first
        assert np.all(found.away[:, found.index(v.name)] > 0)
        assert np.all(found.margins[:, found.index(v.name)] >= 0)
    assert "no centroid is near" in found.show().legend


def test_decode_shows_only_what_is_read_at_the_layer_and_says_where_the_rest_is(run):
    program = run.program
    found = decode(run, program.examples[0].prompt)
    judged = dataclasses.replace(found, unknown="no table", truth=np.full_like(found.truth, -1))
    for i, v in enumerate(found.variables):
        layers = program.layers_of(v)
        unread = sorted({*range(program.depth + 1)} - {*layers})
        assert np.all(found.values[unread, i] == -1), v.name
        assert np.all(np.isnan(found.numbers[:, i])), v.name  # no directions are reserved for a number
        # Where the program's values are unknown, other variables' directions are not read as this one's either.
        for d in (found, judged):
            assert d.layers_of(i) == layers, v.name
            for layer in unread:
                assert d.read(v.name, layer=layer) == [None] * len(found.tokens), v.name
    for layer in range(program.depth + 1):
        table = found.show(layer=layer, everything=True)
        assert {found.variables[i].name for i in table.order} == {
            v.name for v in found.variables if layer in program.layers_of(v)
        }
        assert ("final_result (6)" in table.elsewhere) == (layer != 6)


def test_texts_of_other_lengths_compile_nothing_anew(run, caplog):
    prompts = [P.DYCK.item(s).prompt for s in ("()", "([]", "[[")]
    decode(run, prompts[0])
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for prompt in prompts[1:]:
            decode(run, prompt)
        assert [r.getMessage() for r in caplog.records if "ompil" in r.getMessage()] == []


def test_the_explorer_offers_what_is_encoded_and_says_what_is_not(run):
    program, explorer = run.program, Explorer(run)
    prompt = program.examples[0].prompt
    found = explorer.read(prompt)
    described = describe_variables(run)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for i, v in enumerate(program.teacher.variables):
        own = described[i]
        for layer in range(program.depth + 1):
            assert (own["unread"][layer] == "") == (layer in program.layers_of(v)), v.name
            read = found["before"]["layers"][layer]
            if own["unread"][layer]:
                assert set(read["value"][i]) == set(read["margin"][i]) == {None}, v.name
                assert str(i) not in read["between"]
        if v.name not in program.reserved.names:
            assert found["settable"][i] == []
            continue
        first = program.reserved.standing(program.teacher, v.name).tolist()
        assert found["settable"][i] == sorted(set(first))
        # Every value is named once: by itself, or by the one that stands for it.
        held = [k for k, x in zip(first, v.values, strict=True) if not is_special(program.teacher, v.name, x)]
        several = {k for k in held if held.count(k) > 1}
        assert {int(k) for k in own["alike"]} == several, v.name
    counter = next(d for d in described if d["name"].startswith("()_negative_counters"))
    assert next(iter(counter["alike"].values())).startswith("1…")
    # Where no centroid is near it is said; a state that was written is on its centroid.
    d = decode(run, prompt)
    far = [at for at in np.argwhere(d.away > 0.5).tolist() if d.values[tuple(at)] >= 0]
    assert far
    for layer, i, token in far:
        assert token in found["before"]["layers"][layer]["between"][str(i)]
    layer, i, token = far[-1]
    value = found["settable"][i][-1]
    changed = explorer.read(prompt, [Change(i, layer, token, value)])["after"]["layers"][layer]
    assert changed["value"][i][token] == value
    assert token not in changed["between"].get(str(i), [])


def test_a_value_is_written_and_decoded_again(run):
    program = run.program
    r, teacher = program.reserved, program.teacher
    states = np.random.default_rng(0).normal(size=(5, run.model.width)).astype(np.float32)
    for name in r.names:
        v = teacher.variable(name)
        for place in {0, len(v.values) - 1}:
            new = write(run, states, name, v.values[place])
            read = np.asarray(apply_adapter(run.adapter, new))[:, list(v.indices)]
            assert np.all(read.argmax(axis=1) == r.standing(teacher, name)[place]), name
    np.testing.assert_allclose(
        write(run, states, "final_result", True), write(run, states, "final_result_1", True)
    )
    with pytest.raises(UserError, match="final_result_1 has no value 'yes'; its values: False, True"):
        write(run, states, "final_result", "yes")
    with pytest.raises(UserError, match="no directions are reserved for 'indices'"):
        write(run, states, "indices", 0)
    # After its last reader a variable's directions are another's.
    handed_on = next(
        v for v in teacher.variables if program.layers_of(v) and program.layers_of(v)[-1] < program.depth
    )
    last = program.layers_of(handed_on)[-1]
    at_last = write(run, states, handed_on.name, handed_on.values[0], layer=last)
    np.testing.assert_array_equal(at_last, write(run, states, handed_on.name, handed_on.values[0]))
    with pytest.raises(UserError, match=rf"at layer {last + 1}: nothing reads it any more"):
        write(run, states, handed_on.name, handed_on.values[0], layer=last + 1)


def test_an_export_reads_the_same(run, tmp_path):
    export_run(run, tmp_path / "export")
    there = open_run(tmp_path / "export", task=P.DYCK)
    np.testing.assert_array_equal(there.adapter.weight, run.adapter.weight)
    for one, other in zip(jax.tree.leaves(run.program.codes), jax.tree.leaves(there.program.codes), strict=True):
        np.testing.assert_array_equal(one, other)
    text = run.program.examples[0].prompt
    ours, theirs = decode(run, text), decode(there, text)
    for field in dataclasses.fields(ours):
        if isinstance(getattr(ours, field.name), np.ndarray):
            np.testing.assert_array_equal(getattr(theirs, field.name), getattr(ours, field.name))
    states = np.random.default_rng(0).normal(size=(5, run.model.width)).astype(np.float32)
    written = [write(model, states, "final_result", True) for model in (run, there)]
    np.testing.assert_array_equal(*written)
    (tmp_path / "export" / "codes.safetensors").unlink()
    with pytest.raises(UserError, match=r"codes\.safetensors"):
        open_run(tmp_path / "export")


def test_exports_name_the_values_that_are_read_as_one(run, tmp_path):
    """And the labels of activations are the program's values, whatever the adapter can tell apart."""
    name = run.program.teacher.variable("()_diffs").name
    export_run(run, tmp_path / "export")
    card = (tmp_path / "export" / "README.md").read_text(encoding="utf-8")
    content = read_json(tmp_path / "export" / "program.json")
    several = {v["name"]: v["alike"] for v in content["variables"] if v["alike"]}
    assert len(several[name]) == 2  # the negative ones, and the positive ones
    assert all(label + " alike" in card for alike in several.values() for label in alike.values())
    write_benchmark(run, tmp_path)
    assert read_json(tmp_path / "correspondence.json")[name]["alike"] == several[name]
    write_activations(run, tmp_path, items=6)
    about, rows = read_json(tmp_path / "activations.json"), load_file(tmp_path / "activations.safetensors")
    assert {v["name"]: v["alike"] for v in about["variables"] if v["alike"]} == several
    ((i, values),) = [(i, v["values"]) for i, v in enumerate(about["variables"]) if v["name"] == name]
    seen = set()
    for k in range(len(about["items"])):
        own = rows["item"] == k
        ids = rows["token_ids"][own].tolist()
        if len(ids) <= run.program.length:
            right = run.program.oracle(run.program.bridge.teacher_values(ids)).values[name]
            found = [values[x] for x in rows["labels"][own][:, i]]
            assert found == [str(x) for x in right]
            seen |= set(found)
    assert len(seen) > 3  # more than the classes


def assert_control_holds_something(program, cell):
    """The other variable has directions at the cell's layer, and none of the cell's own."""
    if cell["other_variable"] is None:
        return
    other = program.teacher.variable(cell["other_variable"])
    assert cell["layer"] in program.layers_of(other)
    place, r = program.reserved.place, program.reserved
    assert not {*place[r.coordinates(other.name)]} & {*place[r.coordinates(cell["variable"])]}


def test_swaps_count_where_the_base_is_right_and_exchange_what_no_variable_holds(run):
    found = swaps(run, pairs=6, pool_items=24)
    assert found["cells"]
    for cell in found["cells"]:
        for place in ("answer", "decoded"):
            changes = cell["followed"][place]
            assert set(changes) >= {"swap", "random", "complement", "outside"}
            assert len({s["total"] for s in changes.values()}) == 1
            assert changes["swap"]["total"] <= cell["flips"]
        assert cell["faithful"]["total"] == cell["total"]
        assert cell["outside_moved"]["total"] == cell["followed"]["answer"]["swap"]["total"]
        assert_control_holds_something(run.program, cell)
    error = found["causal_abstraction_error"]
    for name, key in (("mapped", "match"), ("faithful", "faithful")):
        assert error[name] == pytest.approx(1 - np.mean([c[key]["accuracy"] for c in found["cells"]]), abs=1e-4)


def test_a_faithful_exchange_keeps_the_other_variables_and_nothing_else(run):
    program = run.program
    q, reserved = np.asarray(program.reserved.basis(program.codes)), program.reserved
    states = np.random.default_rng(0).normal(size=(2, 3, run.model.width)).astype(np.float32)
    layer = program.depth - 1
    names = [n for n, alive in zip(reserved.names, reserved.alive[layer], strict=True) if alive]
    assert len(names) > 1
    every, others = (q[:, held_coordinates(reserved, layer, but=name)] for name in (None, names[0]))
    assert every.shape[1] == others.shape[1] + q[:, reserved.coordinates(names[0])].shape[1]
    weights = np.asarray(WEIGHTS["faithful"], np.float32)
    new = exchange(
        states[:1], states[1:], others, np.ones((1, 3)), weights=weights, direction=np.zeros_like(states[:1])
    )
    h, source = states
    for name in names:
        own = q[:, reserved.coordinates(name)]
        np.testing.assert_allclose(new[0] @ own, (source if name == names[0] else h) @ own, atol=1e-5)
    outside = np.eye(run.model.width) - every @ every.T
    np.testing.assert_allclose(new[0] @ outside, source @ outside, atol=1e-5)


def test_configurations_that_cannot_be_are_refused():
    for change, message in (
        ({"answer_end": True}, "no block can know whether the answer is over"),
        ({"domain_supervised": 1}, "one row without an answer has no other to mix with"),
        ({"batch": 1, "domain_items": 0, "domain_supervised": 0}, "one supervised row has no other to mix with"),
    ):
        with pytest.raises(UserError, match=message):
            dataclasses.replace(CONFIG, data=dataclasses.replace(CONFIG.data, **change))
    with pytest.raises(UserError, match="a model that does not change cannot come to hold anything"):
        dataclasses.replace(CONFIG, train="adapter")
    with pytest.raises(UserError, match="hook_offset -1"):
        LossConfig(alignment="exchange")
    with pytest.raises(UserError, match="directions must be between 1 and 16, got 17"):
        ExchangeConfig(directions=17)


def test_a_marker_that_is_no_token_of_the_program_is_refused(run, tmp_path):
    class Other(type(P.DYCK)):
        marker = "?"

    task = Other(**{f.name: getattr(P.DYCK, f.name) for f in dataclasses.fields(P.DYCK)})
    with pytest.raises(UserError, match=r"exchange: the marker of dyck, '\?', is no value of its vocabulary"):
        inject(task, lm=run.original, config=run.program.config, folder=tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "file"),
    [
        ("dyck", "tiny_exchange"),
        ("count", "tiny_count_exchange_varied"),
        ("int_sum", "tiny_int_sum_exchange_5000"),
    ],
)
def test_the_preset_is_the_run_that_was_measured(task, file):
    """`tracr-jax inject TASK --preset exchange`, whose record holds its configuration."""
    measured = read_json(ROOT / "experiments" / f"main_job_{file}.json")["config"]
    assert measured.pop("format") == RUN_FORMAT
    assert preset("exchange", task=task, lm="tiny") == from_dict(measured)


@pytest.mark.parametrize("task", ["dyck", "int_sum", "count"])
def test_the_preset(task):
    assert "exchange" in METHODS
    config = preset("exchange", task=task)
    assert config.losses.alignment == "exchange"
    assert from_dict(to_dict(config)) == config
    assert preset("paper", task=task).losses.result_span == "rows"
    assert from_dict({"losses": {"alignment": "cosine"}}).losses.result_span == "rows"  # as it was before


def test_a_variable_without_directions_is_left_out_of_the_swaps_with_its_reason(tmp_path):
    """It is read, but "no reader tells its values apart": it has no directions, and there are pairs of it."""
    (tmp_path / "alike.py").write_text(ALIKE)
    lm = write_random_gpt2(tmp_path / "lm", num_blocks=6, width=48, heads=2)
    made = inject(f"{tmp_path}/alike.py:TASK", lm=lm, config=CONFIG, folder=tmp_path / "run", progress=False)
    (name, why), *_ = [x for x in made.program.reserved.left_out if x[0].startswith("is_y")]
    assert why == "no reader tells its values apart"
    found = swaps(made, pairs=4, pool_items=24)
    assert found["cells"]
    assert {o["variable"]: o["reason"] for o in found["left_out"]}[name].endswith(why)


ALIKE = """
from tracr.rasp import rasp
import tracr_jax


def found():
    is_y = rasp.Map(lambda t: t == "y", rasp.tokens).named("is_y")
    xs = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda k, q: k == "x")).named("xs")
    return rasp.SequenceMap(lambda count, _: count > 1, xs, is_y).named("found")


TASK = tracr_jax.StringTask("alike", found, letters=("x", "y", "z"))
"""


def test_without_its_reserved_directions_a_run_or_an_export_is_refused(run, tmp_path):
    """Read as an affine adapter, its rows would mean something else."""
    export_run(run, tmp_path / "export")
    (tmp_path / "export" / "reserved.npz").unlink()
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "programs" / "0" / "reserved.npz").unlink()
    for folder in ("export", "run"):
        with pytest.raises(UserError, match=r"reserved.npz: no such file"):
            open_run(tmp_path / folder)


def test_what_cannot_be_written_or_read_is_refused(run):
    with pytest.raises(UserError, match="decode: expected a text, got None"):
        decode(run, None)
    h = jnp.zeros((2, run.model.width))
    for states, value, layer, message in (
        (h, np.array([True, False]), None, "one value for all states, got an array of shape"),
        (h, True, "3", "the layer must be a whole number, got '3'"),
        (h[:, 1:], True, None, r"states must end in the model's width, 48; got \(2, 47\)"),
    ):
        with pytest.raises(UserError, match=message):
            write(run, states, run.program.result, value, layer=layer)
