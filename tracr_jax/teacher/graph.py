"""A RASP program as a graph: labels, value sets and layers, each expression visited once.

Implements docs/teacher.md §2. tracr walks the graph once per *path* (567 million visits for int_sum with five
digits); here every expression is visited once, with the same labels, order and layers. Labels do not depend on
what ran before: the ids of the whole program are drawn afresh (docs/teacher.md §5.1).
"""

import contextlib
import itertools
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import networkx as nx
from tracr.compiler import basis_inference, nodes, validating
from tracr.craft import bases
from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.teacher.model import Direction
from tracr_jax.teacher.values import Reached, is_number

# What user functions, and tracr, raise for a program that cannot be compiled: a user's may raise anything.
PROGRAM_ERRORS = (Exception, SystemExit)


# Evaluations of one function of two variables; a program that asks for more has values that nothing bounds. A
# selector's pairs are entries of one matrix (ten million: 40 MB, five seconds), a function's are rows of a table.
_MOST_PAIRS, _MOST_SELECTED, _MOST_VALUES = 1_000_000, 10_000_000, 20_000


def outcome(f: Callable[..., Any], *values: Any) -> Any:
    """What a program's function makes of values; None where it fails, "does not occur" as in tracr's inference."""
    try:
        return f(*values)
    except PROGRAM_ERRORS:
        return None


@dataclass(frozen=True)
class Node:
    """One S-Op: its possible values (unordered) and its directions in tracr's order."""

    label: str
    expr: Any
    values: frozenset
    basis: tuple[Direction, ...]
    listed: frozenset | None = None
    """The values as tracr lists them, where these are fewer than there are (`tracr_jax.teacher.values`)."""
    endless: bool = False
    """A number with more values than can be listed."""

    @property
    def categorical(self) -> bool:
        """One direction per value; otherwise one direction holds the number itself."""
        return rasp.is_categorical(self.expr)


@dataclass(frozen=True)
class Trace:
    """All expressions of a program in tracr's order (breadth first from the result)."""

    exprs: dict[str, rasp.RASPExpr]
    sops: dict[str, Node]
    result: str


def label_program(program: rasp.SOp) -> dict[str, rasp.RASPExpr]:
    """Draw ids 1, 2, ... for the whole program in tracr's order; label -> expression, breadth first."""
    for expr in _every_expression(program):
        vars(expr).pop("unique_id", None)
    rasp.RASPExpr._ids = itertools.count(1)
    found: dict[str, rasp.RASPExpr] = {program.label: program}
    queue: list[rasp.RASPExpr] = [program]
    for expr in queue:  # grows while it is read
        for child in expr.children:
            if child.label not in found:
                found[child.label] = child
                queue.append(child)
    return found


def _every_expression(program: rasp.SOp) -> list[rasp.RASPExpr]:
    """Every object once; some share a label, as rasp.tokens and its copies do."""
    found: dict[int, rasp.RASPExpr] = {}
    stack: list[rasp.RASPExpr] = [program]
    while stack:
        expr = stack.pop()
        if id(expr) not in found:
            found[id(expr)] = expr
            stack.extend(expr.children)
    return list(found.values())


# What to write instead, by the beginning of tracr's reason.
_ADVICE = {
    "Categorical aggregate only supports None": "leave out default=, and select always: key == max(query - 1, 0)",
    "Numerical aggregate only supports 0": "write rasp.Aggregate(..., default=0)",
    "An aggregate's output encoding": "write rasp.numerical or rasp.categorical around both or around neither",
    "Select keys": "write rasp.categorical around its keys",
    "Select queries": "write rasp.categorical around its queries",
    "(Non-linear) SequenceMap": "write rasp.categorical around its inputs and it, or a rasp.LinearSequenceMap",
    "LinearSequenceMap": "write rasp.numerical around its inputs",
    "tokens should": "write rasp.numerical(rasp.Map(lambda x: x, rasp.tokens))",
}


def check_operations(program: rasp.SOp) -> dict[str, rasp.RASPExpr]:
    """Refuse what no network can compute or tracr has no block for; gives the program's labels and expressions.

    Raises:
      UserError: the first expression that cannot be compiled.
    """
    try:
        exprs = label_program(program)
        # One by one: tracr's own walk leaves out all but the first expression of a name.
        every = _every_expression(program)
        rejected = [r for e in every if (r := validating._static_validate_expr(e)) is not None]
    except PROGRAM_ERRORS as e:
        raise UserError(f"program: it cannot be walked ({describe(e)})") from e
    for label, expr in exprs.items():
        check_kind(label, expr)
    if rejected:
        reason = " ".join(rejected[0].reason.split()).rstrip(".")
        advice = next((f": {what}" for start, what in _ADVICE.items() if reason.startswith(start)), "")
        raise UserError(f"program {program.label}: {rejected[0].expr.label} cannot be compiled ({reason}){advice}")
    return exprs


