"""Swaps: the ceiling in the compiled teacher, a model in which they must work, an adapter that knows nothing."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers.bounds import assert_same
from tests.helpers.interpret_perfect import perfect, with_random_adapter
from tests.helpers.random_models import TASK_WORDS, word_tokenizer
from tracr_jax.data.bridge import make_bridge
from tracr_jax.data.encode import sequence_length
from tracr_jax.interpret.exchange import exchange, random_directions, span_basis
from tracr_jax.interpret.pairs import Cell, PairFinder, Pairs, list_cells, other_variable, predict
from tracr_jax.interpret.pool import make_pool, sample_pool
from tracr_jax.interpret.swap import make_teacher_swap, swaps, used_variables
from tracr_jax.interpret.write import move_to_value
from tracr_jax.report.terminal.summary import used_line
from tracr_jax.tasks.base import Item
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.teacher import compile_program, make_forward
from tracr_jax.teacher.oracle import reads_after
from tracr_jax.teacher.readers import last_read
from tracr_jax.train.losses import apply_adapter
from tracr_jax.types import Adapter


@functools.cache
def pool_of(task, items, *, extra=()):
    tokenizer = word_tokenizer(TASK_WORDS).filtered(task.keep_merge)
    length = sequence_length(task, tokenizer)
    teacher = compile_program(
        lambda: task.program(max_seq_len=length),
        vocab=task.vocab(),
        max_seq_len=length,
        mlp_exactness=task.mlp_exactness(length),
    )
    bridge = make_bridge(task, tokenizer, teacher)
    return make_pool(task, bridge, [*sample_pool(task, bridge, items=items)[0], *extra])


def kind(name):
    """A variable's name without its counter."""
    return name.rsplit("_", 1)[0] if name[-1].isdigit() else name


# Sums of one digit, and of none that counts, are too rare for a sample.
SHORT_SUMS = tuple(
    IntSum().item(i, j) for i, j in ((0, 0), (0, 7), (3, 4), (5, 2), (1, 1), (4, 4), (6, 8), (9, 9))
)
# Short texts: quick to evaluate, and numbers of one and of two digits.
COUNT = Count(digits=2, max_words=14)


@pytest.mark.parametrize(
    ("task", "pairs", "extra", "same"),
    [
        (Dyck(), 40, (), set()),
        # A constant, and the positions themselves: the same in all items.
        (IntSum(), 8, SHORT_SUMS, {"nothing", "indices"}),
        (COUNT, 8, (COUNT.item(["y"] * 9), COUNT.item(["x"] * 12)), {"no_digits", "no_result", "indices"}),
    ],
    ids=["dyck", "int_sum", "count"],
)
def test_ceiling_the_compiled_teacher_answers_as_the_oracle_says(task, pairs, extra, same):
    """Every categorical variable on the path to the answer, at each layer from its writer to its last reader."""
    pool = pool_of(task, 160, extra=extra)
    teacher = pool.bridge.teacher
    phi, residuals = make_forward(teacher)
    program = SimpleNamespace(teacher=teacher, phi=phi, residuals=residuals)  # all that it takes of one
    swap = make_teacher_swap(program, pool)  # pyright: ignore[reportArgumentType]
    cells, omitted = list_cells(teacher, pool.oracle)
    find = PairFinder(pool, count=pairs, seed=0)
    never, flips = set(), set()
    for cell in cells:
        found = find(cell)
        if isinstance(found, str):
            assert found == "no two items of the sample differ in it at the same position"
            never.add(kind(cell.variable))
            continue
        hits = swap(cell, found.pairs)
        assert len(hits) == pairs, cell
        assert np.mean(hits) >= 0.99, cell
        if any(p.flips for p in found.pairs):
            flips.add(cell.variable)
    assert never == same
    # Together with what is left out and told, these are all variables.
    told = {o.variable for o in omitted if o.layer is None}
    swapped = {c.variable for c in cells}
    assert told | swapped == {v.name for v in teacher.variables}
    assert not told & swapped
    read_inside = {kind(o.variable) for o in omitted if "inside the layer" in o.reason}
    if task.name == "dyck":
        assert read_inside == set()
        # Of the tokens only the last one's type is read after the first layer: it differs between lengths.
        assert flips == swapped
    elif task.name == "count":
        assert read_inside == set()
        # The number of digits changes the answer only between items of different lengths.
        assert flips == {n for n in swapped if kind(n) not in same}
    else:
        digits = range(1, 4)
        assert read_inside == {"previous_token"} | {
            f"second_{i}_{k}" for i in digits for k in ("digit", "shifted")
        }
        assert pool.oracle.result in flips
        assert len(flips) > 40


