"""Words of the command line become options: by tyro. What does not fit is one line; the help is short first."""

import ast
import contextlib
import dataclasses
import difflib
import functools
import inspect
import io
import re
import sys
import textwrap
import types
import typing
import warnings
from collections.abc import Collection, Sequence
from typing import Annotated, Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from tracr_jax.config import RunConfig
from tracr_jax.config_file import RENAMED
from tracr_jax.errors import UserError

# What --help shows of `inject`; --help-all shows the rest.
FIRST = ("task", "lm", "preset", "steps", "batch", "folder", "resume", "seed", "learning_rate", "mesh")

T = TypeVar("T")


def peek(argv: Sequence[str], name: str) -> str | None:
    """Value of an option before the real parse, in either spelling; of a repeated one the last, as there."""
    found = None
    for here, following in zip(argv, [*argv[1:], ""], strict=True):
        if here == f"--{name}":
            found = following
        if here.startswith(f"--{name}="):
            found = here.split("=", 1)[1]
    return found


def parse(kind: type[T], argv: Sequence[str], *, default: T | None = None) -> T:
    """The options of a command, flat names; or its help, printed, and the end of the process.

    Raises:
      UserError: a word that is no option, a value of the wrong kind, or one that is missing.
    """
    argv, name = [_renamed(word) for word in argv], kind.__name__.lower()
    known = _option_names(kind)
    every = "--help-all" in argv
    many = len(known) > 2 * len(FIRST)
    if every or "--help" in argv or "-h" in argv:
        with contextlib.suppress(SystemExit):  # tyro ends here
            _run(kind, ["--help"], default=default, shown=FIRST if many and not every else None)
        if many and not every:
            print(f"{len(known)} options in all: tracr-jax {name} --help-all")
        sys.exit(0)
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            args, unknown = _run(kind, argv, default=default)
    except SystemExit as e:
        if e.code in (0, None):
            print(said.getvalue(), end="")
            raise
        raise UserError(f"{_plain(said.getvalue())} (tracr-jax {name} --help)") from e
    if unknown:
        raise UserError(_unexpected(unknown[0], argv, kind, known))
    return args


def _renamed(word: str) -> str:
    """An option of the previous version under today's name."""
    name, equals, value = word.partition("=")
    today = RENAMED.get(name.removeprefix("--").replace("-", "_")) if name.startswith("--") else None
    if today is None:
        return word
    option = f"--{today.replace('_', '-')}"
    warnings.warn(f"{name} is called {option} now", FutureWarning, stacklevel=3)
    return f"{option}{equals}{value}"


def _run(kind: type[T], argv: list[str], *, default: T | None, shown: Collection[str] | None = None) -> Any:
    return tyro.cli(
        kind,
        args=argv,
        prog=f"tracr-jax {kind.__name__.lower()}",
        default=default,
        registry=_registry(shown),
        return_unknown_args=True,
    )


def _unexpected(word: str, argv: Sequence[str], kind: type, known: Sequence[str]) -> str:
    if word.startswith("-"):
        name = word.split("=")[0]
        near = difflib.get_close_matches(name, known, n=2)
        return f"unknown option {name!r}; " + (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"tracr-jax {kind.__name__.lower()} --help-all lists the options"
        )
    before = argv[argv.index(word) - 1] if argv.index(word) > 1 else ""
    option = next((a for a in reversed(argv[: argv.index(word)]) if a.startswith("--")), None)
    if option and before not in ("", option) and "=" not in option:
        return f"unexpected word {word!r}: {option} takes one value, here {before!r}"
    takes = " ".join(f.upper() for f in _positional(kind))
    quoted = "; a text with blanks stands in quotes" if "TEXT" in takes else ""
    return f"unexpected word {word!r}: tracr-jax {kind.__name__.lower()} takes {takes}, and options{quoted}"


def _positional(kind: Any) -> list[str]:
    if kind is RunConfig:
        return ["task"]
    hints, out = typing.get_type_hints(kind, include_extras=True), []
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(_bare(hints[f.name])):
            out += _positional(_bare(hints[f.name]))
        elif _is_positional(hints[f.name]):
            out.append(f.name)
    return out


