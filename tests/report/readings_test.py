"""The sentences below the figures, on small hand-made files, and numbers as words."""

import dataclasses

from tests.helpers.report_data import make_run
from tests.helpers.report_runs import RULES, RUN, plain, with_sets
from tracr_jax.report import readings as R
from tracr_jax.report.load import load_runs
from tracr_jax.report.words import counted, listed, number, percent, tenths, whole
from tracr_jax.stats import share


def test_the_accuracy_sentence_names_where_a_rule_is_better():
    run = with_sets(dict.fromkeys(("test", "near_miss"), RULES), test=96, near_miss=40)
    text = plain(R.accuracy_reading(run))
    assert text.startswith("Test: 96 % (90–98) right, where the best trivial rule, counting, gets 95 %.")
    assert text.endswith("Below the best trivial rule on 1 of 2 sets: near miss.")
    # All right where the rule is all right too is not below it, whatever the interval's last digit.
    run.evaluation["sets"] = {"test": run.sets["test"] | {"injected": share(100, 100), "baselines": {"a": 1.0}}}
    assert "Below" not in R.accuracy_reading(run)


def test_sentences_of_a_whole_run(tmp_path):
    (run,) = load_runs([make_run(tmp_path / "run")])
    examples = run.part("examples")
    right = sum(e["answer"] == e["label"] for e in examples)
    assert f"In these {len(examples)} examples" in R.explorer_reading(run)
    assert plain(R.explorer_reading(run)).endswith(f"the model answers {right} of them right.")
    assert plain(R.loss_reading(run)).startswith("In 400 steps the answer's loss fell from ")
    assert "the language's loss rose" in R.loss_reading(run)
    assert "On length ood, " in R.length_reading(run)
    last = {n: c["accuracy"][-1] for n, c in run.part("scorecard")["sets"]["test"]["classes"]["all"].items()}
    worst = min(last, key=lambda n: last[n])
    assert f"the hardest is {worst} with" in plain(R.scorecard_reading(run))


def test_a_loss_that_is_nothing_but_rounding_is_zero():
    metrics = [{"step": 0, "retention": -6e-8}, {"step": 1, "retention": 0.25}]
    assert (
        R.loss_reading(dataclasses.replace(RUN, metrics=metrics))
        == "In 2 steps the language's loss rose from 0 to 0.25 nats per token."
    )


def test_numbers_in_words():
    assert [tenths(x) for x in (None, 0, 4e-4, 0.0004, 0.5, 2999 / 3000, 1)] == [
        "–",
        "0.0",
        "<0.1",
        "<0.1",
        "50.0",
        ">99.9",
        "100.0",
    ]
    assert [whole(x) for x in (None, 0, 1e-3, 0.5, 0.996, 1)] == ["–", "0", "1", "50", "99", "100"]
    shares = [0, 0.0004, 0.004, 0.5, 0.986, 0.994, 0.9996, 1, None]
    assert [plain(percent(x)) for x in shares] == [
        "0 %",
        "<0.1 %",
        "0.4 %",
        "50 %",
        "99 %",
        "99.4 %",
        ">99.9 %",
        "100 %",
        "–",
    ]
    assert [number(x) for x in (0, 33.0, 0.0211, 1e-7, 12.345)] == ["0", "33", "0.0211", "1.00e-07", "12.3"]
    assert number(33.0, zeros=True) == "33.0"
    assert [plain(counted(n)) for n in (12, 1234, 1234567)] == ["12", "1 234", "1 234 567"]
    assert listed(["a"]) == "a"
    assert listed(list("abcd")) == "a, b, c and d"
    assert listed(list("abcdef")) == "a, b, c and 3 more"