def test_cells_reach_from_the_writer_to_the_last_reader():
    pool = pool_of(Dyck(), 160)
    teacher = pool.bridge.teacher
    cells, _ = list_cells(teacher, pool.oracle)
    layers = {}
    for c in cells:
        layers.setdefault(kind(c.variable), []).append(c.layer)
    # Written in the first layer, read in the second; the last diffs are read by the counters and by the sum.
    assert layers["(_start_counts"] == [1]
    assert layers["()_diffs"] == [2]
    assert layers["[]_diffs"] == [2, 3]
    assert layers["tokens"] == [1, 2, 3, 4, 5, 6]
    assert layers["final_result"] == [teacher.num_layers]
    assert last_read(teacher, pool.oracle, "one") is None


def test_a_prediction_by_hand():
    """The source's count of opening brackets makes the base balanced or not; nothing else of it plays a part."""
    pool = pool_of(Dyck(), 160)
    texts = ["(()", "())", "[[]", "()[]"]  # the last one shows the token of a "yes"
    pool = make_pool(pool.task, pool.bridge, [Dyck().item(t) for t in texts])
    opened = next(n for n in pool.oracle.names if n.startswith("(_start"))
    closed = next(n for n in pool.oracle.names if n.startswith(")_end"))
    sees = reads_after(pool.bridge.teacher, 1)

    def answer(variable, base, source):
        pair = predict(pool, variable, texts.index(base), texts.index(source), sees=sees)
        assert pair.answer == (pool.tokens[0, pair.values[0]],)
        assert pair.flips == (pair.values != pool.items[pair.base].result)
        return pair.values[0]

    # Opened 1, 1, 1 with closed 0, 0, 1 is balanced.
    assert answer(opened, "(()", "())") is True
    # Opened 1, 2, 2 with closed 0, 1, 2 is, too; with the closed brackets of "[[]", none, it is not.
    assert answer(opened, "())", "(()") is True
    assert answer(closed, "())", "[[]") is False
    # The square brackets stay unbalanced whatever the round ones do.
    assert answer(opened, "[[]", "(()") is False


def test_a_generated_answer_is_predicted_token_by_token():
    """An exchanged carry changes the second digit, which is written after the first has been fed back."""
    pool = pool_of(IntSum(), 160)
    items = [IntSum().item(128, 244), IntSum().item(121, 244)]
    pool = make_pool(pool.task, pool.bridge, [*items, *(IntSum().item(k, 100 + 10 * k) for k in range(10))])
    carry = next(v for v in pool.bridge.teacher.variables if v.name.startswith("carry_1"))
    pair = predict(pool, carry.name, 0, 1, sees=reads_after(pool.bridge.teacher, carry.writer_layer))
    assert pool.items[0].result == (3, 7, 2)
    assert pair.values == (3, 6, 2)
    assert pool.bridge.tokenizer.decode(list(pair.answer)).strip() == "362"


def test_pairs_are_balanced_reproducible_and_always_differ():
    pool = pool_of(Dyck(), 260)  # 20 of each set
    name = next(n for n in pool.oracle.names if n.startswith("aggregated_diffs_4"))
    layer = next(v.writer_layer for v in pool.bridge.teacher.variables if v.name == name)
    found = PairFinder(pool, count=32, seed=3)(Cell(name, layer))
    assert isinstance(found, Pairs)
    assert found.equal_length
    kinds = [(pool.items[p.base].result, p.values) for p in found.pairs]
    assert {k: kinds.count(k) for k in set(kinds)} == dict.fromkeys(
        [((a,), (b,)) for a in (True, False) for b in (True, False)], 8
    )
    for p in found.pairs:
        base, source = pool.items[p.base], pool.items[p.source]
        assert len(base.prompt) == len(source.prompt)
        assert any(base.values[name][s] != source.values[name][s] for s in p.positions)
    again = PairFinder(pool, count=32, seed=3)(Cell(name, layer))
    other = PairFinder(pool, count=32, seed=4)(Cell(name, layer))
    assert again.pairs == found.pairs
    assert other.pairs != found.pairs


