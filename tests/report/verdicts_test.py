"""The five answers, on small hand-made files: each can be yes, partly and no."""

import dataclasses

import pytest

from tests.helpers.report_runs import RULES, RUN, plain, with_sets
from tracr_jax.report import swaps as S
from tracr_jax.report import verdicts as V
from tracr_jax.stats import share


def test_nothing_measured_is_said_with_the_command():
    answers = V.answers(RUN)
    assert [a.verdict for a in answers] == [None] * 5
    assert [a.text.split()[1][:-1] for a in answers] == [
        "evaluate",
        "evaluate",
        "interpret",
        "interpret",
        "retention",
    ]


@pytest.mark.parametrize(("right", "verdict"), [(97, "yes"), (90, "yes"), (75, "partly"), (65, "no"), (0, "no")])
def test_learned(right, verdict):
    got, text = V.learned(with_sets(test=right))
    assert got == verdict
    assert plain(text).startswith(f"{right} % (")
    assert plain(text).endswith(
        "of 100 test items right; 3 % before. The best trivial rule, even length, gets 60 %."
    )


def test_learned_is_never_said_of_a_set_that_a_trivial_rule_solves():
    solved = {"test": RULES}
    verdict, text = V.learned(with_sets(solved, test=99))
    assert verdict == "open"
    assert text.endswith("No set tells the program from such a rule.")
    # Another set can tell; where two can equally, it is the test set.
    assert V.learned(with_sets(solved, test=99, near_miss=62))[0] == "no"
    verdict, text = V.learned(with_sets(solved, test=55, near_miss=95))
    assert verdict == "yes"
    assert "of 100 near miss items right" in text
    assert "test items" in V.learned(with_sets(near_miss=10, test=97))[1]
    # Where the test set tells, no other is asked: rules fail on count's longer texts too, and so may the program.
    telling = {"test": {"half_the_words": 0.18}, "length_ood": {"half_the_words": 0.05}}
    verdict, text = V.learned(with_sets(telling, test=95, length_ood=2))
    assert (verdict, "of 100 test items right" in text) == ("yes", True)


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [(99, 98, "yes"), (99, 89, "partly"), (91, 92, "yes"), (99, 65, "no"), (75, 72, "partly"), (50, 50, "no")],
)
def test_follows_is_decided_by_the_hardest_set(a, b, verdict):
    got, text = V.follows(with_sets(test=0, near_miss=a, longer=b))
    assert got == verdict
    lowest = "near miss" if a <= b else "longer"
    assert f"over 2 other sets, lowest {lowest}: {min(a, b)} % (" in plain(text)
    assert f"On the hardest, {lowest}, with {min(a, b)} % (" in plain(text)


def test_follows_takes_no_credit_from_a_set_that_a_trivial_rule_solves():
    # A rule that counts gets all of it: 99 % shows nothing by itself, and 55 % is no better than guessing.
    assert V.follows(with_sets({"longer": RULES}, test=99, longer=99))[0] == "partly"
    assert V.follows(with_sets({"longer": RULES}, test=99, longer=55))[0] == "no"
    assert V.follows(with_sets({"longer": RULES}, test=99, longer=99, near_miss=97))[0] == "yes"
    assert V.follows(with_sets({"longer": {"always_no": 1.0}}, test=99, longer=100))[0] == "open"


@pytest.mark.parametrize("right", range(0, 101, 5))
def test_no_verdict_is_better_than_no_where_the_interval_includes_a_rule(right):
    run = with_sets(test=right, near_miss=right)
    s = run.sets["test"]
    includes = s["injected"]["low"] <= max(s["baselines"].values())
    assert (V.learned(run)[0] == "no") == includes
    assert (V.follows(run)[0] == "no") == includes


def cell(accuracy, majority=0.5, probe=0.6):
    return {"positions": 10, "majority": majority, "accuracy": [None, accuracy], "probe": [None, probe]}


def with_scorecard(at_answer, **variables):
    table = {name: cell(a) for name, a in variables.items()}
    classes = {"all": table, "answer": {"final_result_1": cell(at_answer)}}
    card = {"layers": 2, "sets": {"test": {"items": 5, "unlabelled_values": 0, "classes": classes}}}
    names = [{"name": n, "writer_layer": 0} for n in variables]
    return dataclasses.replace(RUN, interpretation={"variables": names, "scorecard": card})


