"""Still figures for a README or a talk, drawn with matplotlib from the same files.

The object interface of matplotlib is used throughout: no window, no global state, no display needed.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from tracr_jax.errors import UserError
from tracr_jax.files import replacing
from tracr_jax.report.data import loss_curves, scorecard_of
from tracr_jax.report.load import RunFiles, load_runs
from tracr_jax.report.markup import AskedSet, by_task_and_model, letters_at, rule_letters, sets_of
from tracr_jax.report.words import plain, whole

# Okabe and Ito's colours, darkened where text stands on white.
SERIES = ("#8b929a", "#0072b2", "#bb4c00", "#00805c", "#a8588a", "#2a8fc7", "#8a6d00")
INK, SOFT, _LINE, _BAD = "#1c1e21", "#5c6269", "#dfe1e4", "#c62a12"
_COLUMNS = 28  # tokens of the picture
_HATCHES = ("", "", "///", "...", "xxx", "\\\\\\", "+++")


def write_figures(runs: Sequence[RunFiles], page: Path) -> list[Path]:
    """Write PAGE_answers.png, PAGE_scorecard.png, PAGE_losses.png beside the page, where there are numbers."""
    out = []
    with_answers = [r for r in runs if r.evaluation]
    if with_answers:
        height = 1.1 + len(_answer_rows(with_answers)) * (0.24 * (len(with_answers) + 1) + 0.22)
        out.append(_write(page, "answers", (8.4, height), lambda ax: draw_answers(ax, with_answers)))
    card = next((r for r in runs if scorecard_of(r)), None)
    if card:
        rows, columns = _matrix(card)[0].shape
        size = (2.9 + 0.52 * columns, 1.3 + 0.29 * rows)
        out.append(_write(page, "scorecard", size, lambda ax: draw_scorecard(ax, card)))
    if loss_curves(runs[0]):
        out.append(_write(page, "losses", (8.4, 4.2), lambda ax: draw_losses(ax, runs[0])))
    return out


def draw_picture(folder: str | Path, path: str | Path, *, example: int = 0) -> Path:
    """One picture for a README: what is read from the model for one prompt, and how it answers.

    Args:
      folder: a run folder with interpretation.json and evaluation.json.
      path: the PNG file.
      example: which of the interpretation's examples.

    Raises:
      UserError: the run has no such example or no evaluation, or the path does not end in .png.
    """
    if Path(path).suffix != ".png":
        raise UserError(f"{path}: the picture must end in .png")
    run = load_runs([folder])[0]
    examples = run.part("examples") or []
    if not 0 <= example < len(examples) or not run.evaluation:
        raise UserError(
            f"{run.folder}: the picture needs evaluation.json and example {example} of interpretation.json"
        )
    chosen = examples[example]
    rows = len(_held(run, chosen))
    figure = Figure(figsize=(13.6, max(4.4, 1.7 + 0.3 * rows)), dpi=160, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2, width_ratios=[2.1, 1])
    draw_example(left, run, chosen)
    draw_answers(right, [run])
    return save(figure, Path(path))


def draw_answers(ax: Axes, runs: Sequence[RunFiles]) -> None:
    """Accuracy on every set with intervals: before, and each run; trivial rules as letters."""
    rows = _answer_rows(runs)
    letters = rule_letters(rows)
    bars = len(runs) + 1
    step = 0.8 / bars
    for row, asked in enumerate(rows):
        for i, _, a in [(0, "before", asked.found["original"]), *asked.runs]:
            y = row - 0.4 + step * (i + 0.5)
            ax.barh(
                y, 100 * a["accuracy"], height=step * 0.86, color=SERIES[i % 7], hatch=_HATCHES[i % 7],
                edgecolor="white", linewidth=0,
            )  # fmt: skip
            ax.plot([100 * a["low"], 100 * a["high"]], [y, y], color=INK, linewidth=1.4, solid_capstyle="butt")
        for rule, at in letters_at(asked.found["baselines"], letters):
            ax.plot([100 * at] * 2, [row - 0.42, row + 0.42], color=SOFT, linestyle=":", linewidth=1.2)
            ax.annotate(
                rule,
                (100 * at, row + 0.42),
                ha="center",
                va="bottom" if ax.yaxis_inverted() else "top",
                fontsize=7.5,
                color=SOFT,
            )
    ax.set_yticks(range(len(rows)), [_safe(asked.title) for asked in rows], parse_math=False)
    ax.set_ylim(len(rows) - 0.35, -0.6)
    ax.set_xlim(0, 101)
    rules_line = "   ".join(f"{k}: {plain(b)}" for b, k in letters.items())
    ax.set_xlabel(f"exact match, %, with 95 % intervals\n{rules_line}", fontsize=8, color=SOFT)
    names = ["before", *(r.name for r in runs)]
    known = [Patch(facecolor=SERIES[i % 7], hatch=_HATCHES[i % 7], edgecolor="white") for i in range(bars)]
    ax.legend(
        known,
        names,
        loc="lower left",
        bbox_to_anchor=(0, 1.0),
        ncols=bars,
        frameon=False,
        fontsize=8,
        borderaxespad=0.2,
    )
    ax.set_title("How often it answers right", loc="left", fontsize=11, pad=24)
    calm(ax)


def _answer_rows(runs: Sequence[RunFiles]) -> list[AskedSet]:
    """The sets of all runs, tasks and models apart."""
    groups = by_task_and_model(runs)
    return [
        asked._replace(title=f"{title}: {asked.title}") if len(groups) > 1 else asked
        for title, group in groups.items()
        for asked in sets_of(group)
    ]


def draw_scorecard(ax: Axes, run: RunFiles) -> None:
    """Decode accuracy on the test set, variable × layer, all positions; slanted where no better than the floor."""
    values, floor, names = _matrix(run)
    _heat(ax, values)
    for i, j in np.argwhere(np.isfinite(values)):
        weak = values[i, j] <= floor[i, j]
        ax.text(
            j, i, whole(float(values[i, j])), ha="center", va="center", fontsize=8,
            style="italic" if weak else "normal", color="white" if values[i, j] > 0.6 else INK,
        )  # fmt: skip
    ax.set_yticks(range(len(names)), [_safe(n) for n in names], fontsize=8, family="monospace", parse_math=False)
    ax.set_xticks(range(values.shape[1]))
    ax.set_xlabel("layer   (italic: no better than majority or probe)", fontsize=8, color=SOFT)
    ax.set_title("Decoded right, %, test set", loc="left", fontsize=11)
    calm(ax, lines=False)


def _matrix(run: RunFiles) -> tuple[np.ndarray, np.ndarray, list[str]]:
    card = scorecard_of(run)
    assert card is not None
    table = card["sets"].get("test", next(iter(card["sets"].values())))["classes"]["all"]
    names = [n for n in card["order"] if n in table and table[n]["accuracy"]]
    values = np.array([[np.nan if v is None else v for v in table[n]["accuracy"]] for n in names], float)
    probes = [table[n].get("probe") or [None] * card["layers"] for n in names]
    probe = np.array([[-1 if v is None else v for v in p] for p in probes], float)
    majority = np.array([table[n]["majority"] or 0.0 for n in names])[:, None]
    return values.reshape(len(names), card["layers"]), np.maximum(probe, majority), names


def draw_losses(ax: Axes, run: RunFiles) -> None:
    """Each term of the loss over the steps, logarithmic."""
    for i, c in enumerate(loss_curves(run)):
        style = ("-", "--", ":", "-.", (0, (1, 1)))[i % 5]
        mean = np.array(c["mean"], float)
        ax.plot(
            c["steps"],
            np.where(mean > 0, mean, np.nan),
            color=SERIES[1 + i % 6],
            linestyle=style,
            label=c["title"],
            linewidth=1.6,
        )
        ax.fill_between(
            c["steps"],
            np.maximum(c["low"], 1e-12),
            np.maximum(c["high"], 1e-12),
            color=SERIES[1 + i % 6],
            alpha=0.15,
            linewidth=0,
        )
    ax.set_yscale("log")
    floors = [c["floor"] for c in loss_curves(run) if c["floor"]]
    if floors:
        ax.set_ylim(bottom=min(floors) / 1.5)
    ax.set_xlabel("step", color=SOFT)
    ax.set_title(f"Losses, {run.name}", loc="left", fontsize=11)
    ax.legend(frameon=False, fontsize=8)
    calm(ax)


def draw_example(ax: Axes, run: RunFiles, example: dict[str, Any]) -> None:
    """What is read of each variable at the last layer that encodes it; red frames: the program differs."""
    held = _held(run, example)
    rows = list(held)
    first = max(0, len(example["tokens"]) - _COLUMNS)  # a long prompt's beginning is left out
    tokens = example["tokens"][first:]
    layers = example["layers"]
    values, margins, truth = (
        {i: table(layer)[i][first:] for i, layer in held.items()}
        for table in (
            lambda layer: layers[layer]["value"],
            lambda layer: layers[layer]["margin"],
            lambda layer: example["truth"][layer],
        )
    )
    full = np.percentile([m for i in rows for m in margins[i] if m is not None] or [1.0], 90) or 1.0
    shade = np.full((len(rows), len(tokens)), np.nan)
    for y, i in enumerate(rows):
        for x in range(len(tokens)):
            if truth[i][x] is None or values[i][x] is None:
                ax.text(x, y, "·", ha="center", va="center", fontsize=7, color=SOFT)
                continue
            shade[y, x] = min(1.0, max(0.05, (margins[i][x] or 0.0) / full))
            text = str(run.variables[i]["values"][values[i][x]])
            text = {"True": "T", "False": "F"}.get(text, text[:5])
            text += "…" if str(values[i][x]) in run.variables[i].get("alike", {}) else ""
            ink = "white" if shade[y, x] > 0.6 else INK
            ax.text(x, y, _safe(text), ha="center", va="center", fontsize=7, color=ink, parse_math=False)
            if values[i][x] != truth[i][x]:
                ax.add_patch(_frame(x, y))
    _heat(ax, shade)
    one = len(set(held.values())) == 1
    names = [run.variables[i]["name"] + ("" if one else f" ({layer})") for i, layer in held.items()]
    ax.set_yticks(range(len(rows)), [_safe(n) for n in names], fontsize=8, family="monospace", parse_math=False)
    ax.set_xticks(
        range(len(tokens)),
        [_safe(t) for t in tokens],
        fontsize=8, family="monospace", parse_math=False,
    )  # fmt: skip
    longest = max(map(len, tokens), default=0)
    ax.tick_params(axis="x", labeltop=True, labelbottom=False, top=False, rotation=90 if longest > 3 else 0)
    how = "darker: larger margin to the next value; red frame: the program holds another; dot: it holds none"
    how += "" if one else "; in brackets: the layer"
    ax.set_xlabel(how, fontsize=8, color=SOFT)
    ax.set_title("The program's variables, read from the model at every token", loc="left", fontsize=11)
    calm(ax, lines=False)


def _heat(ax: Axes, shade: np.ndarray) -> None:
    """Cells with white gaps, first row on top; what is not finite stays empty."""
    height, width = shade.shape
    ax.imshow(shade, cmap="Blues", vmin=0, vmax=1.15, aspect="auto")
    ax.hlines(np.arange(height + 1) - 0.5, -0.5, width - 0.5, color="white", linewidth=1.6)
    ax.vlines(np.arange(width + 1) - 0.5, -0.5, height - 0.5, color="white", linewidth=1.6)


def _held(run: RunFiles, example: dict[str, Any]) -> dict[int, int]:
    """Variables that the program holds somewhere in the example, and the last layer that encodes each."""
    held = {}
    for i in sorted(range(len(run.variables)), key=lambda i: run.variables[i]["writer_layer"]):
        layers = [n for n, truth in enumerate(example["truth"]) if any(t is not None for t in truth[i])]
        if run.variables[i]["values"] and layers:
            held[i] = layers[-1]
    return held


def _frame(x: int, y: int):
    return Rectangle((x - 0.46, y - 0.44), 0.92, 0.88, fill=False, edgecolor=_BAD, linewidth=1.6)


def _safe(text: str) -> str:
    """Text that the bundled font can draw: others would be warnings and boxes. Outer spaces are made visible."""
    text = text.replace(" ", "␣").replace("\n", "↵") if text != text.strip() else text
    return "".join(c if c.isprintable() and ord(c) < 0x2500 else "?" for c in text)


def calm(ax: Axes, *, lines: bool = True) -> None:
    """No frame, and pale lines."""
    for side in ("top", "right", "left", "bottom"):
        ax.spines[side].set_visible(lines and side == "bottom")
    ax.tick_params(length=0, colors=INK, labelsize=8)
    if lines:
        ax.grid(axis="x", color=_LINE, linewidth=0.8)
        ax.set_axisbelow(True)


def _write(page: Path, name: str, size: tuple[float, float], draw: Callable[[Axes], None]) -> Path:
    figure = Figure(figsize=size, dpi=160, layout="constrained", facecolor="white")
    draw(figure.subplots())
    return save(figure, page.with_name(f"{page.stem}_{name}.png"))


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG file in one step."""
    with replacing(path) as f:
        figure.savefig(f, format="png")
    return path
