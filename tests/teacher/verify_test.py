"""`verify` passes sharp teachers and finds a blurred one, a corrupted weight, a teacher of another program."""

import dataclasses

import numpy as np
import pytest
from tracr.compiler import lib
from tracr.rasp import rasp

from tests.helpers.teacher_programs import of_task
from tracr_jax.errors import UserError
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.teacher import compile_program, verify
from tracr_jax.teacher.verify import random_inputs


@pytest.mark.parametrize("name", ["dyck_20", "int_sum_3", "count_16"])
def test_the_three_programs(name):
    program, vocab, length = of_task(name)
    teacher = compile_program(program, vocab=vocab, max_seq_len=length)
    report = verify(teacher, program, num=16)
    assert report.ok, str(report)
    assert report.compared > 1000
    assert report.largest_deviation < 0.02
    assert "values compared" in str(report)


@pytest.mark.parametrize("width", [4, 7, 40])
def test_an_aggregate_that_moves_more_values_than_its_keys_are_is_the_program(width):
    """By the first, by the position before and by a letter: tracr refuses each where the values are more."""
    vocab, length = range(width), 4
    before = rasp.Select(rasp.indices, rasp.indices, lambda key, query: key == query - 1)
    program = rasp.Aggregate(before, rasp.Map(lambda x: 3 * x + 1, rasp.tokens))
    small = rasp.Map(lambda x: x % 2, rasp.tokens)
    alike = rasp.Aggregate(rasp.Select(small, small, lambda key, query: key != query), program)
    for sop in (program, alike):
        teacher = compile_program(sop, vocab=vocab, max_seq_len=length)
        report = verify(teacher, sop, num=32)
        assert report.ok, str(report)
        assert report.compared > 100
    assert teacher.key_size >= width
    if width > 5:  # four positions and BOS are keys
        with pytest.raises(UserError, match="tracr cannot compile it"):
            verify(teacher, alike, num=1, tracr=True)


def test_answers_on_real_items():
    program, vocab, length = of_task("int_sum_3")
    teacher = compile_program(program, vocab=vocab, max_seq_len=length)
    items = ["357+86=443", "9+9=18", "0+0=0", "449+449=898", "400+50=450"]
    report = verify(teacher, program, inputs=[list(i) for i in items])
    assert report.ok, str(report)
    assert report.inputs == 5


def test_tracrs_default_exactness_is_wrong_beyond_six():
    """docs/teacher.md §3a: 100 blurs counts from 7 on, and 10⁴ does not."""
    task = Dyck()
    program = lambda: task.program(max_seq_len=20)  # noqa: E731
    many = [["("] * 20]
    sharp = compile_program(program, vocab=task.vocab(), max_seq_len=20)
    assert verify(sharp, program, inputs=many).ok
    blurred = compile_program(program, vocab=task.vocab(), max_seq_len=20, mlp_exactness=100)
    report = verify(blurred, program, inputs=many)
    assert not report.ok
    assert report.first_wrong.variable.startswith("(_start_counts")
    assert report.first_wrong.position == 6  # the seventh bracket
    assert report.first_wrong.expected == 7
    assert "first wrong: (_start_counts" in str(report)


@pytest.mark.parametrize("part", ["linear_1", "linear_2", "query", "key", "value", "linear"])
def test_a_corrupted_weight_is_found(part):
    def program():
        counted = lib.make_count(rasp.tokens, "a")
        return rasp.Aggregate(rasp.Select(rasp.indices, counted, rasp.Comparison.EQ), rasp.tokens).named(
            "final_result"
        )

    teacher = compile_program(program, vocab="abc", max_seq_len=6)
    assert verify(teacher, program, tracr=True).ok
    name = next(n for n in teacher.weights if n.endswith(f"/{part}"))
    coo = teacher.weights[name]
    found = 0
    for i in range(len(coo.value)):
        value = coo.value.copy()
        value[i] = -value[i]
        broken = dataclasses.replace(teacher, weights={**teacher.weights, name: coo._replace(value=value)})
        if i == 0:
            report = verify(broken, program, num=4, tracr=True)
            assert not report.ok
            assert report.tracr_weight_deviation == 2 * abs(coo.value[0])
        if i >= 6:
            break
        found += verify(broken, program, num=64).first_wrong is not None
    assert found


def test_nan_is_wrong():
    teacher = compile_program(lib.make_hist, vocab="ab", max_seq_len=4)
    coo = teacher.weights["token_embed"]
    broken = dataclasses.replace(
        teacher, weights={**teacher.weights, "token_embed": coo._replace(value=np.full_like(coo.value, np.nan))}
    )
    assert not verify(broken, lib.make_hist).ok


def test_a_teacher_of_another_program_is_refused():
    teacher = compile_program(lib.make_hist, vocab="ab", max_seq_len=4)
    with pytest.raises(UserError, match="not of this program"):
        verify(teacher, lambda: lib.make_count(rasp.tokens, "a"))


def test_a_number_that_is_slightly_off_is_wrong():
    """0.001 is the limit of a number: a mean of n values is told from its neighbour by 1 / n^2."""

    def program():
        here = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
        is_a = rasp.numerical(rasp.Map(lambda t: 1.0 if t == "a" else 0.0, rasp.tokens))
        return rasp.numerical(rasp.Aggregate(here, is_a, default=0.0)).named("final_result")

    teacher = compile_program(program, vocab="ab", max_seq_len=6)
    report = verify(teacher, program, inputs=[list("abaaba"), list("b")])
    assert report.ok, str(report)
    assert report.largest_deviation < 1e-5
    name, coo = next((n, c) for n, c in teacher.weights.items() if n.endswith("/attn/linear") and len(c.value))
    broken = dataclasses.replace(
        teacher, weights={**teacher.weights, name: coo._replace(value=coo.value * np.float64(1.005))}
    )
    report = verify(broken, program, inputs=[list("abaaba"), list("b")])
    assert report.first_wrong.variable == teacher.result
    assert report.first_wrong.tokens == tuple("abaaba")
    assert 0.001 < report.first_wrong.deviation < 0.01


def test_the_first_wrong_value_is_of_the_first_input():
    task = Dyck()
    program = lambda: task.program(max_seq_len=12)  # noqa: E731
    blurred = compile_program(program, vocab=task.vocab(), max_seq_len=12, mlp_exactness=100)
    report = verify(blurred, program, inputs=[["("], ["("] * 8, ["("] * 12])
    assert report.first_wrong.tokens == ("(",) * 8


def test_many_inputs_are_compared_as_one_by_one():
    program, vocab, length = of_task("count_16")
    teacher = compile_program(program, vocab=vocab, max_seq_len=length)
    inputs = random_inputs(teacher, range(1, length + 1))
    assert [len(i) for i in inputs] == list(range(1, length + 1))
    together = verify(teacher, program, inputs=inputs)
    alone = [verify(teacher, program, inputs=[i]) for i in inputs]
    assert together.compared == sum(r.compared for r in alone)
    assert together.mixtures == sum(r.mixtures for r in alone)
    assert together.largest_deviation == pytest.approx(max(r.largest_deviation for r in alone), abs=1e-3)
