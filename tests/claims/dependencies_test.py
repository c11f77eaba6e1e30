"""What pyproject.toml declares is what the package imports, and its start imports nothing heavy."""

import ast
import functools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import tracr_jax

PACKAGE = Path(tracr_jax.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
# Distributions whose modules have other names.
DISTRIBUTION = {"orbax": "orbax-checkpoint", "tracr": "tracr-pypi"}
# Extras of the tests, the site and the notebook; all others are imported by the package.
TOOLS = {"dev", "parity", "browser", "docs", "notebook", "release"}
# These need their extra to be imported at all.
WHOLE_FILES = {PACKAGE / "export" / name: "lm-eval" for name in ("lm_eval.py", "lm_eval_options.py")}


def declared(requirements):
    return {re.match(r"[\w.-]+", r)[0].lower() for r in requirements}


CORE = declared(PROJECT["dependencies"])
OPTIONAL = {
    name: declared(listed) for name, listed in PROJECT["optional-dependencies"].items() if name not in TOOLS
}


def distribution(module):
    top = module.split(".")[0]
    return DISTRIBUTION.get(top, top.replace("_", "-").lower())


def modules(node):
    if isinstance(node, ast.Import):
        return [a.name for a in node.names]
    return [node.module] if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module else []


@functools.cache
def imports():
    """(distribution, file, whether it is imported with the file) of third parties; all texts that may be names."""
    found, texts = set(), set()
    for path in PACKAGE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        within = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.add(node.value)
            for module in modules(node):
                if module.split(".")[0] not in {*sys.stdlib_module_names, "tracr_jax"}:
                    found.add((distribution(module), path, id(node) not in within))
    return found, {distribution(t) for t in texts if re.fullmatch(r"\w+", t)}


def test_what_is_imported_is_declared():
    found, _ = imports()
    assert len(found) > 50
    everything = CORE.union(*OPTIONAL.values())
    assert {d for d, _, _ in found} <= everything
    at_once = {d for d, path, first in found if first and not (path in WHOLE_FILES and d == WHOLE_FILES[path])}
    assert at_once <= CORE


def test_what_is_declared_is_imported():
    found, named = imports()
    imported = {d for d, _, _ in found}
    assert imported >= CORE
    # Those of extras are imported by name, behind a line that says what to install.
    assert set().union(*OPTIONAL.values()) <= imported | named


def test_the_start_imports_neither_torch_nor_transformers():
    code = (
        "import sys, tracr_jax.cli, tracr_jax.lm.load as load; load.load_lm('tiny');"
        "print(*{'torch', 'transformers', 'matplotlib', 'datasets'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_what_the_gate_installs_is_declared():
    gate = (PACKAGE.parent / ".ci" / "run").read_text()
    (extras,) = re.findall(r"torch==\S+ -e '\.\[([\w,]+)\]'", gate)
    assert set(extras.split(",")) == {"dev", "release", "docs", "notebook", "parity", "browser"}
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    parity = declared(PROJECT["optional-dependencies"]["parity"])
    assert {"torch", "transformer-lens", "penzai", "lm-eval"} <= parity


def test_the_project_says_what_a_release_needs():
    """Addresses apart, of which there are none yet: one that does not exist would mislead."""
    assert PROJECT["authors"] == [{"name": "tracr_jax contributors"}]
    assert {"description", "readme", "license", "license-files", "keywords", "requires-python"} <= PROJECT.keys()
    oldest = PROJECT["requires-python"].removeprefix(">=")
    minors = [c.rpartition(" ")[2] for c in PROJECT["classifiers"] if ":: Python :: 3." in c]
    assert minors[0] == oldest
    workflow = (PACKAGE.parent / ".github" / "workflows" / "tests.yml").read_text()
    tested = re.findall(r'"(3\.\d+)"', workflow)
    assert tested == [minors[0], minors[-1]]
    assert re.findall(r'"(main job|tests)"', workflow) == ["main job", "tests"]
    assert "persist-credentials: false" in workflow
    for line in PROJECT["dependencies"]:
        assert ">=" in line, line  # what it was tried with
    gate = (PACKAGE.parent / ".ci" / "run").read_text()
    assert "-m build" in gate
    assert "twine check --strict" in gate
