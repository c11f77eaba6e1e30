"""Every block of experiments/tutorial.md is run, in order, on a small random model and for two steps."""

import dataclasses
import re
import shlex
from pathlib import Path

import pytest

import tracr_jax
from experiments.make_tutorial import NOTEBOOK, PAGE, blocks, notebook, shown, smaller
from tracr_jax import cli
from tracr_jax.presets import preset


def test_the_walk_through(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "100")
    names = {}
    kinds = []
    for language, file, content in blocks(smaller(PAGE.read_text(encoding="utf-8"))):
        kinds.append("file" if file else language)
        if file:
            Path(file).write_text(content)
        elif language == "python":
            exec(compile(content, f"{PAGE.name}: {content[:40]!r}", "exec"), names)
        else:
            (line,) = content.strip().splitlines()
            program, *argv = shlex.split(line)
            assert (language, program) == ("bash", "tracr-jax")
            cli.main(argv)
    assert kinds == ["file", "python", "bash", *["python"] * 3, "bash", "python", "bash", "bash", "python"]
    out = capsys.readouterr().out
    assert "look-ahead" in out
    printed = re.findall(r"^```text\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    # What needs no training is printed as the page says, to the letter.
    items, teacher, *_ = printed
    assert items in out
    assert teacher in out
    assert "in 52 of 303 answers" in " ".join(out.split())
    assert "in 52\nof 303 answers" in PAGE.read_text(encoding="utf-8")
    assert "longer: " in out
    (program,) = re.findall(r"^the program: .*$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert program in out
    assert "⏎" in out  # the table in the terminal
    assert re.search(r"^final_result\w*, layer \d+: followed \d+%, complement \d+%$", out, re.MULTILINE)
    assert "explorer" in Path("runs/own/report.html").read_text(encoding="utf-8")
    assert "exported: exported" in out
    # The command exports what the run holds.
    assert (names["exported"].params["wpe"]["embedding"] == names["run"].params["wpe"]["embedding"]).all()
    assert (names["exported"].adapter.weight == names["run"].adapter.weight).all()
    card = Path("exported/README.md").read_text()
    assert "| longer | 4 |" in card
    assert str(tmp_path) not in card + Path("exported/program.json").read_text()

    decoded = names["decoded"]
    assert decoded.program("y_after_an_x") == [False] * 9 + [True] + [False] * 3
    assert decoded.program("final_result")[-1] is True
    cli.main(["decode", "runs/own", "--layer", "0", "--all"])
    shown = capsys.readouterr().out
    assert "variables at layer 0 of" in shown
    assert "not defined here" in " ".join(shown.split())  # wherever the line breaks
    with pytest.raises(SystemExit):
        cli.main(["decode", "runs/own", "--layer", "77"])
    assert "no layer 77" in capsys.readouterr().err


def test_its_command_and_its_python_are_the_same_run(tmp_path, monkeypatch):
    """What the page's command and its Python block hand to the main job, up to the folder it is called in."""
    text, started = PAGE.read_text(encoding="utf-8"), []
    monkeypatch.chdir(tmp_path)
    (file,) = [(name, content) for _, name, content in blocks(text) if name]
    Path(file[0]).write_text(file[1])

    def run(config, **options):
        started.append((config, options["task"], options["lm"], options["folder"], options["resume"]))
        raise KeyboardInterrupt

    monkeypatch.setattr("tracr_jax.injection._run", run)
    monkeypatch.setattr("tracr_jax.cli.commands._start", lambda cluster: None)
    (command,) = re.findall(r"`tracr-jax (inject [^`]+)`", text)
    with pytest.raises(SystemExit):
        cli.main(shlex.split(command))
    (block,) = [c for language, _, c in blocks(text) if language == "python" and "tracr_jax.inject(" in c]
    with pytest.raises(KeyboardInterrupt):
        exec(compile(block, PAGE.name, "exec"), {"tracr_jax": tracr_jax})
    by_command, by_python = started
    assert by_command == by_python
    assert by_command[0] == dataclasses.replace(
        preset(task="my_program.py:TASK"), task=f"{tmp_path}/my_program.py:TASK"
    )


def test_the_notebook_is_the_page():
    assert NOTEBOOK.read_text(encoding="utf-8") == shown(notebook(PAGE.read_text(encoding="utf-8"))), (
        "run: python -m experiments.make_tutorial"
    )
