"""RASP program -> teacher, equal to tracr's weights and labels to the bit wherever tracr's network is the program.

Implements docs/method.md §1 and docs/teacher.md §2; §2.1 says where tracr's network is not the program.
Differences from the original: the default `mlp_exactness` is sharp enough for every count up to the maximum length
(docs/teacher.md §3a; 100 restores tracr's and the paper's dyck, 10⁴ its count), and nothing dense is made unless
asked for.
"""

import functools
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import cmp_to_key
from typing import Any

import numpy as np
from tracr.craft.bases import BasisDirection
from tracr.rasp import rasp

from tracr_jax.errors import UserError, describe
from tracr_jax.teacher.blocks import CLEAN_BOS, ONE, Build, Head, Units, build
from tracr_jax.teacher.bos import read_at_bos
from tracr_jax.teacher.graph import PROGRAM_ERRORS, Trace, depths, half_layers, trace
from tracr_jax.teacher.model import Coo, Direction, Grid, Teacher, Variable, list_variables
from tracr_jax.teacher.precision import Imprecise, bound, colder
from tracr_jax.teacher.twins import check_twins
from tracr_jax.teacher.undefined import Undefined, check_numbers

Block = tuple[Head | None, Units | None, list[Direction]]  # see `tracr_jax.teacher.blocks.build`

__all__ = ["Teacher", "Variable", "build_program", "compile_program", "default_exactness"]


def default_exactness(max_seq_len: int) -> float:
    """Slope of the discretising layers: counts d are told apart only if it is at least 2 d (d + 1)."""
    return float(max(1e4, 2 * max_seq_len * (max_seq_len + 1)))


def build_program(program: Callable[[], rasp.SOp] | rasp.SOp) -> rasp.SOp:
    """A built program as it is, a function that builds one called."""
    if not isinstance(program, rasp.RASPExpr):
        try:
            program = program()
        except UserError:
            raise
        except PROGRAM_ERRORS as e:
            raise UserError(f"program: building it failed ({describe(e)})") from e
    if isinstance(program, rasp.Selector):
        raise UserError(
            "the program is a selector, which has no value; return e.g. rasp.SelectorWidth(selector), how many "
            "positions it selects"
        )
    if not isinstance(program, rasp.SOp):
        raise UserError(f"program: expected a tracr rasp.SOp or a function that returns one, got {program!r}")
    return program


def compile_program(
    program: Callable[[], rasp.SOp] | rasp.SOp,
    *,
    vocab: Collection[Any],
    max_seq_len: int,
    bos: Any = "bos",
    pad: Any = "pad",
    mlp_exactness: float | None = None,
) -> Teacher:
    """Compile a program for causal attention.

    Args:
      program: the program, or a function that builds it; its ids are drawn afresh, so that labels depend on the
        program alone.
      vocab: token values, without BOS and PAD.
      max_seq_len: positions without BOS.
      bos: value of the token in front.
      pad: value of the padding token (it has an embedding, and no mask).
      mlp_exactness: slope of the discretising layers; `default_exactness` if None, tracr's own default is 100.

    Raises:
      UserError: the program cannot be compiled, or not rightly; the reason in one line.
    """
    program = build_program(program)
    vocab = set(vocab)
    if not vocab or max_seq_len < 1:
        raise UserError(
            f"teacher: needs tokens and positions, got {len(vocab)} tokens and {max_seq_len} positions"
        )
    for name, value in (("BOS", bos), ("PAD", pad)):
        if value in vocab:
            raise UserError(f"teacher: the {name} token {value!r} is also in the vocabulary; choose another")
    if bos == pad:
        raise UserError(f"teacher: BOS and PAD are the same token {bos!r}")
    exactness = default_exactness(max_seq_len) if mlp_exactness is None else mlp_exactness
    traced = trace(program, vocab=vocab, max_seq_len=max_seq_len)
    return _compile(traced, vocab=vocab, max_seq_len=max_seq_len, bos=bos, pad=pad, exactness=exactness)


def sort_directions(directions: Collection[Direction]) -> list[Direction]:
    """By name, then value, as tracr sorts; values of mixed types by their text.

    Where texts and values order the directions in a circle, tracr's order depends on its set's: ours is by type.
    """
    directions = list(directions)
    try:
        return sorted(directions)
    except TypeError:
        ordered = sorted(directions, key=cmp_to_key(_compare))
    if any(_less(b, a) for i, a in enumerate(ordered) for b in ordered[i + 1 :] if a[0] == b[0]):
        return sorted(directions, key=lambda d: (d[0], type(d[1]).__name__, repr(d[1])))
    return ordered


def _compare(a: Any, b: Any) -> int:
    return _less(b, a) - _less(a, b)


def _less(a: Direction, b: Direction) -> bool:
    return BasisDirection(*a) < BasisDirection(*b)


