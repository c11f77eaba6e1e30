"""The compact residual stream equals the dense one: the original's, tracr's, and a product in float64."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from tracr.compiler import lib
from tracr.rasp import rasp

from tests.helpers import golden_data as G
from tests.helpers.teacher_programs import LIBRARY, exact_tracr, of_task
from tracr_jax.errors import UserError
from tracr_jax.intervene import ResidualEdit
from tracr_jax.tasks.count import Count
from tracr_jax.tasks.dyck import Dyck
from tracr_jax.tasks.int_sum import IntSum
from tracr_jax.teacher import compile_program, make_forward
from tracr_jax.teacher.forward import _multiply_in_numpy, dense_residuals, last_state


def random_ids(teacher, rows, *, seed=0):
    rng = np.random.default_rng(seed)
    choices = [i for v, i in teacher.vocab.items() if v != teacher.bos]
    ids = rng.choice(choices, (rows, teacher.max_seq_len + 1)).astype(np.int32)
    ids[:, 0] = teacher.bos_id
    return ids


def float64_residuals(teacher, ids):
    """r_0..r_L by sparse products in NumPy's float64: another path than both forms in the package."""
    w = {n: scipy.sparse.csr_matrix((c.value, (c.row, c.col)), c.shape) for n, c in teacher.weights.items()}
    b, t = ids.shape

    def times(x, name):
        return (x.reshape(b * t, -1) @ w[name]).reshape(b, t, -1)

    x = w["token_embed"].toarray()[ids] + w["pos_embed"].toarray()[None, :t]
    states = [x]
    hidden_mask = np.triu(np.ones((t, t), bool), 1)
    for layer in range(teacher.num_layers):
        at = f"transformer/layer_{layer}"
        q, k, v = (
            times(x, f"{at}/attn/{n}").reshape(b, t, teacher.num_heads, -1) for n in ("query", "key", "value")
        )
        scores = np.einsum("bthk,bshk->bhts", q, k) / np.sqrt(teacher.key_size)
        scores[:, :, hidden_mask] = -np.inf
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = np.einsum("bhts,bshv->bthv", scores / scores.sum(-1, keepdims=True), v)
        x = x + times(mixed, f"{at}/attn/linear")
        x = x + times(np.maximum(times(x, f"{at}/mlp/linear_1"), 0), f"{at}/mlp/linear_2")
        states.append(x)
    return np.stack(states)


def run(teacher, ids, *, dtype=jnp.float32):
    phi, residuals = make_forward(teacher, dtype=dtype)
    return np.asarray(jax.jit(residuals)(phi, ids))


def compiled(task, length, **options):
    return compile_program(
        lambda: task.program(max_seq_len=length), vocab=task.vocab(), max_seq_len=length, **options
    )


@pytest.mark.parametrize(
    ("task", "length", "rows"),
    [(Dyck(), 12, 8), (Dyck(), 40, 8), (IntSum(), 16, 8), (Count(), 47, 4), (Count(), 120, 1)],
)
def test_float32_is_within_1e4_of_float64(task, length, rows):
    teacher = compiled(task, length)
    ids = random_ids(teacher, rows)
    got = run(teacher, ids)
    assert got.shape == (teacher.num_layers + 1, rows, length + 1, teacher.width)
    np.testing.assert_allclose(got, float64_residuals(teacher, ids), rtol=0, atol=1e-4)


def test_soft_teacher_of_the_paper_is_within_1e4_too():
    teacher = compiled(Dyck(), 40, mlp_exactness=100)
    ids = random_ids(teacher, 16, seed=1)
    np.testing.assert_allclose(run(teacher, ids), float64_residuals(teacher, ids), rtol=0, atol=1e-4)


