"""The README is short, its code runs, its output has the form that is shown, and its map is the tree."""

import re
from pathlib import Path

from tests.helpers.random_models import write_random_gpt2
from tests.helpers.texts import SHORT_TEXT
from tracr_jax.config import DataConfig, RunConfig
from tracr_jax.files import read_json
from tracr_jax.injection import inject

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)
SMALL = RunConfig(
    steps=2, eval_items=4, data=DataConfig(batch=2, text_batch=1, text_length=8, text=str(SHORT_TEXT))
)


def code(language):
    return [content for kind, content in BLOCKS if kind == language]


def test_it_is_short_and_shows_python_early():
    lines = TEXT.splitlines()
    assert len(lines) <= 120
    assert len(TEXT.split()) <= 1000
    assert lines.index("```python") + 1 <= 45
    rows = [line for line in TEXT.split("<!-- comparison -->")[1].split("<!-- /")[0].splitlines() if line]
    assert 3 <= len(rows) - 2 <= 6


def test_the_two_commands_stand_behind_their_markers():
    """As .ci/run reads them: the first line that begins with python3 behind a line that is the marker."""
    for marker, end in (("main job", "tracr-jax inject dyck"), ("tests", "pytest")):
        behind = TEXT.split(f"\n<!-- {marker} -->\n")[1].splitlines()
        assert next(line for line in behind if line.startswith("python3 ")).endswith(end)


def test_the_map_is_the_tree():
    cells = re.findall(r"^\| (`.*?) \|", TEXT.split("## Map")[1], re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w/]+)/`", cell)]
    rooms = [p for p in (ROOT / "tracr_jax").iterdir() if p.is_dir() and p.name != "__pycache__"]
    top = [p for p in ROOT.iterdir() if p.is_dir() and (p / "__init__.py").exists() and p.name != "tracr_jax"]
    assert sorted(named) == sorted(p.relative_to(ROOT).as_posix() for p in rooms + top)


def number_free(text):
    return [re.sub(r"\d+(\.\d+)?", "N", line) for line in text.strip().splitlines()]


def test_the_output_that_is_shown_is_the_recorded_run():
    (shown,) = code("text")
    sets = read_json(ROOT / "experiments" / "main_job_tiny.json")["evaluation"]["sets"]
    pairs = [line.split() for line in shown.splitlines()]
    assert pairs == [[name, str(sets[name]["injected"]["accuracy"])] for name, _ in pairs]


def test_its_code_runs_and_prints_what_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path / "cache"))
    write_random_gpt2("lm", num_blocks=8, width=32, heads=2)

    def small(task, **options):
        return inject(task, **options | {"lm": "lm", "config": SMALL, "progress": False})

    monkeypatch.setattr("tracr_jax.inject", small, raising=False)
    first, own = code("python")
    exec(compile(first, "README.md", "exec"), {})
    (shown,) = code("text")
    assert number_free(capsys.readouterr().out) == number_free(shown)
    names = {}
    exec(compile(own, "README.md", "exec"), names)
    assert {"test", "longer"} <= set(names["run"].evaluation["sets"])