def _compile(traced: Trace, *, vocab, max_seq_len: int, bos, pad, exactness: float) -> Teacher:
    """As tracr does where that is the program, otherwise with colder heads or with steps that are quiet at BOS."""
    undefined = functools.cache(lambda: Undefined(traced, max_seq_len=max_seq_len))
    if not all(node.categorical for node in traced.sops.values()):
        check_numbers(traced, undefined())
    how = Build((rasp.tokens.label, bos), exactness)
    make = functools.partial(_assemble, traced, vocab=vocab, max_seq_len=max_seq_len, bos=bos, pad=pad)
    try:
        how = replace(how, off=bound(traced, max_seq_len=max_seq_len, coldness=how.coldness))
        teacher, heads = make(how)
    except Imprecise:
        coldness = colder(traced, max_seq_len=max_seq_len)
        how = replace(how, coldness=coldness, off=bound(traced, max_seq_len=max_seq_len, coldness=coldness))
        teacher, heads = make(how)
    if read_at_bos(teacher, heads, selects=lambda label: undefined().selects(label)):
        how = replace(how, quiet=True)
        teacher, heads = make(how)
        assert not read_at_bos(teacher, heads, selects=lambda label: undefined().selects(label))
    return teacher


def _assemble(traced: Trace, how: Build, *, vocab, max_seq_len: int, bos, pad) -> tuple[Teacher, dict[str, Head]]:
    """The teacher, and the head of each variable that has one."""
    bos_dir = how.bos
    blocks, kinds = _blocks(traced, how)
    heads, units_at, clean_at, wrote = _by_half_layer(blocks, half_layers(kinds, depths(traced.exprs)))
    tokens = sort_directions({(rasp.tokens.label, v) for v in {*vocab, bos, pad}})
    positions: list[Direction] = [(rasp.indices.label, i) for i in range(max_seq_len)]
    space = {*tokens, *positions, *traced.sops[traced.result].basis}
    for block in (h for group in heads.values() for h in group):
        space.update(block.queries, block.keys, block.values, (to for _, to in block.moves), (bos_dir, ONE))
    for block in (u for group in units_at.values() for u in group):
        space.update(block.inputs, block.outputs)
    directions = sort_directions(space)
    index = {d: i for i, d in enumerate(directions)}
    layer_of = _layer_numbers(sorted({*heads, *units_at}))

    num_layers = max(layer_of.values()) + 1
    num_heads = max((len(h) for h in heads.values()), default=1)
    key_size = max((_key_size(h, bos_dir) for group in heads.values() for h in group), default=1)
    mlps = {h: _mlp(group, clean_at[h], index, bos_dir) for h, group in units_at.items()}
    hidden = max((m[2] for m in mlps.values()), default=1)
    weights = _embeddings(tokens, positions, index)
    pairs, grids = {}, {}
    by_layer_attn = {layer_of[h]: group for h, group in heads.items()}
    by_layer_mlp = {layer_of[h]: m for h, m in mlps.items()}
    for layer in range(num_layers):
        weights |= _attention(layer, by_layer_attn.get(layer, []), index, num_heads=num_heads, key_size=key_size)
        fst, snd, _, steps, grid = by_layer_mlp.get(layer, (([], [], []), ([], [], []), 0, [], ()))
        name = f"transformer/layer_{layer}/mlp"
        weights[f"{name}/linear_1"] = Coo.of(fst, (len(directions), hidden))
        weights[f"{name}/linear_2"] = Coo.of(snd, (hidden, len(directions)))
        if len(steps):
            pairs[layer] = np.asarray(steps, np.int32)
        if grid:
            grids[layer] = grid
    teacher = Teacher(
        num_layers=num_layers,
        width=len(directions),
        num_heads=num_heads,
        key_size=key_size,
        mlp_hidden_size=hidden,
        max_seq_len=max_seq_len,
        mlp_exactness=float(how.exactness),
        bos=bos,
        pad=pad,
        directions=tuple(directions),
        vocab={value: i for i, (_, value) in enumerate(tokens)},
        result=traced.result,
        variables=list_variables(directions, {n: layer_of[h] + 1 for n, h in wrote.items()}),
        weights=weights,
        pairs=pairs,
        grids=grids,
    )
    return teacher, {label: block[0] for label, block in blocks.items() if block[0]}


def _blocks(traced: Trace, how: Build) -> tuple[dict[str, Block], dict[str, str]]:
    """(what computes each variable, whether that is attention, an MLP or both)."""
    blocks, kinds = {}, {}
    for label, node in traced.sops.items():
        if isinstance(node.expr, rasp.TokensType | rasp.IndicesType):
            continue
        if not isinstance(node.expr, rasp.Map | rasp.SequenceMap | rasp.Aggregate | rasp.SelectorWidth):
            raise UserError(f"program: {label} is a {type(node.expr).__name__}, which tracr cannot compile")
        head, units, _ = blocks[label] = build(traced, node, how)
        kinds[label] = "both" if head and units else "attn" if head else "mlp"
    twins = any(units.twins for _, units, _ in blocks.values() if units)
    if twins or not all(node.categorical for node in traced.sops.values()):
        check_twins(traced)
    if not blocks:
        raise UserError(f"program {traced.result}: it computes nothing, tracr needs at least one layer")
    return blocks, kinds