def test_the_originals_residuals():
    """The original rounds its weights to float32, runs them in float64 and keeps the states as float32 (1e-7)."""
    teacher = compiled(Dyck(), 12, mlp_exactness=100)
    want, ids = G.ARRAYS["teacher_residuals_from_float64"], G.ARRAYS["teacher_token_ids"]
    rounded = {n: c._replace(value=c.value.astype(np.float32)) for n, c in teacher.weights.items()}
    # Without pairs every step is the difference of two relus: 1 - L t and -L t are rounded apart from each other.
    plain = dataclasses.replace(teacher, weights=rounded, pairs={})
    with jax.enable_x64(True):
        got = run(plain, ids, dtype=jnp.float64)
        assert got.dtype == np.float64
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)
    # Exact weights, in either precision, are off by no more than that rounding: 1.6e-3 between its own two runs.
    np.testing.assert_allclose(run(teacher, ids), want, rtol=0, atol=1.6e-3)


@pytest.mark.parametrize(
    "name", ["int_sum_2", "detect_pattern_abc", "pair_balance_1", "shuffle_dyck2_1", "sort_freq"]
)
def test_dense_form_is_tracrs_and_compact_form_the_dense_ones(name):
    if name in LIBRARY:
        case = LIBRARY[name]
        program, vocab, length = case["program"], case["vocab"], case["max_seq_len"]
    else:
        program, vocab, length = of_task(name)
    teacher = compile_program(program, vocab=vocab, max_seq_len=length, mlp_exactness=100)
    ids = random_ids(teacher, 4)
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, teacher.densify(np.float64))
        dense = jax.jit(partial(dense_residuals, num_heads=teacher.num_heads))(params, ids)
        np.testing.assert_allclose(run(teacher, ids, dtype=jnp.float64), dense, rtol=0, atol=1e-9)
    np.testing.assert_allclose(dense, float64_residuals(teacher, ids), rtol=0, atol=1e-9)
    if name in ("int_sum_2", "pair_balance_1"):
        with jax.numpy_rank_promotion("allow"):
            model = exact_tracr(program, vocab, length, exactness=100)
            out = jax.jit(model.forward)(model.params, ids).transformer_output
        theirs = np.stack([out.input_embeddings, *out.residuals[1::2]])
        np.testing.assert_allclose(theirs, dense, rtol=0, atol=1e-4)


def test_two_writers_of_one_direction_add_up():
    """Several counters in one layer each clean BOS, so BOS ends at 1 - n (docs/teacher.md §5.2)."""
    teacher = compiled(Dyck(), 8)
    got = run(teacher, random_ids(teacher, 1))
    aux = [v for v in teacher.variables if v.name.endswith("_attn_output") and "counts" in v.name]
    assert len(aux) == 6
    for v in aux:
        np.testing.assert_allclose(got[1, 0, 0, v.indices[0]], 1 - 6, atol=1e-5)


def test_no_gradient_reaches_the_teacher():
    teacher = compile_program(lib.make_hist, vocab="ab", max_seq_len=4)
    phi, residuals = make_forward(teacher)
    ids = random_ids(teacher, 2)
    grads = jax.grad(lambda p: jnp.sum(residuals(p, ids) ** 2))(phi)
    assert jax.tree.leaves(grads)
    assert all(not np.any(g) for g in jax.tree.leaves(grads))


def test_weights_are_arguments_and_the_structure_is_static():
    """One trace serves other weights, and the program holds no weight as a constant."""
    teacher = compiled(Dyck(), 20)
    phi, residuals = make_forward(teacher)
    traces = []
    jitted = jax.jit(lambda phi, ids: (traces.append(1), residuals(phi, ids))[1])
    ids = random_ids(teacher, 2)
    first = jitted(phi, ids)
    zeros = jitted(jax.tree.map(jnp.zeros_like, phi), ids)
    assert len(traces) == 1
    assert np.any(first)
    assert not np.any(zeros)
    consts = jax.make_jaxpr(residuals)(phi, ids).consts
    assert all(not jnp.issubdtype(jnp.asarray(c).dtype, jnp.floating) for c in consts)


