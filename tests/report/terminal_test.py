"""The tables of `evaluate` and `interpret` are whole at every width: no number and no name is cut."""

import io

import pytest
from rich.console import Console

from tests.helpers.report_data import make_run
from tracr_jax.files import read_json
from tracr_jax.report.terminal.summary import print_interpretation
from tracr_jax.report.terminal.table import print_evaluation


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("terminal") / "run")


@pytest.mark.parametrize("width", [60, 80, 120])
def test_every_table_is_whole(run, width):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    evaluation, found = (read_json(run / f"{name}.json") for name in ("evaluation", "interpretation"))
    print_evaluation(console, evaluation)
    print_interpretation(console, found, result_name="final_result_1")
    text = console.file.getvalue()  # pyright: ignore[reportAttributeAccessIssue]
    assert "…" not in text.replace("… more", "")
    assert max(map(len, text.splitlines())) <= width
    card = text.split("probe")[1].splitlines()
    names = found["scorecard"]["sets"]["test"]["classes"]["all"]
    for name in names:
        assert any(name[:18] in line for line in card), name
    for share in (s["injected"] for s in evaluation["sets"].values()):
        assert f"{100 * share['accuracy']:.1f} (" in text
