"""The oracle against brute force, against tracr's evaluator where that works, and with values replaced."""

import functools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tracr.compiler import lib
from tracr.rasp import causal_eval, rasp

from tests.helpers.teacher_programs import LIBRARY
from tracr_jax.errors import UserError
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.teacher import compile_program, evaluate_program
from tracr_jax.teacher.oracle import Oracle, reads_after

DYCK = Oracle(Dyck().program(max_seq_len=12))
INT_SUM = Oracle(IntSum().program(max_seq_len=16))
COUNT = Oracle(Count().program(max_seq_len=30))


def short(values):
    return {name.rsplit("_", 1)[0]: v for name, v in values.items()}


@settings(deadline=None, max_examples=60)
@given(st.text(alphabet="(){}[]", max_size=11))
def test_dyck_variables_by_counting(brackets):
    got = short(DYCK([*brackets, "compute"]).values)
    balanced = True
    for opener, closer in ("()", "{}", "[]"):
        depths = [brackets[:i].count(opener) - brackets[:i].count(closer) for i in range(1, len(brackets) + 1)]
        depths.append(depths[-1] if depths else 0)
        assert got[f"{opener}{closer}_diffs"] == depths
        below = [sum(d < 0 for d in depths[: i + 1]) for i in range(len(depths))]
        assert got[f"{opener}{closer}_negative_counters"] == below
        balanced &= depths[-1] == 0 and below[-1] == 0
    assert got["final_result"] == [False] * len(brackets) + [balanced]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 449), st.integers(0, 449))
def test_int_sum_writes_the_digits_of_the_sum(i, j):
    prompt, answer = f"{i}+{j}=", str(i + j)
    got = INT_SUM(prompt + answer).values[INT_SUM.result]
    assert got[len(prompt) - 1 : len(prompt) - 1 + len(answer)] == list(map(int, answer))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["yes", "no"]), max_size=25))
def test_count_writes_the_digits_of_the_count(words):
    answer = str(words.count("yes"))
    got = COUNT([*words, "count", *answer]).values[COUNT.result]
    assert got[len(words) : len(words) + len(answer)] == list(map(int, answer))


@pytest.mark.parametrize(
    "name", ["length_categorical_1", "sort_freq", "reverse_1", "pair_balance_1", "frac_prevs_2", "sort_1"]
)
def test_agrees_with_tracrs_evaluator_where_that_has_a_value(name):
    case = LIBRARY[name]
    random.seed(name)
    tokens = random.choices(sorted(case["vocab"]), k=case["max_seq_len"])
    oracle = Oracle(case["program"])
    ours = oracle(tokens)
    theirs = causal_eval.evaluate(case["program"], tokens)
    compared = 0
    for a, b, mixed in zip(ours.values[oracle.result], theirs, ours.mixed[oracle.result], strict=True):
        if not mixed:
            assert a == b
            compared += 1
    assert compared


def test_undefined_values_select_nothing_and_are_never_selected():
    """Here tracr's evaluator stops at "key is None!"."""
    shifted = lib.shift_by(1, rasp.tokens)
    same = rasp.SelectorWidth(rasp.Select(shifted, rasp.tokens, rasp.Comparison.EQ)).named("same")
    program = rasp.SequenceMap(lambda a, b: (a, b), shifted, same).named("final_result")
    with pytest.raises(ValueError, match="key is None"):
        causal_eval.evaluate(program, list("aab"))
    got = short(evaluate_program(program, list("aab")))
    assert got["shift_by(1)"] == [None, "a", "a"]
    assert got["same"] == [0, 1, 0]
    assert got["final_result"] == [None, ("a", 1), ("a", 0)]


def test_arithmetic_errors_are_undefined_and_other_errors_are_not_hidden():
    assert evaluate_program(rasp.Map(lambda x: 1 / x, rasp.tokens), [2, 0])["map_1"] == [0.5, None]
    with pytest.raises(KeyError):
        evaluate_program(rasp.Map(lambda x: {}[x], rasp.tokens), [2])


def test_mixtures_are_no_values_until_a_mask_hides_them():
    every = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    mixture = rasp.Aggregate(every, rasp.tokens).named("mixture")
    last = rasp.Map(lambda i: i == 2, rasp.indices)
    hidden = rasp.SequenceMap(lambda m, h: "hidden" if h else m, mixture, last).named("final_result")
    got = Oracle(hidden)(list("aab"))
    values, mixed = short(got.values), short(got.mixed)
    assert values["mixture"] == ["a", "a", None]
    assert mixed["mixture"] == [False, False, True]
    assert values["final_result"] == ["a", "a", "hidden"]
    assert mixed["final_result"] == [False, False, False]


def test_every_expression_is_evaluated_once():
    calls = []
    sop = rasp.tokens
    for _ in range(40):  # 2^40 paths
        sop = rasp.SequenceMap(
            lambda x, y: (calls.append(1), x)[1], sop, rasp.Map(lambda x: x, sop, simplify=False)
        )
    assert list(evaluate_program(sop, ["a"]).values())[-1] == ["a"]
    assert len(calls) == 40