def test_a_variable_that_matters_only_between_lengths_is_swapped_between_them():
    """Items of one length differ in the number of digits so far, but at no place that the answer is read from."""
    pool = pool_of(COUNT, 160)
    cell = next(c for c in list_cells(pool.bridge.teacher, pool.oracle)[0] if kind(c.variable) == "num_digits")
    found = PairFinder(pool, count=8, seed=0)(cell)
    assert isinstance(found, Pairs)
    assert not found.equal_length
    assert sum(p.flips for p in found.pairs) >= 4


def test_an_answer_that_no_item_of_the_sample_begins_with():
    pool = pool_of(COUNT, 160)
    few = make_pool(pool.task, pool.bridge, [COUNT.item(["x"] * n + ["y"]) for n in (3, 11, 12)])
    assert few.bridge.tokenizer.decode([few.tokens[0, 0]]).strip() == "0"


def test_an_item_that_the_program_does_not_answer_is_no_material():
    pool = pool_of(Dyck(), 160)
    right, wrong = Dyck().item("()[]"), Item(Dyck().item("()[]").prompt, "no")
    assert len(make_pool(pool.task, pool.bridge, [right, wrong]).items) == 1


# ---- in language models


def cells_of(result):
    return {(kind(c["variable"]), c["layer"]): c for c in result["cells"]}


def test_in_a_model_that_follows_the_program_every_swap_matches():
    run = perfect()
    result = swaps(run, pairs=24, pool_items=120)
    cells = cells_of(result)
    assert len(cells) == len(
        list_cells(run.program.teacher, make_pool(run.program.task, run.program.bridge, []).oracle)[0]
    )
    for c in result["cells"]:
        assert c["match"]["accuracy"] == 1, c
        assert c["ceiling"]["accuracy"] == 1, c
        assert c["total"] == c["match"]["total"] == 24
        # The untouched model answers as the program: a prediction that is not a flip is its own answer.
        assert c["unmoved"]["right"] == 24 - c["flips"], c
        for found in c["followed"].values():  # at the answer, and where the result is decoded
            assert found["swap"]["right"] == found["swap"]["total"] == c["flips"], c
    depth = run.program.teacher.num_layers
    last = cells["final_result", depth]
    assert last["flips"] == 24
    # Everything but the result is exchanged: the answer stays.
    assert last["controls"]["complement"]["accuracy"] == 0
    assert last["controls"]["random"]["accuracy"] < 0.5
    assert last["controls"]["other"]["accuracy"] < 0.5
    assert last["other_variable"] != last["variable"]
    for name in ("()_diffs", "[]_negative_counters", "unfiltered_result"):
        c = next(c for (n, _), c in cells.items() if n == name)
        assert all(c["controls"][k]["high"] < 1 for k in ("random", "complement")), name
    assert {o["variable"] for o in result["left_out"]} >= {"one", "indices"}
    used, swapped = used_variables(result["cells"])
    assert next(n for n in used if kind(n) == "final_result")
    # The model runs the program: what the rule says of it, it says of the program, but for controls that only a
    # model has.
    assert set(used) <= set(result["used_by_program"]) < set(swapped)
    for c in result["cells"]:
        program, model = c["followed"]["program"], c["followed"]["answer"]
        assert program["complement"]["right"] == model["complement"]["right"], c
        assert (program.get("other") or {}) == (model.get("other") or {}), c
    assert set(used) <= set(swapped)
    assert (result["used"], result["swapped"]) == (used, swapped)
    assert used_line(result).startswith(f"{len(used)} of {len(swapped)} variables are used at all their layers")


def test_with_an_untrained_adapter_swaps_match_no_more_often_than_their_controls():
    """The measure can fail: the same model, read by an adapter that knows nothing of it."""
    run = perfect()
    result = swaps(with_random_adapter(run), pairs=24, pool_items=120)
    flips = [c for c in result["cells"] if c["flips"]]
    right = sum(c["match"]["right"] for c in flips)
    controls = {k: sum(c["controls"][k]["right"] for c in flips) for k in ("random", "other")}
    total = sum(c["total"] for c in flips)
    assert all(c["ceiling"]["accuracy"] == 1 for c in flips)
    assert right < 0.75 * total
    assert all(right < n + 0.1 * total for n in controls.values())
    for c in flips:
        assert c["match"]["low"] <= c["controls"]["random"]["high"], c
    assert used_variables(result["cells"])[0] == []


