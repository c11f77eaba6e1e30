"""Ground truth for causal-abstraction benchmarks: `tracr-jax export RUN DIR --as interpbench`.

Beside the plain export, in DIR/interpbench/, everything JSON or safetensors (what the benchmarks themselves keep
as pickles and Python functions is written out as tables):

    meta.json                   one case: case_id, task_description, vocab, max_seq_len, min_seq_len, files,
                                transformer_cfg, training_args
    causal_model.json           id, variables, values, parents, mechanisms
    edges.json                  [[from, to], …] between variables
    correspondence.json         variable -> where it is: low-level nodes of name, index and subspace
    directions.safetensors      the subspaces
    counterfactuals.jsonl       input, counterfactual_inputs, label, and which variable is exchanged where

The names of the fields are those that the loaders read. InterpBench (Gupta et al., arXiv 2407.14494): a case's
fields in `benchmark_metadata.json` and an edge list of (from, to) (FlyingPumba/InterpBench, `build_case_info`
and `edges_list.py`); a correspondence from a high-level node (name, label, num_classes, index) to low-level ones
(name, index, subspace) (`utils/iit/correspondence.py`, package iit). MIB's causal-variable track (Mueller et
al., arXiv 2504.13151): `CausalModel(variables, values, parents, mechanisms, id)` with "raw_input" and
"raw_output" among the variables, rows of "input", "counterfactual_inputs" and "label" (`causal/causal_model.py`
of its CausalAbstraction), and `ResidualStream(layer, token_indices, featurizer)` whose component is a block's
input (`neural/LM_units.py`).

Unlike theirs, a variable has a value at every position, and a location holds at all positions where the program
defines it; each counterfactual names its positions. An exchange is h <- h - P h + P h_source with P the
projector of the variable's subspace.
"""

import itertools
import json
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.files import write_json, write_text
from tracr_jax.interpret.pairs import Cell, Pair, PairFinder, list_cells
from tracr_jax.interpret.pool import Pool, make_pool, sample_pool
from tracr_jax.interpret.swap import variable_bases
from tracr_jax.lm.tensors import write_safetensors
from tracr_jax.runs.model import Injected
from tracr_jax.runs.program import Program
from tracr_jax.runs.program_files import describe_program
from tracr_jax.teacher.oracle import reads_after
from tracr_jax.teacher.readers import last_read

FOLDER = "interpbench"
FORMAT = 1  # raise when the meaning of the files changes
CARD = """
## Ground truth

`interpbench/` holds the program as a causal model, where its variables are in the residual stream, and
counterfactual pairs with the program's answers, under the field names of InterpBench and of MIB's
causal-variable track.
"""
_TABLE = 250_000  # entries of a mechanism's table; a larger one is left out
_ITEMS = 200  # from which pairs are made


def write_benchmark(run: Injected, folder: Path, *, pairs: int = 50) -> None:
    """Write the ground truth of a run's newest program.

    Args:
      run: from `inject` or `open`, with the task's own code at hand.
      folder: to be filled.
      pairs: counterfactual pairs of each variable, at least half of which change the program's answer where so
        many are found.

    Raises:
      UserError: the run has no adapter, or the task's code is not at hand.
    """
    if not run.program.aligned:
        raise UserError(f"{run.folder}: a run without alignment, its variables have no ground truth")
    program = run.program
    pool = make_pool(program.task, program.bridge, sample_pool(program.task, program.bridge, items=_ITEMS)[0])
    model = causal_model(program)
    locations, directions = correspondence(run, pool)
    rows = counterfactuals(program, pool, variables=locations, pairs=pairs)
    write_json(folder / "causal_model.json", model)
    write_json(folder / "edges.json", [[p, child] for child, ps in model["parents"].items() for p in ps])
    write_json(folder / "correspondence.json", locations)
    write_safetensors(folder / "directions.safetensors", directions)
    write_text(folder / "counterfactuals.jsonl", "".join(json.dumps(r, allow_nan=False) + "\n" for r in rows))
    write_json(folder / "meta.json", _case(run, sorted(p.name for p in folder.iterdir())))


