"""Random programs: refused in one line, or the network holds what the program computes, everywhere."""

import functools
import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from tracr.rasp import causal_eval, rasp

from tests.helpers.program_grammar import Program, inputs_of, judge, operations, programs
from tests.helpers.teacher_programs import of_task
from tracr_jax.errors import UserError
from tracr_jax.teacher import compile_program, default_exactness, graph, verify
from tracr_jax.teacher.blocks import Build
from tracr_jax.teacher.compile import _assemble
from tracr_jax.teacher.graph import trace
from tracr_jax.teacher.oracle import Oracle

# ---- the grammar


def check(program: Program, tally: Counter) -> None:
    verdict = judge(program)
    tally["programs"] += 1
    if verdict.refused is not None:
        assert "\n" not in verdict.refused
        tally["refused"] += 1
        tally["refused", reason(verdict.refused)] += 1
        return
    assert verdict.report.ok, f"{verdict.report.first_wrong}\n{program}"
    tally["compiled"] += 1
    tally["values compared"] += verdict.report.compared
    tally.update(("compiled", kind) for kind in operations(program))
    tally["answers also tracr's"] += agree_with_tracr(program)


def reason(refused: str) -> str:
    """The kind of a refusal: its line without names and values."""
    line = re.sub(r"\b[a-z_]+_\d+\b", "NAME", refused).split(";")[0]
    line = re.sub(r"'[^']*'|\"[^\"]*\"|\b(True|False|None)\b|-?\b\d[\d.e-]*", "…", line)
    return re.sub(r"[({].*", "", line)


def agree_with_tracr(program: Program) -> int:
    """Compare the oracle with tracr's own evaluator; gives the number of answers compared.

    Left out where any variable is undefined or a mixture: tracr's evaluator asks predicates about None, and takes
    the mean of categories that are numbers. It also raises the errors that are undefined values here.
    """
    oracle = Oracle(program.result)
    compared = 0
    for tokens in inputs_of(program)[:10]:
        truth = oracle(tokens)
        if any(v is None for row in truth.values.values() for v in row):
            continue
        try:
            theirs = causal_eval.evaluate(program.result, tokens)
        except ValueError:  # an Aggregate of one text at two positions
            continue
        for ours, other in zip(truth.values[oracle.result], theirs, strict=True):
            assert ours == other or abs(ours - other) < 1e-9, f"{tokens}: {ours!r}, tracr {other!r}\n{program}"
            compared += 1
    return compared


def run(count: int) -> Counter:
    tally: Counter = Counter()

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],  # another seed is another program, and no smaller one
        suppress_health_check=list(HealthCheck),
    )
    @given(programs())
    def every(program):
        check(program, tally)

    every()
    # Refusing everything, or drawing one kind only, would prove nothing.
    assert tally["programs"] == count
    assert tally["compiled"] > 0.7 * count, tally
    assert tally["values compared"] > 100 * count
    assert tally["answers also tracr's"] > 10 * count
    kinds = {"Map", "Map of a number", "SequenceMap", "Select", "Aggregate", "SelectorWidth"}
    kinds |= {"numerical Map", "numerical Map of a number", "numerical LinearSequenceMap"}
    kinds |= {"numerical Aggregate", "numerical SelectorWidth"}
    assert {kind for kind in kinds if tally["compiled", kind] > count / 50} == kinds, tally
    return tally


def test_200_programs():
    run(200)


@pytest.mark.soak
def test_2000_programs(capsys):
    tally = run(2000)
    with capsys.disabled():
        print("\n" + "\n".join(f"{n:8} {k}" for k, n in sorted(tally.items(), key=str)))


# ---- one of each kind that tracr compiles to another function, or not at all, on every input

PAST = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LEQ)
BEFORE = rasp.Select(rasp.indices, rasp.indices, rasp.Comparison.LT)


def table(values: dict, sop=rasp.tokens) -> rasp.SOp:
    return rasp.Map(values.__getitem__, sop)


def number(values: dict, sop=rasp.tokens) -> rasp.SOp:
    return rasp.numerical(table(values, sop))


def mean(sop: rasp.SOp, selector: rasp.Selector = PAST) -> rasp.SOp:
    return rasp.numerical(rasp.Aggregate(selector, sop, default=0))


def equals(letter) -> rasp.SOp:
    return rasp.numerical(rasp.tokens == letter)


def count(predicate) -> rasp.SOp:
    return rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, predicate))


def linear(first, second, a=1.0, b=-1.0) -> rasp.SOp:
    return rasp.numerical(rasp.LinearSequenceMap(first, second, a, b))


def pair(first, second) -> rasp.SOp:
    return rasp.SequenceMap(lambda x, y: (x, y), first, second)


