"""`tracr-jax check` in the terminal: the network, the program's variables, examples, and what each set holds."""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracr_jax.report.terminal import make_table
from tracr_jax.runs.check import Checked, CheckedVariable, Question

_SHOWN = 4  # values of a variable
_AHEAD = {"yes": "ahead", "by index": "ahead by index"}
_NAME = 24  # characters of a variable's name that are kept on one line


def print_check(console: Console, checked: Checked) -> None:
    """All of it; readable from 60 columns on."""
    teacher, network, bridge = checked.teacher, checked.proof.network, checked.bridge_report
    fits = checked.needed <= checked.blocks
    lines = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    lines.add_column(no_wrap=True, style="dim")
    lines.add_column(overflow="fold")
    lines.add_row(
        "network",
        f"{teacher.num_layers} layers, {teacher.width} wide, at most {teacher.num_heads} heads and "
        f"{teacher.mlp_hidden_size} hidden units in a layer, {teacher.max_seq_len} positions",
    )
    lines.add_row(
        "depth",
        Text(
            f"{checked.needed} blocks needed, {checked.lm} has {checked.blocks}"
            + ("" if fits else ": too few, choose a deeper --lm"),
            style="" if fits else "bold red",
        ),
    )
    lines.add_row("network = program", _agreement(checked))
    lines.add_row(
        "answers",
        f"{bridge.matched} of {bridge.answer_positions} written by the program, on {bridge.items} items",
    )
    lines.add_row("tokens", f"{bridge.mapped_tokens} of {checked.lm} have a value, the others are fill")
    if legend := getattr(checked.task, "legend", ""):
        lines.add_row("written", Text(legend))  # of a program that was found in a file
    warned = bool(checked.proof.warning)
    lines.add_row("look-ahead", Text(checked.whole_string, style="yellow" if warned else ""))
    if checked.trivial:
        lines.add_row("test set", Text(f"warning: {checked.trivial}", style="yellow"))
    if network.mixtures:
        lines.add_row(
            "mixtures", f"{network.mixtures:,} values that are means of several categories, not compared"
        )
    console.print(f"{checked.task.name}, for {checked.lm}", style="bold", markup=False)
    console.print(lines)
    console.print(_variables_table(checked.variables))
    for question in checked.questions:
        console.print(_question(question))
    console.print(_sets_table(checked))


def _agreement(checked: Checked) -> str:
    n = checked.proof.network
    where = f" in {n.largest_at}" if n.largest_deviation else ""
    text = (
        f"{n.compared:,} values at {n.positions:,} positions of {n.inputs} inputs, largest deviation "
        f"{n.largest_deviation:.2g}{where}"
    )
    if n.tracr_weight_deviation is not None:
        text += f"; all weights are tracr's to {n.tracr_weight_deviation:.2g}"
    return text


def _variables_table(variables: Sequence[CheckedVariable]) -> Table:
    rows = make_table(
        "variables, by the layer that writes them\n(ahead: its selector would select later positions)"
    )
    longest = max(len(v.variable.name) for v in variables)
    by = [f"{v.operation}, {_AHEAD[v.ahead]}" if v.ahead else v.operation for v in variables]
    rows.add_column("layer", justify="right", no_wrap=True)
    rows.add_column("name", overflow="fold", min_width=min(longest, _NAME))
    rows.add_column("by", overflow="fold", min_width=max(len(word) for words in by for word in words.split()))
    rows.add_column("values", overflow="fold")
    for v, made in zip(variables, by, strict=True):
        cells = [str(v.variable.writer_layer), v.variable.name, made, _values(v.variable.values)]
        rows.add_row(*map(Text, cells))
    return rows


def _values(values: Sequence[Any]) -> str:
    """The number of values and some of them; a numerical variable has none."""
    if not values:
        return "a number"
    if len(values) > _SHOWN and all(type(v) is int for v in values) and max(values) - min(values) < len(values):
        return f"{min(values)} … {max(values)}"
    shown = ", ".join(map(repr, values[:_SHOWN]))
    return shown if len(values) <= _SHOWN else f"{len(values)}: {shown}, …"


def _question(question: Question) -> Text:
    """The prompt as text, and its tokens with the program's value below those that have one."""
    text = Text(f"{question.item.prompt!r} → {question.item.label!r}\n", style="bold")
    for piece, value, mapped in zip(question.pieces, question.values, question.mapped, strict=True):
        shown = repr(piece)[1:-1].replace(" ", "␣")
        if mapped:
            text.append(f"{shown}", style="not bold cyan")
            text.append(f"={value}" if str(value) != piece.strip() else "", style="not bold dim")
        else:
            text.append(shown, style="not bold dim")
        text.append(" ")
    return text


def _sets_table(checked: Checked) -> Table:
    rows = make_table("evaluation sets")
    rows.add_column("set", overflow="fold")
    rows.add_column("items", justify="right", no_wrap=True)
    rows.add_column("holds", overflow="fold")
    for name, one in checked.task.eval_sets().items():
        rows.add_row(Text(name), f"{one.size:,}", Text(one.note))
    return rows
