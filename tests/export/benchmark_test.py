"""The exported ground truth, read by the field names of the benchmarks' loaders and run as a causal model."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.helpers import export_parts as E
from tests.helpers.interpret_parts import DYCK, small_run
from tests.helpers.interpret_perfect import perfect_of
from tracr_jax.config import LossConfig
from tracr_jax.errors import UserError
from tracr_jax.export.activations import write_activations
from tracr_jax.export.benchmark import write_benchmark


class CausalModel:
    """What MIB's class of this name asks of a model, for variables with a value at every position.

    Written from the description of `tracr_jax.export.benchmark`: nothing of tracr or of the teacher is used.
    """

    def __init__(self, *, variables, values, parents, mechanisms, id, bridge, **_):
        assert {"raw_input", "raw_output"} <= set(variables)
        assert set(variables) == set(values) == set(parents) == set(mechanisms)
        self.variables, self.values, self.parents, self.mechanisms = variables, values, parents, mechanisms
        self.place = {n: {self._key(v): k for k, v in enumerate(vs or ())} for n, vs in values.items()}
        self.bridge = bridge

    @staticmethod
    def _key(value):
        return json.dumps(value)

    def run_forward(self, tokens, intervention=None, readers=()):
        """{variable: value at each position} of LM tokens.

        `intervention` {variable: {position: value}} is seen by `readers`, and in what is returned.
        """
        done, changed = {"raw_input": tokens}, {}
        waiting = [v for v in self.variables if v not in ("raw_input", "raw_output")]
        while waiting:
            ready = [v for v in waiting if all(p in done for p in self.parents[v])]
            assert ready, "the graph has a circle"
            for name in ready:
                done[name] = self._mechanism(name, done | changed if name in readers else done)
                if name in (intervention or {}):
                    changed[name] = [intervention[name].get(s, v) for s, v in enumerate(done[name])]
            waiting = [v for v in waiting if v not in ready]
        return done | changed

    def _mechanism(self, name, done):
        m, count = self.mechanisms[name], len(done["raw_input"])
        at = lambda v, s: None if done[v][s] is None else self.place[v].get(self._key(done[v][s]))  # noqa: E731
        if m["kind"] == "tokens":
            return [self.bridge["known"].get(t, self.bridge["fill"]) for t in done["raw_input"]]
        if m["kind"] == "indices":
            return list(range(count))
        if m["kind"] == "map":
            return [None if (a := at(m["inputs"][0], s)) is None else m["table"][a] for s in range(count)]
        if m["kind"] == "sequence_map":
            both = ([at(v, s) for v in m["inputs"]] for s in range(count))
            return [None if None in (a, b) else m["table"][a][b] for a, b in both]
        keys, queries, *moved = m["inputs"]
        chosen = [
            [k for k in range(s + 1) if None not in (x := at(keys, k), y := at(queries, s)) and m["select"][x][y]]
            for s in range(count)
        ]
        if m["kind"] == "selector_width":
            return [len(c) for c in chosen]
        assert m["kind"] == "aggregate"
        shared = [{self._key(done[moved[0]][k]) for k in c} for c in chosen]
        return [json.loads(next(iter(s))) if len(s) == 1 else None for s in shared]


@pytest.fixture(scope="module")
def run():
    small = small_run()
    return perfect_of(small, max_positions=small.program.length)


@pytest.fixture(scope="module")
def folder(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("truth")
    write_benchmark(run, out, pairs=8)
    return out


def loaded(folder, name):
    return json.loads((folder / name).read_text())


def model_of(run, folder):
    bridge = run.program.bridge
    known = {int(i): run.program.bridge.teacher_values([i])[0] for i in bridge.mapped}
    fill = bridge.teacher_values([run.program.tokenizer.eos_id])[0]
    return CausalModel(**loaded(folder, "causal_model.json"), bridge={"known": known, "fill": fill})


def test_the_causal_model_runs_and_is_the_program(run, folder):
    model, program = model_of(run, folder), run.program
    for item in [DYCK.eval_sets()["test"].item(i) for i in range(30)]:
        tokens = program.tokenizer.encode(item.prompt)
        found = model.run_forward(tokens)
        right = program.oracle(program.bridge.teacher_values(tokens)).values
        assert {n: found[n] for n in right} == right


def test_edges_are_the_graph(folder):
    parents = loaded(folder, "causal_model.json")["parents"]
    edges = [tuple(e) for e in loaded(folder, "edges.json")]
    assert set(edges) == {(p, c) for c, ps in parents.items() for p in ps}
    assert ("final_result_1", "raw_output") in edges
    assert ("raw_input", "tokens") in edges


def test_every_counterfactual_follows_from_the_causal_model(run, folder):
    """Exchanging the variable at the positions of a row gives its label, as in MIB's labelling of its data."""
    model, program = model_of(run, folder), run.program
    rows = [json.loads(line) for line in (folder / "counterfactuals.jsonl").read_text().splitlines()]
    nodes = loaded(folder, "correspondence.json")
    seen, flips = 0, 0
    for row in rows:
        assert {"input", "counterfactual_inputs", "label"} <= set(row)
        base = program.tokenizer.encode(row["input"]["raw_input"])
        source = program.tokenizer.encode(row["counterfactual_inputs"][0]["raw_input"])
        name, result = row["variable"], loaded(folder, "causal_model.json")["result"]
        assert {n["layer"] for n in nodes[name]["nodes"]} >= set(row["layers"])
        plain, other = model.run_forward(base), model.run_forward(source)
        assert row["base_label"] == ("yes" if plain[result][-1] else "no")
        assert row["flips"] == (row["label"] != row["base_label"])
        flips += row["flips"]
        given = {p: other[name][p] for p in row["positions"] if p < len(base)}
        after = model.run_forward(base, {name: given}, readers=row["readers"])
        assert row["label"] == ("yes" if after[result][-1] else "no"), row
        seen += 1
    assert seen > 30
    assert flips > 10


