"""One line of progress: what survives at each width, and that it is shown only where somebody asked for it."""

import io

import pytest
from rich.console import Console

from tracr_jax.progress import fitted, line, report, showing
from tracr_jax.tasks.language import explore

TERMS = ["loss 12.3", "retain 0.34 nats/token", "answer 0.693", "align 0.0123", "12.34 s/step"]


@pytest.mark.parametrize("width", range(50, 130))
def test_steps_time_and_loss_survive_and_terms_drop_from_the_right(width):
    text = line(width, "training", 19_999, 20_000, left=4000.0, terms=TERMS)
    assert len(text) <= width
    assert text.startswith("training  19999/20000  1:06:40 left  loss 12.3")
    kept = [t for t in TERMS if t in text]
    assert kept == TERMS[: len(kept)]


def test_what_is_readable_at_60_80_and_120_columns():
    shown = {w: line(w, "training", 37, 330, left=99.0, terms=TERMS) for w in (60, 80, 120)}
    assert shown[60] == "training  37/330  1:39 left  loss 12.3"
    assert shown[80] == "training  37/330  1:39 left  loss 12.3  retain 0.34 nats/token  answer 0.693"
    assert shown[120].startswith(f"{shown[80]}  align 0.0123  12.34 s/step")
    assert "━" in line(120, "noise", 5, 10, left=None)
    assert fitted(3, ["training"]) == "tra"


def drawn(width, work, **options):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, _environ={})
    with showing(console=console, **options):
        work()
    return out.getvalue()


def test_reports_are_shown_within_and_ignored_without():
    def work():
        report("answers to 10 items", 4, 10)
        report("decoding test", 10, 10, ["loss 1"])

    for width in (60, 120):
        text = drawn(width, work, keep=True)
        assert "decoding test  10/10" in text
        assert "loss 1" in text
    assert drawn(80, work, enabled=False) == ""
    work()  # nobody looks


def test_the_search_for_items_reports():
    def work():
        explore(lambda strings: [s.count("a") > 3 for s in strings], ("a", "b", "c"), low=5, high=9, budget=400)

    assert "strings of 5 to 9 letters" in drawn(80, work, keep=True)
