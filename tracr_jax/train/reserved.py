"""Directions of the residual stream that are reserved for a program's variables, and the codes written there.

Every variable that a later operation reads has k orthonormal directions of its own, disjoint from all others' and
never trained, and one trained point on them, its centroid, per value. The adapter reads the nearest centroid,
which is an affine map; a value is written by moving the coordinates to its centroid, which no other variable sees.

A softmax does not see what all values of a variable have in common, so a variable of m values gets at most m - 1
directions: a further one would carry something that the adapter cannot read. Not in the paper, which reads
all variables with one full affine map.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from tracr_jax.config import ExchangeConfig
from tracr_jax.errors import UserError
from tracr_jax.teacher.model import Teacher, Variable
from tracr_jax.teacher.oracle import Oracle
from tracr_jax.teacher.readers import is_special, last_read, value_classes
from tracr_jax.teacher.variables import ALONE, NOTHING
from tracr_jax.train.codes import code, is_fixed
from tracr_jax.types import EXACT, Adapter, Array, Codes

_NEVER = -1e4  # logit of a value for which another of its class stands


class Group(NamedTuple):
    """n variables of m value classes and k directions each, stored consecutively from these offsets on."""

    n: int
    m: int
    k: int
    variable: int
    column: int  # of classes
    coordinate: int


class Reading(NamedTuple):
    """What the coordinates of some states say, for every variable in `Reserved.names` order."""

    classes: Int[Array, "*B n"]  # of the nearest centroid
    margin: Float[Array, "*B n"]
    """Distance to the border with the nearest other centroid: 0 on it, 1 on the own centroid."""
    away: Float[Array, "*B n"]
    """Distance to the nearest centroid, in units of that centroid's distance to its nearest neighbour. Above 1/2
    no centroid is near: the state is in between."""


@dataclass(frozen=True, eq=False)
class Reserved:
    """Which variables have directions, how many, and what is read there; made by `reserve`. Holds no parameters.

    Compared as an object, so that it can be a static argument of jit.
    """

    names: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]  # (variable, why it has no directions)
    groups: tuple[Group, ...]
    alive: np.ndarray  # [L + 1, n] bool: the teacher's layers at which each variable is aligned and written
    place: Int[np.ndarray, " X"]  # which of the K directions each coordinate of each variable uses, X >= K
    select: Float[np.ndarray, "D C"]  # 1 where a teacher direction is a value of a class, in grouped order
    stands: Int[np.ndarray, " C"]  # the teacher direction of the value that stands for all of a class
    start: tuple[Float[np.ndarray, "_n _m _k"], ...]  # centroids before training
    usual: tuple[Float[np.ndarray, "_n _m"], ...]  # how much each class counts in a variable's size; sums to 1
    sigma: float

    @property
    def total(self) -> int:
        """K, all directions."""
        return int(self.place.max()) + 1

    def by_coordinate(self, x: np.ndarray) -> np.ndarray:
        """[*, n], one for each variable, as [*, X], the same for each of its coordinates."""
        return np.repeat(x, [g.k for g in self.groups for _ in range(g.n)], axis=-1)

    def coordinates(self, name: str) -> slice:
        """The coordinates of one variable among the X.

        Raises:
          UserError: the variable has none.
        """
        i = self._index(name)
        g = self._group(i)
        first = g.coordinate + (i - g.variable) * g.k
        return slice(first, first + g.k)

    def _index(self, name: str) -> int:
        if name not in self.names:
            why = dict(self.left_out).get(name, "the program has no such variable")
            raise UserError(f"no directions are reserved for {name!r}: {why}; there are {', '.join(self.names)}")
        return self.names.index(name)

    def _group(self, variable: int) -> Group:
        return next(g for g in self.groups if variable < g.variable + g.n)

    def init(self, basis: Float[np.ndarray, "d K"]) -> Codes:
        """The parameters before training, on the directions `basis`; see `directions`."""
        sharpness = jnp.full(len(self.names), np.log(2.0), jnp.float32)
        return Codes(jnp.asarray(basis, jnp.float32), tuple(map(jnp.asarray, self.start)), sharpness)

    def basis(self, codes: Codes) -> Float[Array, "d X"]:
        """The direction of each coordinate; two variables on the same directions are never alive together."""
        return jax.lax.stop_gradient(codes.basis)[:, self.place]

    def centroids(self, codes: Codes) -> tuple[Float[Array, "_n _m _k"], ...]:
        """Trained centroids, each variable's shrunk to its size at the start where it has outgrown it."""
        out = []
        for g, c, start, usual in zip(self.groups, codes.centroids, self.start, self.usual, strict=True):
            if is_fixed(g.m):
                out.append(jax.lax.stop_gradient(c))
                continue
            size = jnp.sqrt(jnp.sum(usual[:, :, None] * c * c, axis=(1, 2), keepdims=True))
            most = np.sqrt(np.sum(usual[:, :, None] * start**2, axis=(1, 2), keepdims=True))
            out.append(c * jnp.minimum(1.0, most / size))
        return tuple(out)

    def readout(self, codes: Codes) -> Adapter:
        """Nearest centroid as an affine map onto the C classes: logits -s |x - c|² but for what all share."""
        q = self.basis(codes)
        weights, biases = [], []
        for g, c in zip(self.groups, self.centroids(codes), strict=True):
            s = jnp.exp(codes.sharpness[g.variable : g.variable + g.n])[:, None, None] / self.sigma**2
            own = q[:, g.coordinate : g.coordinate + g.n * g.k].reshape(-1, g.n, g.k)
            weight = jnp.einsum("nmk,dnk->nmd", 2 * s * c, own, precision=EXACT)
            weights.append(weight.reshape(g.n * g.m, -1))
            biases.append((-s[..., 0] * jnp.sum(c * c, axis=-1)).reshape(-1))
        return Adapter(jnp.concatenate(weights), jnp.concatenate(biases))

    @functools.partial(jax.jit, static_argnums=0)  # one compilation, not a hundred small ones
    def adapter(self, codes: Codes) -> Adapter:
        """The affine map onto all D teacher directions; 0 where no variable is reserved.

        One value of a class stands for all of them: the others never have the largest logit.
        """
        read, select = self.readout(codes), jnp.asarray(self.select)
        never = np.where(self.select.any(axis=1), _NEVER, 0.0)
        never[self.stands] = 0.0
        weight, bias = (jnp.matmul(select, x, precision=EXACT) for x in read)
        return Adapter(weight, bias + jnp.asarray(never, jnp.float32))

    def class_of(self, teacher: Teacher, name: str) -> Int[np.ndarray, " m"]:
        """For each value of a variable the number of its class, as `write` takes it."""
        own = self.select[list(teacher.variable(name).indices)]
        return own.argmax(axis=1) - own.any(axis=0).argmax()

    def standing(self, teacher: Teacher, name: str) -> Int[np.ndarray, " m"]:
        """For each value of a variable the place of the value that stands for its class."""
        indices = list(teacher.variable(name).indices)
        return np.array([indices.index(i) for i in self.stands[self.select[indices].argmax(axis=1)]])

    def alike(self, teacher: Teacher, name: str) -> dict[int, str]:
        """Values that share a centroid, by the place of that which stands for all: "1…45", or "0,2,4,…"."""
        if name not in self.names:
            return {}
        values, first = teacher.variable(name).values, self.standing(teacher, name)
        occurs = ~np.array([is_special(teacher, name, value) for value in values])
        classes = {int(k): np.flatnonzero((first == k) & occurs) for k in np.unique(first)}
        return {k: _named_together(values, places) for k, places in classes.items() if len(places) > 1}

    def why_unread(self, name: str, layer: int) -> str:
        """Why nothing is read of a variable, though the program has written it; empty where it is read."""
        if name not in self.names:
            return f"no directions are reserved for it: {dict(self.left_out)[name]}"
        if not self.alive[layer, self.names.index(name)]:
            return "nothing reads it any more, and its directions are free for another variable"
        return ""

    def readable(
        self, teacher: Teacher, truth: Int[np.ndarray, "L1 *B n"], *, names: Sequence[str]
    ) -> Int[np.ndarray, "L1 *B n"]:
        """The program's values of the variables `names` as far as they are encoded.

        Not encoded is a variable without directions, nor one whose directions were released after its last reader;
        of values that share a centroid, one stands for all.
        """
        shown = np.full_like(truth, NOTHING)
        for i, name in enumerate(self.names):
            n, first = names.index(name), self.standing(teacher, name)
            here = self.alive[:, i].reshape(-1, *[1] * (truth.ndim - 2)) & (truth[..., n] != NOTHING)
            shown[..., n] = np.where(here, first[truth[..., n]], NOTHING)
        return shown

    def classes(self, residuals: Float[Array, "*B D"]) -> Float[Array, "*B C"]:
        """Teacher states as one-hots of value classes, in grouped order."""
        return jnp.matmul(residuals, self.select, precision=EXACT)

    def encode(
        self, codes: Codes, classes: Float[Array, "*B C"]
    ) -> tuple[Float[Array, "*B X"], Float[Array, "*B X"]]:
        """(coordinates that encode these classes, 1 where a variable has exactly one value and else 0)."""
        places, held = [], []
        for g, c in zip(self.groups, self.centroids(codes), strict=True):
            x = self.group(classes, g)
            one = jnp.max(x, axis=-1) > ALONE  # less where the program holds several values, or none
            best = jax.nn.one_hot(jnp.argmax(x, axis=-1), g.m, dtype=c.dtype)
            chosen = jnp.einsum("...nm,nmk->...nk", best, c, precision=EXACT)
            places.append(chosen.reshape(*x.shape[:-2], g.n * g.k))
            held.append(jnp.repeat(one, g.k, axis=-1))
        places = jnp.concatenate(places, axis=-1)
        return places, jnp.concatenate(held, axis=-1).astype(places.dtype)

    def group(self, x: Float[Array, "*B C"], g: Group) -> Float[Array, "*B n m"]:
        """One group's part of an array over classes."""
        return x[..., g.column : g.column + g.n * g.m].reshape(*x.shape[:-1], g.n, g.m)

    @functools.partial(jax.jit, static_argnums=0)
    def read(self, codes: Codes, states: Float[Array, "*B d"]) -> Reading:
        """The nearest centroid of every variable, and how near it is."""
        x = jnp.matmul(states.reshape(-1, states.shape[-1]), self.basis(codes), precision=EXACT)  # [N, X]
        found = []
        for g, c in zip(self.groups, self.centroids(codes), strict=True):
            own = x[:, g.coordinate : g.coordinate + g.n * g.k].reshape(-1, g.n, 1, g.k)
            square = jnp.sum((own - c[None]) ** 2, axis=-1)  # [N, n, m]
            apart = jnp.sum((c[:, :, None] - c[:, None]) ** 2, axis=-1)  # [n, m, m]
            best = jnp.argmin(square, axis=-1)
            here = jnp.take_along_axis(square, best[..., None], axis=-1)
            between = apart[jnp.arange(g.n)[None], best]  # [N, n, m]
            other = best[..., None] != jnp.arange(g.m)[None, None]
            margin = jnp.where(other, (square - here) / jnp.where(other, between, 1.0), jnp.inf)
            nearest = jnp.sqrt(jnp.min(jnp.where(other, between, jnp.inf), axis=-1))
            found.append((best, jnp.min(margin, axis=-1), jnp.sqrt(here[..., 0]) / nearest))
        joined = (jnp.concatenate(parts, axis=-1) for parts in zip(*found, strict=True))
        return Reading(*(y.reshape(*states.shape[:-1], -1) for y in joined))

    @functools.partial(jax.jit, static_argnums=(0, 3))
    def write(
        self, codes: Codes, state: Float[Array, "*B d"], name: str, value: int | Int[Array, "*#B"]
    ) -> Float[Array, "*B d"]:
        """The state in which the variable's coordinates are the centroid of a value; nothing else changes.

        Args:
          codes: the trained parameters.
          state: LM states.
          name: the variable.
          value: class of the value, one for all states or one for each.

        Raises:
          UserError: nothing is reserved for the variable.
        """
        i = self._index(name)
        at = self.groups.index(self._group(i))
        c = self.centroids(codes)[at][i - self.groups[at].variable]
        q = self.basis(codes)[:, self.coordinates(name)]
        new = jnp.broadcast_to(c[jnp.asarray(value)], (*state.shape[:-1], c.shape[-1]))
        change = new - jnp.matmul(state, q, precision=EXACT)
        return state + jnp.matmul(change, q.T, precision=EXACT).astype(state.dtype)


