"""Classes of positions and the program's values on items worked out by hand; oracle and teacher agree."""

import numpy as np
import pytest

from tests.helpers.interpret_parts import DYCK, small_setup
from tracr_jax.measure.variables.labelled import CLASSES, Labeller, oracle_values
from tracr_jax.measure.variables.reading import NOTHING
from tracr_jax.tasks.int_sum import IntSum


def rows_of(setup, *items):
    (rows,) = Labeller(setup).rows(items)
    return rows


def truth_of(setup, rows, name, *, row=0, layer=-1):
    variable = setup.teacher.variable(name)
    column = np.asarray(rows.truth)[layer, row, :, setup.layout.names.index(variable.name)]
    return [None if v == NOTHING else variable.values[v] for v in column]


def test_classes_of_a_dyck_item_by_hand():
    setup = small_setup()
    rows = rows_of(setup, DYCK.item("([)"))
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
    assert [setup.tokenizer.token_text(i) for i in rows.ids[0, : len(tokens)]] == tokens
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
    setup = small_setup(IntSum(), 22)
    item = setup.task.eval_sets()["test"].item(0)
    rows = rows_of(setup, item)
    where = {c: np.flatnonzero(m[0]).tolist() for c, m in zip(CLASSES, rows.masks, strict=True)}
    (marker,) = where["marker"]
    end = where["all"][-1]
    assert where["answer"] == list(range(marker, end))
    # The plus is this task's fill token.
    texts = [setup.tokenizer.token_text(i).strip() for i in rows.ids[0, :marker]]
    assert where["program"] == [s for s, t in enumerate(texts) if t.isdigit()]
    assert sorted(where["prompt"] + where["program"]) == list(range(marker))
    assert [str(v) for v in truth_of(setup, rows, "final_result")[marker:end]] == list(item.label)


def test_the_teachers_values_by_hand_and_from_their_writer_on():
    setup = small_setup()
    rows = rows_of(setup, DYCK.item("(]("), DYCK.item("[]"))
    count = truth_of(setup, rows, "(_start_counts")
    assert count[6:14] == [0, 1, 1, 2, 2, 2, 2, 2]
    assert truth_of(setup, rows, "[]_negative_counters")[6:13] == [0, 0, 1, 2, 3, 4, 5]
    assert truth_of(setup, rows, "final_result")[12] is False
    assert truth_of(setup, rows, "final_result", row=1)[11] is True
    variable = setup.teacher.variable("final_result")
    assert set(truth_of(setup, rows, "final_result", layer=variable.writer_layer - 1)) == {None}


@pytest.mark.parametrize("name", ["dyck", "int_sum"])
def test_oracle_and_teacher_agree_at_every_layer(name):
    setup = small_setup() if name == "dyck" else small_setup(IntSum(), 22)
    items = [setup.task.train_item(i, seed=3) for i in range(12)]
    rows = rows_of(setup, *items)
    own = rows.masks[0] > 0
    oracle, missing = oracle_values(setup, rows.ids, own.sum(axis=1))
    teacher = np.where(own[None, :, :, None], np.asarray(rows.truth), NOTHING)
    both = (oracle != NOTHING) & (teacher != NOTHING)
    assert missing == 0
    np.testing.assert_array_equal(oracle[both], teacher[both])
    assert not ((oracle != NOTHING) & (teacher == NOTHING)).any()
    # A mixture of values in which one prevails is held by the teacher and undefined for the oracle.
    assert both.sum() > 0.97 * (teacher != NOTHING).sum()


def test_longer_items_get_the_oracles_values():
    setup = small_setup()
    item = DYCK.item("(" * 30)
    assert setup.token_count(item) > setup.sequence_length
    rows = rows_of(setup, item, DYCK.item("([" * 15))
    counts = truth_of(setup, rows, "(_start_counts", row=1)
    assert counts[6:20] == [0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7]
    # The teacher's table is shorter than 30 brackets: some counts have no direction there, and are counted.
    largest = setup.teacher.variable("(_start_counts").values[-1]
    seen = [v for v in truth_of(setup, rows, "(_start_counts")[: setup.token_count(item)] if v is not None]
    assert seen[-1] == largest < 30
    assert rows.unlabelled > 0
    assert truth_of(setup, rows, "(_start_counts", layer=0) == [None] * rows.ids.shape[1]


def test_items_that_fit_and_items_that_do_not_come_in_their_own_rows():
    setup = small_setup()
    short, long = DYCK.item("()"), DYCK.item("()" * 20)
    first, second = Labeller(setup).rows([long, short])
    assert first.ids.shape == (2, setup.sequence_length)
    assert second.ids.shape[1] >= setup.token_count(long)
    assert (first.masks[0, 1] == 0).all()  # an empty row
