"""A file of the package is short enough to be read at once, and a function to be seen at once."""

import ast
from pathlib import Path

import pytest

import tracr_jax

ROOT = Path(tracr_jax.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
FILE_LINES, FUNCTION_LINES = 400, 80


def long_functions(source: str) -> list[tuple[str, int]]:
    """(name, lines with decorators) of every function above the limit."""
    nodes = (n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))
    sizes = ((n.name, n.end_lineno - min([n.lineno, *(d.lineno for d in n.decorator_list)]) + 1) for n in nodes)
    return [(name, size) for name, size in sizes if size > FUNCTION_LINES]


def test_no_file_is_longer_than_400_lines():
    sizes = {str(p.relative_to(ROOT)): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert len(sizes) > 100
    assert {name: n for name, n in sizes.items() if n > FILE_LINES} == {}


def test_no_function_is_longer_than_80_lines():
    found = [(str(p.relative_to(ROOT)), *f) for p in FILES for f in long_functions(p.read_text(encoding="utf-8"))]
    assert found == []


@pytest.mark.parametrize("head", ["def f():", "async def f():", "class A:\n def f(self):", "@g\ndef f():"])
def test_a_longer_one_would_be_found(head):
    body = "\n".join(["  x = 1"] * FUNCTION_LINES)
    assert [name for name, _ in long_functions(f"{head}\n{body}")] == ["f"]