def _is_positional(hint: Any) -> bool:
    # What tyro puts into the annotation.
    mark = typing.get_args(tyro.conf.Positional[int])[1]
    return typing.get_origin(hint) is Annotated and mark in hint.__metadata__


def _plain(box: str) -> str:
    """What tyro draws in a box, its title left out and what follows the second rule, as one sentence."""
    lines = [line.strip("│╭╮╰╯ ") for line in re.sub(r"\x1b\[[0-9;]*m", "", box).splitlines()]
    parts: list[list[str]] = [[]]
    for line in lines:
        if line and not line.strip("─-"):
            parts.append([])
        elif line:
            parts[-1].append(line)
    text = " ".join(parts[1] if len(parts) > 1 else parts[0])
    return (
        text.replace(" (required)", "")
        .replace("Could not find valid parse for arguments:", "cannot be")
        .strip(" .")
    )


def _registry(shown: Collection[str] | None) -> ConstructorRegistry:
    """How tyro reads our dataclasses: flat names, grouped by class, and options that are not `shown` hidden."""
    registry = ConstructorRegistry()

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        if not dataclasses.is_dataclass(info.type):
            return None
        hints, docs = typing.get_type_hints(info.type, include_extras=True), _docs(info.type)
        fields = []
        for f in dataclasses.fields(info.type):
            hint = hints[f.name]
            if not dataclasses.is_dataclass(_bare(hint)):
                hint = _marked(f, hint, info.type, hidden=shown is not None and f.name not in shown)
            if isinstance(info.default, info.type):
                value = getattr(info.default, f.name)
            elif f.default is not dataclasses.MISSING:
                value = f.default
            else:
                made = f.default_factory is not dataclasses.MISSING
                value = f.default_factory() if made else tyro.MISSING_NONPROP  # pyright: ignore[reportCallIssue]
            fields.append(StructFieldSpec(f.name, hint, value, docs.get(f.name)))
        return StructConstructorSpec(info.type, tuple(fields))

    return registry


def _marked(field: dataclasses.Field, hint: Any, owner: type, *, hidden: bool) -> Any:
    bare = _bare(hint)
    parts = [t for t in typing.get_args(bare) if t is not type(None)]
    metavar = None
    if isinstance(bare, types.UnionType) and len(parts) == 1:
        metavar = parts[0].__name__.upper()  # not {None}|PATH
    if owner is RunConfig and field.name == "task":
        hint = tyro.conf.Positional[hint]
    if _is_positional(hint):
        word = field.name.upper()
        if typing.get_origin(bare) is tuple:
            word = f"{word.removesuffix('S')} ..."
        metavar = word if field.default is dataclasses.MISSING else f"[{word}]"
    if bare is bool and field.default is False:
        hint = tyro.conf.FlagCreatePairsOff[hint] if owner.__module__ != RunConfig.__module__ else hint
    if hidden:
        hint = tyro.conf.Suppress[hint]
    # "default: None" says nothing where the text does.
    note = "" if field.default in (None, "", ()) else None
    return Annotated[hint, tyro.conf.arg(metavar=metavar, prefix_name=False, help_behavior_hint=note)]


def _bare(hint: Any) -> Any:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint


@functools.cache
def _docs(kind: type) -> dict[str, str]:
    """The string below each field of a class, in one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)
    out = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(below, ast.Expr):
            out[field.target.id] = " ".join(ast.literal_eval(below.value).split())
    return out


def _option_names(kind: Any) -> list[str]:
    """Every option of a command as it is typed."""
    names, hints = [], typing.get_type_hints(kind)
    for f in dataclasses.fields(kind):
        if dataclasses.is_dataclass(hints[f.name]):
            names += _option_names(hints[f.name])
        else:
            names.append(f"--{f.name.replace('_', '-')}")
    return names


def only_with(value: Any, there: bool, option: str, other: str) -> None:
    """Refuse an option that would be without effect."""
    if value is not None and not there:
        raise UserError(f"{option} has no effect without {other}; give both, or leave it out")


def one_of(first: bool, second: Any, *names: str) -> None:
    """Refuse two options of which one decides alone."""
    if first and second is not None:
        raise UserError(f"{names[0]} and {names[1]} exclude each other; leave out one")


def listed(text: str) -> list[str]:
    """The words of an option that takes several with commas between them."""
    return [word.strip() for word in text.split(",") if word.strip()]
