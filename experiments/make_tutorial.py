"""tutorial.ipynb from tutorial.md: text becomes cells of text, blocks become cells of code.

  python -m experiments.make_tutorial              write tutorial.ipynb beside tutorial.md
  python -m experiments.make_tutorial --execute    run it in a temporary folder at small settings (nbclient)

A block with a file name writes that file, a command line is run by the notebook's shell, and after `tracr-jax
report` the page is shown inline.
"""

import argparse
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracr_jax.files import write_text

HERE = Path(__file__).resolve().parent
PAGE, NOTEBOOK = HERE / "tutorial.md", HERE / "tutorial.ipynb"

# What makes every block run in seconds, on an untrained model: old text -> new, each once on the page.
SMALLER = {
    'lm="tiny", folder': (
        'lm="random:32x8", config=tracr_jax.RunConfig(steps=2, eval_items=4, '
        "data=tracr_jax.DataConfig(batch=8, text_batch=2, text_length=32)), folder"
    ),
    "prompts=200, pairs=40, items=60, probe_items=400": "prompts=4, pairs=2, items=4, probe_items=8, seeds=(0,)",
}

_CODE = r"^```(?:python|bash) ?\S*\n.*?^```$"  # what a block has printed, ```text, stays text
_BLOCK = re.compile(r"^```(python|bash) ?(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SHOW_REPORT = """\
import html
from pathlib import Path

from IPython.display import HTML

page = html.escape(Path("{folder}/report.html").read_text(encoding="utf-8"))
HTML(f'<iframe srcdoc="{{page}}" style="width: 100%; height: 45em; border: 0"></iframe>')"""


def blocks(text: str) -> list[tuple[str, str, str]]:
    """(language, file name or "", content) of every fenced block of code."""
    return _BLOCK.findall(text)


def smaller(text: str) -> str:
    """The page at small settings; every setting that is replaced must be there exactly once."""
    for old, new in SMALLER.items():
        if text.count(old) != 1:
            raise ValueError(f"{PAGE}: {old!r} is there {text.count(old)} times, expected once")
        text = text.replace(old, new)
    return text


def cells(text: str) -> Iterator[tuple[str, str]]:
    """(kind, source) of every cell, in order."""
    for i, part in enumerate(re.split(f"({_CODE})", text, flags=re.MULTILINE | re.DOTALL)):
        if i % 2 == 0:
            if part.strip():
                yield "markdown", part.strip()
            continue
        ((language, file, content),) = blocks(part)
        content = content.strip()
        if file:
            yield "code", f"%%writefile {file}\n{content}"
        elif language == "bash":
            yield "code", f"!{content}"
            if content.startswith("tracr-jax report "):
                yield "code", _SHOW_REPORT.format(folder=content.split()[2])
        else:
            yield "code", content


def notebook(text: str) -> dict[str, Any]:
    """The notebook as nbformat 4.5 has it, without outputs."""
    out = []
    for i, (kind, source) in enumerate(cells(text)):
        cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{i}", "metadata": {}, "source": source}
        out.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": out, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def shown(content: dict[str, Any]) -> str:
    """The notebook's file."""
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def execute(text: str) -> list[str]:
    """Run every cell at small settings, in order, and return what was displayed as HTML; a failing cell raises."""
    import nbclient
    import nbformat

    book = nbformat.reads(json.dumps(notebook(smaller(text))), as_version=4)
    nbformat.validate(book)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TRACR_JAX_CACHE"] = str(Path(folder) / "cache")
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        nbclient.NotebookClient(book, timeout=600, resources={"metadata": {"path": folder}}).execute()
    outputs = [o for cell in book.cells if cell.cell_type == "code" for o in cell.outputs]
    failed = [o["text"] for o in outputs if o.output_type == "stream" and re.search(r"^error: ", o["text"], re.M)]
    if failed:
        raise RuntimeError(failed[0])
    return [o.data["text/html"] for o in outputs if "data" in o and "text/html" in o.data]


def main() -> None:
    """Write the notebook, or run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--execute", action="store_true", help="run it at small settings, and write nothing")
    args = parser.parse_args()
    text = PAGE.read_text(encoding="utf-8")
    if not args.execute:
        write_text(NOTEBOOK, shown(notebook(text)))
        return
    displayed = execute(text)
    missing = [what for what in ("<table", "<iframe") if not any(what in x for x in displayed)]
    if missing:
        raise RuntimeError(f"{NOTEBOOK}: no cell displayed {' and no '.join(missing)}")
    print(f"{NOTEBOOK.name}: every cell ran, {len(displayed)} displayed")


if __name__ == "__main__":
    main()
