"""What numbers can reach: means, negative numbers, None; compared with the oracle on every short input."""

import itertools
from fractions import Fraction

import pytest
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher import compile_program, verify
from tracr_jax.teacher.values import means

LENGTH = 5
HERE = rasp.Comparison.LEQ


def share(score):
    """Mean of a number over what stands here and before."""
    here = rasp.Select(rasp.indices, rasp.indices, HERE)
    return rasp.numerical(rasp.Aggregate(here, rasp.numerical(score), default=0)).named("share")


def share_of(letter):
    return share(rasp.Map(lambda t: float(t == letter), rasp.tokens))


def difference():
    both = rasp.LinearSequenceMap(share_of("a"), share_of("b"), 1, -1)
    return rasp.numerical(both)


def scores(table):
    return rasp.numerical(rasp.Map(lambda t: table[t], rasp.tokens)).named("score")


PROGRAMS = {
    **{f"above {t}": (lambda t=t: rasp.Map(lambda f: f > t, share_of("a"))) for t in (0, 0.3, 0.5, 0.65, 0.9)},
    "at least a half": lambda: rasp.Map(lambda f: f >= 0.5, share_of("a")),
    "in thirds": lambda: rasp.Map(lambda f: int(3 * f), share_of("a")),
    "as a number": lambda: rasp.numerical(rasp.Map(lambda f: -3 * f, share_of("a"))),
    "exactly two thirds": lambda: rasp.Map(lambda f: abs(f - 2 / 3) < 1e-9, share_of("a")),
    "more a than b": lambda: rasp.Map(lambda d: d > 0, difference()),
    "negative numbers": lambda: scores({"a": -2.0, "b": 3.0, "c": 0.0}),
    "only negative numbers": lambda: scores({"a": -2, "b": -0.5, "c": -1}),
    "numbers from True": lambda: scores({"a": True, "b": False, "c": True}),
    "sign of a difference of negatives": lambda: rasp.Map(
        lambda x: x < -0.5,
        rasp.numerical(rasp.LinearSequenceMap(scores({"a": -2, "b": 3, "c": 0}), share_of("c"), 1, 2)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_string_of_five_letters(name):
    teacher = compile_program(PROGRAMS[name], vocab=set("abc"), max_seq_len=LENGTH)
    # Causal: shorter strings are their beginnings.
    report = verify(teacher, PROGRAMS[name], inputs=list(itertools.product("abc", repeat=LENGTH)))
    assert report.ok, str(report)
    assert report.largest_deviation < 1e-4  # float32, and softmax at temperature 1/100


def test_means_by_brute_force():
    for values in ({0, 1}, {0.0, 0.5, 2}, {-1, 3}):
        every = (
            Fraction(sum(map(Fraction, c)), n)
            for n in range(1, 6)
            for c in itertools.combinations_with_replacement(sorted(values), n)
        )
        assert means(values, 5) == {float(x) for x in every}
    assert means({float(k) ** 0.5 for k in range(40)}, 60) is None


def shares_of_shares():
    return rasp.Map(lambda f: f > 0.4, share(share(share_of("a"))))


@pytest.mark.parametrize(
    ("build", "length", "message"),
    [
        (lambda: scores({"a": None, "b": 1, "c": 0}), 5, "score.* is a number, but None at 'a'"),
        (lambda: scores({"a": "x", "b": 1, "c": 0}), 5, "is a number, but can be 'x'"),
        (lambda: scores({"a": float("nan"), "b": 1, "c": 0}), 5, "is a number, but can be nan"),
        (lambda: rasp.numerical(rasp.Map(lambda f: None if f > 0.5 else f, share_of("a"))), 5, "but None at"),
        (shares_of_shares, 30, "more values than can be told apart|may lie .* apart and no closer"),
        (lambda: rasp.Map(lambda f: f > 0.5, share_of("a")), 200, ""),
    ],
)  # fmt: skip
def test_what_cannot_be_compiled_rightly_is_refused(build, length, message):
    if (
        not message
    ):  # half of 200 letters: neighbouring shares lie 1 / 39,800 apart, which the default sharpness tells
        assert compile_program(build, vocab=set("abc"), max_seq_len=length).max_seq_len == length
        with pytest.raises(UserError, match=r"must tell .* mlp_exactness 100 values may lie 0.02 apart"):
            compile_program(build, vocab=set("abc"), max_seq_len=length, mlp_exactness=100)
        return
    with pytest.raises(UserError, match=message) as e:
        compile_program(build, vocab=set("abc"), max_seq_len=length)
    assert "\n" not in str(e.value)
