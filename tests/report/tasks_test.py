"""`tracr-jax tasks`: the rows of the table, at the narrowest terminal."""

import io

import pytest
from rich.console import Console

from tracr_jax import cli
from tracr_jax.errors import UserError
from tracr_jax.report.terminal.tasks import print_tasks
from tracr_jax.runs import listing
from tracr_jax.runs.listing import list_folder, list_tasks
from tracr_jax.tasks.registry import BUILT_IN, get_task


def test_the_sizes_are_those_of_the_compiled_programs(monkeypatch):
    monkeypatch.setattr(listing, "BUILT_IN", ("dyck", "parity"))
    dyck, parity = list_tasks()
    assert (dyck.name, dyck.layers, dyck.width) == ("dyck", 7, 780)
    assert (parity.name, parity.layers) == ("parity", 7)
    assert parity.example.label in ("yes", "no")
    file = io.StringIO()
    print_tasks(Console(file=file, width=60), [dyck, parity])
    lines = file.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert any(line.split()[:3] == ["dyck", "7", "780"] for line in lines)
    assert "Are parenthesis here" in file.getvalue()


def test_a_folder_is_listed_file_by_file_with_the_reason_where_there_is_no_task(tmp_path, capsys):
    head = "from tracr.rasp import rasp\nVOCAB = {'a', 'b'}\n\ndef make_it():\n    return "
    files = {
        "deeper/first.py": head + "rasp.Map(lambda x: x == 'a', rasp.tokens)\n",
        "ahead.py": head + "rasp.length\n",
        "empty.py": "X = 3\n",
        "_base.py": "raise SystemExit\n",
        "test_first.py": "raise SystemExit\n",
        ".venv/there.py": "raise SystemExit\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    ahead, first, empty = list_folder(tmp_path)
    assert (ahead.name, empty.name) == (str(tmp_path / "ahead.py"), str(tmp_path / "empty.py"))
    assert ahead.reason.startswith("make_it: program: length is the number of all tokens")
    assert empty.reason.startswith("holds no task and no program")
    assert first.name == str(tmp_path / "deeper" / "first.py")
    assert first.layers > 0

    file = io.StringIO()
    print_tasks(Console(file=file, width=60), [ahead, first, empty])
    assert max(map(len, file.getvalue().splitlines())) <= 60
    with pytest.raises(SystemExit):
        cli.main(["tasks", str(tmp_path / "nowhere")])
    assert "no such folder" in capsys.readouterr().err

    with pytest.raises(UserError, match=r"holds 3 files \(ahead.py, deeper/first.py, empty.py\)"):
        get_task(str(tmp_path))
    assert get_task(str(tmp_path / "deeper")).name == get_task(first.name).name
    (tmp_path / "nothing").mkdir()
    with pytest.raises(UserError, match="a folder without Python files"):
        get_task(str(tmp_path / "nothing"))


def test_the_command_lists_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr(listing, "BUILT_IN", ("int_sum",))
    cli.main(["tasks"])
    assert "int_sum" in capsys.readouterr().out
    assert {"dyck", "sort", "nested"} <= set(BUILT_IN)
