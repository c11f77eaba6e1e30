"""What the benchmarks' numbers rest on: turns, ratios, fits, counted operations, and processes that answer."""

import argparse
import importlib
import json
import math
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments import marked
from experiments.benchmarks import case as C
from experiments.benchmarks import common, faithful, workers
from experiments.benchmarks import table as T
from tracr_jax.errors import UserError

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "benchmarks"

SCRIPTS = (
    "step", "compile", "teacher", "evaluate", "startup", "scaling", "hotspots", "dispatch", "commands", "trained",
    "faithful", "large", "update",
)  # fmt: skip


def load(name):
    return importlib.import_module(f"experiments.benchmarks.{name}")


def test_sides_take_turns_and_warm_up_apart():
    order = []

    def side(name, seconds):
        def once():
            order.append(name)
            return next(seconds), len(order)

        return once

    timed = common.in_turn(
        {"a": side("a", iter([9.0, 2.0, 4.0])), "b": side("b", iter([9.0, 1.0, 8.0]))}, repetitions=2, warmup=1
    )
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert timed["a"] == {
        "warmup_seconds": [9.0], "warmup_values": [1], "seconds": [2.0, 4.0], "values": [3, 5]
    }  # fmt: skip
    # Pair by pair: 2 and 1/2; the ratio of the medians would be 2/3.
    assert common.ratio(timed["a"]["seconds"], timed["b"]["seconds"]) == {"median": 1.25, "min": 0.5, "max": 2.0}


def test_a_side_settles_before_each_timed_repetition():
    values = iter(range(100))
    timed = common.in_turn({"a": lambda: (1.5, next(values))}, repetitions=2, warmup=1, settle_s=2)
    assert timed["a"]["warmup_values"] == [0]
    assert timed["a"]["values"] == [3, 6]  # two of 1.5 s before each