def _by_half_layer(
    blocks: dict[str, Block], halves: dict[str, int]
) -> tuple[dict[int, list[Head]], dict[int, list[Units]], dict[int, list[list[Direction]]], dict[str, int]]:
    """(heads, units and what a counter cleans, by half layer; the half layer that writes each variable)."""
    heads: dict[int, list[Head]] = defaultdict(list)
    units_at: dict[int, list[Units]] = defaultdict(list)
    clean_at: dict[int, list[list[Direction]]] = defaultdict(list)
    wrote: dict[str, int] = {}  # variable -> half layer
    for label, half in halves.items():
        head, units, clean = blocks[label]
        if head:
            heads[half].append(head)
            wrote.update({to[0]: half for _, to in head.moves})
            half += 1
        if units:
            units_at[half].append(units)
            wrote[label] = half
            if clean:
                clean_at[half].append(clean)
    return heads, units_at, clean_at, wrote


def _layer_numbers(halves: list[int]) -> dict[int, int]:
    """Half layers fill attention, MLP, attention, ... greedily: a missing half leaves an empty one."""
    out, place = {}, -1
    for half in halves:
        place += 1
        place += (place % 2) != (half % 2)
        out[half] = place // 2
    return out


def _key_size(head: Head, bos: Direction) -> int:
    # tracr's query space also holds BOS (a row of zeros). Its value space has no more room than the keys of some
    # head: what moves more values, as a letter fetched by its position in a short text, it refuses.
    return max(len({*head.queries, bos}), len(head.keys), len(head.moves))


def _embeddings(tokens, positions, index) -> dict[str, Coo]:
    row = np.arange(len(tokens))
    to, weight = [index[d] for d in tokens], np.ones(len(tokens))
    if ONE in index:
        row, to, weight = np.tile(row, 2), to + [index[ONE]] * len(tokens), np.tile(weight, 2)
    where = [index[d] for d in positions]
    return {
        "token_embed": Coo.of((row, to, weight), (len(tokens), len(index))),
        # Position 0 is BOS and has no direction.
        "pos_embed": Coo.of(
            (np.arange(1, len(positions) + 1), where, np.ones(len(positions))), (len(positions) + 1, len(index))
        ),
    }


def _attention(layer: int, heads: list[Head], index, *, num_heads: int, key_size: int) -> dict[str, Coo]:
    parts = {k: [] for k in ("query", "key", "value", "linear")}
    for number, head in enumerate(heads):
        first = number * key_size
        keys = sorted(range(len(head.keys)), key=lambda j: index[head.keys[j]])
        for column, j in enumerate(keys):
            parts["key"].append((index[head.keys[j]], first + column, 1.0))
            for i in np.flatnonzero(head.qk[:, j]):
                parts["query"].append((index[head.queries[i]], first + column, head.qk[i, j]))
        for column, (source, to) in enumerate(sorted(head.moves, key=lambda m: index[m[1]])):
            parts["value"].append((index[source], first + column, 1.0))
            parts["linear"].append((first + column, index[to], 1.0))
    out = {}
    for part, triples in parts.items():
        shape = (num_heads * key_size, len(index)) if part == "linear" else (len(index), num_heads * key_size)
        columns = tuple(zip(*triples, strict=True)) if triples else ([], [], [])
        out[f"transformer/layer_{layer}/attn/{part}"] = Coo.of(columns, shape)
    return out


def _mlp(group: list[Units], clean: list[list[Direction]], index, bos: Direction):
    """All units of a layer in tracr's order: triples of both matrices, their number, step pairs and grids."""
    names = [u for block in group for u in block.units] + ([CLEAN_BOS] if clean else [])
    column = {u: i for i, u in enumerate(sort_directions(names))}
    fst, snd, pairs, grids = [], [], [], []
    for block in group:
        unit = np.array([column[u] for u in block.units], np.int64)
        source = np.array([index[d] for d in block.inputs], np.int64)
        to = np.array([index[d] for d in block.outputs], np.int64)
        fst.append((source[_ints(block.fst[0])], unit[_ints(block.fst[1])], np.asarray(block.fst[2], np.float64)))
        snd.append((unit[_ints(block.snd[0])], to[_ints(block.snd[1])], np.asarray(block.snd[2], np.float64)))
        pairs += [(unit[a], unit[b]) for a, b in block.pairs]
        if block.grid:
            a, b = block.grid
            grids.append(Grid(*(x.astype(np.int32) for x in (source[:a], source[a : a + b], unit.reshape(a, b)))))
    if clean:
        # All SelectorWidths of a layer share this unit, so BOS is cleaned once per counter (docs/teacher.md §5.2).
        fst.append(([index[bos]], [column[CLEAN_BOS]], [float(len(clean))]))
        dirty = [d for directions in clean for d in directions]
        snd.append(([column[CLEAN_BOS]] * len(dirty), [index[d] for d in dirty], [-1.0] * len(dirty)))
    join = lambda parts: tuple(np.concatenate(x) for x in zip(*parts, strict=True))  # noqa: E731
    return join(fst), join(snd), len(column), pairs, tuple(grids)


def _ints(x) -> np.ndarray:
    return np.asarray(x, np.int64)
