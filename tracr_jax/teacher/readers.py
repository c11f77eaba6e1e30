"""Who reads a variable, until which layer, and which of its values no reader tells apart.

A variable is live from the layer that writes it to the last one from which something is computed. What is never
live (the positions, in a program that does not ask for them) need not be held by a model that runs the program.
"""

from collections.abc import Callable, Iterable
from typing import Any

from tracr.rasp import rasp

from tracr_jax.teacher.graph import outcome
from tracr_jax.teacher.model import Teacher
from tracr_jax.teacher.oracle import Oracle, reading_layers


def last_read(teacher: Teacher, oracle: Oracle, variable: str) -> int | None:
    """The last l for which something is computed from the variable in r_l; L for the result; None if none is."""
    if variable == oracle.result:
        return teacher.num_layers
    start = reading_layers(teacher)
    last = max((start[r] - 1 for r in oracle.readers.get(variable, ())), default=-1)
    writer = next(v.writer_layer for v in teacher.variables if v.name == variable)
    return last if last >= writer else None


def is_special(teacher: Teacher, name: str, value: Any) -> bool:
    """Whether tracr added a value to the tokens; these stand at no position of an item."""
    return name == "tokens" and value in (teacher.bos, teacher.pad)


def value_classes(teacher: Teacher, oracle: Oracle) -> dict[str, tuple[int, ...]]:
    """For each categorical variable the class of each of its values, numbered from 0 in the order of the values.

    Two values share a class where no reader can tell them apart: exchanged for one another, they leave the class
    of everything that is computed from them as it is, whatever the other inputs hold. A difference of counts of
    which only the sign is asked has three classes. Values of the result are all different; so are those of
    variables that nothing reads, and those that a number is computed from.
    """
    variables = {v.name: v for v in teacher.variables if v.kind == "categorical"}
    classes: dict[str, dict[Any, int]] = {}
    occur = {n: [w for w in v.values if not is_special(teacher, n, w)] for n, v in variables.items()}
    for name in reversed(oracle.names):  # readers before what they read
        if name not in variables:
            continue
        values = variables[name].values
        readers = oracle.readers[name]
        if not readers:
            classes[name] = {value: i for i, value in enumerate(values)}
            continue
        found: dict[Any, int] = {}
        signature = _signatures(oracle, name, readers, occur, classes)
        for value in values:
            unused = is_special(teacher, name, value)
            classes.setdefault(name, {})[value] = 0 if unused else found.setdefault(signature(value), len(found))
    return {
        name: tuple(classes[name][value] for value in v.values) for name, v in variables.items() if name in classes
    }


def _signatures(
    oracle: Oracle,
    name: str,
    readers: Iterable[str],
    values: dict[str, list[Any]],
    classes: dict[str, dict[Any, int]],
) -> Callable[[Any], tuple]:
    """Value -> all that the readers make of it, each result by its class."""
    parts: list[Callable[[Any], Any]] = []
    for reader in readers:
        expr = oracle.expression(reader)

        def class_of(made: Any, reader=reader) -> Any:
            return classes.get(reader, {}).get(made, made)

        names = oracle.inputs(reader)
        if isinstance(expr, rasp.Map):
            parts.append(lambda v, f=expr.f, of=class_of: of(outcome(f, v)))
        elif isinstance(expr, rasp.SequenceMap):
            parts += _of_two(expr.f, names[0], names[1], name, values, class_of)
        else:
            assert isinstance(expr, rasp.Aggregate | rasp.SelectorWidth), reader
            keys, queries, *moved = names
            assert isinstance(expr.selector, rasp.Select), reader
            parts += _of_two(expr.selector.predicate, keys, queries, name, values, bool)
            if name in moved:
                parts.append(class_of)
    return lambda value: tuple(part(value) for part in parts)


def _of_two(
    f: Callable, first: str, second: str, name: str, values: dict[str, list[Any]], class_of: Callable
) -> list[Callable[[Any], Any]]:
    """What a function of two variables makes of a value of `name`, with every value of the other one."""
    if not {first, second} <= values.keys():
        return [lambda v: v]  # beside a number: nothing is known of its values, so all of ours count
    parts: list[Callable[[Any], Any]] = []
    if first == name:
        parts.append(lambda v: tuple(class_of(outcome(f, v, w)) for w in values[second]))
    if second == name:
        parts.append(lambda v: tuple(class_of(outcome(f, w, v)) for w in values[first]))
    return parts