def test_an_oracle_outlives_other_programs_that_share_its_expressions():
    oracle = Oracle(lib.make_reverse(rasp.tokens))  # reads lib.length, one object for the whole process
    before = oracle(list("aab"))
    Oracle(rasp.Map(lambda x: x, rasp.Map(lambda x: x, lib.length, simplify=False), simplify=False))
    assert oracle(list("aab")) == before


def test_names_are_the_teachers():
    task = IntSum()
    teacher = compile_program(lambda: task.program(max_seq_len=16), vocab=task.vocab(), max_seq_len=16)
    names = {v.name for v in teacher.variables}
    assert set(INT_SUM.names) <= names
    extra = names - set(INT_SUM.names)
    assert all(n == "one" or n.endswith("_selector_width_attn_output") for n in extra)
    assert teacher.result == INT_SUM.result


def test_overrides_are_read_by_everything_downstream():
    tokens = [*"((", "compute"]
    name = next(n for n in DYCK.names if n.startswith("()_diffs"))
    plain = DYCK(tokens).values
    assert short(plain)["final_result"][-1] is False
    got = DYCK(tokens, overrides={(name, 2): 0}).values
    assert got[name] == [1, 2, 0]
    assert short(got)["final_result"][-1] is True
    # The same as counting one bracket closed that was not there.
    assert short(got)["aggregated_negatives"] == short(plain)["aggregated_negatives"]
    below = DYCK(tokens, overrides={(name, 0): -1}).values
    assert short(below)["()_negative_counters"] == [1, 1, 1]
    assert short(plain)["()_negative_counters"] == [0, 0, 0]


def test_only_readers_that_see_an_override_use_it():
    tokens = [*"((", "compute"]
    name = next(n for n in DYCK.names if n.startswith("()_diffs"))

    def counters_only(reader, variable):
        assert variable == name
        return "negative" in reader

    got = short(DYCK(tokens, overrides={(name, 2): -1}, sees=counters_only).values)
    assert got["()_diffs"] == [1, 2, -1]
    assert got["()_negative_counters"] == [0, 0, 1]
    assert got["aggregated_diffs"] == short(DYCK(tokens).values)["aggregated_diffs"]


def test_an_edit_at_a_layer_is_seen_from_there_on():
    task = Dyck()
    teacher = compile_program(lambda: task.program(max_seq_len=12), vocab=task.vocab(), max_seq_len=12)
    layer = {v.name: v.writer_layer for v in teacher.variables}
    diffs = next(n for n in DYCK.names if n.startswith("()_diffs"))
    counter = next(n for n in DYCK.names if n.startswith("()_negative"))
    assert layer[counter] > layer[diffs]
    sees = reads_after(teacher, layer[diffs])
    assert sees(counter, diffs)
    assert not sees(diffs, "tokens")
    assert not reads_after(teacher, layer[counter])(counter, diffs)
    tokens = [*"((", "compute"]
    late = DYCK(tokens, overrides={(diffs, 0): -1}, sees=reads_after(teacher, layer[counter])).values
    assert late[counter] == [0, 0, 0]


def dyck_by_hand(tokens, variable, replaced, visible):
    """All variables of dyck, written out; `visible(reader)`: it reads the replaced values of the variable."""
    out = {"tokens": list(tokens)}

    def read(name, reader):
        values = list(out[name])
        if name == variable and visible(reader):
            for s, v in replaced.items():
                values[s] = v
        return values

    def pointwise(name, f, *sources):
        out[name] = [f(*v) for v in zip(*(read(n, name) for n in sources), strict=True)]

    def running(name, source, f):
        values = read(source, name)
        out[name] = [sum(map(f, values[: t + 1])) for t in range(len(tokens))]

    for a, b in ("()", "{}", "[]"):
        running(f"{a}_start_counts", "tokens", lambda v, a=a: v == a)
        running(f"{b}_end_counts", "tokens", lambda v, b=b: v == b)
        pointwise(f"{a}{b}_diffs", lambda x, y: x - y, f"{a}_start_counts", f"{b}_end_counts")
        running(f"{a}{b}_negative_counters", f"{a}{b}_diffs", lambda v: v < 0)

    def either(x, y):
        return int(x != 0 or y != 0)

    pointwise("aggregated_diffs_tmp_0", either, "()_diffs", "{}_diffs")
    pointwise("aggregated_diffs", either, "aggregated_diffs_tmp_0", "[]_diffs")
    pointwise("sequence_map", either, "()_negative_counters", "{}_negative_counters")
    pointwise("aggregated_negatives", either, "sequence_map", "[]_negative_counters")
    pointwise("unfiltered_result", lambda n, d: n == d == 0, "aggregated_negatives", "aggregated_diffs")
    pointwise("final_result", lambda m, t: m if t == "compute" else False, "unfiltered_result", "tokens")
    for s, v in replaced.items():
        out[variable][s] = v
    return out


