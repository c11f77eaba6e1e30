"""`tracr-jax check`: what it shows of the bundled tasks and of a user's own, and what it refuses."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tracr_jax import cli
from tracr_jax.report.terminal.check import print_check
from tracr_jax.runs.check import check

PROGRAMS = """
from tracr.rasp import rasp
import tracr_jax


def odd():
    xs = rasp.SelectorWidth(rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "x")).named("xs")
    return rasp.Map(lambda n: n % 2 == 1, xs).named("odd")


def from_the_end():
    behind = rasp.SelectorWidth(rasp.Select(rasp.indices, rasp.indices, lambda key, query: key > query))
    behind = behind.named("behind")
    even = rasp.SequenceMap(lambda n, t: t == "x" and n % 2 == 0, behind, rasp.tokens).named("even")
    count = rasp.SelectorWidth(rasp.Select(even, rasp.tokens, lambda key, query: key)).named("count")
    return rasp.Map(lambda n: n >= 2, count).named("two")


def always():
    return rasp.Map(lambda t: t != "never", rasp.tokens).named("always")


def selector():
    return rasp.Select(rasp.tokens, rasp.tokens, lambda key, query: key == "x")


def of(program):
    return tracr_jax.StringTask(program.__name__, program, letters=("x", "y", "z"), max_length=8)


ODD, FROM_THE_END, ALWAYS, SELECTOR = map(of, (odd, from_the_end, always, selector))
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("task") / "mine.py"
    path.write_text(PROGRAMS)
    return path


def shown(checked, width):
    out = io.StringIO()
    print_check(Console(file=out, width=width, highlight=False), checked)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "layers", "needed", "variable"),
    [("dyck", 7, 9, "unfiltered_result"), ("count", 13, 14, "yes_count")],
)
def test_a_bundled_task(name, layers, needed, variable):
    checked = check(name)
    assert checked.teacher.num_layers == layers
    assert checked.needed == needed
    assert checked.proof.network.ok
    assert checked.proof.warning == ""
    for width in (60, 120):
        text = shown(checked, width)
        assert max(map(len, text.splitlines())) <= width
        assert f"{layers} layers, {checked.teacher.width} wide" in " ".join(text.split())
        assert f"{checked.needed} blocks needed, tiny has {checked.blocks}" in " ".join(text.split())
        assert variable in text
        for set_name in checked.task.eval_sets():
            assert set_name in text.replace("\n", "")
    row = next(v for v in checked.variables if v.variable.name.startswith(variable))
    assert row.operation in ("SequenceMap", "SelectorWidth")
    assert {v.variable.name for v in checked.variables} <= {v.name for v in checked.teacher.variables}


def test_a_users_program_its_tokens_and_its_look_ahead(file):
    checked = check(f"{file}:FROM_THE_END")
    assert checked.whole_string.startswith("warning: from_the_end answers otherwise")
    ahead = {re.sub(r"_\d+$", "", v.variable.name): v.ahead for v in checked.variables}
    assert ahead["behind"] == "by index"
    assert ahead["count"] == "yes"
    assert ahead["even"] == ""
    question = checked.questions[0]
    letters = question.item.prompt.removeprefix("What is the text ").removesuffix("\nAnswer:").split()
    assert [v for v, own in zip(question.values, question.mapped, strict=True) if own] == [*letters, "?"]
    assert "".join(question.pieces).startswith(question.item.prompt)
    text = shown(checked, 60)
    assert max(map(len, text.splitlines())) <= 60
    assert "ahead by index" in " ".join(text.split())


def test_a_program_without_look_ahead_is_told_so(file):
    checked = check(f"{file}:ODD")
    assert (
        checked.whole_string == f"the same answers on the whole string ({checked.proof.meaning.answers} compared)"
    )
    assert checked.proof.meaning.answers > 300


@pytest.mark.soak
def test_tracrs_weights_are_compared_where_asked(file):
    checked = check(f"{file}:ODD", tracr=True)
    assert checked.proof.network.tracr_weight_deviation == 0
    assert "all weights are tracr's" in " ".join(shown(checked, 80).split())


@pytest.mark.parametrize(
    ("name", "says"),
    [("ALWAYS", "the program says 'yes' of all strings"), ("SELECTOR", "the program is a selector")],
)
@pytest.mark.parametrize("command", ["check", "inject"])
def test_programs_that_answer_nothing_have_one_message(capsys, tmp_path, monkeypatch, file, command, name, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        cli.main([command, f"{file}:{name}"])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert len(lines) == 1
    assert says in lines[0]


def test_the_command_reads_no_weights(file, tmp_path):
    """From the shell: the model's weights may even be missing."""
    import shutil

    import tracr_jax

    lm = tmp_path / "lm"
    shutil.copytree(Path(tracr_jax.__file__).parent / "lm" / "tiny", lm)
    for weights in lm.glob("*.safetensors"):
        weights.unlink()
    done = subprocess.run(
        [sys.executable, "-m", "tracr_jax", "check", f"{file}:ODD", "--lm", str(lm)],
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "blocks needed" in done.stdout
    assert "evaluation sets" in done.stdout
