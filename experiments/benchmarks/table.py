"""The benchmarks' tables in Markdown, from the JSON files beside this script; nothing else goes into them.

  python -m experiments.benchmarks.table        rewrites them in results.md and in README.md beside this script

results.md has one row per goal of the project, this folder's page every file's own table.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import marked
from experiments.benchmarks import common
from experiments.benchmarks.common import HERE, shown
from tracr_jax.files import read_json

RESULTS = HERE.parent / "results.md"
Files = Mapping[str, dict[str, Any]]
SUMMARY, TABLES = "benchmarks", "benchmark tables"
_NOT_RUN = "not run"


def read_files(folder: Path = HERE) -> Files:
    """Every measured file by name."""
    return {p.stem: read_json(p) for p in sorted(folder.glob("*.json"))}


def tables(files: Files) -> str:
    """Every file's table, under its command, machine and load."""
    return "\n\n".join(_file_table(content) for content in files.values())


def _file_table(content: dict[str, Any]) -> str:
    about = content["about"]
    versions = ", ".join(f"{name} {about['packages'][name]}" for name in _PACKAGES if about["packages"].get(name))
    columns = list(content["rows"][0])
    numbers = [any(common.is_number(r[c]) for r in content["rows"]) for c in columns]
    title, command = content["title"], " ".join(_command(about))
    return "\n".join(
        [
            f"**{title[0].upper()}{title[1:]}** (`{command}`; {_machine(about)}; {versions}; "
            f"load before {about['load_before']:.2f}; {about['started'][:10]})",
            "",
            f"| {' | '.join(columns)} |",
            "|" + "|".join("--:" if n else "---" for n in numbers) + "|",
            *(f"| {' | '.join(shown(row[c]) for c in columns)} |" for row in content["rows"]),
        ]
    )


_PACKAGES = ("jax", "torch", "transformers", "tracr-pypi")


def _command(about: dict[str, Any]) -> list[str]:
    # Where the file went changes no number.
    words = [about["command"][0].removesuffix(".py"), *about["command"][1:]]
    if "--out" in words:
        at = words.index("--out")
        del words[at : at + 2]
    return words


def _machine(about: dict[str, Any]) -> str:
    return f"{about['processor']}, {about['cores']} cores"


def summary(files: Files) -> str:
    """One row per goal: what was asked, what was measured, from which file."""
    machines = sorted({_machine(f["about"]) for f in files.values()})
    versions = sorted({f"jax {f['about']['packages']['jax']}" for f in files.values()})
    lines = [
        f"Measured on {'; '.join(machines)}, {', '.join(versions)}, by the scripts of `experiments/benchmarks`; "
        "its page has every table. Ratios are medians of runs in turn.",
        "",
        "| what | goal | measured |",
        "|---|--:|--:|",
    ]
    for what, goal, name, read in _GOALS:
        found = read(files[name]) if name in files else None
        lines.append(f"| {what} | {goal} | {found or _NOT_RUN} |")
    return "\n".join(lines)


def _step(file: dict[str, Any], batch: int, shape: str = "gpt2") -> dict[str, Any] | None:
    cases: Sequence[dict[str, Any]] = file["results"]
    return next((r for r in cases if (r["case"]["shape"], r["case"]["batch"]) == (shape, batch)), None)


def _speedup(batch: int) -> Callable[[dict[str, Any]], str | None]:
    def read(file: dict[str, Any]) -> str | None:
        found = _step(file, batch)
        return None if found is None else f"{found['speedup']['median']:.2f}× ({found['best_peer']})"

    return read


def _utilisation(file: dict[str, Any]) -> str | None:
    found = _step(file, 16)
    return None if found is None else f"{100 * found['sides']['ours']['model_flop_utilisation']:.0f} %"


def _update_share(file: dict[str, Any]) -> str | None:
    found = _step(file, 16)
    return (
        None if found is None else f"{100 * found['shares']['update and gradient norm']['share']['median']:.1f} %"
    )


def _teacher_share(file: dict[str, Any]) -> str:
    shares = [
        f"{100 * r['sides']['sparse']['share']['median']:.1f} % (B {r['case']['batch']})"
        for r in file["results"]
        if r["case"]["shape"] == "gpt2"
    ]
    return ", ".join(shares)


def _start(side: str) -> Callable[[dict[str, Any]], str | None]:
    def read(file: dict[str, Any]) -> str | None:
        found = [r for r in file["results"] if r["case"]["shape"] == "gpt2-large"]
        return f"{found[0]['sides'][side]['median_s']:.0f} s" if found else None

    return read


def _gpu(file: dict[str, Any]) -> str:
    found = [r for r in file["results"] if r["case"]["shape"] == "gpt2-large"]
    return ", ".join(
        f"B {r['case']['batch']}: {r['speedup']['median']:.2f}×, "
        f"{100 * r['sides']['ours']['model_flop_utilisation']:.0f} %"
        for r in found
    )


def _exponents(file: dict[str, Any]) -> str:
    axes = file["results"]["axes"]
    return ", ".join(f"{a} {axes[a]['exponents']['time']:.2f}" for a in ("batch", "blocks") if a in axes)


def _compile(file: dict[str, Any]) -> str | None:
    found = [r for r in file["results"] if r["program"] == "dyck 40"]
    return (
        f"{found[0]['sides']['ours']['median_s']:.2f} s, {found[0]['speedup']['median']:.0f}×" if found else None
    )


def _answers_share(file: dict[str, Any]) -> str:
    found = file["results"]
    floor = found["needed_flops"] / found["matrix_product_flops_per_s"]
    return f"{100 * floor / found['sides']['ours, batched']['median_s']:.0f} %"


def _answers_faster(file: dict[str, Any]) -> str:
    sides = file["results"]["sides"]
    return ", ".join(f"{sides[n]['ours_faster']['median']:.1f}×" for n in ("HF, batched", "HF, one at a time"))


_GPU = "one GPU, gpt2-large, bfloat16, B 16 and 128, against torch.compile; FLOP utilisation"
# (what, goal, file, its measured value)
_GOALS: list[tuple[str, str, str, Callable[[dict[str, Any]], str | None]]] = [
    ("training step of gpt2's shape, B 2, against PyTorch (better of eager and compiled)", "1.5×", "step_torch",
     _speedup(2)),
    ("the same, B 16", "1.3×", "step_torch", _speedup(16)),
    ("model FLOP utilisation, B 16, of a measured matrix product", "60 %", "step_torch", _utilisation),
    ("optimiser and gradient norm, B 16, share of the step", "≤ 15 %", "step_torch", _update_share),
    ("teacher, share of the step", "≤ 2 %", "teacher", _teacher_share),
    ("1,000 dyck answers of the bundled model, share of a product's rate", "85 %", "evaluate", _answers_share),
    ("the same, against HF's generate in the same batches, and one at a time", "–", "evaluate", _answers_faster),
    ("process start to first step, gpt2-large's shape", "≤ 60 s", "startup", _start("cold cache")),
    ("the same, second start (compilation cache)", "≤ 20 s", "startup", _start("warm cache")),
    ("cost of a step ∝ size^p, p of", "≤ 1", "scaling", _exponents),
    ("dyck program for 40 positions compiled, against tracr", "< 1 s", "compile", _compile),
    (_GPU, "1.3×; 25 and 45 %", "step_gpu", _gpu),
]  # fmt: skip


def main() -> None:
    files = read_files()
    marked.replace(RESULTS, SUMMARY, summary(files))
    marked.replace(HERE / "README.md", TABLES, tables(files))


if __name__ == "__main__":
    common.main(main)
