"""A decoded text, displayed as a table: tokens down, variables across; for terminals and notebooks.

A wrong value is never marked by colour alone: it is written 3≠2 (read 3, the program holds 2). Everything that
comes from a text is escaped.
"""

import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from rich import box
from rich.console import Console, ConsoleOptions
from rich.table import Table
from rich.text import Text

from tracr_jax.errors import UserError
from tracr_jax.measure.variables.reading import NOTHING
from tracr_jax.teacher.model import Variable, find_variable, without_counter

BETWEEN = 0.5  # `Decoded.away` above which no centroid is near
WEAK = 1.0  # margin (logits) below which a reading is marked as uncertain
_LEGEND = "2: read, and right   2?: right, margin below 1   3≠2: read 3, the program holds 2   –: not defined here"
_UNKNOWN = "2: read; whether it is right is not known: "
_STYLES = {"right": "green", "weak": "yellow", "wrong": "bold red", "nothing": "dim", "number": "cyan", "read": ""}
_CSS = {
    "right": "color:#1a7f4b",
    "weak": "color:#8a6100",
    "wrong": "font-weight:bold;color:#b3261e;outline:2px solid #b3261e;outline-offset:-2px",
    "nothing": "opacity:.45",
    "number": "color:#22648f",
    "read": "",
}
_LONGEST_TOKEN = 16


def visible(text: str) -> str:
    """Text with its blanks and control characters made visible: nothing of it can move a terminal's cursor."""
    text = text.replace(" ", "␣").replace("\n", "⏎")
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


