"""The numbers behind the figures, against hand-worked ones."""

import dataclasses
import json
from itertools import pairwise
from types import SimpleNamespace

import pytest

from tests.helpers.report_data import NAMES, make_run
from tracr_jax.report import data as D
from tracr_jax.report.load import load_runs
from tracr_jax.report.markup import by_task_and_model, sets_of
from tracr_jax.report.sections import answers_section
from tracr_jax.report.words import plain


def curves(metrics, **config):
    return D.loss_curves(SimpleNamespace(metrics=metrics, config=config))  # pyright: ignore[reportArgumentType]


def test_the_kl_is_per_token_whatever_the_loss_sums():
    metrics = [{"step": 0, "retention": 8.0, "loss": 8.0}]
    for reduction, value in (("text", 0.25), ("token", 8.0)):
        config = {"losses": {"retention_reduction": reduction}, "data": {"text_length": 32}}
        loss, kl = curves(metrics, **config)
        assert (loss["mean"], kl["mean"]) == ([8.0], [value])
        assert kl["title"].endswith("nats per token")


def test_a_logarithmic_axis_spends_no_decades_on_the_first_steps():
    (kl,) = curves([{"step": s, "retention": 6e-8 if s < 2 else 0.01 * s} for s in range(100)])
    assert 0.005 < kl["floor"] < 0.05
    (loss,) = curves([{"step": s, "loss": 10.0 ** -(s / 20)} for s in range(100)])
    assert loss["floor"] == pytest.approx(10.0**-4.95)  # what many steps lead to is shown
    assert curves([{"step": 0, "loss": -1.0}])[0]["floor"] is None


def test_short_curves_are_kept_as_they_are():
    metrics = [{"step": s, "loss": 2.0 - s / 10, "alignment_parts": [1.0]} for s in range(10)]
    (curve,) = curves(metrics)
    assert curve["steps"] == list(range(1, 11))
    assert curve["mean"] == curve["low"] == curve["high"] == [2.0 - s / 10 for s in range(10)]


def test_long_curves_keep_their_extremes():
    metrics = [{"step": s, "retention": 100.0 if s == 777 else float(s % 3)} for s in range(1000)]
    (curve,) = curves(metrics)
    assert len(curve["mean"]) <= D.POINTS
    assert curve["steps"][-1] == 1000
    assert max(curve["high"]) == 100.0
    assert max(curve["mean"]) < 100.0
    at = curve["high"].index(100.0)
    low, high = curve["steps"][at] - curve["each"], curve["steps"][at]
    assert low <= 777 < high


def test_a_step_without_a_number_is_left_out():
    (curve,) = curves([{"step": 0, "loss": None}, {"step": 1, "loss": 3.0}])
    assert (curve["steps"], curve["mean"]) == ([2], [3.0])


def test_lengths_are_pooled_and_lose_nothing():
    rows = [{"length": n, "right": n % 5, "total": 4 + n % 3} for n in range(90, 10, -1)]
    bins = D.lengths({"sets": {"test": {"by_length": rows}}})["test"]
    assert 2 <= len(bins) <= D.BINS
    assert sum(b["total"] for b in bins) == sum(r["total"] for r in rows)
    assert sum(b["right"] for b in bins) == sum(r["right"] for r in rows)
    assert (bins[0]["from"], bins[-1]["to"]) == (11, 90)
    assert all(a["to"] < b["from"] for a, b in pairwise(bins))
    assert all(b["low"] <= b["accuracy"] <= b["high"] for b in bins)


def test_one_length_is_no_curve():
    assert D.lengths({"sets": {"test": {"by_length": [{"length": 3, "right": 1, "total": 2}]}}}) == {}
    assert D.lengths({"sets": {"test": {}}}) == {}
    assert D.lengths(None) == {}


def test_the_scorecard_is_taken_from_evaluation_where_there_is_no_other(tmp_path):
    (full,) = load_runs([make_run(tmp_path / "a")])
    (part,) = load_runs([make_run(tmp_path / "b", leave_out=("interpretation.json",))])
    (none,) = load_runs([make_run(tmp_path / "c", baseline=True)])
    a, b = D.scorecard_of(full), D.scorecard_of(part)
    assert a["probed"]
    assert not b["probed"]
    written = {v["name"]: v["writer_layer"] for v in full.variables}
    assert sorted(a["order"]) == sorted(n for n in NAMES if n != NAMES[-1])  # numerical: never decoded
    assert [written[n] for n in a["order"]] == sorted(written[n] for n in a["order"])
    assert set(b["order"]) == set(a["order"])
    assert (a["layers"], b["layers"]) == (8, 8)
    assert set(b["sets"]["test"]["classes"]) == {"all", "answer"}
    # Fine-tuning trains no adapter, though evaluation.json has numbers of its random one.
    assert none.evaluation["decode"]
    assert D.scorecard_of(none) is None


def test_the_result_is_found_by_name_or_is_the_last():
    def result(names, evaluation=None):
        return D.result_name(SimpleNamespace(evaluation=evaluation), names)  # pyright: ignore[reportArgumentType]

    assert result(["tokens", "final_result_3", "x"]) == "final_result_3"
    assert result(["tokens", "x"]) == "x"
    assert result([]) is None
    assert result(["tokens", "final_result_3"], {"result": "tokens"}) == "tokens"


@pytest.mark.parametrize("text", ["</script>", "<!--", "]]>", "&amp;", "\u2028\u2029", "\ud800", "\x00"])
def test_embedded_json_can_end_no_element_and_comes_back(text):
    inside = D.embed({text: [text]})
    assert not set("<>&\u2028\u2029\x00") & set(inside)
    assert inside.isascii()
    assert json.loads(inside) == {text: [text]}


def test_examples_are_dropped_from_whoever_has_most():
    small, large = {"t": "x" * 10}, {"t": "x" * 1000}
    runs = [{"examples": [small, small]}, {"examples": [large, large, large]}]
    assert D.fit_examples(runs, room=2200) == 1
    assert [len(r["examples"]) for r in runs] == [2, 2]
    assert D.fit_examples(runs, room=0) == 4


def test_runs_share_a_figure_by_task_and_model_as_configured(tmp_path):
    """Two models whose folders have one name are two; every set of a group is shown, whichever run was asked."""
    runs = load_runs(
        [make_run(tmp_path / str(i), lm=lm) for i, lm in enumerate(("a/base", "b/base", "a/base", "tiny"))]
    )
    groups = by_task_and_model(runs)
    assert {t: [i for i, _ in g] for t, g in groups.items()} == {
        "dyck in a/base": [0, 2], "dyck in b/base": [1], "dyck in tiny": [3]
    }  # fmt: skip
    assert [d["group"] for d in D.runs_data(runs)] == [
        "dyck in a/base", "dyck in b/base", "dyck in a/base", "dyck in tiny"
    ]  # fmt: skip
    first, _, third, _ = runs
    assert third.evaluation is not None
    extra = {"only_here": third.sets["test"]}
    third = dataclasses.replace(third, evaluation={**third.evaluation, "sets": {**third.sets, **extra}})
    rows = sets_of([(0, first), (2, third)])
    assert [row.title for row in rows] == [*map(plain, first.sets), "only here"]
    assert [[i for i, _, _ in row.runs] for row in rows] == [*([[1, 3]] * len(first.sets)), [3]]
    assert "only here" in answers_section([first, third])