def test_exponents():
    sizes = [2, 4, 8, 16]
    assert common.fit_exponent(sizes, [3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    for bad in (([2], [1.0]), ([1, 2], [0.0, 1.0])):
        with pytest.raises(ValueError, match="fit"):
            common.fit_exponent(*bad)


def product_flops(jaxpr):
    """2 per multiplication and addition of every dot_general, scans times their length; independent of case.py."""
    total = 0.0
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            contracted = eqn.params["dimension_numbers"][0][0]
            shape = eqn.invars[0].aval.shape
            total += 2.0 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[i] for i in contracted)
        times = eqn.params.get("length", 1) if eqn.primitive.name == "scan" else 1
        for inner in jax.tree.leaves(eqn.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            total += times * product_flops(inner) if hasattr(inner, "eqns") else 0.0
    return total


@pytest.mark.parametrize("shape", ["small", "smollm2-135m"])
def test_counted_operations_are_those_of_the_forward_pass(shape):
    model = C.Case(shape=shape, blocks=3).model
    params = jax.eval_shape(model.init, jax.random.key(0))
    ids, where = jax.ShapeDtypeStruct((2, 12), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    traced = jax.make_jaxpr(lambda p, ids, where: model.apply(p, ids, logit_positions=where).logits)(
        params, ids, where
    )
    counted = C.forward_flops(model, rows=2, length=12, logits=3)
    assert counted == pytest.approx(product_flops(traced.jaxpr), rel=0.01)


def test_a_side_answers_from_its_own_process(tmp_path, monkeypatch):
    (tmp_path / "side_for_a_test.py").write_text(
        "import time\n"
        "def make(options):\n"
        "    print('not an answer')\n"
        "    def run():\n"
        "        print('nor this')\n"
        "        time.sleep(options['s'])\n"
        "        if options['s'] > 0.05: raise SystemExit(7)\n"
        "        return {'twice': 2 * options['n']}\n"
        "    return {'seen': options}, run\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with workers.Worker("side_for_a_test:make", {"s": 0.02, "n": 4}) as side:
        assert side.info == {"seen": {"s": 0.02, "n": 4}}
        seconds, value = side.go()
        assert 0.02 <= seconds < 10
        assert value == {"twice": 8}
    # Its own peak: a Python without JAX, not this process's.
    assert 0 < side.peak_memory_gib < 0.2 < common.peak_memory()
    failing = workers.Worker("side_for_a_test:make", {"s": 0.1, "n": 0})
    with failing, pytest.raises(UserError, match="ended with status 7"):
        failing.go()


def test_a_run_is_faithful_where_all_three_hold_and_medians_are_of_those():
    def run(seconds, near, order, perplexity):
        at = {"step": 10, "seconds": seconds, "perplexity": perplexity}
        at |= {"near_miss_balanced": near, "order_miss_balanced": order}
        return {
            "curve": [at],
            "reached": at if faithful._faithful(at) else None,
            "of_a_step": {"items": 4, "flops": 1e14},
        }

    runs = [run(50.0, 0.95, 1.0, 1.15), run(70.0, 1.0, 1.0, 1.0), run(10.0, 1.0, 0.94, 1.0), run(10.0, 1, 1, 1.2)]
    found = faithful.row("variable", runs)
    assert (found["faithful"], found["s"], found["items"], found["PFLOP"]) == ("2 of 4", 60.0, 40, 1.0)
    assert found["order misses at the end, %"] == 100
    assert faithful.row("finetune", runs[2:])["s"] is None
    curve = runs[2]["curve"]
    assert not faithful._ended([], steps=20, budget=60)
    assert not faithful._ended(curve, steps=20, budget=60)
    assert faithful._ended(curve, steps=10, budget=60)
    assert faithful._ended(curve, steps=20, budget=10)


def test_every_script_imports_and_knows_small(monkeypatch, capsys):
    for name in SCRIPTS:
        module = load(name)
        monkeypatch.setattr(sys, "argv", [name, "--help"])
        with pytest.raises(SystemExit) as stopped:
            module.main()
        assert stopped.value.code == 0
        assert "--small" in capsys.readouterr().out


def test_losses_that_differ_stop_the_comparison():
    step = load("step")
    same = {"supervised": 2.0, "retention": 1.0, "alignment": 4.0, "loss": 7.0}
    sides = {"ours": {"warmup_values": [same]}, "torch": {"warmup_values": [same | {"retention": 1.00005}]}}
    worst = step.check_losses(sides, tolerance=1e-4)
    assert worst["supervised"] == 0
    assert worst["retention"] == pytest.approx(5e-5, rel=0.01)
    for wrong in (1.0002, math.nan):
        sides["torch"]["warmup_values"] = [same | {"retention": wrong}]
        with pytest.raises(UserError, match=r"retention is 1\.0 here"):
            step.check_losses(sides, tolerance=1e-4)


def test_the_file_names_the_machine_and_the_load(tmp_path, capsys):
    args = argparse.Namespace(out=tmp_path / "x.json", small=True)
    common.finish("x", args, common.machine(), {"a": 1}, title="t", rows=[{"s": 0.12345, "b": None}, {"s": 2.0}])
    saved = json.loads((tmp_path / "x.json").read_text())
    assert saved["results"] == {"a": 1}
    assert saved["options"]["small"] is True
    assert {"processor", "cores", "load_before", "load_after", "packages"} <= set(saved["about"])
    assert saved["about"]["packages"]["jax"] == jax.__version__
    assert "0.123" in capsys.readouterr().out


def test_unknown_shape_and_shallow_shape_are_one_line():
    with pytest.raises(UserError, match="no shape 'gpt9'"):
        C.Case(shape="gpt9")
    with pytest.raises(UserError, match="cannot host dyck's teacher of 7 layers"):
        C.make_parts(C.Case(shape="small", blocks=7, length=12))


def test_tables_are_those_of_the_measured_files():
    """What results.md and the folder's page say about speed is what the JSON files hold, no more."""
    files = T.read_files()
    assert files, "nothing was measured"
    for page, name, made in (
        (T.RESULTS, T.SUMMARY, T.summary(files)),
        (FOLDER / "README.md", T.TABLES, T.tables(files)),
    ):
        stands = marked.between(page.read_text(encoding="utf-8"), name)
        assert stands == made, f"{page}: run python -m experiments.benchmarks.table"


def test_wall_clock_time_is_shared_by_what_runs():
    hotspots = load("hotspots")
    second = 10**9
    events = [
        (1 * second, 5 * second, "matrix products"),
        (3 * second, 5 * second, "moving"),
        (4 * second, 9 * second, "moving"),  # two at once are one kind
    ]
    shares = hotspots.wall_shares(events, start=0, end=10 * second)
    assert shares["matrix products"] == pytest.approx(2 + 1)
    assert shares["moving"] == pytest.approx(1 + 4)
    assert shares["nothing"] == pytest.approx(1 + 1)
    assert sum(shares.values()) == pytest.approx(10)


def test_kinds_of_operations():
    kind = load("hotspots").kind
    block = "jit(train_step)/jvp(_Module)/while/body"
    assert kind("ynn_fusion.3", f"{block}/c_fc/dot_general") == "matrix products"
    assert kind("ynn_fusion.3", "") == "matrix products"
    assert kind("fusion.1", f"{block}/jit(dynamic_index_in_dim)/dynamic_slice") == "moving"
    assert kind("fusion.2", f"{block}/tanh") == "elementwise and sums"
    assert kind("multiply_add_fusion.1", "jit(train_step)/add") == "update and gradient norm"


def test_a_goal_without_its_file_is_not_run():
    (row,) = [line for line in T.summary(T.read_files()).splitlines() if line.startswith("| one GPU")]
    assert row.endswith("| not run |") or (FOLDER / "step_gpu.json").exists()
    assert T.summary({}).count("| not run |") == len(T._GOALS)
