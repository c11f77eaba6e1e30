"""The page itself: the report's look and token explorer around a box for a prompt. No network but this server."""

import base64
import hashlib
from importlib import resources
from typing import Any, NamedTuple

from tracr_jax.explore.session import Explorer
from tracr_jax.interpret.examples import describe_variables
from tracr_jax.report.data import embed
from tracr_jax.report.markup import esc
from tracr_jax.report.page import asset

_HOW = (
    "Each cell is the value read from the model; deeper colour: larger margin to the runner-up. Red edge and ≠: "
    "the program holds another value. A dot: it holds nothing there, or the model need not encode it there. A "
    "question mark: the state is between values. An orange corner: it reads otherwise than before your change. "
)
_TAKEN = (
    "A value is set by exchanging the variable's part of the state with that of the most similar state in which "
    "the program holds the value, among the prompts read so far."
)
_WRITTEN = "A value is set by moving the variable's own coordinates to the value's centroid."
_SHARED = ("base.js", "grid.js", "viewer.js")


class Page(NamedTuple):
    """The document, and the policy that is sent with it."""

    html: bytes
    policy: str


def make_page(explorer: Explorer) -> Page:
    """The page of one run; everything a text holds reaches it as data, and its scripts as text nodes."""
    program = explorer.program
    data = {
        "variables": _variables(explorer),
        "result": program.result,
        "prompts": [item.prompt for item in program.examples],
        "how": _HOW + (_WRITTEN if explorer.sources.written else _TAKEN),
    }
    own = (resources.files("tracr_jax.explore") / "assets" / "explore.js").read_text(encoding="utf-8")
    script = "\n".join([*map(asset, _SHARED), own])
    script = f'"use strict";\n(() => {{\n{script}\nstart();\n}})();\n'
    style = asset("style.css")
    policy = (
        f"default-src 'none'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'"
    )
    name = program.config.lm.replace("\\", "/").rstrip("/").rpartition("/")[2]
    title = esc(f"{program.name} in {name}")
    html = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{title} · tracr_jax explore</title>
<style>{style}</style>
</head>
<body>
<a class="skip" href="#explorer">To the variables</a>
<header><p class="brand">tracr_jax explore</p><button id="theme" type="button" hidden>Dark</button>
<h1>{title}</h1><p class="facts">{esc(explorer.run.folder or "")}</p></header>
<main><section id="explorer"></section></main>
<noscript><p class="missing">This page needs JavaScript.</p></noscript>
<div id="tip" role="tooltip" hidden></div>
<script type="application/json" id="data">{embed(data)}</script>
<script>{script}</script>
</body>
</html>
"""
    return Page(html.encode("utf-8", "replace"), policy)


def _variables(explorer: Explorer) -> list[dict[str, Any]]:
    layers = range(explorer.program.depth + 1)
    return [
        described | {"fixed": [explorer.why_fixed(i, layer) for layer in layers]}
        for i, described in enumerate(describe_variables(explorer.run))
    ]


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
