"""experiments/own_program.py and `tracr-jax decode` on its run, a few steps on a tiny random model."""

import importlib.util
from pathlib import Path

import pytest

import tracr_jax
from tracr_jax import cli
from tracr_jax.lm.load import write_random_gpt2

SCRIPT = Path(__file__).parents[1] / "experiments" / "own_program.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(folder, what the script printed)."""
    place = tmp_path_factory.mktemp("own")
    write_random_gpt2(place / "lm", num_blocks=8, width=32, heads=2)
    spec = importlib.util.spec_from_file_location("own_program", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", str(place / "cache"))
        patch.setenv("COLUMNS", "80")
        script.main(str(place / "lm"), 2, str(place / "run"))
        yield place / "run"


def test_script_decodes_its_program(run, capsys):
    opened = tracr_jax.open_run(run)
    decoded = tracr_jax.decode(opened, "What is the text z y x z y\nAnswer:")
    assert decoded.program("xs_so_far") == [0] * 6 + [1] * 6
    assert decoded.program("y_after_an_x") == [False] * 8 + [True] + [False] * 3
    assert decoded.program("final_result")[-1] is True
    assert decoded.read("final_result")[-1] in (True, False)


def test_decode_command(run, capsys):
    cli.main(["decode", str(run), "What is the text z y x\\nAnswer:"])
    out = capsys.readouterr().out
    assert "⏎" in out  # the written \n is a new line
    assert "final" in out
    assert "not defined here" in out
    cli.main(["decode", str(run), "--layer", "0", "--all"])
    assert "variables at layer 0 of" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["decode", str(run), "--layer", "77"])
    assert "no layer 77" in capsys.readouterr().err
