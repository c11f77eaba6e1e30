"""The rows of controls.json: the injected model beside models that do not run the program."""

from collections.abc import Mapping
from typing import Any

from tracr_jax.report.markup import esc
from tracr_jax.report.words import whole

COLUMNS = ("answers", "read", "used", "follows", "error", "noise")
HOW = (
    "Answers: exact match on test items, %. Read: values of the program's variables decoded rightly at the last "
    "layer that encodes each, %, mean over variables. Used: variables whose swap the answer follows above every "
    "control. Follows: of the swaps that flip the program's answer on a base answered rightly, %, median over "
    "cells; – where no base is. Error: causal abstraction error of the swaps (with what no variable holds "
    "exchanged as well). A run with reserved directions is asked for the values that its program tells apart, "
    "while it holds them, and its swaps must also beat the exchange of what no variable holds; the controls, read "
    "by an affine map, for every value, and without that. Noise: exact match under noise in the result "
    "subspace / in a random one, %, at the strength at which these differ most."
)


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """One row of controls.json under `COLUMNS`."""
    error, noise = row["causal_abstraction_error"], row["noise"]
    faithful = "" if error["faithful"] is None else f" ({error['faithful']:.2f})"
    return (
        whole(row["answered"]),
        whole(row["decoded"]),
        f"{row['used']}/{row['swapped']}",
        whole(row["followed"]),
        "–" if error["mapped"] is None else f"{error['mapped']:.2f}{faithful}",
        f"{whole(noise['result'])}/{whole(noise['random'])}",
    )


def controls_table(found: Mapping[str, Any]) -> str:
    """As HTML."""
    head = "".join(f"<th>{esc(name)}</th>" for name in ("model", *COLUMNS))
    body = "".join(
        f"<tr><th>{esc(name)}</th>{''.join(f'<td>{esc(c)}</td>' for c in cells(row))}</tr>"
        for name, row in found["rows"].items()
    )
    return (
        '<h3>Beside models that do not run the program</h3><div class="scroll" tabindex="0"><table class="plain">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div><p>{esc(HOW)}</p>"
    )