@pytest.mark.parametrize(
    ("at_answer", "others", "verdict"),
    [
        (0.95, (0.9, 0.9, 0.9, 0.9), "yes"),
        (0.95, (0.9, 0.9, 0.9, 0.55), "yes"),  # four of five
        (0.95, (0.9, 0.9, 0.55, 0.55), "partly"),
        (0.95, (0.6, 0.6, 0.6, 0.6), "partly"),  # the result alone; a probe's 60 % is not beaten by 60 %
        (0.70, (0.9, 0.9, 0.9, 0.9), "partly"),
        (0.70, (0.5, 0.5, 0.5, 0.5), "no"),
    ],
)
def test_readable_counts_only_what_beats_majority_and_probe(at_answer, others, verdict):
    run = with_scorecard(at_answer, a=others[0], b=others[1], c=others[2], d=others[3], final_result_1=0.9)
    got, text = V.readable(run)
    assert got == verdict
    above = 1 + sum(o > 0.6 for o in others)
    assert plain(text).startswith(
        f"final_result_1 decodes at the answer in {100 * at_answer:.0f} % (majority 50 %,"
    )
    assert f"{above} of 5 variables beat the majority rate and a probe" in text


def swap(match, control=0.4, unmoved=0.4):
    m = {
        "match": share(int(100 * match), 100),
        "unmoved": share(int(100 * unmoved), 100),
        "ceiling": share(100, 100),
    }
    controls = {"random": share(int(100 * control), 100), "complement": share(10, 100)}
    return m | {"variable": "x", "layer": 1, "total": 100, "controls": controls, "flips": 60}


@pytest.mark.parametrize(
    ("matches", "verdict"), [((0.9,) * 4, "yes"), ((0.9, 0.9, 0.45, 0.45), "partly"), ((0.45,) * 4, "no")]
)
def test_used_needs_whole_intervals_above_every_control(matches, verdict):
    swaps = {"pairs": 100, "cells": [swap(m) for m in matches], "left_out": []}
    got, text = V.used(dataclasses.replace(RUN, interpretation={"variables": [], "swaps": swaps}))
    assert got == verdict
    assert text.endswith(f"it beats every control in {sum(m > 0.6 for m in matches)} of 4 cells.")


def test_the_result_s_own_swap_is_told_first_and_counts_for_itself():
    def told(match):
        own = swap(match) | {"variable": "final_result_1", "layer": 7}
        cells = [own | {"layer": 6, "match": share(0, 100)}, own, *(swap(0.45) for _ in range(8))]
        variables = [{"name": n, "writer_layer": w} for n, w in (("final_result_1", 7), ("x", 1))]
        found = {"swaps": {"cells": cells}, "variables": variables}
        return V.used(dataclasses.replace(RUN, interpretation=found))

    verdict, text = told(0.9)
    assert verdict == "partly"
    assert text.startswith("After a swap of the result itself, final_result_1 at layer 7, ")
    assert "in 90 % of the pairs, the best control in 40 %. Of all variables: after a swap" in plain(text)
    assert told(0.45)[0] == "no"


def test_a_model_that_already_gives_the_answer_is_a_control_too():
    assert S.beats_controls(swap(0.9))
    assert not S.beats_controls(swap(0.9, unmoved=0.88))
    assert not S.beats_controls(swap(0.9, control=0.88))
    assert S.floor_of(swap(0.9, unmoved=0.7))["accuracy"] == 0.7


def test_a_program_with_one_variable_has_no_other_one_as_a_control():
    alone = swap(0.9)
    alone["controls"]["other"] = None
    assert S.beats_controls(alone)
    assert S.floor_of(alone)["accuracy"] == 0.4
    text = S.swaps_reading(dataclasses.replace(RUN, interpretation={"swaps": {"cells": [alone]}}))
    assert text.endswith("it beats every control in 1 of 1 cells.")