COMPILED = {
    "a share above a half": lambda: rasp.Map(lambda f: f > 0.5, mean(equals("a"))),
    "a share told from every other": lambda: rasp.Map(lambda f: round(60 * f), mean(equals("a"))),
    "a share to a number": lambda: rasp.numerical(rasp.Map(lambda f: f * f - 1, mean(equals("a")))),
    "a mean of other numbers": lambda: rasp.Map(lambda f: f > 0.7, mean(number({"a": -2, "b": 3, "c": 0.5}))),
    "a mean of fractions at its threshold": lambda: rasp.Map(
        lambda f: f > 0.1, mean(number({"a": 0.1, "b": 0.2, "c": 0.3}))
    ),
    "a mean of a count": lambda: rasp.Map(
        lambda f: f > 1.5, mean(rasp.numerical(count(lambda k, q: k == "a")))
    ),
    "a mean of means": lambda: rasp.Map(lambda f: f > 0.41, mean(mean(equals("a")))),
    "a difference of means": lambda: rasp.Map(lambda f: f >= 0.25, linear(mean(equals("a")), mean(equals("b")))),
    "a number minus itself": lambda: rasp.Map(lambda x: x == 0, linear(mean(equals("a")), mean(equals("a")))),
    "a mean of nothing": lambda: rasp.Map(lambda f: f < 0.1, mean(equals("a"), BEFORE)),
    "negative numbers": lambda: number({"a": -2.0, "b": 3.0, "c": 0.0}),
    "only negative numbers": lambda: rasp.Map(lambda x: x < -1, number({"a": -2, "b": -1, "c": -0.5})),
    "a number that is 0 everywhere": lambda: number({"a": 0, "b": 0, "c": 0}),
    "undefined for some numbers": lambda: rasp.Map(
        lambda x: None if x == 1 else x, number({"a": 0, "b": 1, "c": 2}), simplify=False
    ),
    "an arithmetic error of a number": lambda: rasp.Map(lambda x: 1 // x, number({"a": 0, "b": 1, "c": -2})),
    "an arithmetic error of a category": lambda: rasp.Map(lambda x: 1 // x, table({"a": 0, "b": 1, "c": -2})),
    "an arithmetic error of two": lambda: rasp.SequenceMap(
        lambda i, x: i / x, rasp.indices, table({"a": 0, "b": 1, "c": -2})
    ),
    "predicates that are no bools": lambda: count(lambda k, q: {"a": 2, "b": "yes", "c": None}[k]),
    "1 beside '1'": lambda: rasp.Aggregate(
        rasp.Select(rasp.tokens, rasp.tokens, rasp.Comparison.EQ), table({"a": 1, "b": "1", "c": 1.5})
    ),
    "True and 1 as one value": lambda: rasp.Map(
        lambda x: x == 1, table({"a": True, "b": 1, "c": 0}), simplify=False
    ),
    # tracr's steps write f(0) at BOS: the count would include BOS, the default would be f(0).
    "BOS is no key": lambda: rasp.SelectorWidth(
        rasp.Select(rasp.Map(lambda x: x > 0, equals("a")), rasp.tokens, lambda k, q: not k)
    ),
    "BOS is no value": lambda: rasp.Aggregate(BEFORE, rasp.Map(lambda x: x > 0, equals("a"))),
    "BOS is no number": lambda: mean(rasp.numerical(rasp.Map(lambda x: x + 5, mean(equals("a")))), BEFORE),
    # Two counters of a layer clean BOS twice.
    "two counters as keys": lambda: pair(
        *(
            rasp.SelectorWidth(rasp.Select(count(lambda k, q, c=c: k == c), rasp.tokens, lambda k, q: k < 1))
            for c in "ab"
        )
    ),
    "two counters as values": lambda: pair(
        *(rasp.Aggregate(BEFORE, count(lambda k, q, c=c: k == c)) for c in "ab")
    ),
    "a large number beside none": lambda: linear(
        mean(number({"a": 0, "b": 300, "c": 0}), BEFORE), equals("a")
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("length", [1, 4])
def test_every_input_of_a_mended_kind(name, length):
    verdict = judge(Program(COMPILED[name](), ("a", "b", "c"), length), most=81)
    assert verdict.refused is None, verdict.refused
    assert verdict.report.ok, verdict.report.first_wrong


REFUSED = {
    "is a number, but None at 'a'": lambda: number({"a": None, "b": 1, "c": 0}),
    "is a number, but None at 0": lambda: rasp.numerical(rasp.Map(lambda x: 1 / x, mean(equals("a")))),
    "is a number and reads aggregate, which can be undefined (None)": lambda: rasp.numerical(
        rasp.Map(lambda v: 1, rasp.Aggregate(BEFORE, rasp.tokens))
    ),
    "is a number, but can be inf": lambda: number({"a": float("inf"), "b": 1, "c": 0}),
    "is a number, but can be 'x'": lambda: number({"a": "x", "b": 1, "c": 0}),
    "is undefined (None) for every possible input": lambda: rasp.Map(lambda t: None, rasp.tokens),
    "tells apart 1 and True": lambda: rasp.Map(str, table({"a": True, "b": 1, "c": 0}), simplify=False),
    "tells apart 0 and 0.0": lambda: rasp.Map(str, mean(equals("a"), BEFORE)),
    "final can be 1 and True, which are equal": lambda: table({"a": True, "b": 1, "c": 0}).named("final"),
    "final can be nan, which equals nothing": lambda: table({"a": float("nan"), "b": 1, "c": 0}).named("final"),
    "must tell": lambda: rasp.Map(lambda x: x > 1, number({"a": 1, "b": 1 + 1e-9, "c": 0}), simplify=False),
    "the network may be off by": lambda: mean(number({"a": -1e6, "b": 1e6, "c": 0})),
    "only supports None as default": lambda: rasp.SequenceMap(
        lambda x, y: x, rasp.Aggregate(PAST, rasp.tokens), rasp.Aggregate(PAST, rasp.tokens, default="a")
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_the_network_cannot_hold_is_one_clear_line(message):
    verdict = judge(Program(REFUSED[message](), ("a", "b", "c"), 4))
    assert verdict.refused is not None, verdict.report
    assert message in re.sub(r"_\d+\b", "", verdict.refused)
    assert "\n" not in verdict.refused


STATICALLY_REFUSED = {
    "Categorical aggregate only": lambda: rasp.Aggregate(PAST, rasp.tokens, default="a"),
    "Numerical aggregate only": lambda: rasp.numerical(rasp.Aggregate(PAST, number({"a": 1, "b": 0}), default=1)),
    "An aggregate's output": lambda: rasp.Aggregate(PAST, number({"a": 1, "b": 0})),
    "Select keys": lambda: rasp.SelectorWidth(rasp.Select(mean(equals("a")), rasp.tokens, lambda k, q: True)),
    "Select queries": lambda: rasp.SelectorWidth(rasp.Select(rasp.tokens, mean(equals("a")), lambda k, q: True)),
    "(Non-linear) SequenceMap": lambda: rasp.SequenceMap(lambda x, y: x, mean(equals("a")), rasp.tokens),
    "LinearSequenceMap": lambda: rasp.LinearSequenceMap(rasp.tokens, rasp.tokens, 1, 1),
    "tokens should": lambda: rasp.Map(lambda t: t, rasp.numerical(rasp.tokens)),
}


def test_each_of_tracrs_static_reasons_says_what_to_write_instead():
    assert len(STATICALLY_REFUSED) == len(graph._ADVICE)
    for start, make in STATICALLY_REFUSED.items():
        advice = next(what for reason, what in graph._ADVICE.items() if reason.startswith(start))
        with pytest.raises(UserError) as refused:
            graph.check_operations(make())
        assert f"({start}" in str(refused.value)
        assert str(refused.value).endswith(f": {advice}")


# ---- what is right in tracr's way stays so


@pytest.mark.parametrize("name", ["dyck_20", "int_sum_3", "count_16"])
@pytest.mark.parametrize("length", [16, 40, 60, 120])
def test_the_bundled_programs_keep_their_weights(name, length):
    """Without colder heads and quiet steps, as tracr assembles them, at every length that training uses."""
    program, vocab, _ = of_task(name)
    if name == "int_sum_3" and length > 16:  # its longest item has 12 tokens; at 40 positions tracr's heads leak
        return
    teacher = compile_program(program, vocab=vocab, max_seq_len=length)
    traced = trace(program(), vocab=set(vocab), max_seq_len=length)
    how = Build(("tokens", "bos"), default_exactness(length))
    plain, _ = _assemble(traced, how, vocab=set(vocab), max_seq_len=length, bos="bos", pad="pad")
    assert plain.directions == teacher.directions
    assert plain.weights.keys() == teacher.weights.keys()
    for key, coo in plain.weights.items():
        for ours, theirs in zip(coo, teacher.weights[key], strict=True):
            np.testing.assert_array_equal(ours, theirs)


# ---- long tables, where tracr's heads leak


def marked_share(threshold):
    return rasp.Map(lambda f: f > threshold, mean(equals("a")))


LONG = {
    "a share": (functools.partial(marked_share, 0.5), 300),
    "a share near 1": (functools.partial(marked_share, 0.995), 300),
    "a difference of shares": (
        lambda: rasp.Map(lambda d: d > 0, linear(mean(equals("a")), mean(equals("b")))),
        40,
    ),
    "a count of counts": (
        lambda: rasp.SelectorWidth(rasp.Select(count(lambda k, q: k == "a"), rasp.tokens, lambda k, q: k > 3)),
        400,
    ),
    "the letter at a place": (
        lambda: rasp.Aggregate(
            rasp.Select(rasp.indices, count(lambda k, q: k == "a"), rasp.Comparison.EQ), rasp.tokens
        ),
        300,
    ),
}


@pytest.mark.parametrize("name", LONG)
def test_long_tables(name):
    program, length = LONG[name]
    teacher = compile_program(program, vocab="ab", max_seq_len=length)
    inputs = [["a"] * length, ["b"] * length, list("ab" * length)[:length], ["b"] * (length - 1) + ["a"]]
    report = verify(teacher, program, inputs=[*inputs, ["b"] * (length // 2) + ["a"] * (length - length // 2)])
    assert report.ok, str(report)
