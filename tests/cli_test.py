"""The command line's errors are one line with exit status 2; options reach the configuration."""

import os
import subprocess
import sys

import pytest

from tracr_jax import cli
from tracr_jax.cli import commands, options, parse
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


def test_unknown_command(capsys):
    assert "commands: inject, check, evaluate" in fails(capsys, "injekt")


def test_unknown_preset(capsys):
    assert "paper-fixed" in fails(capsys, "inject", "--preset", "papre")


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


@pytest.mark.parametrize("command", ["inject", "evaluate", "decode", "interpret", "retention", "report"])
def test_ctrl_c_advises_to_resume_only_what_can_be_resumed(capsys, monkeypatch, command):
    def stopped(argv):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, command, stopped)
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "run"])
    assert stop.value.code == 130
    said = capsys.readouterr().err
    assert said.startswith("interrupted")
    assert len(said.splitlines()) == 1
    assert ("--resume" in said) == (command == "inject")


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
