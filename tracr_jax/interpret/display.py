"""A decoded text as a table: tokens down, variables across; for the terminal (rich) and for notebooks (HTML).

A wrong value is never marked by colour alone: it is written 3≠2 (read 3, the program holds 2). Everything that
comes from a text is escaped.
"""

import html
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

from tracr_jax.measure.variables.reading import NOTHING

if TYPE_CHECKING:
    from tracr_jax.interpret.decode import Decoded

WEAK = 1.0  # margin (logits) below which a reading is marked as uncertain
_LEGEND = "2: read, and right   2?: right, margin below 1   3≠2: read 3, the program holds 2   –: not defined here"
_STYLES = {"right": "green", "weak": "yellow", "wrong": "bold red", "nothing": "dim", "number": "cyan"}
_CSS = {
    "right": "color:#1a7f4b",
    "weak": "color:#8a6100",
    "wrong": "font-weight:bold;color:#b3261e;outline:2px solid #b3261e;outline-offset:-2px",
    "nothing": "opacity:.45",
    "number": "color:#22648f",
}
_LONGEST_TOKEN = 16


def visible(text: str) -> str:
    """Text with its blanks and control characters made visible: nothing of it can move a terminal's cursor."""
    text = text.replace(" ", "␣").replace("\n", "⏎")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@dataclass(frozen=True, eq=False)
class DecodedTable:
    """One layer of a decoded text; prints itself with rich, and as HTML in a notebook."""

    decoded: "Decoded"
    layer: int
    order: tuple[int, ...]
    """Variables, by their place in `decoded.variables`."""
    complete: bool
    """Show all of them, in several tables where one is too wide; else as many as fit."""

    def cell(self, variable: int, position: int) -> tuple[str, str]:
        """Text and state ("right", "weak", "wrong", "nothing", "number") of one cell."""
        d, at = self.decoded, (self.layer, variable, position)
        v = d.variables[variable]
        if v.kind != "categorical":
            if self.layer < v.writer_layer:
                return "–", "nothing"
            true = "" if np.isnan(d.true_numbers[at]) else f" ({d.true_numbers[at]:.2f})"
            return f"{d.numbers[at]:.2f}{true}", "number"
        truth, value = d.truth[at], d.values[at]
        if truth == NOTHING:
            return "–", "nothing"
        if value != truth:
            return f"{_shown(v.values[value])}≠{_shown(v.values[truth])}", "wrong"
        weak = len(v.values) > 1 and d.margins[at] < WEAK
        return _shown(v.values[value]) + ("?" if weak else ""), "weak" if weak else "right"

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Tables no wider than the terminal, and a legend."""
        pages = list(self._pages(options.max_width))
        for page in pages if self.complete else pages[:1]:
            table = Table(
                title=self.title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1)
            )
            table.add_column("token", no_wrap=True)
            for i in page:
                table.add_column(Text(_stacked(self.decoded.title(i))), no_wrap=True)
            for s, token in enumerate(self._tokens()):
                cells = (self.cell(i, s) for i in page)
                table.add_row(Text(token), *(Text(text, style=_STYLES[state]) for text, state in cells))
            yield table
        yield Text(_LEGEND, style="dim")
        left = len(self.order) - (0 if self.complete or not pages else len(pages[0]))
        if not self.complete and left:
            yield Text(f"not shown for lack of room: {left} of {len(self.order)} variables", style="dim")

    def _repr_html_(self) -> str:
        """A table with the margins as hints; scrolls sideways where it is wide."""
        esc = html.escape
        head = "".join(f"<th scope='col'>{esc(self.decoded.title(i))}</th>" for i in self.order)
        rows = []
        for s, token in enumerate(self._tokens()):
            cells = []
            for i in self.order:
                text, state = self.cell(i, s)
                hint = f" title='margin {self.decoded.margins[self.layer, i, s]:.2f}'" if state in _MARGIN else ""
                cells.append(f"<td style='{_CSS[state]}'{hint}>{esc(text)}</td>")
            rows.append(f"<tr><th scope='row'><code>{esc(token)}</code></th>{''.join(cells)}</tr>")
        return (
            f"<div style='overflow-x:auto'><table><caption>{esc(self.title)}. {esc(_LEGEND)}</caption>"
            f"<thead><tr><th scope='col'>token</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )

    @property
    def title(self) -> str:
        """Which layer this is."""
        last = self.decoded.layers - 1
        return f"variables at layer {self.layer} of 0..{last}"

    def _tokens(self) -> list[str]:
        shown = [visible(t) for t in self.decoded.tokens]
        return [t if len(t) <= _LONGEST_TOKEN else t[: _LONGEST_TOKEN - 1] + "…" for t in shown]

    def _pages(self, width: int) -> Iterator[list[int]]:
        # rich puts one blank left and right of the table, and one beside the padding between columns.
        first = 2 + max(5, *map(_cells, self._tokens()))
        page, used = [], first
        for i in self.order:
            texts = (self.cell(i, s)[0] for s in range(len(self.decoded.tokens)))
            lines = _stacked(self.decoded.title(i)).split("\n")
            need = 2 + max(map(_cells, [*lines, *texts]))
            if page and used + need > width:
                yield page
                page, used = [], first
            page.append(i)
            used += need
        if page:
            yield page


_MARGIN = ("right", "weak", "wrong")


def _cells(text: str) -> int:
    return Text(text).cell_len


def _shown(value: Any) -> str:
    return visible(value) if isinstance(value, str) else str(value)


def _stacked(name: str) -> str:
    """A long name over several lines, cut after underscores."""
    lines = [""]
    for part in visible(name).replace("_", "_ ").split():
        if lines[-1] and len(lines[-1] + part) > 9:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)
