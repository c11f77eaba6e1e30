"""The package's imports go one way: printed by room; refused against the spine, in a circle, or in a function."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import tracr_jax

ROOT = Path(tracr_jax.__file__).parent

# From the first to the last; a room imports from rooms before it, and none from its own rank.
SPINE = (
    ("top",),
    ("teacher", "lm"),
    ("tasks",),  # some tasks answer with the program's own evaluator
    ("data",),
    ("train",),
    ("runs",),
    ("measure",),
    ("interpret", "report"),
    ("injection", "export", "explore"),
    ("sweep", "controls"),
    ("cli", "lm_eval"),  # lm_eval: the old name of export.lm_eval
)
RANK = {room: i for i, rooms in enumerate(SPINE) for room in rooms}
# Modules at the top that every room may use; among themselves they have no circle either.
TOP = {
    "types",
    "errors",
    "files",
    "lock",
    "config",
    "config_file",
    "names",
    "presets",
    "intervene",
    "host",
    "progress",
    "stats",
    "trained",
}
# Command and package load what a command or a name needs, so that `--help` starts nothing; and the entry point
# nothing before the process has its settings, for which it starts again.
LAZY = {"cli", "cli.commands", "__init__"}
# Third parties that a module imports inside a function: an extra, or what must not start earlier.
LATE = {
    "data.hub": {"datasets"},
    "export.tokenizer": {"transformers"},
    "lm.load": {"huggingface_hub"},
    "measure.language.glue": {"datasets"},
    "host": {"filelock", "importlib", "jax"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {module_of(p): p for p in sorted(ROOT.rglob("*.py"))}


def room(module: str) -> str:
    first = module.split(".")[0]
    if first in TOP:
        return "top"
    return "cli" if first in ("__main__", "__init__") else first


def targets(node: ast.AST, module: str) -> list[str]:
    """Modules of the package that a statement imports, the package itself left out."""
    if isinstance(node, ast.Import):
        names = [a.name for a in node.names]
    elif isinstance(node, ast.ImportFrom) and node.level == 0:
        base = node.module or ""
        # `from package import module` names a module, `from module import name` does not.
        names = [f"{base}.{a.name}" if f"{base}.{a.name}".removeprefix("tracr_jax.") in MODULES else base
                 for a in node.names]  # fmt: skip
    else:
        return []
    found = {n.removeprefix("tracr_jax.") for n in names if n.startswith("tracr_jax.")}
    return sorted(found - {module})


def statements(path: Path) -> list[tuple[ast.stmt, bool]]:
    """(import, whether it stands in a function) of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.walk(node)
    }
    return [(n, id(n) in inside) for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]


GRAPH = {
    m: sorted({t for node, _ in statements(p) for t in targets(node, m)})
    for m, p in MODULES.items()
    if m not in LAZY
}


def test_the_graph_by_room():
    rooms: dict[str, set[str]] = {}
    for module, imported in GRAPH.items():
        rooms.setdefault(room(module), set()).update(room(t) for t in imported if room(t) != room(module))
    for name in sorted(rooms, key=RANK.__getitem__):
        print(f"{name:10} <- {', '.join(sorted(rooms[name], key=RANK.__getitem__)) or 'nothing'}")
    assert set(rooms) | {"cli"} == set(RANK), "a room that the spine does not know, or one that is gone"
    loose = {p.stem for p in ROOT.glob("*.py")}
    assert loose == TOP | {"__init__", "__main__", "injection", "lm_eval", "sweep", "controls"}, (
        "what stands loose at the top"
    )


def test_no_import_goes_against_the_spine():
    wrong = [
        f"{module} imports {t}"
        for module, imported in GRAPH.items()
        for t in imported
        if room(t) != room(module) and RANK[room(t)] >= RANK[room(module)]
    ]
    assert wrong == []


def test_the_page_of_the_design_shows_the_spine():
    page = ROOT.joinpath("docs/design.md").read_text(encoding="utf-8")
    rooms = (tuple(room for room in rank if room != "lm_eval") for rank in SPINE)
    assert "    " + " → ".join(", ".join(rank) for rank in rooms) + "\n" in page
    for room in {p.parent.name for p in ROOT.glob("*/*.py")} | {"docs"}:
        assert f"| `{room}/` |" in page, room


def test_no_module_imports_itself_by_way_of_others():
    def in_order(graph):
        list(TopologicalSorter(graph).static_order())

    try:
        in_order(GRAPH)
    except CycleError as e:
        pytest.fail(" -> ".join(e.args[1]))
    with pytest.raises(CycleError):
        in_order({"a": ["b"], "b": ["a"]})


def test_functions_import_nothing_of_the_package_and_of_others_only_what_is_optional():
    wrong = []
    for module, path in MODULES.items():
        for node, inside in statements(path):
            if not inside or module in LAZY:
                continue
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            wrong += [f"{module}: {n}" for n in names if n.split(".")[0] not in LATE.get(module, ())]
    assert wrong == []