@dataclass(frozen=True, eq=False, repr=False)
class Decoded:
    """Every variable of the program at every position and layer of one text; displays as a table.

    Values are positions in `variables[i].values`, -1 where there is none: a numerical variable, a place where the
    program does not define the variable, or a layer at which the adapter does not read it (with reserved
    directions). n variables in the teacher's order, layers 0..L.
    """

    tokens: tuple[str, ...]
    token_ids: tuple[int, ...]
    variables: tuple[Variable, ...]
    result: str
    """Name of the program's result."""
    values: Int[np.ndarray, "L1 n S"]
    """Decoded from the model."""
    margins: Float[np.ndarray, "L1 n S"]
    """Best minus runner-up in logits; with reserved directions the place between the nearest centroid (1) and the
    border with the next (0). 0 for a numerical variable."""
    truth: Int[np.ndarray, "L1 n S"]
    """The program's own values."""
    numbers: Float[np.ndarray, "L1 n S"]
    """Decoded numerical variables, NaN for the others and where the adapter reads none."""
    true_numbers: Float[np.ndarray, "L1 n S"]
    """The program's values of numerical variables; NaN for others and where the oracle does not know them."""
    unknown: str = ""
    """Why the program's values are unknown, in which case `truth` is -1 everywhere; empty if they are known."""
    away: Float[np.ndarray, "L1 n S"] | None = None
    """With reserved directions: the distance to the nearest centroid, in units of that centroid's distance to its
    nearest neighbour. Above 1/2 the state is in between: no centroid is near."""

    alike: tuple[Mapping[int, str], ...] = ()
    """With reserved directions: for each variable the values that stand for several, and all of these."""

    @property
    def layers(self) -> int:
        """L + 1."""
        return len(self.values)

    def uncertain(self, at: tuple[int, int, int]) -> bool:
        """Whether the state at (layer, variable, position) is close to another value, or between values."""
        if len(self.variables[at[1]].values) < 2:
            return False
        return bool(self.margins[at] < WEAK if self.away is None else self.away[at] > BETWEEN)

    def index(self, name: str) -> int:
        """Index of a variable, by its full name or without the counter ("final_result").

        Raises:
          UserError: no variable or several answer to it.
        """
        return find_variable(self.variables, name)

    def title(self, i: int) -> str:
        """A variable's name, without tracr's counter where it is unique without."""
        short = [without_counter(v.name) for v in self.variables]
        return short[i] if short.count(short[i]) == 1 else self.variables[i].name

    def encoded(self, layer: int, i: int) -> Bool[np.ndarray, " S"]:
        """Where the program defines variable i and the adapter reads it.

        Where it is not known what the program holds (`unknown`), everywhere from the variable's first layer on.
        """
        started = layer % self.layers >= self.variables[i].writer_layer
        if self.variables[i].kind != "categorical":
            return ~np.isnan(self.numbers[layer, i]) & started
        if self.unknown:
            return (self.values[layer, i] != NOTHING) & started
        return self.truth[layer, i] != NOTHING

    def layers_of(self, i: int) -> list[int]:
        """The layers at which variable i is encoded somewhere."""
        return [layer for layer in range(self.layers) if self.encoded(layer, i).any()]

    def read(self, name: str, *, layer: int = -1) -> list[Any]:
        """The decoded value of a variable at each position; None where it is not encoded, see `encoded`."""
        self._check(layer)
        i = self.index(name)
        return self._column(i, self.values[layer, i], self.numbers[layer, i], self.encoded(layer, i))

    def program(self, name: str, *, layer: int = -1) -> list[Any]:
        """The program's value of a variable at each position; None where it is undefined."""
        self._check(layer)
        i = self.index(name)
        truth, numbers = self.truth[layer, i], self.true_numbers[layer, i]
        return self._column(i, truth, numbers, (truth != NOTHING) | ~np.isnan(numbers))

    def _check(self, layer: int) -> None:
        if not -self.layers <= layer < self.layers:
            raise UserError(f"decode: no layer {layer}, this program is aligned on layers 0..{self.layers - 1}")

    def _column(self, i: int, values, numbers, held) -> list[Any]:
        variable = self.variables[i]
        if variable.kind != "categorical":
            return [float(x) if h else None for x, h in zip(numbers, held, strict=True)]
        return [variable.values[v] if h else None for v, h in zip(values, held, strict=True)]

    def show(
        self, *, layer: int = -1, names: Sequence[str] | str | None = None, everything: bool = False
    ) -> "DecodedTable":
        """The table of one layer, for a terminal or a notebook.

        Args:
          layer: 0..L, or from the end.
          names: the variables to show, in order; by default the result, then those computed last, of those that
            are encoded at this layer.
          everything: all of these, numbers too, in as many tables as the terminal needs.

        Raises:
          UserError: no such layer or variable.
        """
        self._check(layer)
        names = (names,) if isinstance(names, str) else names
        order = [self.index(n) for n in names] if names is not None else self._order(layer, everything)
        return DecodedTable(self, layer % self.layers, tuple(order), everything, names is not None)

    def _order(self, layer: int, everything: bool) -> list[int]:
        kinds = ("categorical", "numerical") if everything else ("categorical",)
        chosen = [i for i, v in enumerate(self.variables) if v.kind in kinds and self.encoded(layer, i).any()]

        def rank(i: int):
            v = self.variables[i]
            return v.name != self.result, v.kind != "categorical", -v.writer_layer

        return sorted(chosen, key=rank)

    def __repr__(self) -> str:
        """One line: at a prompt, the arrays would fill screens."""
        size = f"{len(self.tokens)} tokens, {len(self.variables)} variables, layers 0..{self.layers - 1}"
        return f"<Decoded: {size}; rich.print shows it as a table, .read(name) is one variable>"

    def __rich__(self) -> "DecodedTable":
        """The last aligned layer, with as many variables as fit."""
        return self.show()

    def _repr_html_(self) -> str:
        return self.show()._repr_html_()