def _case(run: Injected, files: Sequence[str]) -> dict[str, Any]:
    program = run.program
    content = describe_program(program, width=run.model.width)
    shortest = min(len(program.bridge.split(item)[0]) for item in program.examples)
    return {
        "format": FORMAT,
        "case_id": program.name,
        "task_description": f"the RASP program {program.name}, injected by tracr_jax into {content['run']['lm']}",
        "vocab": [t["text"] for t in content["bridge"]["tokens"]],
        "min_seq_len": shortest,
        "max_seq_len": program.teacher.max_seq_len,
        "files": [{"file_name": name} for name in files],
        "transformer_cfg": {"n_layers": run.model.num_blocks, "d_model": run.model.width,
                            "n_ctx": run.model.max_positions, "d_vocab": program.tokenizer.vocab_size},
        "training_args": content["run"],
    }  # fmt: skip


def causal_model(program: Program) -> dict[str, Any]:
    """The program as MIB's `CausalModel` takes it, with its mechanisms as tables.

    "values" of a variable are those at one position; a mechanism says how the value at a position comes from its
    parents' values at this and earlier positions. Tables are indexed by places in the parents' values: "map"
    [a], "sequence_map" [a][b], and "select" [key][query] of "selector_width" (how many earlier-or-same positions
    are selected) and of "aggregate" (the value of the last parent that all selected positions share) or "mean".
    What is undefined is null, and selects nothing; "table" is null where it would be too large.
    """
    oracle = program.oracle
    domain = {v.name: list(v.values) for v in program.teacher.variables}
    names = list(oracle.names)
    parents = {name: list(dict.fromkeys(oracle.inputs(name))) or ["raw_input"] for name in names}
    return {
        "id": program.name,
        "variables": ["raw_input", *names, "raw_output"],
        "values": {"raw_input": None, **{n: _plain(domain.get(n, [])) for n in names}, "raw_output": None},
        "parents": {"raw_input": [], **parents, "raw_output": [oracle.result]},
        "mechanisms": {n: _mechanism(oracle, domain, n) for n in names}
        | {
            "raw_input": {"kind": "prompt"},
            "raw_output": {"kind": "answer", "separator": program.bridge.separator},
        },
        "result": oracle.result,
    }


def _mechanism(oracle, domain: Mapping[str, Sequence[Any]], name: str) -> dict[str, Any]:
    expr, inputs = oracle.expression(name), list(oracle.inputs(name))
    if not inputs:
        return {"kind": name}  # tokens: by the bridge of program.json; indices: the position
    if isinstance(expr, rasp.Map):
        return {"kind": "map", "inputs": inputs, "table": _table(expr.f, domain[inputs[0]])}
    if isinstance(expr, rasp.SequenceMap):
        return {"kind": "sequence_map", "inputs": inputs, "table": _table(expr.f, *(domain[i] for i in inputs))}
    select = _table(lambda k, q: bool(expr.selector.predicate(k, q)), *(domain[i] for i in inputs[:2]))
    kind = "selector_width"
    if isinstance(expr, rasp.Aggregate):
        kind = "mean" if rasp.is_numerical(expr) else "aggregate"
    return {"kind": kind, "inputs": inputs, "select": select}


def _table(f, *domains: Sequence[Any]) -> Any:
    size = int(np.prod([len(d) for d in domains]))
    if not 0 < size <= _TABLE:
        return None

    def call(*values: Any) -> Any:
        try:
            return _plain(f(*values))
        except (
            Exception
        ):  # bos and pad stand in the vocabulary, and at no position: the program need not take them
            return None

    if len(domains) == 1:
        return [call(v) for v in domains[0]]
    return [[call(v, w) for w in domains[1]] for v in domains[0]]


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


