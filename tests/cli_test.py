"""The command line's errors are one line with exit status 2; options reach the configuration."""

import os
import re
import signal
import subprocess
import sys
import time
import warnings

import pytest

import tracr_jax
from tracr_jax import cli
from tracr_jax.cli import commands, options, parse
from tracr_jax.measure.interference import OWN
from tracr_jax.presets import preset


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 2
    out = capsys.readouterr()
    lines = [line for line in out.err.splitlines() if line.strip()]
    assert len(lines) == 1, out.err
    assert lines[0].startswith("error:")
    return lines[0]


def test_unknown_option_names_the_nearest(capsys):
    assert "--steps" in fails(capsys, "inject", "dyck", "--stepz", "3")


def test_unknown_command_names_the_nearest_and_all(capsys):
    said = fails(capsys, "injekt")
    assert "did you mean inject? commands: inject, resume, tasks, check, evaluate" in said


def test_unknown_preset(capsys):
    assert "paper-fixed" in fails(capsys, "inject", "--preset", "papre")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("inject dyck extra", "unexpected word 'extra': tracr-jax inject takes TASK, and options"),
        ("inject --seed 1 count", "the task comes first: tracr-jax inject count and then the options"),
        ("inject dyck --steps 3 4", "unexpected word '4': --steps takes one value, here '3'"),
        ("inject dyck --steps many", "--steps: invalid literal for int() with base 10: 'many'"),
        ("inject dyck --steps", "Missing value for argument '--steps'"),
        ("inject dyck --zzz", "unknown option '--zzz'; tracr-jax inject --help-all lists the options"),
        ("decode", "Missing from tracr-jax decode: RUN The run folder"),
        (
            "decode run a b",
            "unexpected word 'b': tracr-jax decode takes RUN TEXT, and options; a text with",
        ),
        ("decode run --layer 0 1", "unexpected word '1': --layer takes one layer, here 0"),
        ("decode run text --layer 0 1", "unexpected word '1': --layer takes one value, here '0'"),
        ("sweep", "Missing from tracr-jax sweep: TASK One of `tracr-jax tasks`, or path/to/file.py:NAME"),
        ("sweep --seeds 1 --steps 2", "Missing from tracr-jax sweep: TASK"),
        ("export run", "Missing from tracr-jax export: FOLDER"),
        ("resume nowhere", "nowhere: no such folder"),
        ("evaluate run --items 3 --full", "--full and --items exclude each other; leave out one"),
        ("retention run --items 3 --full", "--full and --items exclude each other; leave out one"),
        ("report run --example 1", "--example has no effect without --picture FILE; give both, or leave it out"),
        ("export run to --pairs 3", "--pairs has no effect without --as interpbench"),
        ("export run to --items 3", "--items has no effect without --activations"),
        (
            "inject int_sum --varied --folder nowhere",
            "--varied: task int_sum has no varied_item; leave the option out",
        ),
        ("report --picture x.png", "no run folder given: tracr-jax report RUN"),
        ("inject parity --preset graft --train lora:4", "preset graft with train 'lora:4': a graft leaves"),
        (f"tasks {__file__}", f"a file; see it by tracr-jax check {__file__}"),
        ("report nowhere", "nowhere: no such folder"),
    ],
)
def test_words_that_do_not_fit_are_told_in_one_line(capsys, words, says):
    assert says in fails(capsys, *words.split())