@dataclass(frozen=True, eq=False)
class DecodedTable:
    """One layer of a decoded text; renders with rich, and as HTML in a notebook."""

    decoded: Decoded
    layer: int
    order: tuple[int, ...]
    """Indices into `decoded.variables`."""
    everything: bool = False
    """Show all variables, in several tables if one is too wide; otherwise as many as fit."""
    chosen: bool = False
    """Whether the variables were asked for by name: all are shown, and no other is mentioned."""

    @property
    def complete(self) -> bool:
        """Whether all of `order` is shown."""
        return self.everything or self.chosen

    def cell(self, variable: int, position: int) -> tuple[str, str]:
        """Text and state ("right", "weak", "wrong", "nothing", "number", or "read": not judged) of one cell."""
        d, at = self.decoded, (self.layer, variable, position)
        v = d.variables[variable]
        if not d.encoded(self.layer, variable)[position]:
            return "–", "nothing"
        if v.kind != "categorical":
            true = "" if np.isnan(d.true_numbers[at]) else f" ({d.true_numbers[at]:.2f})"
            return f"{d.numbers[at]:.2f}{true}", "number"
        truth, value = int(d.truth[at]), int(d.values[at])
        if d.unknown:
            return self._value(variable, value), "read"
        if value != truth:
            return f"{self._value(variable, value)}≠{self._value(variable, truth)}", "wrong"
        weak = d.uncertain(at)
        return self._value(variable, value) + ("?" if weak else ""), "weak" if weak else "right"

    def _value(self, variable: int, place: int) -> str:
        text = visible(str(self.decoded.variables[variable].values[place])) or "''"
        several = self.decoded.alike[variable].get(place) if self.decoded.alike else None
        if several is None:
            return text
        return f"{text}…" if "," in several else several

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text | Table]:
        """Tables no wider than the terminal, and a legend."""
        pages = list(self._pages(options.max_width))
        for page in pages if self.complete else pages[:1]:
            yield Text(self.title, style="italic")  # as a title it would be as narrow as the table
            table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0, 0, 1))
            table.add_column("token", no_wrap=True)
            for i in page:
                table.add_column(Text(_stacked(self.decoded.title(i))), no_wrap=True)
            for s, token in enumerate(self._tokens()):
                cells = (self.cell(i, s) for i in page)
                table.add_row(Text(token), *(Text(text, style=_STYLES[state]) for text, state in cells))
            yield table
        yield Text(self.legend, style="dim")
        if self.elsewhere:
            yield Text(self.elsewhere, style="dim")
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
        caption = esc(f"{self.title}. {self.legend} {self.elsewhere}")
        return (
            f"<div style='overflow-x:auto'><table><caption>{caption}</caption>"
            f"<thead><tr><th scope='col'>token</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        )

    @property
    def legend(self) -> str:
        """How to read a cell."""
        if self.decoded.unknown:
            return _UNKNOWN + self.decoded.unknown
        if self.decoded.away is None:
            return _LEGEND
        several = "   2…4: one of these, which the program treats alike" if any(self.decoded.alike) else ""
        return _LEGEND.replace("margin below 1", "no centroid is near") + several

    @property
    def elsewhere(self) -> str:
        """Which other variables there are, and at which layers they are read; empty if there are none."""
        d = self.decoded
        if self.chosen:
            return ""
        there = {i: layers for i in range(len(d.variables)) if i not in self.order and (layers := d.layers_of(i))}
        others = [
            f"{visible(d.title(i))} {_range(layers)}"
            for i, layers in sorted(there.items(), key=lambda x: x[1])
            if self.layer not in layers
        ]
        return f"encoded at other layers only: {', '.join(others)}" if others else ""

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


def _stacked(name: str) -> str:
    """A long name over several lines, cut after underscores."""
    lines = [""]
    for part in visible(name).replace("_", "_ ").split():
        if lines[-1] and len(lines[-1] + part) > 9:
            lines.append("")
        lines[-1] += part
    return "\n".join(lines)


def _range(layers: Sequence[int]) -> str:
    return f"({layers[0]})" if len(layers) == 1 else f"({layers[0]}–{layers[-1]})"
