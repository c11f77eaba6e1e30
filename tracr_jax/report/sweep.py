"""A sweep as a picture and a table: right answers against the language lost, one point per run."""

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tracr_jax.files import read_json, reading
from tracr_jax.names import SWEEP
from tracr_jax.report.markup import esc, section
from tracr_jax.report.png import INK, SERIES, SOFT, calm, save

PICTURE = "sweep.png"
_MARKS = "osD^vPX*"  # by weight of the language term


def read_sweep(folder: str | Path) -> dict[str, Any]:
    """The content of sweep.json, see `tracr_jax.sweep.collect`.

    Raises:
      UserError: there is no sweep, or its file is damaged.
    """
    path = Path(folder) / SWEEP
    with reading(path):
        found = read_json(path)
        points = [
            {
                "method": str(p["method"]),
                "retention": float(p["retention"]),
                "seed": int(p["seed"]),
                "kl": float(p["kl"]),
                "accuracy": {key: float(p["accuracy"][key]) for key in ("accuracy", "low", "high")},
            }
            for p in found["points"]
        ]
        named = {key: str(found[key]) for key in ("task", "lm", "set")}
        failed = [f"{f['folder']} failed: {f['why']}" for f in found.get("failed", ())]
        return {**named, "runs": int(found["runs"]), "points": points, "failed": failed}


def by_method(points: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], list[Mapping[str, Any]]]:
    """The points of each method and weight of the language term, in their order."""
    groups: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for p in points:
        groups.setdefault((p["method"], p["retention"]), []).append(p)
    return groups


def sweep_section(found: Mapping[str, Any], picture: bytes) -> str:
    """The picture and the table of a sweep as HTML; every number of the picture stands in the table."""
    rows = []
    for (method, weight), points in by_method(found["points"]).items():
        for p in points:
            a = p["accuracy"]
            cells = (
                f"{100 * a['accuracy']:.1f} ({100 * a['low']:.1f} to {100 * a['high']:.1f})",
                f"{p['kl']:.3f}",
            )
            numbers = "".join(f"<td>{cell}</td>" for cell in (f"{weight:g}", p["seed"], *cells))
            rows.append(f'<tr><th scope="row">{esc(method)}</th>{numbers}</tr>')
    heads = ("retention weight", "seed", f"right on {esc(found['set'])}, %", "KL to the original, nats per token")
    table = (
        '<div class="scroll" tabindex="0"><table class="plain"><thead><tr><th>method</th>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    image = base64.b64encode(picture).decode()
    told = "The numbers are in the table below."
    figure = f'<img alt="Right answers against the language lost. {told}" src="data:image/png;base64,{image}">'
    how = (
        "Each point is a run; its bar is the 95 % interval of its items. The KL divergence from the original "
        "model is the mean over the positions of held-out text."
    )
    failed = "".join(f'<p class="missing">{esc(line)}</p>' for line in found["failed"])
    return section("summary", "What do the answers cost?", (), how, figure + table + failed)


def draw_sweep(folder: str | Path) -> Path:
    """Draw sweep.png beside sweep.json.

    Raises:
      UserError: there is no sweep, or its file is damaged.
    """
    found = read_sweep(folder)
    points, where, task = found["points"], found["set"], f"{found['task']} in {found['lm']}"
    methods = list(dict.fromkeys(p["method"] for p in points))
    weights = sorted({p["retention"] for p in points})
    figure = Figure(figsize=(7.6, 4.8), dpi=160, layout="constrained", facecolor="white")
    ax = figure.subplots()
    for p in points:
        a = p["accuracy"]
        share = np.array([[a["accuracy"] - a["low"]], [a["high"] - a["accuracy"]]]) * 100
        ax.errorbar(
            p["kl"],
            100 * a["accuracy"],
            yerr=np.maximum(share, 0),
            fmt=_MARKS[weights.index(p["retention"]) % len(_MARKS)],
            color=SERIES[1 + methods.index(p["method"]) % (len(SERIES) - 1)],
            markersize=6,
            linewidth=1,
            alpha=0.85,
        )
    for i, method in enumerate(methods):
        ax.plot([], [], color=SERIES[1 + i % (len(SERIES) - 1)], linewidth=5, label=method)
    for i, weight in enumerate(weights):
        ax.plot([], [], _MARKS[i % len(_MARKS)], color=SOFT, label=f"retention {weight:g}")
    ax.set_xlabel("KL to the original model on held-out text, nats per token", color=SOFT)
    ax.set_ylabel(f"right on {where}, %", color=SOFT)
    ax.set_ylim(-2, 102)
    ax.set_title(f"{task}: answers against the language lost", loc="left", fontsize=11, color=INK)
    if points:
        ax.legend(frameon=False, fontsize=8, loc="best")
    calm(ax)
    return save(figure, Path(folder) / PICTURE)