def test_bad_ids_are_loud():
    teacher = compile_program(lib.make_hist, vocab="ab", max_seq_len=4)
    phi, residuals = make_forward(teacher)
    ids = random_ids(teacher, 2)
    with pytest.raises(UserError, match="6 positions, its table holds 5"):
        residuals(phi, np.zeros((1, 6), np.int32))
    with pytest.raises(AssertionError, match="rank"):
        residuals(phi, ids[0])
    with pytest.raises(AssertionError, match="type"):
        residuals(phi, ids.astype(np.float32))
    for outside in (99, -1):
        ids[1, 2] = outside
        got = np.asarray(residuals(phi, ids))
        assert np.all(np.isfinite(got[:, 0]))
        assert np.all(np.isnan(got[:, 1, 2])), outside
    beyond = ResidualEdit(teacher.num_layers, lambda x: x)
    with pytest.raises(UserError, match=f"edit at block {beyond.block}: the blocks are 0 to {beyond.block - 1}"):
        residuals(phi, ids, edit=beyond)


def test_later_tokens_change_nothing():
    teacher = compiled(IntSum(digits=2, limit=50), 12)
    ids = random_ids(teacher, 3)
    changed = ids.copy()
    changed[:, 8:] = np.roll(ids[:, 8:], 1, axis=0)
    a, b = run(teacher, ids), run(teacher, changed)
    np.testing.assert_array_equal(a[:, :, :8], b[:, :, :8])
    assert np.any(a[:, :, 8:] != b[:, :, 8:])


def test_every_position_of_a_fresh_program_is_read():
    """An Aggregate of a number: the fraction of earlier a's, by hand."""
    program = lambda: lib.make_frac_prevs(rasp.tokens == "a").named("final_result")  # noqa: E731
    teacher = compile_program(program, vocab="ab", max_seq_len=5)
    got = run(teacher, np.array([teacher.encode("abaab")], np.int32))
    np.testing.assert_allclose(
        got[-1, 0, 1:, teacher.result_indices()[0]], [1, 1 / 2, 2 / 3, 3 / 4, 3 / 5], atol=1e-4
    )


@pytest.mark.parametrize("name", ["dyck_12", "int_sum_2", "count_16"])
def test_numpy_runs_the_same_layers(name):
    """Real inputs, and ids of all kinds: there several products of a two-argument map are left, not one."""
    program, vocab, length = of_task(name)
    teacher = compile_program(program, vocab=vocab, max_seq_len=length)
    ids = random_ids(teacher, 12)
    exact = float64_residuals(teacher, ids)[-1]
    np.testing.assert_allclose(last_state(teacher)(ids), exact, rtol=0, atol=1e-4)


def test_numpy_computes_all_products_where_values_are_no_one_hots():
    """A mixture of two values in each argument: four products of which none may be left out."""
    rng = np.random.default_rng(0)
    x, y = rng.random((2, 3, 5, 2, 7)).astype(np.float32)
    x[0], y[0] = np.eye(7)[rng.integers(0, 7, (5, 2))], np.eye(7)[rng.integers(0, 7, (5, 2))]
    table = rng.random((2, 49, 4)).astype(np.float32)
    expected = np.einsum(
        "btnij,nijo->btno", np.maximum(x[..., None] + y[..., None, :] - 1, 0), table.reshape(2, 7, 7, 4)
    )
    np.testing.assert_allclose(_multiply_in_numpy(x, y, table), expected, rtol=1e-5)


def test_numpy_runs_networks_without_steps_and_grids():
    """As the fallback through tracr leaves them: plain units only."""
    program, vocab, length = of_task("int_sum_2")
    teacher = compile_program(program, vocab=vocab, max_seq_len=length)
    assert teacher.pairs
    assert teacher.grids
    plain = dataclasses.replace(teacher, pairs={}, grids={})
    ids = random_ids(teacher, 8)
    np.testing.assert_allclose(last_state(plain)(ids), float64_residuals(teacher, ids)[-1], rtol=0, atol=0.05)