def test_a_cell_in_which_the_program_itself_is_not_above_its_controls_does_not_count():
    def cell(match, complement):
        program = {"swap": share(60, 60), "complement": share(complement, 60)}
        answer = {"swap": share(int(50 * match), 50), "random": share(20, 50)}
        return swap(match) | {"followed": {"answer": answer, "program": program}}

    def told(*cells):
        found = {"variables": [], "swaps": {"cells": list(cells)}}
        return V.used(dataclasses.replace(RUN, interpretation=found))

    verdict, text = told(cell(0.9, 6), cell(0.9, 6), cell(0.45, 55))
    assert verdict == "yes"
    said = "it beats every control in 2 of the 2 cells, of 3, in which the compiled program itself does."
    assert said in plain(text)
    verdict, text = told(cell(0.9, 6), cell(0.9, 6), cell(0.45, 6))
    assert verdict == "partly"
    assert "it beats every control in 2 of 3 cells." in plain(text)
    assert told(cell(0.9, 55))[0] == "open"  # nothing was asked that can tell


def test_a_swap_counts_where_it_can_be_followed():
    """Of 40 pairs 6 flip: the match of all says little, as a model that stays as it is meets 34 of them."""
    few = swap(0.9) | {
        "match": share(40, 40), "unmoved": share(34, 40), "controls": {"random": share(34, 40)},
        "followed": {"answer": {"swap": share(6, 6), "random": share(0, 6), "faithful": share(6, 6)}},
    }  # fmt: skip
    assert S.beats_controls(few)
    assert not S.beats_controls(few | {"followed": {"answer": {"swap": share(6, 6), "outside": share(4, 6)}}})


def test_constants_and_what_the_probe_never_gets_wrong_are_not_counted():
    run = with_scorecard(1.0, a=0.9, constant=1.0, known=1.0, final_result_1=1.0)
    table = run.part("scorecard")["sets"]["test"]["classes"]["all"]
    table["constant"] |= {"majority": 1.0}
    table["known"] |= {"probe": [None, 1.0]}
    verdict, text = V.readable(run)
    assert verdict == "yes"
    assert "2 of 2 variables beat" in text
    assert text.endswith("; not counted: 2 that these never get wrong.")
    for name in ("a", "final_result_1"):
        table[name] |= {"majority": 1.0}
    assert V.readable(run)[0] == "open"


def test_a_model_below_a_rule_that_gets_everything_is_told_apart_from_one_that_may_be_right():
    rules = {"test": {"always_no": 0.98}, "near_miss": {"always_no": 1.0}}
    assert V.learned(with_sets(rules, test=1, near_miss=1))[0] == "no"
    assert V.learned(with_sets(rules, test=99, near_miss=99))[0] == "open"
    assert V.follows(with_sets(rules, test=99, near_miss=1))[0] == "no"
    assert V.follows(with_sets(rules, test=99, near_miss=99))[0] == "open"


def test_noise_is_read_where_it_tells():
    """At the strongest all may be at chance, wherever the noise is."""
    run = dataclasses.replace(RUN, interpretation=noisy(0.3, 0.9))
    for points in run.interpretation["noise"]["kinds"].values():
        points.append({"strength": 99, **share(50, 100)})
    verdict, text = V.used(run)
    assert verdict == "partly"
    assert text.startswith("Noise of strength 30 ")


def test_what_no_variable_holds_must_not_move_the_answer():
    def told(outside):
        follows = {"swap": share(45, 50), "random": share(0, 50), "outside": share(outside, 50)}
        cells = [swap(0.9) | {"followed": {"answer": follows}}, swap(0.9) | {"followed": {"answer": follows}}]
        cells[1]["followed"] = {"answer": follows | {"swap": share(30, 50)}}
        cells *= 5
        cells.append(swap(0.9) | {"followed": {"answer": {"swap": share(0, 0)}}})  # no base was right
        found = {"variables": [], "swaps": {"cells": cells}}
        return V.used(dataclasses.replace(RUN, interpretation=found))

    verdict, text = told(2)
    assert verdict == "yes"
    assert "it follows 75 % at the median over cells, 60 % in the lowest." in plain(text)
    assert plain(text).endswith("holds moves 4 % of the answers.")
    assert told(5)[0] == "partly"


