"""`tracr-jax compare`: exact p values and intervals, what must be equal, and the table at 60 and 120 columns."""

import dataclasses
import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from tracr_jax import cli
from tracr_jax.errors import UserError
from tracr_jax.measure import compare as comparing
from tracr_jax.measure.answers import items_digest
from tracr_jax.measure.compare import Answers, compare, compare_answers, paired
from tracr_jax.report.terminal.compare import print_comparison
from tracr_jax.runs.model import Injected
from tracr_jax.tasks.base import Item


def answers(seed, *, items=200, first=0.6, second=0.7):
    r = np.random.default_rng(seed)
    return r.random(items) < first, r.random(items) < second


def binomial(a, b):
    """Two-sided, by summing what is no more likely: the definition of McNemar's exact test."""
    n = a + b
    chance = [math.comb(n, k) / 2**n for k in range(n + 1)]
    return sum(c for c in chance if c <= chance[a] * (1 + 1e-9))


@pytest.mark.parametrize("seed", range(6))
def test_p_is_the_binomial_sum_and_the_interval_is_about_the_difference(seed):
    a, b = answers(seed, items=[20, 60, 200, 300, 5, 100][seed])
    one, other = compare_answers(a, b), compare_answers(b, a)
    assert one.only_first == sum(x and not y for x, y in zip(a, b, strict=True))
    assert one.p == pytest.approx(binomial(one.only_first, one.only_second))
    assert one.difference == pytest.approx(b.mean() - a.mean())
    assert one.low <= one.difference <= one.high
    # The error of a mean of paired differences, as a normal interval, where it is one.
    if len(a) >= 20:
        error = 1.96 * np.std(b.astype(float) - a, ddof=1) / math.sqrt(len(a))
        assert one.high - one.low == pytest.approx(2 * error, rel=0.25)
    assert other.p == one.p
    assert other.difference == -one.difference


def test_a_folder_that_there_is_not_is_said_before_anything_is_measured(tmp_path):
    said = []
    with pytest.raises(UserError, match="nowhere: no such folder"):
        compare(tmp_path / "nowhere", tmp_path / "nor here", say=said.append)
    assert not said


def test_the_interval_is_of_pairs_and_not_of_two_samples():
    """The same answers but for ten: the difference is known far better than either accuracy."""
    a = np.arange(400) % 2 == 0
    b = a.copy()
    b[np.flatnonzero(~a)[:10]] = True
    one = compare_answers(a, b)
    assert one.p == pytest.approx(2 / 2**10)
    assert 0.008 < one.low < 0.025 < one.high < 0.045
    same = compare_answers(a, a)
    assert (same.p, same.difference) == (1.0, 0.0)
    assert -0.02 < same.low < 0 < same.high < 0.02  # 400 equal answers do not prove that there are no others


@pytest.mark.parametrize("n", [1, 5, 100])
def test_where_all_items_differ_alike_the_interval_has_a_width_that_shrinks_with_their_number(n):
    right, wrong = np.ones(n, bool), np.zeros(n, bool)
    for a, b, difference in ((right, wrong, -1), (wrong, right, 1), (right, right, 0), (wrong, wrong, 0)):
        one = compare_answers(a, b)
        assert one.difference == difference
        assert -1 <= one.low <= difference <= one.high <= 1
        assert 0.5 / n < one.high - one.low < 12 / n


def folder(path, right, *, task="dyck", items=300, name="test", other="x"):
    path.mkdir()
    bits = "".join("1" if r else "0" for r in right)
    one = {"digest": items_digest([Item(other, str(i)) for i in range(len(right))]), "right": {"injected": bits}}
    (path / "evaluation.json").write_text(
        json.dumps({"task": task, "items_per_set": items, "sets": {name: one, "longer": one}})
    )
    return path


