"""Words of the command line become options."""

import dataclasses
import difflib
from collections.abc import Sequence
from typing import TypeVar

import tyro

from tracr_jax.config import RunConfig
from tracr_jax.errors import UserError


def peek(argv: Sequence[str], name: str) -> str | None:
    """Value of an option before the real parse, in either spelling."""
    for here, following in zip(argv, [*argv[1:], ""], strict=True):
        if here == f"--{name}":
            return following
        if here.startswith(f"--{name}="):
            return here.split("=", 1)[1]
    return None


T = TypeVar("T")


def parse(kind: type[T], argv: list[str], *, default: T | None = None) -> T:
    """Parse with tyro, flat option names; an unknown option is one line with the nearest known ones."""
    args: T
    args, unknown = tyro.cli(  # pyright: ignore[reportAssignmentType]
        kind,
        args=argv,
        prog=f"tracr-jax {kind.__name__.lower()}",
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
        return_unknown_args=True,
    )
    if unknown:
        name = unknown[0].split("=")[0]
        known = [f"--{f.replace('_', '-')}" for f in _field_names(kind)]
        near = difflib.get_close_matches(name, known, n=2) or ["see --help"]
        raise UserError(f"unknown option {name!r}; did you mean {' or '.join(near)}?")
    return args


def _field_names(kind) -> list[str]:
    names = []
    for f in dataclasses.fields(kind):
        inner = RunConfig if f.name == "config" else f.type
        names += _field_names(inner) if dataclasses.is_dataclass(inner) else [f.name]
    return names
