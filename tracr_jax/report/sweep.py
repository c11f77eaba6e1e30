"""The picture of a sweep: right answers against the language lost, one point per run with its interval."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from tracr_jax.files import read_json, reading
from tracr_jax.report.png import INK, SERIES, SOFT, calm, save

FILE, PICTURE = "sweep.json", "sweep.png"
_MARKS = "osD^vPX*"  # by weight of the language term


def draw_sweep(folder: str | Path) -> Path:
    """Draw sweep.png beside sweep.json.

    Raises:
      UserError: there is no sweep, or its file is damaged.
    """
    path = Path(folder) / FILE
    with reading(path):
        found = read_json(path)
        points, where, task = found["points"], found["set"], f"{found['task']} in {found['lm']}"
        methods = list(dict.fromkeys(p["method"] for p in points))
        weights = sorted({p["retention"] for p in points})
        figure = Figure(figsize=(7.6, 4.8), dpi=160, layout="constrained", facecolor="white")
        ax = figure.subplots()
        for p in points:
            a = p["accuracy"]
            share = np.array([[a["accuracy"] - a["low"]], [a["high"] - a["accuracy"]]]) * 100
            ax.errorbar(
                p["lost"],
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
    ax.set_xlabel("growth of the language model's loss on held-out text, nats per token", color=SOFT)
    ax.set_ylabel(f"right on {where}, %", color=SOFT)
    ax.set_ylim(-2, 102)
    ax.set_title(f"{task}: answers against the language lost", loc="left", fontsize=11, color=INK)
    if points:
        ax.legend(frameon=False, fontsize=8, loc="best")
    calm(ax)
    return save(figure, Path(folder) / PICTURE)
