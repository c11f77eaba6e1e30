"""The oracle: a RASP evaluator that visits every expression once and lets values be replaced.

Implements docs/teacher.md §5.10: tracr's own evaluator fails on a key or query that is undefined and evaluates
once per path. Semantics are those of the compiled network, position by position without BOS:

* `None` is an undefined value (nothing selected, a function of an undefined value, an arithmetic error); it is
  never selected and selects nothing.
* A categorical Aggregate that selects positions with *different* values holds a mixture, not a value: it reads
  as None, and so does what is computed from it, unless all values of the mixture give one result (as a mask does).

With `causal=False` a selector selects later positions too: RASP's own meaning, which no causal network has.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from tracr.rasp import rasp

from tracr_jax.errors import UserError
from tracr_jax.teacher.graph import label_program
from tracr_jax.teacher.model import Teacher
from tracr_jax.teacher.states import Codes, Memo, Pool

Values = dict[str, list[Any]]
Overrides = Mapping[tuple[str, int], Any]
Sees = Callable[[str, str], bool]  # (name of the reader, name of the variable it reads)

States = dict[str, Codes]  # by the oracle's own numbers, one of each position

_KEPT = 1024  # inputs
_TOGETHER = 1 << 22  # pairs of positions of the inputs that are evaluated together
_FILLED = 1 << 14  # pairs, up to which filling up inputs of one length costs less than evaluating them alone


class Evaluation(NamedTuple):
    """Values per variable and position, and where None stands for a mixture rather than for nothing."""

    values: Values
    mixed: dict[str, list[bool]]


def evaluate_program(
    program: rasp.SOp, tokens: Sequence[Any], *, overrides: Overrides | None = None, sees: Sees | None = None
) -> Values:
    """Values of every variable on one input, {name: [value at each position]}; see `Oracle` for the arguments."""
    return Oracle(program)(tokens, overrides=overrides, sees=sees).values


def reads_after(teacher: Teacher, layer: int) -> Sees:
    """The readers that see an edit of the residual stream r_layer: those computed in that layer or later.

    Use with overrides of variables that r_layer already holds (`Variable.writer_layer` <= layer); what was
    computed from the old value before the edit keeps its own old value.
    """
    start = reading_layers(teacher)
    return lambda reader, variable: start[reader] > layer


def reading_layers(teacher: Teacher) -> dict[str, int]:
    """For each variable the l >= 1 for which it is computed from r_{l-1} (0 for the inputs)."""
    computed = {v.name: v.writer_layer for v in teacher.variables}
    # A SelectorWidth reads its keys in the attention half, which may lie in an earlier layer than its output.
    return {n: computed.get(f"{n}_selector_width_attn_output", at) for n, at in computed.items()}


class Oracle:
    """A program made ready for evaluation; `names` are the teacher's variable names without values.

    What a function of the program returned is kept for all inputs: RASP's functions are pure.
    """

    def __init__(self, program: rasp.SOp, *, causal: bool = True):
        """Labels are drawn as in `compile_program`, so that both agree; see the module for `causal`."""
        exprs = label_program(program)
        self.program = program
        self._causal = causal
        self.result = program.label
        self._sops: dict[str, Any] = {}
        # Kept by object: another program that shares an expression draws its label anew.
        self._names = {id(c): c.label for e in exprs.values() for c in [e, *e.children]}
        for label in _children_first(exprs):
            if isinstance(exprs[label], rasp.SOp):
                self._sops[label] = exprs[label]
        self._reads = {label: tuple(dict.fromkeys(self.inputs(label))) for label in self._sops}
        self._pool = Pool()
        self._memo = {label: Memo(expr, self._pool) for label, expr in self._sops.items()}
        self._kept: dict[Hashable, States] = {}

    def expression(self, name: str) -> rasp.SOp:
        """The expression that computes a variable."""
        return self._sops[name]

    def inputs(self, name: str) -> tuple[str, ...]:
        """The variables that a variable is computed from, in the order of its arguments.

        A selector is no variable: its keys and its queries stand in its place, before the aggregated variable.
        """
        children = self._sops[name].children
        direct = [c for child in children for c in ([child] if isinstance(child, rasp.SOp) else child.children)]
        return tuple(self._names[id(c)] for c in direct)

    @property
    def readers(self) -> dict[str, tuple[str, ...]]:
        """For each variable, those that are computed from it directly or through a selector."""
        return {name: tuple(r for r, reads in self._reads.items() if name in reads) for name in self._sops}

    @property
    def names(self) -> tuple[str, ...]:
        """All variables, inputs first."""
        return tuple(self._sops)

    @property
    def ahead(self) -> tuple[str, ...]:
        """Without causality, the variables whose selector has selected a later position of any input so far."""
        return tuple(n for n, memo in self._memo.items() if memo.selection is not None and memo.selection.ahead)

    @property
    def selectors(self) -> dict[str, rasp.Selector]:
        """The selector of each variable that has one."""
        reads = rasp.Aggregate | rasp.SelectorWidth
        return {name: sop.selector for name, sop in self._sops.items() if isinstance(sop, reads)}

    def states(self, tokens: Sequence[Any]) -> States:
        """Possible values of every variable at every position, for several calls on the same input."""
        return self.states_of([tokens])[0]

    def evaluate(self, inputs: Iterable[Sequence[Any]], *, names: Iterable[str] | None = None) -> list[Evaluation]:
        """Evaluate many inputs, each as one call does, but together.

        Args:
          inputs: tokens without BOS.
          names: the variables whose values are wanted; all by default.
        """
        names = self.names if names is None else tuple(names)
        return [self._evaluation(states, names) for states in self.states_of(list(inputs))]

    def states_of(self, inputs: Sequence[Sequence[Any]]) -> list[States]:
        """The states of many inputs, for `read` or for calls."""
        # Several checks ask about the same inputs in turn. To a dictionary True, 1 and 1.0 are one key.
        keys = [tuple((t.__class__, t) for t in tokens) for tokens in inputs]
        if len(self._kept) + len(keys) > _KEPT:
            self._kept = {key: self._kept[key] for key in keys if key in self._kept}
        new: defaultdict[int, dict[Hashable, Sequence[Any]]] = defaultdict(dict)
        for key, tokens in zip(keys, inputs, strict=True):
            if key not in self._kept:
                new[len(key)][key] = tokens
        left: list[tuple[Hashable, Sequence[Any]]] = []
        for length in sorted(new, reverse=True):
            longest = max(1, len(left[0][1]) if left else length)
            # Where each position sees only earlier ones, a short input may be filled up to the longest.
            if left and not (self._causal and length and len(new[length]) * longest**2 <= _FILLED):
                self._together(left)
                left, longest = [], max(1, length)
            left += new[length].items()
            rows = max(1, _TOGETHER // longest**2)
            while len(left) > rows:
                self._together(left[:rows])
                del left[:rows]
        if left:
            self._together(left)
        return [self._kept[key] for key in keys]

    def _together(self, chosen: Sequence[tuple[Hashable, Sequence[Any]]]) -> None:
        longest = len(chosen[0][1])  # the first is
        codes = np.zeros((len(chosen), longest), np.int64)
        for row, (_, tokens) in enumerate(chosen):
            found = [self._pool.value(t) for t in tokens]
            codes[row] = found + found[-1:] * (longest - len(found))
        states: States = {}
        for label in self._sops:
            states[label] = self._one(label, codes, states)
        for row, (key, tokens) in enumerate(chosen):
            self._kept[key] = {name: found[row, : len(tokens)] for name, found in states.items()}

    def _one(self, label: str, tokens: Codes, sources: Mapping[str, Codes]) -> Codes:
        read = lambda child: sources[self._names[id(child)]]  # noqa: E731
        return self._memo[label](tokens, read, causal=self._causal)

    def read(self, codes: Sequence[int]) -> tuple[list[Any], list[bool]]:
        """What codes of `States` stand for: values (None for nothing and for mixtures), and which are mixtures."""
        return [self._pool.values[c] for c in codes], [self._pool.mixed[c] for c in codes]

    def _evaluation(self, states: States, names: Iterable[str]) -> Evaluation:
        found = {name: self.read(states[name].tolist()) for name in names}
        return Evaluation({n: values for n, (values, _) in found.items()}, {n: m for n, (_, m) in found.items()})

    def __call__(
        self,
        tokens: Sequence[Any],
        *,
        overrides: Overrides | None = None,
        sees: Sees | None = None,
        states: States | None = None,
    ) -> Evaluation:
        """Evaluate one input.

        Args:
          tokens: the input without BOS.
          overrides: {(variable name, position): value} put in place of what the program computes there. Everything
            that reads the variable is computed from it, in turn, unless `sees` says otherwise.
          sees: (reader, variable) -> whether that reader sees the overrides of that variable; all do by default.
            `reads_after` makes one for an edit at a layer.
          states: from `Oracle.states` on the same tokens; with it only what the overrides reach is computed.

        Returns:
          values with the overrides in place, and the mixtures.

        Raises:
          UserError: an override names no variable or no position.
        """
        tokens = list(tokens)
        states = self.states(tokens) if states is None else states
        if not overrides:
            return self._evaluation(states, self.names)
        for name, position in overrides:
            if name not in self._sops or not 0 <= position < len(tokens):
                raise UserError(
                    f"oracle: override of {name!r} at position {position}; the input has {len(tokens)} positions "
                    f"and the program {', '.join(self._sops)}"
                )
        touched = {name for name, _ in overrides}
        codes = np.array([self._pool.value(t) for t in tokens], np.int64)
        before: States = {}  # without the variable's own overrides
        after: States = {}
        for label in self._sops:
            sources = {}
            for name in self._reads[label]:
                hidden = name in touched and sees is not None and not sees(label, name)
                sources[name] = before[name] if hidden else after[name]
            reached = any(source is not states[name] for name, source in sources.items())
            before[label] = after[label] = self._one(label, codes, sources) if reached else states[label]
            if label in touched:
                after[label] = before[label].copy()
                for (name, position), value in overrides.items():
                    if name == label:
                        after[label][position] = self._pool.value(value)
        return self._evaluation(after, self.names)


def _children_first(exprs: dict[str, rasp.RASPExpr]) -> list[str]:
    order: list[str] = []
    done: set[str] = set()
    stack = [next(iter(exprs))]
    while stack:
        label = stack[-1]
        waiting = [c.label for c in exprs[label].children if c.label not in done]
        if waiting and label not in done:
            stack.extend(waiting)
            continue
        stack.pop()
        if label not in done:
            done.add(label)
            order.append(label)
    return order
