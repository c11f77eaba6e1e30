"""dyck in the bundled model over seeds, by the presets that a user starts with: the table "dyck over seeds".

    python -m experiments.dyck_seeds          writes it into results.md, from the JSON files beside this script

The files are what `experiments.record` keeps of `tracr-jax inject dyck --seed N`, with `--preset exchange`, with
`--preset finetune`, and of `tracr-jax interpret RUN --pairs 60 --prompts 200 --items 100 --seeds 0`.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from experiments import marked
from tracr_jax.files import read_json
from tracr_jax.report.swaps import measured, outside, together

HERE = Path(__file__).parent
NAME = "dyck over seeds"
SETS = (
    "test", "near_miss_balanced", "order_miss_balanced", "length_ood", "almost_balanced", "almost_balanced_even",
    "deep_one_type", "long_runs", "ood_new_token", "spaced", "other_question",
)  # fmt: skip


def _three_seeds(name: str) -> list[str]:
    return [name, f"{name}_seed1", f"{name}_seed2"]


RUNS: Mapping[str, Sequence[str]] = {
    "fine-tuning": ["main_job_tiny_finetune"],
    "injection": _three_seeds("main_job_tiny"),
    "exchange training": _three_seeds("main_job_tiny_exchange"),
    "exchange, --varied": ["main_job_tiny_exchange_varied"],
    "exchange, --shift 64": _three_seeds("main_job_tiny_exchange_shift"),
    "exchange, both": ["main_job_tiny_exchange_shift_varied"],
    "injection, --shift 64": _three_seeds("main_job_tiny_shift"),
    "fine-tuning, --shift 64": ["main_job_tiny_finetune_shift"],
}
"""Names of the files of each method, its seeds in order."""
_HOW = (
    "*Followed*: of the swaps that change the program's answer, on prompts that the model answers rightly. "
    "A *cell* is a variable at a layer. *Used*: variables whose swap is followed more often than every control, "
    "with 95 % intervals that do not overlap, at all their layers; after the slash, how many meet this in the "
    "compiled program itself. *Outside*: answers that move when everything that no variable holds is exchanged. "
    "*Error*: causal abstraction error, one variable exchanged."
)


def interpretation_of(name: str) -> Path:
    """The file of what interpret found in a run."""
    return HERE / f"{name.replace('main_job_tiny', 'interpret_tiny')}.json"


def table(runs: Mapping[str, Sequence[tuple[Mapping[str, Any], Mapping[str, Any] | None]]]) -> str:
    """The table in Markdown; `runs`: of each method, (what a run answers, its swaps or None) by seed."""
    items = sorted({m["evaluation"]["items_per_set"] for of in runs.values() for m, _ in of})
    lines = [
        f"`python -m experiments.dyck_seeds`: the presets of the bundled model, {', '.join(map(str, items))} "
        f"items a set; seeds 0, 1, 2 in this order; exact match in %. {_HOW}",
        "",
        "| | " + " | ".join(runs) + " |",
        "|---|" + "--:|" * len(runs),
    ]

    def row(name: str, value: Callable[[Mapping[str, Any], Mapping[str, Any] | None], str]) -> None:
        lines.append(
            f"| {name} | " + " | ".join(_each([value(*one) for one in of]) for of in runs.values()) + " |"
        )

    for name in SETS:
        row(name, lambda m, _, name=name: f"{100 * m['evaluation']['sets'][name]['injected']['accuracy']:.0f}")
    row("perplexity, held-out text", lambda m, _: f"×{_perplexity(m):.3f}")
    of_swaps: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
        "followed": lambda s: _percent(together(measured(s["cells"], "swap"))),
        "followed, median over cells": _median,
        "used": _used,
        "outside": lambda s: _percent(outside(s["cells"])),
        "error": lambda s: f"{s['causal_abstraction_error']['mapped']:.3f}",
    }
    for name, value in of_swaps.items():
        row(name, lambda _, s, value=value: value(s) if s else "–")
    row("minutes of training", lambda m, _: f"{m['run']['times']['training_s'] / 60:.0f}")
    return "\n".join(lines)


def _each(values: Sequence[str]) -> str:
    return values[0] if len(set(values)) == 1 and values[0] == "–" else ", ".join(values)


def _perplexity(main_job: Mapping[str, Any]) -> float:
    found = main_job["evaluation"]["retention"]
    return found["injected"] / found["original"]


def _used(swaps: Mapping[str, Any]) -> str:
    program = swaps.get("used_by_program")
    return f"{len(swaps['used'])}" + (f"/{len(program)}" if program is not None else "")


def _percent(counts: tuple[int, int]) -> str:
    right, total = counts
    return f"{100 * right / total:.0f}" if total else "–"


def _median(swaps: Mapping[str, Any]) -> str:
    return f"{100 * median(s['accuracy'] for s in measured(swaps['cells'], 'swap')):.0f}"


def recorded() -> dict[str, list[tuple[Mapping[str, Any], Mapping[str, Any] | None]]]:
    """All runs, from their files."""
    out = {}
    for method, names in RUNS.items():
        kept = [(read_json(HERE / f"{name}.json"), interpretation_of(name)) for name in names]
        out[method] = [(m, read_json(path)["swaps"] if path.exists() else None) for m, path in kept]
    return out


if __name__ == "__main__":
    marked.replace(HERE / "results.md", NAME, table(recorded()))
