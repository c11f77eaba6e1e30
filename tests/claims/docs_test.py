"""Every citation in a docstring is a heading that exists; links lead somewhere; public names are documented."""

import ast
import importlib
import inspect
import re
import typing
from pathlib import Path

import pytest

import tracr_jax
from tracr_jax import tasks, types
from tracr_jax.config import RunConfig

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "tracr_jax" / "docs"
SOURCES = sorted(p for f in ("tracr_jax", "tests", "experiments") for p in (ROOT / f).rglob("*.py"))
PAGES = sorted(
    [*DOCS.glob("*.md"), *(ROOT / "experiments").rglob("*.md"), *ROOT.glob("*.md"), *ROOT.glob(".github/*.md")]
)

_REF = r"(?:§\d+[a-z]?(?:\.\d+)*|[A-E]\d+)"
_CITATION = re.compile(rf"docs/(\w+)\.md((?:\s+(?:# )?{_REF}(?:(?:,|\s+and)\s+(?:# )?{_REF})*)?)")


def anchors(page):
    """§4.5 or A3 of every numbered heading."""
    found = re.findall(r"^#+ ([A-E]?\d+[a-z]?(?:\.\d+)*)\.? ", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {x if x[0].isalpha() else f"§{x}" for x in found}


def citations(text):
    """(page, reference or "") of every citation."""
    for page, refs in _CITATION.findall(text):
        for ref in re.findall(_REF, refs) or [""]:
            yield page, ref


def test_every_citation_is_a_heading_that_exists():
    known = {p.stem: anchors(p) for p in DOCS.glob("*.md")}
    cited = [(p, *c) for p in SOURCES if p != Path(__file__) for c in citations(p.read_text(encoding="utf-8"))]
    assert len(cited) > 100
    wrong = [
        f"{p.relative_to(ROOT)}: docs/{page}.md {ref}"
        for p, page, ref in cited
        if page not in known or (ref and ref not in known[page])
    ]
    assert not wrong, wrong


def test_no_source_cites_a_page_that_users_do_not_have():
    bare = re.compile(r"(?<![\w/])(method|findings|teacher|design|exchange)\.md")
    cited = ((p, bare.findall(p.read_text(encoding="utf-8"))) for p in SOURCES if p != Path(__file__))
    assert not [f"{p.relative_to(ROOT)}: {', '.join(names)}" for p, names in cited if names]


def test_a_citation_of_nothing_would_be_seen():
    text = '"""See docs/method.md §4.5, §9 and §11;\n    docs/differences.md A1, B11. docs/design.md."""'
    assert list(citations(text)) == [
        *(("method", s) for s in ("§4.5", "§9", "§11")),
        *(("differences", s) for s in ("A1", "B11")),
        ("design", ""),
    ]
    assert {"§4.5", "§0"} <= anchors(DOCS / "method.md")
    assert "§12" not in anchors(DOCS / "method.md")
    assert {"§3a", "§5.10"} <= anchors(DOCS / "teacher.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_links_and_named_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)(?:#[^)]*)?\)", text)
    missing = [x for x in links if not (page.parent / x).exists()]
    if page.name == "README.md" and page.parent.name == "experiments":
        missing += [x for x in re.findall(r"`(\w+\.json)`", text) if not (page.parent / x).exists()]
    assert not missing, missing


def test_the_symbols_of_the_method_are_those_of_types():
    def rows(text):
        return re.findall(r"^\| \w+ \| .* \|$", text, re.MULTILINE)

    ours = rows(inspect.getdoc(types) or "")
    assert len(ours) >= 10
    section = (DOCS / "method.md").read_text(encoding="utf-8").split("## 1.")[0]
    assert [r for r in rows(section) if r in ours] == ours


def test_equations_are_numbered_in_order():
    tags = [int(n) for n in re.findall(r"\\tag\{(\d+)\}", (DOCS / "method.md").read_text(encoding="utf-8"))]
    assert tags == list(range(1, len(tags) + 1))
    assert len(tags) >= 10


def is_option(name):
    """Whether a dotted name is a field of RunConfig, or an attribute of a built-in task's class."""
    head, *rest = name.split(".")
    if head[0].isupper():
        module = {"IntSum": "int_sum"}.get(head, head.lower())
        return hasattr(getattr(importlib.import_module(f"{tasks.__name__}.{module}"), head), rest[0])
    kind = RunConfig
    for part in (head, *rest):
        hints = typing.get_type_hints(kind) if isinstance(kind, type) else {}
        if part not in hints:
            return False
        kind = hints[part]
    return True


def test_every_switch_of_the_differences_is_an_option():
    text = (DOCS / "differences.md").read_text(encoding="utf-8")
    named = re.findall(r"`((?:[a-z_]+|IntSum|Dyck|Count)\.[a-z_]+)`", text)
    assert len(named) > 15
    assert [n for n in named if not is_option(n)] == []
    assert not is_option("data.as_coded_nothing")


def test_every_public_name_is_documented():
    undocumented = []
    for name in tracr_jax.__all__:
        thing = getattr(tracr_jax, name)
        if not (inspect.getdoc(thing) or "").strip():
            undocumented.append(name)
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                public = not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
                if public and not inspect.getdoc(value):
                    undocumented.append(f"{name}.{member}")
    assert not undocumented, undocumented


def test_the_reference_page_shows_every_public_name_with_an_example():
    page = (DOCS / "api.md").read_text(encoding="utf-8")
    shown = re.findall(r"^## `(\w+)`$", page, re.MULTILINE)
    assert sorted(shown) == sorted(tracr_jax.__all__)
    for section in page.split("\n## ")[1:]:
        name = section.split("`")[1]
        (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
        assert f"tracr_jax.{name}" in example, name
        ast.parse(example)
        assert f"::: {getattr(tracr_jax, name).__module__}.{name}" in section, name
