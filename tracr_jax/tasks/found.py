"""The RASP program in a file that knows nothing of tasks, as those of InterpBench and TracrBench are.

A program is a function `get_program()`, a class with such a method, a function `make_…()` or any other that
returns a `rasp.SOp` and needs no argument (or the tokens alone), or a `rasp.SOp` itself. Beside it the class, a
function or a name in capitals says what `rasp.tokens` can be, how long a string is, and the true answers.
"""

import ast
import dis
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.tasks.contract import Asked, place, short
from tracr_jax.teacher.compile import build_program

_TRUE = "get_correct_output_for_input"
_FEWEST, _MOST = 2, 8  # letters of a string, where the file does not say
_MOST_VALUES = 1000  # of the tokens; each is written as one letter, of which there are fewer


@dataclass(frozen=True)
class Found:
    """A program and what its file says of it."""

    who: str
    """Begins messages."""
    build: Callable[[], rasp.SOp]
    values: tuple[Any, ...]
    """What `rasp.tokens` can be, in order."""
    shortest: int
    """Letters of a string."""
    longest: int
    causal: bool
    """Whether the file says that a position is not to see the later ones."""
    truth: Callable[[Sequence[Any]], Sequence[Any]] | None
    """The true values at every position of a string."""


def find_program(module: ModuleType, name: str, *, path: str) -> tuple[Found, str]:
    """The program called `name` in a module, or the only one, and its name.

    Raises:
      UserError: there is none, or several, or its vocabulary is not said.
    """
    holder, name = _holder(module, name, path)
    asked = Asked(f"{path}:{name}")
    who = f"task {asked.spec}"
    if isinstance(holder, type):
        holder = asked.ask(f"{name}()", holder)
    case = holder if hasattr(holder, "get_program") else module

    def said(method: str, constant: str, default: Any) -> Any:
        for place_ in (case, module):
            if callable(getattr(place_, method, None)):
                return asked.ask(f"{method}()", getattr(place_, method))
            if hasattr(place_, constant):
                return getattr(place_, constant)
        return default

    build = _builder(holder.get_program if hasattr(holder, "get_program") else holder)
    try:
        build_program(build)
    except UserError as e:
        where = place(e.__cause__) if e.__cause__ else ""
        raise UserError(f"{who}: {e}{where}") from e
    values = _vocabulary(who, said("get_vocab", "VOCAB", None))
    # Where the file counts BOS as well, as InterpBench does, it says so by a function.
    longest = _length(who, said("get_max_seq_len", "MAX_LENGTH", None), _MOST, "get_max_seq_len", case, module)
    shortest = _length(who, said("get_min_seq_len", "MIN_LENGTH", None), _FEWEST, "get_min_seq_len", case, module)
    if not 1 <= shortest <= longest:
        raise UserError(
            f"{who}: strings of {shortest} to {longest} letters; give 1 <= MIN_LENGTH <= MAX_LENGTH "
            "(get_min_seq_len and get_max_seq_len count BOS, too)"
        )
    found = Found(
        who=who,
        build=build,
        values=values,
        shortest=shortest,
        longest=longest,
        causal=bool(getattr(module, "CAUSAL", False)),
        truth=_truth(case, module),
    )
    return found, name


def _vocabulary(who: str, values: Any) -> tuple[Any, ...]:
    if values is None:
        raise UserError(
            f"{who}: the file does not say what the program reads; add a line as VOCAB = {{'a', 'b', 'c'}} or "
            "VOCAB = range(5): the values of rasp.tokens"
        )
    shaped = isinstance(values, Collection) and not isinstance(values, Mapping)
    if shaped and len(values) > _MOST_VALUES:
        raise UserError(f"{who}: the vocabulary has {len(values):,} values, {_MOST_VALUES:,} at most can be tried")
    if not shaped or not all(map(_hashable, values)) or len(set(values)) < 2 or any(v is None for v in values):
        raise UserError(
            f"{who}: the vocabulary must be two values or more, as {{'a', 'b'}}, none of them None or a list, got "
            f"{short(values)}"
        )
    first: dict[Any, Any] = {}
    for value in values:
        if repr(other := first.setdefault(value, value)) != repr(value):
            raise UserError(
                f"{who}: the vocabulary has {other!r} and {value!r}, which are equal and so one value to the "
                "program; give one of them"
            )
    return tuple(sorted(first, key=_order))


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _holder(module: ModuleType, name: str, path: str) -> tuple[Any, str]:
    public = {n: x for n, x in vars(module).items() if not n.startswith("_")}
    tree = ast.parse(Path(str(module.__file__)).read_bytes())
    written = _names_set(tree)
    # An S-Op does not know its module: it is the file's own where a line of it sets its name.
    own = {n: x for n, x in public.items() if (n in written if isinstance(x, rasp.SOp) else _is_own(x, module))}
    # An imported S-Op is the program where the file has none of its own.
    programs = {n: x for n, x in own.items() if is_program(x)} or {
        n: x for n, x in public.items() if isinstance(x, rasp.SOp) and is_program(x)
    }
    if name:
        if not hasattr(module, name):
            there = f", only {', '.join(programs)}" if programs else ""
            raise UserError(f"task {path}: has no {name!r}{there}; it is the name after the colon")
        return getattr(module, name), name
    for sure in ("get_program", "program", "PROGRAM"):
        if sure in programs:
            return programs[sure], sure
    # The one that no other uses, of whatever kind; a class says more than what stands beside it, and a function
    # that needs nothing is what those with an argument are for.
    functions = {n: x for n, x in vars(module).items() if inspect.isfunction(x) and _is_own(x, module)}
    parts = {n: x for n, x in functions.items() if n not in programs}
    used = {n for n, x in programs.items() if any(_uses(y, n, x, parts) for m, y in programs.items() if m != n)}
    free = {n: x for n, x in programs.items() if n not in used | _made_with(tree, programs)} or programs
    if classes := {n: x for n, x in programs.items() if isinstance(x, type)}:
        free = {n: x for n, x in classes.items() if n not in used} or classes
    kinds: list[Callable[[Any], bool]] = [
        lambda x: isinstance(x, rasp.SOp | type) or not _needed(x),
        inspect.isfunction,
    ]
    for kind in kinds:
        of = [n for n, x in free.items() if kind(x)]
        if len(of) == 1:
            return free[of[0]], of[0]
        if of:
            raise UserError(f"task {path}: holds the programs {', '.join(of)}; choose one as {path}:{of[0]}")
    raise UserError(
        f"task {path}: holds no task and no program; a program is a function that returns a rasp.SOp, as "
        "get_program() or make_reverse(), or the rasp.SOp itself"
    )