def _named_together(values: Sequence[Any], places: Int[np.ndarray, " k"]) -> str:
    chosen = [values[j] for j in places]
    if np.ptp(places) == len(places) - 1 and all(isinstance(v, int | float) for v in chosen):
        return f"{chosen[0]}…{chosen[-1]}"
    return ",".join([*map(str, chosen[:3]), *(["…"] if len(chosen) > 3 else [])])


def reserve(teacher: Teacher, oracle: Oracle, config: ExchangeConfig, *, seed: int = 0) -> Reserved:
    """Decide which variables of a program have directions, and where the centroids of their values begin.

    Args:
      teacher: the compiled program.
      oracle: its evaluator, which knows who reads what.
      config: how many directions, of which size, and what is shared; see `ExchangeConfig`.
      seed: of the codes that are drawn at random.

    Raises:
      UserError: no variable is left, or a later layer reads a number.
    """
    merged = value_classes(teacher, oracle) if config.merge_values else {}
    found, left_out = [], []
    for v in teacher.variables:
        why = _left_out(teacher, oracle, v)
        classes = merged.get(v.name, tuple(range(len(v.values))))
        if not why and max(classes, default=0) == 0:
            why = "it has a single value" if len(v.values) == 1 else "no reader tells its values apart"
        if why:
            left_out.append((v.name, why))
        else:
            found.append((max(classes) + 1, v, classes))
    if not found:
        raise UserError("reserved directions: the program has no variable that a later operation reads")
    found.sort(key=lambda f: f[0])  # stable: within a size in the teacher's order
    groups, start, usual, spans, stands = [], [], [], [], []
    rng = np.random.default_rng((seed, len(found)))
    columns, rows = [], []
    column = coordinate = variable = 0
    for m in sorted({f[0] for f in found}):
        members = [(v, classes) for count, v, classes in found if count == m]
        k = min(m - 1, config.directions)
        groups.append(Group(len(members), m, k, variable, column, coordinate))
        chosen = [_standing(teacher, v, classes) for v, classes in members]
        stands += [v.indices[i] for (v, _), places in zip(members, chosen, strict=True) for i in places]
        named = [[v.values[i] for i in places] for (v, _), places in zip(members, chosen, strict=True)]
        codes, weights = zip(*(code(values, k, rng) for values in named), strict=True)
        start.append((config.sigma * np.stack(codes)).astype(np.float32))
        usual.append(np.stack(weights).astype(np.float32))
        for v, classes in members:
            rows += v.indices
            columns += [column + c for c in classes]
            last = last_read(teacher, oracle, v.name) if config.hand_on else None
            spans.append((v.writer_layer, teacher.num_layers if last is None else last, k))
            column += m
        coordinate, variable = coordinate + len(members) * k, variable + len(members)
    select = np.zeros((teacher.width, column), np.float32)
    select[rows, columns] = 1
    layer = np.arange(teacher.num_layers + 1)[:, None]
    first, last, _ = np.array(spans).T
    return Reserved(
        names=tuple(v.name for _, v, _ in found),
        left_out=tuple(left_out),
        groups=tuple(groups),
        alive=(layer >= first) & (layer <= last),
        place=_places(spans),
        select=select,
        stands=np.array(stands),
        start=tuple(start),
        usual=tuple(usual),
        sigma=config.sigma,
    )