def trace(program: rasp.SOp, *, vocab, max_seq_len: int) -> Trace:
    """Labels, value sets and bases of every expression.

    Raises:
      UserError: tracr cannot compile the program.
    """
    exprs = check_operations(program)
    if rasp.tokens.label not in exprs:
        raise UserError(
            f"program {program.label}: it does not read rasp.tokens, and tracr needs a program that does"
        )
    graph = _infer(program, exprs, vocab=vocab, max_seq_len=max_seq_len)
    exact, endless = graph, frozenset()
    if any(isinstance(e, rasp.Aggregate) and rasp.is_numerical(e) for e in exprs.values()):
        # tracr lists the mean of 0 and 1 as 0 or 1/n: the values of all that reads a mean are listed again.
        reached = Reached(graph, max_seq_len=max_seq_len)
        exact = _infer(program, exprs, vocab=vocab, max_seq_len=max_seq_len, reached=reached)
        endless = frozenset(reached.endless)
    sops = {}
    for label, expr in exprs.items():
        if isinstance(expr, rasp.SOp):
            node, listed = exact.nodes[label], frozenset(graph.nodes[label][nodes.VALUE_SET])
            basis = tuple((d.name, d.value) for d in node[nodes.OUTPUT_BASIS])
            if not node[nodes.VALUE_SET]:
                raise UserError(f"program: {label} is undefined (None) for every possible input")
            sops[label] = Node(label, expr, frozenset(node[nodes.VALUE_SET]), basis, listed, label in endless)
    return Trace(exprs, sops, program.label)


