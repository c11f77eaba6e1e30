"""The page: sections, style, scripts and data in one HTML file that opens from disk and asks nothing of a network.

The Content-Security-Policy admits the page's own script by its hash and no request at all, so a text that
slipped through the escaping could still not run.
"""

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from tracr_jax.errors import UserError
from tracr_jax.files import write_text
from tracr_jax.names import SWEEP
from tracr_jax.progress import Say
from tracr_jax.report import sections as S
from tracr_jax.report.data import embed, fit_examples, runs_data
from tracr_jax.report.language import language_section
from tracr_jax.report.load import RunFiles, blaming, load_runs
from tracr_jax.report.markup import esc, title_of
from tracr_jax.report.png import write_figures
from tracr_jax.report.programs import programs_section
from tracr_jax.report.sweep import draw_sweep, read_sweep, sweep_section

LIMIT = 8_000_000  # bytes of a page
_SCRIPTS = ("base.js", "charts.js", "grid.js", "figures.js", "viewer.js", "explorer.js")


def write_report(
    runs: str | Path | Any | Sequence[str | Path | Any],
    *,
    out: str | Path | None = None,
    say: Say = lambda _: None,
) -> Path:
    """Write one page on one or several runs, and PNG figures beside it.

    Args:
      runs: a run's folder, what `inject` or `open` returned, or several of them; the first one gives the page its
        sentences. The folder of a sweep, alone, gives a page on the sweep.
      out: the HTML file; default report.html in the first run folder.
      say: called with a line for each file.

    Returns:
      The page's path.

    Raises:
      UserError: no run folder, a damaged file, or nowhere to write.
    """
    several = runs if isinstance(runs, Sequence) and not isinstance(runs, str) else [runs]
    folders = [getattr(r, "folder", r) for r in several]
    if not folders:
        raise UserError("no run folder given: tracr-jax report RUN")
    path = Path(out) if out else Path(folders[0]) / "report.html"
    if path.suffix not in (".html", ".htm"):
        raise UserError(f"{path}: the page must end in .html")
    if len(folders) == 1 and (Path(folders[0]) / SWEEP).exists():
        write_text(path, sweep_page(folders[0]))
        say(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
        return path
    found = load_runs(folders)
    with blaming(found):
        text = page(found)
    write_text(path, text)
    say(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    with blaming(found):
        for figure in write_figures(found, path):
            say(str(figure))
    return path


def sweep_page(folder: str | Path) -> str:
    """The page on a sweep: its picture, a line for each method and weight, and one for each run."""
    found = read_sweep(folder)
    title = f"{found['task']} in {found['lm']}"
    head = f'<h1>{esc(title)}</h1><p class="facts">sweep, {len(found["points"])} of {found["runs"]} runs</p>'
    return _document(title, head=head, body=sweep_section(found, draw_sweep(folder).read_bytes()))


def page(runs: Sequence[RunFiles]) -> str:
    """The whole page as text; the last examples are left out where all would be more than LIMIT."""
    data = runs_data(runs)
    bare = _html(runs, [{**d, "examples": []} for d in data], dropped=0)
    # The sentence that says how many are left out is shorter than 500 bytes.
    dropped = fit_examples(data, room=LIMIT - len(bare.encode()) - 500)
    text = _html(runs, data, dropped=dropped)
    if len(text.encode()) > LIMIT:
        raise UserError(
            f"the page would have {len(text.encode()) / 1e6:.1f} MB, the limit is {LIMIT / 1e6:.0f}: "
            "report fewer runs at a time"
        )
    return text


def _html(runs: Sequence[RunFiles], data: Sequence[dict[str, Any]], *, dropped: int) -> str:
    script = "\n".join(asset(name) for name in _SCRIPTS)
    body = "".join(
        [
            S.summary(runs),
            S.answers_section(runs),
            programs_section(runs),
            S.explorer_section(runs, dropped=dropped),
            S.scorecard_section(runs),
            S.swaps_section(runs),
            S.noise_section(runs),
            S.length_section(runs),
            language_section(runs),
            S.loss_section(runs),
            S.about_section(runs),
        ]
    )
    script = f'"use strict";\n(() => {{\n{script}\nstart();\n}})();\n'
    needs = "Curves, heat maps and the explorer need JavaScript; all else does not."
    after = f"""<noscript><p class="missing">{needs}</p></noscript>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">{embed(data)}</script>
<script>{script}</script>
"""
    head = f'<button id="theme" type="button" hidden>Dark</button>\n<h1>{esc(title_of(runs))}</h1>{_facts(runs)}'
    return _document(title_of(runs), head=head, body=body, after=after, script=script)


def _document(title: str, *, head: str, body: str, after: str = "", script: str = "") -> str:
    """A page whose policy admits `script` and nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{esc(title)} · tracr_jax</title>
<style>{asset("style.css")}</style>
</head>
<body>
<a class="skip" href="#summary">To the summary</a>
<header><p class="brand">tracr_jax</p>{head}</header>
<main>{body}</main>
{after}</body>
</html>
"""
    # A file's text may hold half a surrogate pair, which UTF-8 cannot.
    return text.encode("utf-8", "replace").decode("utf-8")


def _facts(runs: Sequence[RunFiles]) -> str:
    if len(runs) > 1:
        return f'<p class="facts">{len(runs)} runs side by side</p>'
    r = runs[0]
    losses = r.config.get("losses", {})
    kind = {"none": "fine-tuning, no program", "cosine": "cosine alignment", "variable": "variable alignment"}
    if r.is_graft:
        kind["none"] = "graft: the compiled program beside the frozen model"
    facts = [
        kind.get(str(losses.get("alignment")), str(losses.get("alignment", ""))),
        f"{r.config.get('steps', '?')} steps",
        f"seed {r.config.get('seed', '?')}",
        str(r.about.get("device", "")),
        str(r.about.get("started", ""))[:10],
    ]
    return f'<p class="facts">{" · ".join(esc(f) for f in facts if f)}</p>'


def asset(name: str) -> str:
    """The text of a script or style of the page."""
    return (resources.files("tracr_jax.report") / "assets" / name).read_text(encoding="utf-8")