def helped(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        cli.main(argv)
    assert stop.value.code == 0
    return capsys.readouterr().out


def test_the_first_help_shows_the_ten_options_people_use_and_the_other_all(capsys):
    every = parse._option_names(options.Inject)
    short, whole = helped(capsys, "inject", "--help"), helped(capsys, "inject", "count", "--help-all")
    shown = re.findall(r"^\W{1,3}?(\[TASK\]|--[a-z][a-z-]*)", short, re.MULTILINE)
    names = {f"--{name.replace('_', '-')}" for name in parse.FIRST} - {"--task"}
    assert len(parse.FIRST) == 10
    assert set(shown) == {"[TASK]", *names}
    assert "usage: tracr-jax inject [-h] [OPTIONS] [TASK]" in short
    assert f"{len(every)} options in all: tracr-jax inject --help-all" in short
    assert set(re.findall(r"^\W{1,3}?(--[a-z][a-z0-9-]*)", whole, re.MULTILINE)) >= set(every) - {"--task"}
    for group in ("losses", "exchange", "optim", "data", "fidelity"):
        assert re.search(rf"^\W*{group} options\W*$", whole, re.MULTILINE)
    # The defaults are those of the task and the preset.
    assert f"Training steps. (default: {preset(task='count').steps})" in whole


def test_help_and_version_start_neither_jax_nor_a_second_process():
    code = (
        "import sys; from tracr_jax import cli, host\n"
        "host.os.execv = None\n"
        "for argv in (['--version'], ['--help'], ['inject', '--help']):\n"
        "    sys.argv = ['tracr-jax', *argv]\n"
        "    try: cli.main()\n"
        "    except SystemExit: pass\n"
        "assert 'jax' not in sys.modules"
    )
    env = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"tracr-jax {tracr_jax.__version__}\n")