def _is_own(x: Any, module: ModuleType) -> bool:
    return getattr(x, "__module__", None) == module.__name__


def is_program(x: Any) -> bool:
    """Whether this is a program, or a function or a class that says one."""
    if isinstance(x, rasp.SOp):
        return not isinstance(x, rasp.TokensType | rasp.IndicesType | rasp.LengthType)
    if isinstance(x, type):
        return hasattr(x, "get_program")
    if not inspect.isfunction(x) or len(_needed(x)) > 1 or any(_is_plain(x, name) for name in _needed(x)):
        return False
    says = inspect.signature(x).return_annotation
    if says is not inspect.Signature.empty:
        return says == rasp.SOp or str(says).removeprefix("tracr.").removeprefix("rasp.").endswith("SOp")
    return x.__name__.startswith(("make_", "get_program", "program"))


def _uses(x: Any, name: str, of: Any, parts: Mapping[str, Any]) -> bool:
    """Whether program x uses the program `of`, called `name`: in its code, as a base class, or in its expression.

    parts: the file's other functions, through which it may.
    """
    if isinstance(x, rasp.RASPExpr):
        return any(inner is of for inner in _within(x))
    if isinstance(x, type):
        inherits = isinstance(of, type) and issubclass(x, of)
        own = [f for n, f in vars(x).items() if inspect.isfunction(f) and n != _TRUE]
        return inherits or any(_uses(f, name, of, parts) for f in own)
    if not inspect.isfunction(x):
        return False
    reached, new = set(), {x}
    while new:
        read = set().union(*(_names_read(f.__code__) for f in new))
        if name in read:
            return True
        reached |= new
        new = {parts[n] for n in read & parts.keys()} - reached
    return False


def _within(program: rasp.RASPExpr) -> Iterator[rasp.RASPExpr]:
    seen, stack = set(), list(program.children)
    while stack:
        inner = stack.pop()
        if id(inner) not in seen:
            seen.add(id(inner))
            stack += inner.children
            yield inner


def _names_read(code: CodeType) -> set[str]:
    """Global names that a function, and the functions within it, read."""
    own = {i.argval for i in dis.get_instructions(code) if i.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
    return own.union(*(_names_read(c) for c in code.co_consts if isinstance(c, CodeType)))


def _names_set(tree: ast.Module) -> set[str]:
    """Names that the file's own lines set, not its imports."""
    every = ast.walk(tree)
    return {node.id for node in every if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _made_with(tree: ast.Module, programs: Collection[str]) -> set[str]:
    """Names that a program set at the top of the file is made with, as in PROGRAM = make_sort()."""
    out: set[str] = set()
    for line in tree.body:
        if not isinstance(line, ast.Assign | ast.AnnAssign) or line.value is None:
            continue
        targets = line.targets if isinstance(line, ast.Assign) else [line.target]
        if any(isinstance(t, ast.Name) and t.id in programs for t in targets):
            out |= {node.id for node in ast.walk(line.value) if isinstance(node, ast.Name)}
    return out


def _is_plain(function: Callable, name: str) -> bool:
    """Whether an argument is annotated as a number or a text: it is not the tokens."""
    said = inspect.signature(function).parameters[name].annotation
    return said in (int, float, str, bool) or said in ("int", "float", "str", "bool")


def _needed(function: Callable) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [p.name for p in parameters if p.default is p.empty and p.kind not in kinds]


def _builder(x: Any) -> Callable[[], rasp.SOp]:
    if isinstance(x, rasp.SOp):
        return lambda: x
    if inspect.isfunction(x) and len(_needed(x)) == 1:
        return lambda: x(rasp.tokens)
    return x


def _length(who: str, said: Any, default: int, method: str, *places: Any) -> int:
    if said is None:
        return default
    if type(said) is not int:
        raise UserError(f"{who}: the length of a string must be a whole number, got {short(said)}")
    return said - any(callable(getattr(p, method, None)) for p in places)


def _order(value: Any) -> tuple:
    number = isinstance(value, int | float)
    return (not number, value if number else 0, str(value))


def _truth(case: Any, module: ModuleType) -> Callable[[Sequence[Any]], Sequence[Any]] | None:
    """Where the file writes it itself: what a base class says is the program once more."""
    owner = next((c for c in type(case).__mro__ if _TRUE in vars(c)), None)
    if owner is not None and _is_own(owner, module):
        return getattr(case, _TRUE)
    return getattr(module, _TRUE, None)
