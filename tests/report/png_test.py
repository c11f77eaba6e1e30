"""Still figures are written, have the right size, and draw what the files say."""

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from tests.helpers.report_data import SETS, make_run
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.report import png
from tracr_jax.report.load import load_runs
from tracr_jax.report.words import whole

HEAD = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("png")
    return load_runs([make_run(root / "one"), make_run(root / "tuned", baseline=True, seed=1)])


def test_bars_have_the_measured_lengths(runs):
    ax = Figure().subplots()
    png.draw_answers(ax, runs)
    widths = sorted(round(p.get_width(), 6) for p in ax.patches)
    expected = [r.sets[n]["injected"]["accuracy"] for r in runs for n in SETS]
    expected += [runs[0].sets[n]["original"]["accuracy"] for n in SETS]
    assert widths == sorted(round(100 * a, 6) for a in expected)


def test_runs_of_two_tasks_have_rows_of_their_own_and_one_colour_each(tmp_path):
    one, other, lacking = (make_run(tmp_path / n, seed=i) for i, n in enumerate(("one", "other", "lacking")))
    config = read_json(other / "config.json")
    write_json(other / "config.json", config | {"task": "count"})
    evaluation = read_json(lacking / "evaluation.json")
    evaluation["sets"] = {"test": evaluation["sets"]["test"]}
    write_json(lacking / "evaluation.json", evaluation)
    runs = load_runs([one, other, lacking])
    ax = Figure().subplots()
    png.draw_answers(ax, runs)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert len(labels) == len(set(labels)) == 2 * len(SETS)
    assert {x.split(":")[0] for x in labels} == {"dyck in tiny", "count in tiny"}
    colour = dict(zip((r.name for r in runs), png.SERIES[1:], strict=False))
    shown = {t.get_text(): to_hex(h.get_facecolor()) for t, h in zip(
        ax.get_legend().get_texts(), ax.get_legend().get_patches(), strict=True)}  # fmt: skip
    assert shown == {"before": png.SERIES[0], **colour}
    for r in runs:
        bars = [p for p in ax.patches if to_hex(p.get_facecolor()) == colour[r.name]]
        assert sorted(round(p.get_width(), 6) for p in bars) == sorted(
            round(100 * s["injected"]["accuracy"], 6) for s in r.sets.values()
        )


def test_the_scorecard_shows_every_number_once(runs):
    ax = Figure().subplots()
    png.draw_scorecard(ax, runs[0])
    table = runs[0].part("scorecard")["sets"]["test"]["classes"]["all"]
    numbers = [whole(v) for cell in table.values() for v in cell["accuracy"] if v is not None]
    assert sorted(t.get_text() for t in ax.texts) == sorted(numbers)
    weak = sum(
        v <= max(c["majority"], p)
        for c in table.values()
        for v, p in zip(c["accuracy"], c["probe"], strict=True)
        if v is not None
    )
    assert sum(t.get_style() == "italic" for t in ax.texts) == weak > 0


def test_wrong_values_are_framed(runs):
    example = runs[0].part("examples")[0]
    ax = Figure().subplots()
    png.draw_example(ax, runs[0], example)
    values, truth = example["layers"][-1]["value"], example["truth"][-1]
    pairs = [(v, t) for vs, ts in zip(values, truth, strict=True) for v, t in zip(vs, ts, strict=True)]
    assert len(ax.patches) == sum(t is not None and v != t for v, t in pairs) > 0


def test_the_picture_of_any_prompt_is_drawn_without_a_warning(runs, tmp_path):
    last = len(runs[0].part("examples")) - 1  # the prompt with markup and a control character
    path = png.draw_picture(runs[0].folder, tmp_path / "new" / "picture.png", example=last)
    assert path.read_bytes().startswith(HEAD)


def test_a_figure_that_fails_half_way_leaves_the_old_one(runs, tmp_path, monkeypatch):
    page = tmp_path / "report.html"
    before = {p: p.read_bytes() for p in png.write_figures(runs, page)}
    assert [p.name for p in before] == [f"report_{n}.png" for n in ("answers", "scorecard", "losses")]
    assert all(content.startswith(HEAD) for content in before.values())

    def full_disk(figure, f, **_):
        if not hasattr(f, "write"):
            f = open(f, "wb")  # noqa: SIM115
        f.write(HEAD)
        f.flush()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full_disk)
    with pytest.raises(UserError, match=r"report_answers\.png: cannot be written \(No space left"):
        png.write_figures(runs, page)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_what_cannot_be_drawn_is_said(runs, tmp_path):
    with pytest.raises(UserError, match="example 99"):
        png.draw_picture(runs[0].folder, tmp_path / "p.png", example=99)
    with pytest.raises(UserError, match=r"must end in \.png"):
        png.draw_picture(runs[0].folder, tmp_path / "p.gif")
    with pytest.raises(UserError, match="needs evaluation"):
        png.draw_picture(runs[1].folder, tmp_path / "p.png")


def test_a_bare_run_has_no_figures(tmp_path):
    every = ("run.json", "evaluation.json", "retention.json", "interpretation.json", "metrics.jsonl")
    runs = load_runs([make_run(tmp_path / "bare", leave_out=every)])
    assert png.write_figures(runs, tmp_path / "bare" / "report.html") == []
