"""The interference matrix on the page: every number in its place, in one sentence, escaped."""

import html
import re

import pytest

from tests.helpers.report_data import make_run
from tests.report.page_test import EVIL, tags
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.report import page as P
from tracr_jax.report.load import load_runs
from tracr_jax.report.readings import interference_reading
from tracr_jax.stats import share

NAMES = ("dyck", "count", "int_sum")


def matrix(text):
    """The table as text: a list of rows of cells, without the small print."""
    table = re.search(r'<table class="plain programs">.*?</table>', text, re.S)[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row, re.S) for row in rows]
    return [[html.unescape(re.sub(r"<small>.*", "", c)).replace("\u00a0", " ") for c in row] for row in cells]


def test_every_task_after_every_injection(tmp_path):
    run = load_runs([make_run(tmp_path / "run", programs=NAMES)])[0]
    text = P.page([run])
    assert matrix(text) == [
        ["", "dyck", "count", "int_sum"],
        ["before", "3 %", "3 %", "3 %"],
        ["after dyck", "96 %", "–", "–"],
        ["after count", "48 %", "96 %", "–"],
        ["after int_sum", "24 %", "48 %", "96 %"],
    ]
    # dyck at the end: 24 of 100 on test, 12 and 6 on the others, variables 0.97 - 2 * 0.1.
    last = re.findall(r"<tr>.*?</tr>", re.search(r'class="plain programs">.*?</table>', text, re.S)[0], re.S)[-1]
    shown = "<small>17–33</small><small>other sets 9\u00a0%</small><small>variables 77\u00a0%</small>"
    assert shown in re.findall(r"<td>.*?</td>", last)[0]
    assert 'title="runs/int_sum"' in last
    assert "<small>102 steps</small>" in last
    sentence = interference_reading(run).replace("\u00a0", " ")
    assert sentence == (
        "dyck lost most of 2 earlier programs: 24 % (17–33) of its test set right, 96 % (90–98) when it was "
        "injected; int_sum, injected last, has 96 % (90–98)."
    )


@pytest.mark.parametrize(
    ("right", "words"),
    [
        (96, "dyck is as it was: "),
        (94, "dyck may have lost: "),
        (20, "dyck lost: "),
        (98, "dyck may have gained: "),
    ],
)
def test_a_change_within_the_intervals_is_not_called_one(tmp_path, right, words):
    folder = make_run(tmp_path / "run", programs=NAMES[:2])
    evaluation = read_json(folder / "evaluation.json")
    evaluation["programs"]["after"][1]["sets"]["dyck"]["test"] = share(right, 100)
    write_json(folder / "evaluation.json", evaluation)
    assert interference_reading(load_runs([folder])[0]).startswith(words)


def test_a_run_with_one_program_has_no_matrix(tmp_path):
    folders = [make_run(tmp_path / "one"), make_run(tmp_path / "two", programs=NAMES[:2])]
    assert 'id="programs"' not in P.page(load_runs(folders[:1]))
    assert P.page(load_runs(folders)).count('class="plain programs"') == 1


def test_names_from_files_stay_texts(tmp_path):
    text = P.page(load_runs([make_run(tmp_path / "run", programs=("dyck", EVIL))]))
    plain = P.page(load_runs([make_run(tmp_path / "plain", programs=NAMES[:2])]))
    assert {t for t, _ in tags(text).found} == {t for t, _ in tags(plain).found}
    assert len(tags(text).scripts) == 2
    assert html.escape("onerror=alert(2)>") in text


def test_a_damaged_matrix_is_one_line(tmp_path):
    folder = make_run(tmp_path / "run", programs=NAMES)
    evaluation = read_json(folder / "evaluation.json")
    del evaluation["programs"]["before"]
    write_json(folder / "evaluation.json", evaluation)
    with pytest.raises(UserError, match=r"evaluation.json, 'programs': no 'before'"):
        load_runs([folder])