def correspondence(run: Injected, pool: Pool) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """({variable: its high-level node and low-level nodes}, the tensors that these name).

    A low-level node is a block's input: "name" in TransformerLens (hook_resid_pre, without weight processing),
    "layer" and "component" in MIB, "teacher_layer" of the program. "subspace" names the orthonormal basis [d,
    R], and "readout" the affine map [m, d], [m] whose largest coordinate is the value read, in the order of
    "values"; of values that share a centroid ("alike") it reads the one whose place is the key. Left out are
    numbers, variables that are read at no layer, and those with as many values as the model is wide: their
    subspace is everything.
    """
    program, states = run.program, run.program.states
    weight, bias = (np.asarray(x, np.float32) for x in run.adapter)
    bases = variable_bases(run, pool)
    nodes: dict[str, Any] = {}
    tensors: dict[str, np.ndarray] = {}
    for v in program.teacher.variables:
        basis, layers = bases.get(v.name), program.layers_of(v)
        if basis is None or basis.shape[1] >= run.model.width or not layers:
            continue
        rows = list(v.indices)
        tensors |= {f"{v.name}.basis": np.ascontiguousarray(basis)}
        tensors |= {f"{v.name}.weight": weight[rows], f"{v.name}.bias": bias[rows]}
        last = last_read(program.teacher, program.oracle, v.name)
        nodes[v.name] = {
            "name": v.name,
            "label": v.name,
            "num_classes": len(v.values),
            "alike": program.alike_by_key(v.name),
            "index": None,
            "positions": "all where the program defines the variable",
            "last_read_by_layer": last,
            "nodes": [
                {
                    "name": f"blocks.{states[layer]}.hook_resid_pre",
                    "layer": states[layer],
                    "component": "block_input",
                    "teacher_layer": layer,
                    "index": None,
                    "subspace": f"{v.name}.basis",
                    "readout": [f"{v.name}.weight", f"{v.name}.bias"],
                }
                for layer in layers
            ],
        }
    return nodes, tensors


def counterfactuals(
    program: Program, pool: Pool, *, variables: Container[str], pairs: int, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows as MIB's loaders take them: "input", "counterfactual_inputs", "label"; what is exchanged, and where.

    "variable" is exchanged at "positions" (tokens of the prompt followed by the answer) in any one of "layers";
    "label" is the program's answer then, "base_label" its answer without, "flips" whether they differ. "readers"
    are the variables that are computed after these layers and so see the exchange; the others keep their values.
    """
    find = PairFinder(pool, count=pairs, seed=seed)
    cells, _ = list_cells(program.teacher, pool.oracle)
    out: list[dict[str, Any]] = []
    for name, of in itertools.groupby((c for c in cells if c.variable in variables), key=lambda c: c.variable):
        found: dict[int, tuple[Sequence[Pair], list[Cell]]] = {}
        for cell in of:
            got = find(cell)
            if not isinstance(got, str):
                found.setdefault(id(got), (got.pairs, []))[1].append(cell)
        for chosen, at in found.values():
            sees = reads_after(program.teacher, at[0].layer)
            shared = {
                "variable": name,
                "layers": [program.states[c.layer] for c in at],
                "teacher_layers": [c.layer for c in at],
                "readers": [r for r in pool.oracle.readers[name] if sees(r, name)],
            }
            out += [_row(program, pool, pair) | shared for pair in chosen]
    return out


def _row(program: Program, pool: Pool, pair: Pair) -> dict[str, Any]:
    base, source = pool.items[pair.base], pool.items[pair.source]
    decode = program.tokenizer.decode
    return {
        "input": {"raw_input": decode(list(base.prompt))},
        "counterfactual_inputs": [{"raw_input": decode(list(source.prompt))}],
        "label": decode(list(pair.answer)).strip(),
        "base_label": decode(list(base.answer)).strip(),
        "positions": list(pair.positions),
        "flips": pair.flips,
    }