def noisy(result, random):
    kinds = {"result": result, "random": random, "complement": 0.7}
    rows = {
        k: [{"strength": 0, **share(95, 100)}, {"strength": 30, **share(int(100 * v), 100)}]
        for k, v in kinds.items()
    }
    return {"variables": [], "noise": {"prompts": 100, "rank": 2, "kinds": rows}}


def test_noise_alone_is_at_most_partly():
    got, text = V.used(dataclasses.replace(RUN, interpretation=noisy(0.3, 0.9)))
    assert got == "partly"
    assert plain(text) == (
        "Noise of strength 30 inside the result's 2 directions leaves 30 % of the answers right, in as many "
        "random directions 90 %, in everything but the result 70 %; without noise 95 %."
    )
    assert V.used(dataclasses.replace(RUN, interpretation=noisy(0.85, 0.9)))[0] == "no"


def measure(original, injected, *, name="perplexity", **more):
    values = {"original": original, "injected": injected}
    return {"name": name, "unit": "perplexity per token", "higher_is_better": False, "note": "", **values, **more}


def accuracy(original, injected, **more):
    return measure(original, injected, name="LAMBADA", **more) | {"unit": "share", "higher_is_better": True}


@pytest.mark.parametrize(
    ("rows", "verdict", "says"),
    [
        ([measure(30.0, 31.0)], "yes", "Perplexity: 31.0 against 30.0 before (3.3 % worse)."),
        ([measure(30.0, 29.0)], "yes", "Perplexity: 29.0, no worse than 30.0 before."),
        ([measure(30.0, 40.0)], "partly", "33 % worse"),
        ([measure(30.0, 50.0)], "no", "67 % worse"),
        ([accuracy(0.4, 0.1), measure(30.0, 30.0)], "no", "lost most is LAMBADA: 10 % against 40 % before"),
        ([accuracy(0.4, 0.3), measure(30.0, 31.0)], "partly", "30 % against 40 % before (10 points worse)."),
        ([accuracy(0.4, 0.385), measure(30.0, 30.0)], "yes", "(1.5 points worse)"),
        # All of nearly nothing: not what the language lost.
        ([accuracy(0.004, 0.0), measure(30.0, 40.0)], "partly", "lost most is perplexity: 40.0"),
        ([accuracy(0.0, 0.0), measure(30.0, 29.0)], "yes", "None of 2 measures"),
        ([measure(0.0, 0.3, name="KL"), measure(30.0, 30.0)], "yes", "no worse"),  # no share of nothing
        ([measure(None, None, name="SST-2")], None, "tracr-jax retention"),
        ([measure(30.0, None, note="injected not finite"), accuracy(0.4, 0.4)], "no", "perplexity is not finite."),
    ],
)
def test_kept_is_judged_by_the_worst_measure(rows, verdict, says):
    got, text = V.kept(dataclasses.replace(RUN, retention={"rows": rows}))
    assert got == verdict
    assert says in plain(text)


def test_a_share_is_judged_by_its_difference_whatever_its_interval():
    """Else measuring fewer items would give the better verdict."""
    wide = accuracy(0.4, 0.35, intervals={"original": [0.32, 0.48], "injected": [0.28, 0.42]})
    apart = accuracy(0.4, 0.35, intervals={"original": [0.38, 0.42], "injected": [0.33, 0.37]})
    for row, says in ((wide, "5 points worse, their intervals overlap"), (apart, "5 points worse)")):
        verdict, text = V.kept(dataclasses.replace(RUN, retention={"rows": [row, measure(30.0, 29.0)]}))
        assert verdict == "partly"
        assert says in plain(text)
    close = accuracy(0.4, 0.39, intervals={"original": [0.38, 0.42], "injected": [0.37, 0.41]})
    assert V.kept(dataclasses.replace(RUN, retention={"rows": [close]}))[0] == "yes"


def test_evaluations_perplexity_stands_in_for_the_table():
    run = dataclasses.replace(RUN, evaluation={"sets": {}, "retention": {"original": 20.0, "injected": 20.4}})
    assert V.kept(run)[0] == "yes"