@contextlib.contextmanager
def _no_lines_of_arithmetic() -> Iterator[None]:
    """Without tracr's line for each input of which a function fails, as 1 / 0: it is said where it occurs."""

    def other(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Encountered arithmetic error")

    root = logging.getLogger()
    root.addFilter(other)
    try:
        yield
    finally:
        root.removeFilter(other)


@_no_lines_of_arithmetic()
def _infer(
    program: rasp.SOp,
    exprs: dict[str, rasp.RASPExpr],
    *,
    vocab,
    max_seq_len: int,
    reached: Reached | None = None,
) -> nx.DiGraph:
    """Value sets and bases by tracr's inference, one node at a time; `reached` mends the values of numbers."""
    graph = _OneNodeAtATime()
    for label, expr in exprs.items():
        graph.add_node(label, **{nodes.ID: label, nodes.EXPR: expr})
    depth = depths(exprs)
    # A selector is as deep as what it reads, and comes after it.
    for label in sorted(exprs, key=lambda name: (depth[name], not isinstance(exprs[name], rasp.SOp))):
        if reached and reached.lists(graph, label, most=_MOST_PAIRS):
            continue
        _check_pairs(graph, exprs[label])
        try:
            if not _of_other_numbers(graph, exprs[label]):
                basis_inference.infer_bases(graph, graph.nodes[label], set(vocab), max_seq_len)
        except PROGRAM_ERRORS as e:
            reason = f"the possible values of {label} cannot be listed ({describe(e)})"
            asked = (
                f"its function is given every value of its inputs, positions up to {max_seq_len - 1} among them"
            )
            raise UserError(f"program {program.label}: {reason}; {asked}") from e
        _check_values(graph, exprs[label])
        if reached:
            reached.mend(graph, label)
        count = len(graph.nodes[label].get(nodes.VALUE_SET, ()))
        if count > _MOST_VALUES and not _is_number(exprs[label]):
            raise UserError(
                f"program: {label} has {count:,} possible values, at most {_MOST_VALUES:,} can be listed: bound "
                "them, as in min(x, 9)"
            )
    return graph


def _of_other_numbers(graph: nx.DiGraph, expr: rasp.RASPExpr) -> bool:
    """Whether this is a mean for which tracr lists no values, since not all are 0 or 1; it gets its source's."""
    if not isinstance(expr, rasp.Aggregate) or not _is_number(expr):
        return False
    values = graph.nodes[expr.sop.label][nodes.VALUE_SET]
    if {0, 1}.issuperset(map(int, values)):  # as tracr asks
        return False
    space = bases.VectorSpaceWithBasis.from_names([expr.label])
    graph.nodes[expr.label].update({nodes.VALUE_SET: values, nodes.OUTPUT_BASIS: space.basis})
    return True


class _OneNodeAtATime(nx.DiGraph):
    """A graph without edges: tracr infers the values of the node it is given, and of nothing before it."""

    def reverse(self, copy=True):
        return self


def _check_pairs(graph: nx.DiGraph, expr: rasp.RASPExpr) -> None:
    """Refuse a function of two variables before its table takes hours; the values of both are known."""
    if not isinstance(expr, rasp.SequenceMap | rasp.Select):
        return
    sizes = [len(graph.nodes[c.label][nodes.VALUE_SET]) for c in expr.children]
    most = _MOST_SELECTED if isinstance(expr, rasp.Select) else _MOST_PAIRS
    if math.prod(sizes) > most:
        what = " and ".join(f"{c.label} ({n:,})" for c, n in zip(expr.children, sizes, strict=True))
        raise UserError(
            f"program: {expr.label} combines the possible values of {what}, at most {most:,} pairs can be "
            "listed: bound them, as in min(x, 9)"
        )


def _is_number(expr: rasp.RASPExpr) -> bool:
    return isinstance(expr, rasp.SOp) and rasp.is_numerical(expr)


def _check_values(graph: nx.DiGraph, expr: rasp.RASPExpr) -> None:
    if not isinstance(expr, rasp.SOp):
        return
    for value in graph.nodes[expr.label][nodes.VALUE_SET]:
        if _is_number(expr) and not is_number(value):
            raise UserError(
                f"program: {expr.label} is a number, but can be {value!r}; give a plain number of up to 1e30"
            )
        if value != value:
            raise UserError(f"program: {expr.label} can be {value!r}, which equals nothing, not even itself")


def check_kind(label: str, expr: rasp.RASPExpr) -> None:
    """Refuse what tracr has no block for, before its long error messages."""
    if isinstance(expr, rasp.LengthType):
        raise UserError(
            f"program: {label} is the number of all tokens, which no causal network knows before the last; "
            "`rasp.Map(lambda i: i + 1, rasp.indices)` counts the tokens so far"
        )
    if isinstance(expr, rasp.Full | rasp.ConstantSOp | rasp.ConstantSelector):
        raise UserError(
            f"program: {label} is a constant, which tracr cannot compile; use a Map of tokens or indices"
        )
    if isinstance(expr, rasp.SelectorAnd | rasp.SelectorOr | rasp.SelectorNot):
        raise UserError(f"program: {label} combines selectors, which tracr cannot compile; write one predicate")


def depths(exprs: dict[str, rasp.RASPExpr]) -> dict[str, int]:
    """Longest path from an input to each expression; selectors add nothing."""
    done: dict[str, int] = {}
    stack = [next(iter(exprs))]
    while stack:
        label = stack[-1]
        expr = exprs[label]
        waiting = [c.label for c in expr.children if c.label not in done]
        if waiting:
            stack.extend(waiting)
            continue
        step = int(isinstance(expr, rasp.SOp))
        done[label] = max((done[c.label] + step for c in expr.children), default=0)
        stack.pop()
    return done


def half_layers(kinds: dict[str, str], depth: dict[str, int]) -> dict[str, int]:
    """Half layer (even: attention, odd: MLP) of every block, in tracr's order of blocks.

    `kinds` maps labels, in program order, to "attn", "mlp" or "both" (a SelectorWidth, which starts in the
    attention half). A level of attention only, followed by a level of MLPs only, shares one layer.
    """
    level = {label: depth[label] for label in kinds}
    members: dict[int, set[str]] = defaultdict(set)
    for label, d in level.items():
        members[d].add(kinds[label])
    d, last = min(members), max(members)
    while d < last:
        if members[d] <= {"attn"} and members[d + 1] <= {"mlp"}:
            level = {label: at - (at > d) for label, at in level.items()}
            members[d] |= members[d + 1]
            for at in range(d + 1, last):
                members[at] = members[at + 1]
            members[last] = set()
            last -= 1
        d += 1
    order = sorted(level, key=level.__getitem__)
    return {label: 2 * (level[label] - 1) + int(kinds[label] == "mlp") for label in order}
