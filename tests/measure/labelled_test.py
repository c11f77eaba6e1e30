"""Classes of positions and the program's values on items worked out by hand; the teacher's states hold them."""

import numpy as np
import pytest

from tests.helpers.interpret_parts import DYCK, FewSets, small_run
from tracr_jax.measure.variables.labelled import CLASSES, Labeller, oracle_values
from tracr_jax.measure.variables.reading import NOTHING, held_values
from tracr_jax.tasks.int_sum import IntSum


def rows_of(run, *items):
    (rows,) = Labeller(run).rows(items)
    return rows


def truth_of(run, rows, name, *, row=0, layer=-1):
    variable = run.program.teacher.variable(name)
    column = np.asarray(rows.truth)[layer, row, :, run.program.layout.names.index(variable.name)]
    return [None if v == NOTHING else variable.values[v] for v in column]


def test_classes_of_a_dyck_item_by_hand():
    run = small_run()
    rows = rows_of(run, DYCK.item("([)"))
    tokens = [
        "Are",
        " parenthesis",
        " here",
        " correctly",
        " matched",
        "?",
        " ",
        "(",
        "[",
        ")",
        "\n",
        "Answer",
        ":",
    ]
    tokens += [" no"]
    assert [run.program.tokenizer.token_text(i) for i in rows.ids[0, : len(tokens)]] == tokens
    where = {c: np.flatnonzero(m[0]).tolist() for c, m in zip(CLASSES, rows.masks, strict=True)}
    assert where == {
        "all": list(range(14)),
        "prompt": [0, 1, 2, 3, 4, 5, 6, 10, 11],
        "program": [7, 8, 9],
        "marker": [12],
        "answer": [12],
    }


def test_classes_of_a_sum_and_its_digits():
    """Three digits: the marker emits the first, the first emits the second, the second the third."""
    run = small_run(IntSum(), 22)
    item = run.program.task.eval_sets()["test"].item(0)
    rows = rows_of(run, item)
    where = {c: np.flatnonzero(m[0]).tolist() for c, m in zip(CLASSES, rows.masks, strict=True)}
    (marker,) = where["marker"]
    end = where["all"][-1]
    assert where["answer"] == list(range(marker, end))
    # The plus is this task's fill token.
    texts = [run.program.tokenizer.token_text(i).strip() for i in rows.ids[0, :marker]]
    assert where["program"] == [s for s, t in enumerate(texts) if t.isdigit()]
    assert sorted(where["prompt"] + where["program"]) == list(range(marker))
    assert [str(v) for v in truth_of(run, rows, "final_result")[marker:end]] == list(item.label)


def test_the_teachers_values_by_hand_and_from_their_writer_on():
    run = small_run()
    rows = rows_of(run, DYCK.item("(]("), DYCK.item("[]"))
    count = truth_of(run, rows, "(_start_counts")
    assert count[6:14] == [0, 1, 1, 2, 2, 2, 2, 2]
    assert truth_of(run, rows, "[]_negative_counters")[6:13] == [0, 0, 1, 2, 3, 4, 5]
    assert truth_of(run, rows, "final_result")[12] is False
    assert truth_of(run, rows, "final_result", row=1)[11] is True
    variable = run.program.teacher.variable("final_result")
    assert set(truth_of(run, rows, "final_result", layer=variable.writer_layer - 1)) == {None}


def teachers_own(run, rows):
    """What the compiled teacher's states hold, NOTHING beyond the items."""
    layout, ids = run.program.layout, run.program.bridge.to_teacher(rows.ids)
    states = run.program.residuals(run.program.phi, ids)[:, :, 1:][..., layout.order]
    return np.where(rows.masks[0][None, :, :, None] > 0, np.asarray(held_values(states, layout=layout)), NOTHING)


@pytest.mark.parametrize("name", ["dyck", "int_sum"])
def test_the_values_are_those_that_the_teachers_states_hold(name):
    run = small_run() if name == "dyck" else small_run(IntSum(), 22)
    rows = rows_of(run, *[run.program.task.train_item(i, seed=3) for i in range(12)])
    held = teachers_own(run, rows)
    assert rows.unlabelled == 0
    assert (held != NOTHING).mean() > 0.2
    np.testing.assert_array_equal(rows.truth, held)


def test_as_the_original_codes_it_the_values_are_the_teachers_own():
    """With its sharpness counts above 6 are wrong."""
    task = FewSets(pairs=("()", "[]"), min_length=2, max_length=24, as_coded_exactness=True)
    run = small_run(task, 8, True)
    rows = rows_of(run, task.item("(" * 24))
    own = rows.masks[0] > 0
    truth = np.where(own[None, :, :, None], rows.truth, NOTHING)
    np.testing.assert_array_equal(truth, teachers_own(run, rows))
    program, _ = oracle_values(run.program, rows.ids, own.sum(axis=1))
    assert (truth != program).any()


def test_longer_items_get_the_oracles_values():
    run = small_run()
    item = DYCK.item("(" * 30)
    assert run.program.token_count(item) > run.program.length
    rows = rows_of(run, item, DYCK.item("([" * 15))
    counts = truth_of(run, rows, "(_start_counts", row=1)
    assert counts[6:20] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    # The teacher's table is shorter than 30 brackets: some counts have no direction there, and are counted.
    largest = run.program.teacher.variable("(_start_counts").values[-1]
    seen = [v for v in truth_of(run, rows, "(_start_counts")[: run.program.token_count(item)] if v is not None]
    assert seen[-1] == largest < 30
    assert rows.unlabelled > 0
    assert truth_of(run, rows, "(_start_counts", layer=0) == [None] * rows.ids.shape[1]


def test_items_that_fit_and_items_that_do_not_come_in_their_own_rows():
    run = small_run()
    short, long = DYCK.item("()"), DYCK.item("()" * 20)
    first, second = Labeller(run).rows([long, short])
    assert first.ids.shape == (2, run.program.length)
    assert second.ids.shape[1] >= run.program.token_count(long)
    assert (first.masks[0, 1] == 0).all()  # an empty row


def test_longer_items_come_by_length_in_rows_of_their_own_width():
    run = small_run()
    items = [DYCK.item("()" * n) for n in (50, 1, 20, 49, 2, 21)]
    labeller = Labeller(run)
    assert labeller.order(items) == [1, 4, 2, 5, 3, 0]
    shapes = [rows.ids.shape for rows in labeller.rows(items, batch=2)]
    assert shapes == [(2, run.program.length), (2, 64), (2, 128)]