# ---- the arithmetic


def test_exchange_gives_the_sources_reading_and_keeps_the_rest():
    r = np.random.default_rng(0)
    rows = r.standard_normal((3, 8))
    rows = np.concatenate([rows, rows[:1] + rows[1:2]])  # dependent: the span has three dimensions
    basis = span_basis(rows)
    assert basis.shape == (8, 3)
    h, source = jnp.asarray(r.standard_normal((2, 2, 5, 8)), jnp.float32)
    where = np.zeros((2, 5), np.float32)
    where[:, 1:3] = 1
    direction = random_directions(jax.random.key(0), h.shape)

    def change(*weights):
        return exchange(
            h, source, jnp.asarray(basis), where, weights=jnp.asarray(weights, jnp.float32), direction=direction
        )

    new = change(1, 0, 0)
    np.testing.assert_array_equal(new[:, [0, 3, 4]], h[:, [0, 3, 4]])
    np.testing.assert_allclose(new[:, 1:3] @ rows.T, source[:, 1:3] @ rows.T, atol=1e-4)
    outside = np.linalg.svd(rows)[2][3:]
    assert_same(new @ outside.T, h @ outside.T)
    rest = change(-1, 1, 0)
    np.testing.assert_allclose(rest[:, 1:3] @ rows.T, h[:, 1:3] @ rows.T, atol=1e-4)
    assert_same(rest[:, 1:3] @ outside.T, source[:, 1:3] @ outside.T)
    sizes = [np.linalg.norm(x - h, axis=-1) for x in (new, change(0, 0, 1))]
    assert_same(*sizes)


def test_moving_to_a_value_is_the_smallest_change_that_reads_it():
    r = np.random.default_rng(1)
    weight, bias = r.standard_normal((6, 12)), r.standard_normal(6)
    adapter = Adapter(jnp.asarray(weight, jnp.float32), jnp.asarray(bias, jnp.float32))
    h = jnp.asarray(r.standard_normal((4, 3, 12)), jnp.float32)
    own = [1, 2, 4]
    before = np.asarray(apply_adapter(adapter, h))[..., own]
    moved = move_to_value(h, adapter, indices=own, value=2)
    after = np.asarray(apply_adapter(adapter, moved))[..., own]
    assert np.all(np.argmax(after, axis=-1) == 2)
    np.testing.assert_allclose(np.sort(after, axis=-1), np.sort(before, axis=-1), atol=1e-4)
    same = np.argmax(before, axis=-1) == 2
    assert same.any()
    assert not same.all()
    assert_same(np.asarray(moved)[same], np.asarray(h)[same])
    # Smallest: nothing of it lies outside the span of the variable's rows.
    outside = np.linalg.svd(np.asarray(adapter.weight)[own])[2][3:]
    np.testing.assert_allclose((moved - h) @ outside.T, 0, atol=1e-4)


def test_the_other_variable_has_as_many_values_or_the_next_number():
    pool = pool_of(Dyck(), 160)
    teacher = pool.bridge.teacher
    result = pool.oracle.result
    other = other_variable(teacher, pool, Cell(result, teacher.num_layers))
    assert other != result
    assert len(pool.held[other]) == 2
    alone = {result, other_variable(teacher, pool, Cell(result, teacher.num_layers), among={"tokens"})}
    assert alone == {result, "tokens"}  # the others have no directions of their own
    # In the first layer only the counts and the tokens are there yet.
    name = next(n for n in pool.oracle.names if n.startswith("(_start"))
    other = other_variable(teacher, pool, Cell(name, 1))
    assert next(v.writer_layer for v in teacher.variables if v.name == other) <= 1


def test_the_other_variable_is_one_that_is_still_read():
    """A variable that nothing reads any more moves no answer: no control at all."""
    pool = pool_of(Dyck(), 160)
    teacher = pool.bridge.teacher

    def alive(cell):
        for v in teacher.variables:
            if v.name in pool.held and len(pool.held[v.name]) > 1 and v.name != cell.variable:
                last = last_read(teacher, pool.oracle, v.name)
                if v.writer_layer <= cell.layer and last is not None and last >= cell.layer:
                    yield v.name

    cells = list_cells(teacher, pool.oracle)[0]
    found = [(other_variable(teacher, pool, cell), set(alive(cell))) for cell in cells]
    assert sum(bool(names) for _, names in found) > 20
    assert all(other in names for other, names in found if names)