def test_two_folders_are_compared_from_their_files_alone(tmp_path, capsys, monkeypatch):
    a, b = answers(1)
    one, two = folder(tmp_path / "a", a), folder(tmp_path / "b", b)
    monkeypatch.setenv("COLUMNS", "60")
    cli.main(["compare", str(one), str(two), "--json", str(tmp_path / "out.json")])
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["sets"]["test"] == dataclasses.asdict(compare_answers(a, b))
    assert found["sets"].keys() == {"test", "longer"}
    assert "McNemar" in capsys.readouterr().out


def test_what_inject_returned_is_compared_as_its_folder_is(tmp_path):
    a, b = answers(5)
    one, two = folder(tmp_path / "a", a), folder(tmp_path / "b", b)
    evaluation = json.loads((one / "evaluation.json").read_text())
    run = Injected(None, None, (), folder=one, evaluation=evaluation)
    assert compare(run, two) == compare(one, two)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_table_fits(width, tmp_path):
    a, b = answers(2)
    found = compare(
        folder(tmp_path / "a", a, name="nested_brackets"), folder(tmp_path / "b", b, name="nested_brackets")
    )
    out = io.StringIO()
    print_comparison(Console(file=out, width=width, highlight=False), found)
    lines = out.getvalue().splitlines()
    assert max(len(line.rstrip()) for line in lines if str(tmp_path) not in line) <= width
    test = found.sets["longer"]
    for shown in (f"{100 * test.difference:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f})", "longer"):
        assert any(shown in line for line in lines), out.getvalue()
    assert any("only A right" in line for line in lines) == (width >= 100)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": "count"}, "a is a run of dyck, .*b of count"),
        ({"name": "tset"}, "sets test, tset"),
        ({"other": "y"}, "answered different items; the task was changed"),
        ({"short": True}, "answered 200 items, .*b 100; .* evaluate .*b --items 300"),
    ],
)
def test_what_must_be_equal_is_one_line(change, message, tmp_path):
    a, b = answers(3)
    short = change.pop("short", False)
    one, two = folder(tmp_path / "a", a), folder(tmp_path / "b", b[: 100 if short else None], **change)
    with pytest.raises(UserError, match=message) as error:
        compare(one, two)
    assert "\n" not in str(error.value)


def test_a_run_of_an_earlier_version_is_measured_again(tmp_path, monkeypatch):
    """With as many items as the other answered, whichever comes first."""
    a, b = answers(4)
    one = folder(tmp_path / "a", a, items=123)
    old = folder(tmp_path / "b", b)
    known = json.loads((old / "evaluation.json").read_text())
    del known["task"]
    (old / "evaluation.json").write_text(json.dumps(known))
    asked = []
    sets = comparing._written(one).sets

    def measured(path, items, task, say):
        asked.append((path, items))
        return Answers(str(path), "dyck", items, {name: (d, b) for name, (d, _) in sets.items()})

    monkeypatch.setattr(comparing, "_measured", measured)
    assert compare(one, old).sets["test"] == compare_answers(a, b)
    assert compare(old, one).sets["test"] == compare_answers(b, a)
    assert asked == [(old, 123), (old, 123)]


def test_runs_with_nothing_in_common():
    with pytest.raises(UserError, match="no items in common"):
        paired(Answers("a", "x", 3, {}), Answers("b", "y", 3, {}))


@pytest.mark.parametrize("differ", range(1, 10))
@pytest.mark.parametrize("n", [30, 300, 3000])
def test_of_few_items_that_differ_interval_and_test_say_the_same(n, differ):
    """All in favour of one run: p is below 0.05 from six on."""
    a = np.arange(n) < n // 2
    b = a | (np.arange(n) >= n - differ)
    one = compare_answers(a, b)
    assert (one.p < 0.05) == (differ >= 6)
    assert (one.low > 0) == (differ >= 6) or differ == 5  # Newcombe's interval may exclude 0 one item earlier


def test_a_set_that_nobody_answered_is_refused():
    none = Answers("a", "odd", 0, {"test": ("x", [])})
    with pytest.raises(UserError, match="set test: a answered no item of it"):
        paired(none, dataclasses.replace(none, name="b"))
