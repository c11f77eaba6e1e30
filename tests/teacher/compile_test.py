"""The sparse assembler gives tracr's weights and labels to the bit, whatever ran before, and clear errors."""

import itertools
import time

import numpy as np
import pytest
from tracr.compiler import lib
from tracr.rasp import rasp

from tests.helpers import golden_data as G
from tests.helpers.teacher_programs import LIBRARY, circle, exact_tracr, of_task
from tracr_jax.errors import UserError
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.teacher import compile_program, default_exactness, verify


def assert_equal_to_tracr(teacher, model):
    assert teacher.residual_labels == model.residual_labels
    config = model.model_config
    sizes = (teacher.num_layers, teacher.num_heads, teacher.key_size, teacher.mlp_hidden_size)
    assert sizes == (config.num_layers, config.num_heads, config.key_size, config.mlp_hidden_size)
    assert dict(teacher.vocab) == model.input_encoder.encoding_map
    assert teacher.bos_id == model.input_encoder.bos_encoding
    ours = teacher.densify()
    assert set(ours) == set(model.params)
    for module, group in model.params.items():
        assert set(ours[module]) == set(group), module
        for name, value in group.items():
            assert ours[module][name].tobytes() == np.asarray(value).tobytes(), f"{module}/{name}"


@pytest.mark.parametrize(
    "name",
    # tracr itself takes a minute and a half for three digits.
    ["dyck_12", "dyck_20", "int_sum_2", pytest.param("int_sum_3", marks=pytest.mark.soak), "count_16"],
)
def test_tasks_are_tracrs_to_the_bit(name):
    program, vocab, length = of_task(name)
    exactness = 100 if name == "dyck_20" else default_exactness(length)
    teacher = compile_program(program, vocab=vocab, max_seq_len=length, mlp_exactness=exactness)
    assert_equal_to_tracr(teacher, exact_tracr(program, vocab, length, exactness=exactness))


@pytest.mark.parametrize("name", sorted(LIBRARY))
def test_tracrs_own_programs_are_tracrs_to_the_bit(name):
    case = LIBRARY[name]
    teacher = compile_program(
        case["program"], vocab=case["vocab"], max_seq_len=case["max_seq_len"], mlp_exactness=100
    )
    model = exact_tracr(case["program"], case["vocab"], case["max_seq_len"], exactness=100)
    assert_equal_to_tracr(teacher, model)


def test_the_originals_teacher():
    """Labels, sizes and weights that the original's compiler stored (tests/golden)."""
    teacher = compile_program(
        lambda: Dyck().program(max_seq_len=12), vocab=Dyck().vocab(), max_seq_len=12, mlp_exactness=100
    )
    assert teacher.residual_labels == G.TEACHER["residual_labels"]
    assert list(teacher.result_indices("final_result")) == G.TEACHER["final_result_dims"]
    dense = teacher.densify()
    golden = G.teacher_weights(dtype=np.float32)
    assert len(golden) == sum(map(len, dense.values()))
    for name, value in golden.items():
        module, part = name.rsplit("/", 1)
        np.testing.assert_array_equal(dense[module][part], value, err_msg=name)


@pytest.mark.parametrize("name", ["int_sum_2", "count_16"])
def test_labels_do_not_depend_on_what_ran_before(name):
    program, vocab, length = of_task(name)
    fresh = compile_program(program, vocab=vocab, max_seq_len=length)
    for start in (2, 95):  # 95: unnamed map_9 < map_10 would change places
        rasp.RASPExpr._ids = itertools.count(start)
        used = program()
        assert used.label.endswith(f"_{start}")
        again = compile_program(used, vocab=vocab, max_seq_len=length)
        assert again.residual_labels == fresh.residual_labels
        for key, coo in fresh.weights.items():
            for a, b in zip(coo, again.weights[key], strict=True):
                np.testing.assert_array_equal(a, b)


def test_shared_module_level_sops_do_not_collide():
    """`lib.length` lives as long as the process; its old id must not meet a new one."""
    first = compile_program(lambda: lib.make_reverse(rasp.tokens), vocab="ab", max_seq_len=4)
    compile_program(lambda: (lib.length + 1).named("length"), vocab="ab", max_seq_len=4, mlp_exactness=100)
    second = compile_program(lambda: lib.make_reverse(rasp.tokens), vocab="ab", max_seq_len=4)
    assert first.residual_labels == second.residual_labels