def test_a_run_is_evaluated_again_on_as_many_items_as_it_was(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("tracr_jax.runs.model.open", lambda *_, **__: None)
    monkeypatch.setattr("tracr_jax.report.terminal.table.print_evaluation", lambda *_: None)
    monkeypatch.setattr(
        "tracr_jax.measure.interference.evaluate_programs", lambda _, *, items, say: seen.append(items) or {}
    )
    for more in ([], ["--items", "7"], ["--full"]):
        cli.main(["evaluate", str(tmp_path), *more])
    assert seen == [OWN, 7, None]


def test_a_task_may_still_be_given_as_an_option(monkeypatch):
    seen = {}
    monkeypatch.setattr(commands, "_start", lambda _: None)
    monkeypatch.setattr("tracr_jax.injection.inject", lambda task, **rest: seen.update(rest, task=task))
    monkeypatch.setattr(commands, "_finish", lambda run: None)
    for given in (["--task", "count"], ["--task=count"]):
        seen.clear()
        cli.main(["inject", "--steps", "3", *given])
        config = seen["config"]
        assert (seen["task"], config.steps, config.optim) == ("count", 3, preset(task="count").optim)


def test_options_of_the_version_before_still_count(monkeypatch, capsys):
    seen = {}
    monkeypatch.setattr(commands, "_start", lambda _: None)
    monkeypatch.setattr("tracr_jax.injection.inject", lambda task, **rest: seen.update(rest))
    monkeypatch.setattr(commands, "_finish", lambda run: None)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.main(["inject", "dyck", "--free-items", "5", "--free_supervised=2"])
    said = capsys.readouterr().err
    assert "warning: --free-items is called --domain-items now" in said
    assert "warning: --free_supervised is called --domain-supervised now" in said
    assert (seen["config"].data.domain_items, seen["config"].data.domain_supervised) == (5, 2)


def test_not_a_run_folder(capsys, tmp_path):
    assert "not a run folder" in fails(capsys, "evaluate", str(tmp_path))


def test_invalid_number(capsys):
    assert "steps must be at least 1, got 0" in fails(capsys, "inject", "dyck", "--steps", "0")


def test_unknown_model_and_task(capsys, tmp_path):
    folder = ("--folder", str(tmp_path / "run"))
    assert "no such folder" in fails(capsys, "inject", "dyck", "--lm", "./nowhere", *folder)
    assert "dyck" in fails(capsys, "inject", "dick", "--lm", "tiny", *folder)
    assert not (tmp_path / "run").exists()


def test_a_sample_of_nothing_is_refused_before_the_run_is_opened(capsys, tmp_path):
    for items in ("0", "-1"):
        said = fails(capsys, "evaluate", str(tmp_path), "--items", items)
        assert f"items of each set must be at least 1, got {items}" in said


_BUSY = """
import hashlib, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it for what it starts in the background
from pathlib import Path
from tracr_jax.cli.interrupt import answering
from tracr_jax.train.interrupt import requests_to_stop
import contextlib
with answering(Path(sys.argv[1])), requests_to_stop() if sys.argv[2] == "2" else contextlib.nullcontext():
    word = "busy"
    while True:  # as a compiler: the main thread hears nothing, wherever it stands when the signal comes
        try:
            if word:
                print(word, flush=True)
            word = ""
            hashlib.pbkdf2_hmac("sha256", b"x", b"y", 10**9)
        except KeyboardInterrupt:
            word = ""
"""


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_is_answered_while_the_main_thread_computes(tmp_path, presses):
    """Once outside of training, where nothing is to be saved; in training the second one ends at once."""
    process = subprocess.Popen(
        [sys.executable, "-c", _BUSY, tmp_path, str(presses)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout
            assert process.stdout.readline() == "busy\n"
            begun = time.monotonic()
            process.send_signal(signal.SIGINT)
            if presses == 2:
                assert process.stderr
                assert process.stderr.readline() == "\n"
                expected = "stopping after this step, with a checkpoint; Ctrl-C again"
                assert process.stderr.readline().startswith(expected)
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert said.strip() == f"interrupted; nothing was written to {tmp_path}"
    assert time.monotonic() - begun < (10 if presses == 1 else 5)  # 1.5 s and 0 s on a machine that is not shared


def test_ctrl_c_elsewhere_is_one_word(capsys, monkeypatch):
    def stopped(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "evaluate", stopped)
    with pytest.raises(SystemExit) as stop:
        cli.main(["evaluate", "run"])
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_dispatch_is_set_before_the_backend_starts():
    """JAX says nothing where this setting comes too late; the number of devices, set with it, would."""
    script = """
import jax
from tracr_jax import cli, injection

def update(name, value, real=jax.config.update):
    if name == "jax_cpu_enable_async_dispatch":
        real("jax_num_cpu_devices", 2)  # a RuntimeError once there is a backend
    real(name, value)

def inject(*_, **__):
    print(len(jax.devices("cpu")), jax.config.read("jax_cpu_enable_async_dispatch"))
    raise KeyboardInterrupt

jax.config.update, injection.inject = update, inject
cli.main(["inject", "dyck"])
"""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # has a number of devices too
    done = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("2 False\n", 130), done.stderr


def test_help_lists_commands(capsys):
    cli.main(["--help"])
    assert "tracr-jax evaluate RUN" in capsys.readouterr().out


def test_options_reach_the_configuration():
    default = options.Inject(preset("cosine", task="count", lm="smollm2-135m-instruct"))
    args = parse.parse(
        options.Inject, ["--steps", "60", "--batch", "4", "--no-hook", "--learning-rate", "1e-5"], default=default
    )
    c = args.config
    assert (c.task, c.lm, c.steps, c.data.batch) == ("count", "smollm2-135m-instruct", 60, 4)
    assert (c.losses.hook, c.losses.alignment, c.optim.learning_rate) == (False, "cosine", 1e-5)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_the_overview_fits_the_terminal(capsys, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    cli.main(["--help"])
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= width
    assert set(re.findall(r"^  tracr-jax (\w+)", out, re.MULTILINE)) == {*commands.COMMANDS, "COMMAND"}
    whole = " ".join(out.split())
    assert "take it off again: the model as it was, bit for bit tracr-jax COMMAND --help" in whole


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_stops_reading_is_no_fault(unbuffered):
    """As `tracr-jax --help | head -1`, but nobody reads from the start: every write fails, on every machine."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "wb") as out:
        command = [sys.executable, "-m", "tracr_jax", "--help"]
        env = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        done = subprocess.run(command, stdout=out, stderr=subprocess.PIPE, text=True, env=env, check=False)
    assert (done.stderr, done.returncode) == ("", 128 + signal.SIGPIPE)