def _standing(teacher: Teacher, variable: Variable, classes: Sequence[int]) -> list[int]:
    """For each class the place of its first value that occurs in an item, or of its first."""
    places = sorted(range(len(classes)), key=lambda i: is_special(teacher, variable.name, variable.values[i]))
    return [next(i for i in places if classes[i] == c) for c in range(max(classes) + 1)]


def _places(spans: Sequence[tuple[int, int, int]]) -> Int[np.ndarray, " X"]:
    """Directions for variables of (first layer, last layer, k); as few in all as any layer needs at once.

    In the order of their first layers, each takes those that have been free for the longest.
    """
    free_from: list[int] = []  # for each direction, the first layer at which nobody has it
    places: list[list[int]] = [[] for _ in spans]
    for i in sorted(range(len(spans)), key=lambda i: spans[i][0]):
        first, last, k = spans[i]
        free = sorted((d for d, layer in enumerate(free_from) if layer <= first), key=lambda d: free_from[d])[:k]
        free += range(len(free_from), len(free_from) + k - len(free))
        free_from += [0] * (max(free) + 1 - len(free_from))
        for d in free:
            free_from[d] = last + 1
        places[i] = free
    return np.array([d for p in places for d in p])


def _left_out(teacher: Teacher, oracle: Oracle, variable: Variable) -> str:
    if variable.kind != "categorical":
        if last_read(teacher, oracle, variable.name) is not None:
            raise UserError(
                f"reserved directions: {variable.name} is a number that a later layer reads, and only variables "
                "with values can be exchanged: compute it from a count (rasp.SelectorWidth), or leave out "
                "--preset exchange"
            )
        return "a number on one direction, of which only its own layer makes use"
    if variable.name not in oracle.readers:
        return "the program does not use it"
    if last_read(teacher, oracle, variable.name) is None:
        later = oracle.readers[variable.name]
        return "read only inside the layer that writes it" if later else "nothing reads it"
    return ""


def directions(
    seed: int,
    *,
    width: int,
    count: int,
    beside: Float[np.ndarray, "d J"] | None = None,
) -> Float[np.ndarray, "d K"]:
    """Orthonormal directions, drawn at random.

    Args:
      seed: of the draw, with how many are taken: programs of one seed would otherwise draw the same.
      width: d.
      count: K.
      beside: orthonormal directions that are taken, by the programs that a model already holds.

    Raises:
      UserError: the model is too narrow.
    """
    taken = np.zeros((width, 0)) if beside is None else np.asarray(beside, np.float64)
    free = width - taken.shape[1]
    if count >= free:
        raise UserError(
            f"reserved directions: the program's variables need {count}, the model has {free} that are free and "
            "must keep one for itself; give fewer directions per variable, or choose a wider --lm"
        )
    drawn = np.random.default_rng((seed, used) if (used := taken.shape[1]) else seed).normal(size=(width, count))
    drawn -= taken @ (taken.T @ drawn)
    return np.linalg.qr(drawn)[0]
