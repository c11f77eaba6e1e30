"""The page: self-contained, everything from files escaped, honest about what is missing, below its size limit."""

import base64
import hashlib
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from tests.helpers.report_data import PROMPTS, make_run
from tracr_jax import cli
from tracr_jax.errors import UserError
from tracr_jax.files import read_json, write_json
from tracr_jax.report import page as P
from tracr_jax.report.load import load_runs
from tracr_jax.report.page import write_report

EVIL = "</script><script>alert(1)</script><!-- <img src=x onerror=alert(2)> \u2028 \ud800 &lt;"


class Tags(HTMLParser):
    """Every element with its attributes, and the text of the scripts."""

    def __init__(self):
        super().__init__()
        self.found, self.scripts, self._in_script = [], [], False

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        self._in_script = tag == "script"

    def handle_endtag(self, tag):
        self._in_script = False

    def handle_data(self, data):
        if self._in_script:
            self.scripts.append(data)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("report") / "one")


@pytest.fixture(scope="module")
def text(run):
    return P.page(load_runs([run]))


def tags(text):
    parser = Tags()
    parser.feed(text)
    return parser


def test_nothing_is_fetched(text):
    found = tags(text).found
    assert {t for t, _ in found} & {"img", "iframe", "object", "embed", "video", "audio", "base"} == set()
    assert [a["href"] for t, a in found if t == "link"] == ["data:,"]
    assert all(a["href"].startswith("#") for t, a in found if t == "a")
    assert all("src" not in a for _, a in found)
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style


def test_only_the_pages_own_script_may_run(text):
    parser = tags(text)
    policy = next(a["content"] for t, a in parser.found if a.get("http-equiv") == "Content-Security-Policy")
    own = parser.scripts[-1]
    digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert all(not any(name.startswith("on") for name in a) for _, a in parser.found)


def test_texts_from_files_stay_texts(tmp_path):
    folder = make_run(tmp_path / "a<b>&'\"", prompts=(EVIL, *PROMPTS))
    interpretation = read_json(folder / "interpretation.json")
    interpretation["variables"][0]["name"] = EVIL
    interpretation["swaps"]["left_out"][0]["reason"] = EVIL
    interpretation["examples"][0]["tokens"][0] = EVIL
    evaluation = read_json(folder / "evaluation.json")
    evaluation["sets"][EVIL] = evaluation["sets"]["length_ood"] | {"note": EVIL}
    evaluation["sets"][EVIL]["baselines"] = {EVIL: 0.5}
    retention = read_json(folder / "retention.json")
    retention["rows"][0] |= {"name": EVIL, "unit": EVIL, "note": EVIL}
    config = read_json(folder / "config.json") | {"task": EVIL, "lm": EVIL}
    about = read_json(folder / "run.json") | {"command": [EVIL], "device": EVIL}
    for name, value in {
        "interpretation": interpretation,
        "evaluation": evaluation,
        "retention": retention,
        "config": config,
        "run": about,
    }.items():
        write_json(folder / f"{name}.json", value)
    text = P.page(load_runs([folder]))
    plain = P.page(load_runs([make_run(tmp_path / "plain")]))
    parser = tags(text)
    kinds = {t for t, _ in parser.found}
    assert kinds == {t for t, _ in tags(plain).found}
    assert len(parser.scripts) == 2
    assert "<!-- " not in text
    assert "alert(1)</script>" not in text
    data = json.loads(parser.scripts[0])
    assert data[0]["examples"][0]["tokens"][0] == EVIL
    assert html.escape("onerror=alert(2)>") in text  # shown, not dropped


@pytest.mark.parametrize(
    ("left_out", "command"),
    [
        ("interpretation.json", "tracr-jax interpret"),
        ("evaluation.json", "tracr-jax evaluate"),
        ("retention.json", "tracr-jax retention"),
    ],
)
def test_a_missing_file_is_named_by_its_command(tmp_path, text, left_out, command):
    folder = make_run(tmp_path / "run", leave_out=(left_out,))
    assert f"<code>{command} {folder}</code>" in P.page(load_runs([folder]))
    assert f"<code>{command} " not in text


