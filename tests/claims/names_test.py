"""Every dotted name in backticks, in the pages and in the docstrings, is one that exists."""

import ast
import builtins
import contextlib
import dataclasses
import importlib
import inspect
import pkgutil
import re
import typing
from pathlib import Path

import pytest

import tracr_jax
from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    p
    for folder in (ROOT, ROOT / ".github", ROOT / "experiments", ROOT / "tracr_jax" / "docs")
    for p in folder.glob("*.md")
    if p.name != "CHANGELOG.md"  # names what was, too
)
SOURCES = sorted(p for f in ("tracr_jax", "experiments", "tests") for p in (ROOT / f).rglob("*.py"))
_DOTTED = re.compile(r"`([A-Za-z_]\w*(?:\.\w+)+)(?:\([^`]*\))?`")
_MISSING = (ImportError, UserError, pytest.skip.Exception)  # what a module does whose extra is not installed
# How pages and docstrings call what they import.
_SHORT = {"rasp": "tracr.rasp.rasp", "np": "numpy", "jnp": "jax.numpy", "nn": "flax.linen"}


def exists(dotted, *, near=None):
    """Whether a dotted name is a module's, a class's member, an option of a run, or a file of the repository.

    near: the module whose docstring names it; its own names count.
    """
    head, *rest = dotted.split(".")
    if _member(RunConfig, [head, *rest]) or (head == "config" and _member(RunConfig, rest)):
        return True
    for start in (near, builtins):
        if start is not None and hasattr(start, head) and _member(getattr(start, head), rest):
            return True
    if any(_member(c, rest) for c in _classes().get(head, ())):
        return True
    return _imported(_SHORT.get(head, head).split(".") + rest)


def _member(thing, names):
    for name in names:
        if isinstance(thing, type) and name in (hints := _hints(thing)):
            thing = hints[name]
            thing = next((t for t in typing.get_args(thing) if isinstance(t, type)), thing)
        elif hasattr(thing, name):
            thing = getattr(thing, name)
        else:
            return False
    return True


def _hints(kind):
    if not kind.__module__.startswith("tracr_jax") or not (
        dataclasses.is_dataclass(kind) or hasattr(kind, "_fields")
    ):
        return {}
    return typing.get_type_hints(kind)


def _imported(parts):
    for n in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:n]))
        except ImportError:
            continue
        return _member(module, parts[n:])
    return False


_found: dict = {}


def _classes():
    """Classes of the package by their names."""
    if not _found:
        for info in pkgutil.walk_packages(tracr_jax.__path__, "tracr_jax."):
            if info.name.endswith("__main__"):
                continue
            with contextlib.suppress(*_MISSING):
                for name, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
                    _found.setdefault(name, set()).add(kind)
    return _found


def docstrings(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node, clean=False) or ""


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return importlib.import_module(".".join(p for p in parts if p != "__init__"))


def named():
    """(file, name, module near it) of every dotted name in backticks."""
    for page in PAGES:
        text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        yield from ((page, name, None) for name in _DOTTED.findall(text))
    for source in SOURCES:
        texts = [name for text in docstrings(source) for name in _DOTTED.findall(text)]
        if texts and source.name != "__main__.py":
            with contextlib.suppress(*_MISSING):
                near = module_of(source)
                yield from ((source, name, near) for name in texts)


def is_file(name):
    return name.rsplit(".", 1)[-1] in _ENDINGS


_ENDINGS = ("json", "jsonl", "md", "py", "npz", "safetensors", "gguf", "txt", "ipynb", "html", "png", "toml", "sh")


def test_every_dotted_name_in_backticks_exists():
    names = [n for n in named() if not is_file(n[1])]
    assert len(names) > 50
    wrong = {f"{p.relative_to(ROOT)}: {name}" for p, name, near in names if not exists(name, near=near)}
    assert not wrong, "\n".join(sorted(wrong))


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("tracr_jax.inject", True),
        ("losses.retention_weight", True),
        ("config.losses.hook", True),
        ("rasp.SelectorWidth", True),
        ("Injected.adapter", True),
        ("Program.teacher", True),
        ("jax.tree.map", True),
        ("str.strip", True),
        ("tracr_jax.injected", False),
        ("losses.nothing", False),
        ("Injected.nothing", False),
        ("jax.nothing.at.all", False),
    ],
)
def test_what_counts_as_a_name(name, there):
    assert exists(name) == there