@functools.cache
def dyck_teacher():
    task = Dyck()
    return compile_program(lambda: task.program(max_seq_len=12), vocab=task.vocab(), max_seq_len=12)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_overrides_at_a_layer_equal_brute_force(data):
    """Every variable, any positions and values, any layer from its writer on."""
    tokens = [*data.draw(st.text(alphabet="(){}[]", max_size=8)), "compute"]
    variables = [v for v in dyck_teacher().variables if v.name in DYCK.names]
    chosen = data.draw(st.sampled_from(variables))
    where = data.draw(st.sets(st.integers(0, len(tokens) - 1), min_size=1))
    replaced = {s: data.draw(st.sampled_from(chosen.values)) for s in where}
    layer = data.draw(st.integers(chosen.writer_layer, dyck_teacher().num_layers))
    written = {v.name.rsplit("_", 1)[0]: v.writer_layer for v in variables if v.name != "tokens"}
    name = chosen.name if chosen.name == "tokens" else chosen.name.rsplit("_", 1)[0]
    expected = dyck_by_hand(tokens, name, replaced, lambda reader: written[reader] > layer)
    overrides = {(chosen.name, s): v for s, v in replaced.items()}
    sees = reads_after(dyck_teacher(), layer)
    got = DYCK(tokens, overrides=overrides, sees=sees).values
    assert {n if n == "tokens" else n.rsplit("_", 1)[0]: v for n, v in got.items()} == expected
    # The states of the plain input may be given; what they do not reach is not computed again.
    assert DYCK(tokens, overrides=overrides, sees=sees, states=DYCK.states(tokens)).values == got


def test_readers_are_found_through_selectors():
    readers = {n.rsplit("_", 1)[0]: {r.rsplit("_", 1)[0] for r in rs} for n, rs in DYCK.readers.items()}
    assert readers["()_diffs"] == {"()_negative_counters", "aggregated_diffs_tmp_0"}
    assert readers["final_result"] == set()
    assert {"(_start_counts", "final_result"} <= {r.rsplit("_", 1)[0] for r in DYCK.readers["tokens"]}


@pytest.mark.parametrize("override", [("no_such", 0), ("tokens", 9), ("tokens", -1)])
def test_overrides_are_checked(override):
    with pytest.raises(UserError, match="override"):
        DYCK(["("], overrides={override: 1})


def test_what_has_no_causal_meaning_is_refused():
    with pytest.raises(UserError, match="LengthType"):
        evaluate_program(rasp.length + rasp.tokens, [1])
    composite = rasp.SelectorNot(rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ))
    with pytest.raises(UserError, match="SelectorNot"):
        evaluate_program(rasp.SelectorWidth(composite), [1])


@pytest.mark.parametrize(
    "name", ["length_categorical_1", "sort_freq", "reverse_1", "pair_balance_1", "frac_prevs_2", "sort_1"]
)
def test_the_whole_string_is_what_tracrs_evaluator_reads(name):
    """Without causality ours is RASP itself: calling a program evaluates it on the whole string."""
    case = LIBRARY[name]
    oracle = Oracle(case["program"], causal=False)
    r = np.random.default_rng(0)
    for length in range(1, case["max_seq_len"] + 1):
        tokens = r.choice(sorted(case["vocab"]), length).tolist()
        ours = oracle(tokens)
        assert not any(ours.mixed[oracle.result])
        assert ours.values[oracle.result] == case["program"](tokens)


def test_functions_tell_true_from_one():
    """To a dictionary they are one key, to a function of the program they are not."""
    program = lambda: rasp.Map(str, rasp.tokens).named("final_result")  # noqa: E731
    oracle = Oracle(program())
    assert [oracle([x]).values[oracle.result] for x in (1, True, 1.0)] == [["1"], ["True"], ["1.0"]]


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["sort_freq", "reverse_1", "pair_balance_1", "frac_prevs_2"])
def test_many_inputs_together_are_each_alone(name, causal):
    """Of every length, the empty one too; more of one length than repeat no code, and one twice."""
    case = LIBRARY[name]
    r = np.random.default_rng(0)
    lengths = [*range(case["max_seq_len"] + 1), *[case["max_seq_len"]] * 300]
    inputs = [r.choice(sorted(case["vocab"]), n).tolist() for n in lengths]
    inputs.append(inputs[3])
    together = Oracle(case["program"], causal=causal)
    found = together.evaluate(inputs)
    alone = [Oracle(case["program"], causal=causal)(x) for x in inputs[:40]]
    assert found[:40] == alone
    assert found[-1] == found[3]
    (result,) = together.evaluate(inputs[-1:], names=[together.result])
    assert result.values == {together.result: found[-1].values[together.result]}


def test_what_was_evaluated_before_does_not_matter():
    """0 and False are one element of a set: an Aggregate gives the one that stands first."""
    every = rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.TRUE)
    program = rasp.Map(str, rasp.Aggregate(every, rasp.tokens), simplify=False).named("final_result")
    inputs = [[0, False], [False, 0]]
    for order in (inputs, inputs[::-1]):
        oracle = Oracle(program)
        assert {str(x): oracle(x).values[oracle.result] for x in order} == {
            "[0, False]": ["0", "0"],
            "[False, 0]": ["False", "False"],
        }
