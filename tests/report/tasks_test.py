"""`tracr-jax tasks`: the rows of the table, at the narrowest terminal."""

import io

from rich.console import Console

from tracr_jax import cli
from tracr_jax.report.terminal.tasks import print_tasks
from tracr_jax.runs import listing
from tracr_jax.runs.listing import list_tasks
from tracr_jax.tasks.registry import BUILT_IN


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


def test_the_command_lists_what_there_is(monkeypatch, capsys):
    monkeypatch.setattr(listing, "BUILT_IN", ("int_sum",))
    cli.main(["tasks"])
    assert "int_sum" in capsys.readouterr().out
    assert {"dyck", "sort", "nested"} <= set(BUILT_IN)
