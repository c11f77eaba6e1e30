"""The retention table: the same measures for the original, the injected and the fine-tuned model.

Source: docs/method.md §10. All columns use the run's tokenizer, the one with the task's merges
(docs/differences.md D31). Windows hold as many tokens as the model has positions, at most 1,024, and every token
but a text's first is scored once, from the tokens before it in its window. Texts longer than the model are cut:
LAMBADA on the left, where its target stays.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracr_jax.config_file import read_config
from tracr_jax.data.samples import check_items
from tracr_jax.measure.language import glue, texts
from tracr_jax.measure.language.scores import choose, exp_of_mean, mean_kl, perplexity, score_rows
from tracr_jax.progress import Say
from tracr_jax.runs.baseline import check_baseline
from tracr_jax.runs.model import Injected, open
from tracr_jax.stats import wilson
from tracr_jax.types import Params

LONGEST_WINDOW = 1024
# Three columns of the bundled model: about 250 CPU seconds, at 2,600 tokens a CPU second (measured, machine busy).
DEFAULT_TEXTS, DEFAULT_TOKENS = 800, 32_768

COLUMNS = ("original", "injected", "baseline")
_NO_BASELINE = "baseline not run: no --baseline"
SHARE, PER_TOKEN, NATS = "share", "perplexity per token", "nats per token"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    unit: str
    higher_is_better: bool
    items: int
    """How many things the number is a mean over."""
    note: str
    """How the set was made, or "not run: reason"."""


@dataclass(frozen=True)
class Measure:
    """Rows that come out of one pass over one set."""

    name: str
    rows: tuple[Row, ...]
    score: Callable[[Params], tuple[float, ...]] | None
    """Parameters -> one value a row; None where it cannot be run."""


def measure_retention(
    run: Injected,
    *,
    baseline: Params | None = None,
    items: int | None = None,
    full: bool = False,
    data_dir: Path | None = None,
    say: Say = lambda _: None,
) -> dict[str, Any]:
    """How much of the language three models keep: "rows" of retention.json, with sizes and seconds beside them.

    Args:
      run: gives both models, the tokenizer and the held-out text.
      baseline: the model that was only fine-tuned, see `open_baseline`.
      items: at most so many texts, lines or windows of each set, always the first ones; by default 800 texts of
        LAMBADA, SST-2 and MRPC, 2,000 lines, and windows of 32,768 tokens.
      full: whole sets.
      data_dir: folder with SST-2 and MRPC, see `glue.examples`.
      say: receives one line before each set.

    Raises:
      UserError: `items` is less than one, or there is no folder `data_dir`.
    """
    check_items(items)
    columns = dict(zip(COLUMNS, (run.original.params, run.params, baseline), strict=True))
    sizes = _Sizes(run, items, full)
    rows, seconds = [], {}
    for measure in _measures(run, sizes, data_dir):
        started = time.perf_counter()
        if measure.score is not None:
            say(f"{measure.name}: {measure.rows[0].note}")
        values = {name: _values(measure, params) for name, params in columns.items()}
        for i, row in enumerate(measure.rows):
            rows.append(_as_json(row, {name: None if v is None else v[i] for name, v in values.items()}))
        seconds[measure.name] = round(time.perf_counter() - started, 2)
    about = {"positions": run.model.max_positions, "window": sizes.window, "items": items, "full": full}
    return {"about": about | {"seconds": seconds}, "weights": run.digest, "rows": rows}


def open_baseline(folder: str | Path, run: Injected) -> Params:
    """The language model of a fine-tuning run of the same task and model.

    Raises:
      UserError: it is no run, was not fine-tuned only, or is of another task or model, or of one with a program.
    """
    check_baseline(read_config(folder), run.program.config, folder=folder)
    return open(folder, lm=run.base, finished=True).params


def _values(measure: Measure, params: Params | None) -> tuple[float, ...] | None:
    if measure.score is None or params is None:
        return None
    return measure.score(params)


def _as_json(row: Row, values: dict[str, float | None]) -> dict[str, Any]:
    # A model that has diverged has no finite perplexity, and JSON no infinity.
    broken = [name for name, v in values.items() if v is not None and not math.isfinite(v)]
    notes = [row.note, *(f"{name} not finite" for name in broken)]
    if values["baseline"] is None and values["original"] is not None:
        notes.append(_NO_BASELINE)
    finite = {name: None if name in broken else v for name, v in values.items()}
    out = {"name": row.name, "unit": row.unit, "higher_is_better": row.higher_is_better, **finite}
    out |= {"items": row.items, "note": "; ".join(n for n in notes if n)}
    if row.unit == SHARE:
        out["intervals"] = {
            name: None if v is None else list(wilson(round(v * row.items), row.items))
            for name, v in finite.items()
        }
    return out


class _Sizes:
    """How much of each set is read."""

    def __init__(self, run: Injected, items: int | None, full: bool):
        self.window = min(run.model.max_positions, LONGEST_WINDOW)
        self.texts = None if full else items or DEFAULT_TEXTS
        self.lines = None if full else items
        self.windows = None if full else items or -(-DEFAULT_TOKENS // self.window)


def _measures(run: Injected, sizes: _Sizes, data_dir: Path | None) -> Iterator[Measure]:
    yield _lambada(run, sizes)
    yield _lines(run, sizes)
    yield _stream(run, sizes, "Tiny Shakespeare, corpus", texts.shakespeare(), "the same 2,000 lines as one text")
    yield _stream(run, sizes, "WikiText-2", texts.wikitext(), "test split")
    yield _held_out(run, sizes)
    for task in (glue.SST2, glue.MRPC):
        yield _glue(run, sizes, task, data_dir)


def _lambada(run: Injected, sizes: _Sizes) -> Measure:
    model, positions = run.model, run.model.max_positions
    every = texts.lambada_texts()
    chosen = every[: sizes.texts]
    rows = texts.last_word_rows(chosen, run.program.tokenizer, positions=positions)

    def score(params):
        ends = [s.right[-n:] for s, n in zip(score_rows(model, params, rows.ids), rows.targets, strict=True)]
        return float(np.mean([e[-1] for e in ends])), float(np.mean([e.all() for e in ends]))

    note = _note(_first(len(chosen), len(every), "texts"), _cut(rows, "on the left", positions))
    if not rows.ids:
        empty = (Row(f"LAMBADA, last {unit}", SHARE, True, 0, "") for unit in ("token", "word"))
        return _not_run("LAMBADA", *empty, reason=f"no last word fits the model's {positions} positions")
    words = f"a last word has {np.mean(rows.targets):.2f} tokens on average"
    both = (
        Row("LAMBADA, last token", SHARE, True, len(rows.ids), note),
        Row("LAMBADA, last word", SHARE, True, len(rows.ids), _note(note, words)),
    )
    return Measure("LAMBADA", both, score)


def _lines(run: Injected, sizes: _Sizes) -> Measure:
    model, positions = run.model, run.model.max_positions
    text = texts.shakespeare()
    rows = texts.line_rows(text, run.program.tokenizer, positions=positions, limit=sizes.lines)
    of = sum(bool(line.strip()) for line in text.splitlines())
    count = min(of, sizes.lines or of)

    def score(params):
        return (float(np.mean([exp_of_mean(s.nll) for s in score_rows(model, params, rows.ids)])),)

    what = f"mean of the lines' own perplexities, each line alone; {_first(count, of, 'lines')}"
    note = _note(what, _cut(rows, "on the right", positions))
    name = "Tiny Shakespeare, mean over lines"
    return Measure(name, (Row(name, PER_TOKEN, False, len(rows.ids), note),), score)


def _stream(run: Injected, sizes: _Sizes, name: str, text: str, what: str) -> Measure:
    ids = run.program.tokenizer.encode(text)
    rows = texts.stream_rows(ids, length=sizes.window, limit=sizes.windows)
    of = -(-(len(ids) - 1) // sizes.window)
    note = _note(what, f"{_first(len(rows), of, 'windows')} of {sizes.window} tokens")
    scored = sum(len(r) - 1 for r in rows)
    return Measure(
        name,
        (Row(name, PER_TOKEN, False, scored, note),),
        lambda params: (perplexity(run.model, params, rows),),
    )


def _held_out(run: Injected, sizes: _Sizes) -> Measure:
    windows = run.valid_text[: sizes.windows]
    count, length = windows.shape
    # The whole sample is that of evaluation.json.
    note = _note(f"{_first(count, len(run.valid_text), 'windows')} of {length} tokens")
    model, original = run.model, run.original.params

    def score(params):
        return perplexity(model, params, windows), mean_kl(model, params, original, windows)

    first = Row("held-out text", PER_TOKEN, False, count * (length - 1), note)
    second = Row("KL to the original", NATS, False, count * length, _note("on held-out text", note))
    return Measure("held-out text", (first, second), score)


def _glue(run: Injected, sizes: _Sizes, task: glue.Glue, data_dir: Path | None) -> Measure:
    model, positions = run.model, run.model.max_positions
    try:
        every = glue.examples(task, folder=data_dir)
        choices = [run.program.tokenizer.encode(answer)[0] for answer in task.answers]
        if choices[0] == choices[1]:
            raise glue.NotRun(f"{' and '.join(map(repr, task.answers))} begin with the same token")
    except glue.NotRun as e:
        return _not_run(task.title, Row(task.title, SHARE, True, 0, ""), reason=str(e))
    chosen = every[: sizes.texts]
    encoded = run.program.tokenizer.encode_batch([e.prompt for e in chosen])
    rows = texts.TextRows([r[-positions:] for r in encoded], [], sum(len(r) > positions for r in encoded))
    truth = np.array([e.label for e in chosen])
    most = max(np.mean(truth), 1 - np.mean(truth))

    def score(params):
        return (float(np.mean(choose(model, params, rows.ids, choices=choices) == truth)),)

    note = _note(
        _first(len(chosen), len(every), "validation examples"),
        f"two shots, always the commoner answer {most:.3f}",
        _cut(rows, "on the left", positions),
    )
    return Measure(task.title, (Row(task.title, SHARE, True, len(chosen), note),), score)


def _not_run(name: str, *rows: Row, reason: str) -> Measure:
    return Measure(name, tuple(dataclasses.replace(r, note=f"not run: {reason}") for r in rows), None)


def _first(count: int, of: int, what: str) -> str:
    return f"all {of:,} {what}" if count == of else f"the first {count:,} of {of:,} {what}"


def _cut(rows: texts.TextRows, where: str, positions: int) -> str:
    parts = [f"{rows.cut} cut {where} to the model's {positions} positions"] if rows.cut else []
    parts += [f"{rows.skipped} too short or too long to score"] if rows.skipped else []
    return ", ".join(parts)


def _note(*parts: str) -> str:
    return "; ".join(p for p in parts if p)