def test_the_readout_reads_the_variable_at_every_layer_where_it_is_said_to_be(run, folder):
    """By the files alone, in a model that is its program."""
    tensors, nodes = load_file(folder / "directions.safetensors"), loaded(folder, "correspondence.json")
    values = loaded(folder, "causal_model.json")["values"]
    ids = np.array([run.program.tokenizer.encode(DYCK.item("([)]").prompt)])
    hidden = np.asarray(jax.jit(run.model.apply)(run.params, ids).hidden)[:, 0]
    right = run.program.oracle(run.program.bridge.teacher_values(ids[0])).values
    for name, node in nodes.items():
        assert node["num_classes"] == len(values[name])
        basis = tensors[node["nodes"][0]["subspace"]]
        np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)
        for place in node["nodes"]:
            weight, bias = (tensors[x] for x in place["readout"])
            assert place["name"] == f"blocks.{place['layer']}.hook_resid_pre"
            read = (hidden[place["layer"]] @ weight.T + bias).argmax(axis=1)
            assert [values[name][k] for k in read] == [v for v in right[name]], name


def test_a_variable_without_weight_has_no_place(tmp_path):
    """Its rows of the adapter were never trained."""
    run = small_run()
    losses = dataclasses.replace(run.program.config.losses, variable_weights=(("unfiltered_result", 0.0),))
    config = dataclasses.replace(run.program.config, losses=losses)
    names = run.program.layout.names
    weights = tuple(0.0 if n.startswith("unfiltered_result") else 1.0 for n in names)
    layout = run.program.layout._replace(weights=np.array(weights))
    program = dataclasses.replace(run.program, config=config, layout=layout)
    (without,) = program.unaligned
    write_benchmark(dataclasses.replace(run, programs=(program,)), tmp_path)
    assert without not in loaded(tmp_path, "correspondence.json")
    assert not any(name.startswith(without) for name in load_file(tmp_path / "directions.safetensors"))
    assert without in loaded(tmp_path, "causal_model.json")["variables"]


def test_a_case_has_the_fields_of_interpbench(run, folder):
    case = loaded(folder, "meta.json")
    assert {"case_id", "task_description", "vocab", "max_seq_len", "min_seq_len", "files", "transformer_cfg",
            "training_args"} <= set(case)  # fmt: skip
    assert all((folder / f["file_name"]).exists() for f in case["files"])
    assert case["transformer_cfg"]["d_model"] == run.model.width
    assert "/tmp" not in json.dumps(case)


def test_activations_are_labelled_token_by_token(tmp_path):
    run = E.run_of("gpt2")
    write_activations(run, tmp_path, items=5)
    tensors, about = load_file(tmp_path / "activations.safetensors"), loaded(tmp_path, "activations.json")
    count = sum(i["tokens"] for i in about["items"])
    hooks = about["hook_names"]
    assert all(tensors[h].shape == (count, about["d_in"]) for h in hooks)
    assert tensors["labels"].dtype == tensors["token_ids"].dtype == np.int32
    for k, item in enumerate(about["items"]):
        own = tensors["item"] == k
        assert own.sum() == item["tokens"]
        ids = tensors["token_ids"][own]
        assert run.program.tokenizer.decode(ids) == f"{item['prompt']} {item['label']}"
        assert tensors["position"][own].tolist() == list(range(item["tokens"]))
        right = run.program.oracle(run.program.bridge.teacher_values(ids.tolist())).values
        for i, v in enumerate(about["variables"]):
            shown = [None if x < 0 else v["values"][x] for x in tensors["labels"][own][:, i]]
            if v["name"] in right and item["tokens"] <= run.program.length:
                assert shown == [None if x is None else str(x) for x in right[v["name"]]], v["name"]
    assert {i["set"] for i in about["items"]} == {"test", "near_miss", "length_ood"}


def test_a_run_without_alignment_has_no_truth(tmp_path):
    run = small_run()
    config = dataclasses.replace(run.program.config, losses=LossConfig(alignment="none"))
    run = dataclasses.replace(run, programs=(dataclasses.replace(run.program, config=config),))
    with pytest.raises(UserError, match="without alignment"):
        write_benchmark(run, tmp_path)


def test_the_export_holds_them_beside_the_model_or_nothing_at_all(tmp_path, monkeypatch):
    run = E.run_of("gpt2")
    folder = E.export_run(run, tmp_path / "out", evaluation=E.EVALUATION, pairs=2, activations=2)
    assert (folder / "interpbench" / "meta.json").exists()
    assert (folder / "activations.json").exists()
    card = (folder / "README.md").read_text()
    assert "## Ground truth" in card
    assert "## Labelled activations" in card

    def broken(*_, **__):
        raise UserError("no")

    monkeypatch.setattr("tracr_jax.export.folder.write_activations", broken)
    with pytest.raises(UserError, match="no"):
        E.export_run(run, tmp_path / "other", evaluation=E.EVALUATION, activations=2)
    assert not (tmp_path / "other").exists()