def test_variables_cover_the_residual_stream_in_order():
    task = Dyck()
    teacher = compile_program(lambda: task.program(max_seq_len=9), vocab=task.vocab(), max_seq_len=9)
    assert [i for v in teacher.variables for i in v.indices] == list(range(teacher.width))
    for v in teacher.variables:
        labels = [teacher.residual_labels[i] for i in v.indices]
        assert labels == ([v.name] if v.kind == "numerical" else [f"{v.name}:{x}" for x in v.values])
    layers = {v.name.rsplit("_", 1)[0]: v.writer_layer for v in teacher.variables}
    assert layers["(_start_counts"] == 1
    assert layers["()_diffs"] == 2
    assert layers["final_result"] == teacher.num_layers
    assert teacher.variable("tokens").writer_layer == teacher.variable("one").writer_layer == 0


def test_exactly_one_result_variable():
    def program():
        counted = lib.make_count(rasp.tokens, "a").named("final_result")
        return rasp.Map(lambda x: x > 1, counted).named("final_result")

    teacher = compile_program(program, vocab="ab", max_seq_len=4)
    with pytest.raises(UserError, match="2 variables"):
        teacher.result_indices("final_result")
    with pytest.raises(UserError, match="none is named 'final'"):
        teacher.result_indices("final")
    assert teacher.variable(teacher.result).values == (False, True)


def test_exactness_tells_every_count_apart():
    assert default_exactness(12) == 1e4
    assert default_exactness(120) == 2 * 120 * 121


def test_values_without_a_consistent_order_are_ordered_by_type():
    teacher = compile_program(circle, vocab="abc", max_seq_len=3)
    assert teacher.variable("final_result").values == (10, 9, "5a")
    assert verify(teacher, circle, num=20).ok


def pick(predicate=rasp.Comparison.EQ, sop=rasp.tokens):
    return rasp.Select(sop, sop, predicate)


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            lambda: rasp.length + rasp.tokens,
            "length is the number of all tokens.*`rasp.Map.lambda i: i . 1, rasp.indices.` counts",
        ),
        (
            lambda: rasp.SelectorWidth(pick() & rasp.Select(rasp.indices, rasp.tokens, rasp.Comparison.EQ)),
            "selector",
        ),
        (lambda: rasp.SequenceMap(lambda a, b: a, rasp.Full(1), rasp.tokens), "full_.* is a constant"),
        (lambda: rasp.Map(lambda x: 1, rasp.indices), "does not read rasp.tokens"),
        (lambda: rasp.tokens, "computes nothing"),
        (lambda: rasp.Map(lambda x: {}[x], rasp.tokens), "possible values.*KeyError"),
        (
            lambda: rasp.Map(lambda x: 1 // (x == "c"), rasp.tokens),
            "map_1 is undefined .* for every possible input",
        ),
        (lambda: rasp.Aggregate(pick(), rasp.tokens, default="a"), "default"),
        (lambda: rasp.Aggregate(pick(), rasp.numerical(rasp.tokens == "a")), "encoding"),
        (lambda: rasp.SelectorWidth(pick(lambda k, q: k < 1)), "selector_width_1.*TypeError"),
        (lambda: 3, "expected a tracr rasp.SOp"),
    ],
)
def test_what_tracr_cannot_compile_is_one_clear_line(program, message):
    with pytest.raises(UserError, match=message) as error:
        compile_program(program, vocab="ab", max_seq_len=8)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bos": "a"}, "BOS token 'a'"),
        ({"pad": "b"}, "PAD token 'b'"),
        ({"bos": "x", "pad": "x"}, "same token"),
        ({"vocab": ""}, "0 tokens"),
    ],
)
def test_tokens_are_checked(options, message):
    with pytest.raises(UserError, match=message):
        compile_program(lib.make_hist, **({"vocab": "ab", "max_seq_len": 4} | options))


def test_encoding_checks_tokens_and_length():
    teacher = compile_program(lib.make_hist, vocab="ab", max_seq_len=3)
    assert teacher.encode("ab") == [teacher.bos_id, teacher.vocab["a"], teacher.vocab["b"]]
    with pytest.raises(UserError, match="'c' is not in its vocabulary"):
        teacher.encode("abc")
    with pytest.raises(UserError, match="4 tokens, its position table holds 3"):
        teacher.encode("abab")


@pytest.mark.parametrize(
    ("task", "length", "limit"), [(Dyck(), 40, 1.0), (IntSum(digits=4), 20, 1.0), (Count(), 120, 3.0)]
)
def test_compiles_within_its_cpu_seconds(task, length, limit):
    start = time.process_time()
    teacher = compile_program(lambda: task.program(max_seq_len=length), vocab=task.vocab(), max_seq_len=length)
    assert time.process_time() - start < limit
    # Triples, not matrices: the dense form of count 120 has a thousand million entries.
    assert sum(len(coo.value) for coo in teacher.weights.values()) < 1_000_000