def test_the_examples_of_the_main_job_are_enough_for_the_explorer(tmp_path):
    folder = make_run(tmp_path / "run")
    interpretation = read_json(folder / "interpretation.json")
    (folder / "interpretation.json").unlink()
    write_json(folder / "examples.json", {k: interpretation[k] for k in ("variables", "examples")})
    text = P.page(load_runs([folder]))
    assert 'data-figure="explorer"' in text
    assert '<h2>Look inside one prompt</h2><p class="reading">In these 6 examples' in text
    assert text.count(f"<code>tracr-jax interpret {folder}</code>") >= 3  # for all else
    (data,) = json.loads(tags(text).scripts[0])
    assert [e["prompt"] for e in data["examples"]] == [e["prompt"] for e in interpretation["examples"]]


def test_only_a_configuration_is_enough(tmp_path):
    every = ("run.json", "evaluation.json", "retention.json", "interpretation.json", "metrics.jsonl")
    text = P.page(load_runs([make_run(tmp_path / "bare", leave_out=every)]))
    assert text.count("not measured") >= 5
    assert "tracr-jax inject" in text


def test_the_command_can_be_typed_again(tmp_path):
    folder = make_run(tmp_path / "run")
    about = read_json(folder / "run.json") | {"command": ["/x/tracr_jax/__main__.py", "inject", "my task.py:TASK"]}
    write_json(folder / "run.json", about)
    shown = html.unescape(P.page(load_runs([folder])))
    assert "<code>python -m tracr_jax inject 'my task.py:TASK'</code>" in shown


def test_several_runs_stand_side_by_side(tmp_path, run):
    other = make_run(tmp_path / "other", seed=1)
    tuned = make_run(tmp_path / "tuned", seed=2, baseline=True)
    text = P.page(load_runs([run, other, tuned]))
    places = re.findall(r'data-figure="(\w+)" data-run="(\d)"', text)
    for kind in ("scorecard", "noise", "swaps"):
        assert [i for k, i in places if k == kind] == ["0", "1"]  # the baseline has no variables
    for name in ("one", "other", "tuned"):
        assert re.search(rf'data-tip="{name}: \d', text)
    assert "fine-tuning baseline" in text
    data = json.loads(tags(text).scripts[0])
    assert data[2]["scorecard"] is None


def test_runs_with_another_original_have_a_language_table_of_their_own(tmp_path):
    """One run's original and baseline beside another's numbers would be compared with them."""
    one, same, other = (make_run(tmp_path / n, seed=i) for i, n in enumerate(("one", "same", "other")))
    kept = read_json(one / "retention.json")
    write_json(same / "retention.json", kept)
    changed = read_json(one / "retention.json")
    next(r for r in changed["rows"] if r["unit"] != "share")["original"] = 77.5
    write_json(other / "retention.json", changed)
    page = P.page(load_runs([one, same, other]))
    tables = re.findall(r'<table class="plain retention">.*?</table>', page, re.DOTALL)
    assert [[n for n in ("one", "same", "other") if f">{n}<" in t] for t in tables] == [["one", "same"], ["other"]]
    assert ["77.5" in t for t in tables] == [False, True]


def test_the_page_stays_below_its_limit_by_dropping_examples(run, monkeypatch):
    runs = load_runs([run])
    whole = len(P.page(runs).encode())
    monkeypatch.setattr(P, "LIMIT", whole - 60_000)
    text = P.page(runs)
    kept = len(json.loads(tags(text).scripts[0])[0]["examples"])
    assert 0 < kept < len(PROMPTS)
    assert len(text.encode()) <= whole - 60_000
    assert f"{len(PROMPTS) - kept} examples are left out" in text
    monkeypatch.setattr(P, "LIMIT", 10_000)
    with pytest.raises(UserError, match="report fewer runs"):
        P.page(runs)


def test_the_command_writes_page_and_figures(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    cli.main(["report", str(folder)])
    out = capsys.readouterr().out
    for name in ("report.html", "report_answers.png", "report_scorecard.png", "report_losses.png"):
        assert (folder / name).stat().st_size > 5_000
        assert name in out
    assert (folder / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_wrong_calls_are_one_line(tmp_path, run):
    with pytest.raises(UserError, match="no run folder given"):
        write_report([])
    with pytest.raises(UserError, match=r"must end in \.html"):
        write_report([run], out=tmp_path / "x.pdf")
    with pytest.raises(UserError, match="given twice"):
        write_report([run, run])
    with pytest.raises(UserError, match="not a run folder"):
        write_report([tmp_path])


def test_the_report_needs_no_jax():
    rooms = "tracr_jax.report.page, tracr_jax.report.png, tracr_jax.report.terminal"
    code = f"import sys, {rooms}; sys.exit('jax' in sys.modules or 'flax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
