"""Interchange alignment: the edit of the LM is that of the teacher, and a model that ignores it is not aligned."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from interpret_parts import DYCK

from tracr_jax.bridge import make_bridge
from tracr_jax.config import LossConfig
from tracr_jax.errors import UserError
from tracr_jax.interchange import draw_edits, find_exchanges, key_of
from tracr_jax.interpret.pairs import list_cells
from tracr_jax.intervene import ResidualEdit
from tracr_jax.lm.load import TASK_WORDS
from tracr_jax.lm.tokenizer import word_tokenizer
from tracr_jax.losses import DEFINED, item_positions, variable_layout
from tracr_jax.tasks.encode import encode_item, sequence_length
from tracr_jax.teacher import compile_program, make_forward
from tracr_jax.teacher.evaluate import Oracle
from tracr_jax.train import Frozen, StepShape, TrainParams, make_loss_fn
from tracr_jax.types import Adapter, Batch, LMOutput

ASKED, FREE, ROWS = 2, 8, 4


@functools.cache
def parts():
    """Teacher, its forward, what can be exchanged, and a batch of dyck items."""
    task = DYCK
    tokenizer = word_tokenizer(TASK_WORDS).filtered(task.keep_merge)
    length = sequence_length(task, tokenizer)
    teacher = compile_program(lambda: task.program(max_seq_len=length), vocab=task.vocab(), max_seq_len=length)
    bridge = make_bridge(task, tokenizer, teacher)
    items = [task.free_item(k, seed=3) for k in range(ASKED + FREE)]
    rows = [encode_item(i, bridge, tokenizer, length=length) for i in items]
    ids, mask = (np.stack([r[k] for r in rows]) for k in (0, 1))
    batch = Batch(ids, mask, bridge.to_teacher(ids), ids[:1])
    oracle = Oracle(task.program(max_seq_len=length))
    phi, residuals = make_forward(teacher)
    target = jax.jit(residuals)(phi, batch.teacher_ids)[:, :, 1:]
    return teacher, oracle, phi, residuals, batch, target, tokenizer.eos_id


def draw(key, adapter=None):
    teacher, oracle, _, _, batch, target, pad = parts()
    width = teacher.width
    adapter = adapter or Adapter(jnp.eye(width), jnp.zeros(width))
    return draw_edits(
        key,
        adapter,
        target,
        item_positions(jnp.asarray(batch.ids), pad_id=pad),
        exchanges=find_exchanges(teacher, oracle, width=width),
        rows=ROWS,
        free=FREE,
    )


def test_places_are_the_cells_of_the_swaps_below_the_last_layer():
    teacher, oracle, *_ = parts()
    found = find_exchanges(teacher, oracle, width=768)
    cells, _ = list_cells(teacher, oracle)
    expected = {(c.variable, c.layer) for c in cells if c.layer < teacher.num_layers}
    assert set(zip(found.names, found.layer.tolist(), strict=True)) == expected
    for i, name in enumerate(found.names):
        own = next(v for v in teacher.variables if v.name == name).indices
        assert tuple(found.directions[i][found.real[i]]) == tuple(own)
    # A variable with as many values as the model is wide would take everything along.
    narrow = find_exchanges(teacher, oracle, width=8)
    assert 0 < len(narrow.names) < len(found.names)
    assert narrow.real.sum(1).max() < 8
    with pytest.raises(UserError, match="no variable that a later layer reads"):
        find_exchanges(teacher, oracle, width=1)


@pytest.mark.parametrize("seed", range(3))
def test_in_a_model_that_is_the_teacher_both_edits_are_one(seed):
    """Also under an invertible map of the states, whose inverse is then the adapter: rows not orthogonal."""
    *_, target, _ = parts()
    width = target.shape[-1]
    mixing = np.eye(width) + 0.3 * np.random.default_rng(seed).standard_normal((width, width)) / width**0.5
    adapter = Adapter(jnp.asarray(np.linalg.inv(mixing), jnp.float32), jnp.zeros(width))
    in_lm, in_teacher = draw(key_of(seed / 7), adapter)
    layers = np.asarray(in_teacher.block).ravel() + 1
    np.testing.assert_array_equal(np.asarray(in_lm.block).ravel() + 1, [0] * (FREE - ROWS) + layers.tolist())
    changed = 0
    for row, layer in enumerate(layers):
        states = target[layer, -FREE:] @ jnp.asarray(mixing.T, jnp.float32)
        edited = in_lm.fn(states)
        chex.assert_trees_all_equal(edited[:-ROWS], states[:-ROWS])  # what is given is not edited
        own = np.asarray(in_teacher.fn(jnp.pad(target[layer, -ROWS:], ((0, 0), (1, 0), (0, 0))))[row, 1:])
        moved = own != np.asarray(target[layer, -ROWS + row])
        read = np.asarray(edited[-ROWS + row] @ adapter.weight.T)
        # What is exchanged is read as the source's. The rest moves too where rows are not orthogonal.
        np.testing.assert_allclose(read[moved], own[moved], atol=2e-3)
        same = ~moved.any(1)
        np.testing.assert_allclose(edited[-ROWS + row][same], states[-ROWS + row][same], atol=1e-4)
        changed += moved.any()
    assert changed >= ROWS // 2  # short items often hold the same values


def test_only_positions_where_both_rows_hold_a_value_change():
    _, _, phi, residuals, batch, target, pad = parts()
    _, in_teacher = draw(key_of(0.5))
    layers = np.asarray(in_teacher.block).ravel() + 1
    after = jax.jit(lambda phi, ids: residuals(phi, ids, edit=in_teacher))(phi, batch.teacher_ids[-ROWS:])[
        :, :, 1:
    ]
    present = np.asarray(item_positions(jnp.asarray(batch.ids), pad_id=pad))
    shorter = present[-ROWS:] & present[-FREE:][:ROWS]
    for row, layer in enumerate(layers):
        moved = np.asarray(jnp.any(jnp.abs(after[layer, row] - target[layer, -ROWS + row]) > DEFINED, axis=-1))
        assert not moved[~shorter[row]].any()
        np.testing.assert_allclose(after[:layer, row], target[:layer, -ROWS + row], atol=1e-5)


def test_a_step_draws_by_its_progress():
    blocks = [np.asarray(draw(key_of(x))[1].block).ravel().tolist() for x in (0.25, 0.25, 0.252, 0.254, 0.256)]
    assert blocks[0] == blocks[1]
    assert len({tuple(b) for b in blocks}) > 2


@dataclasses.dataclass(frozen=True, eq=False)
class TeacherModel:
    """A model whose states are the teacher's; with params["follows"] = 0 its blocks read the unedited ones."""

    num_blocks: int = 0  # nothing to cut

    def with_blocks(self, count):
        return self

    def apply(self, params, ids, *, edit=None, logit_positions=None):
        _, _, phi, residuals, batch, *_ = parts()
        lookup = jnp.zeros(batch.ids.max() + 1, jnp.int32).at[batch.ids].set(batch.teacher_ids[:, 1:])
        bos = jnp.full((ids.shape[0], 1), int(batch.teacher_ids[0, 0]))
        ids_t = jnp.concatenate([bos, lookup[ids]], axis=1)
        states = residuals(phi, ids_t)
        if edit is not None:
            behind = ResidualEdit(edit.block, lambda x: jnp.concatenate([x[:, :1], edit.fn(x[:, 1:])], axis=1))
            edited = residuals(phi, ids_t, edit=behind)
            # Not to follow: the change stays where it was made, and nothing later takes it up.
            here = jnp.arange(len(states))[:, None, None, None] == edit.block[None] + 1
            states = jnp.where(here | (params["follows"] > 0), edited, states)
        return LMOutput(jnp.zeros((ids.shape[0], 1, 4)), states[:, :, 1:])


@pytest.mark.parametrize("interchange", [0.0, 0.5])
def test_a_model_that_reads_its_variables_elsewhere_is_not_aligned(interchange):
    teacher, oracle, phi, residuals, batch, _, pad = parts()
    loss = make_loss_fn(
        TeacherModel(),  # pyright: ignore[reportArgumentType]
        residuals,
        config=LossConfig(hook=False, retention_weight=0.0, interchange=interchange),
        shape=StepShape(teacher.num_layers, (0, 1), pad_id=pad, max_answers=1, free_rows=FREE),
        layout=variable_layout(teacher.variables),
        exchanges=find_exchanges(teacher, oracle, width=teacher.width),
    )
    # As in a trained model a value is read clearly; numerical variables are read as they are.
    clear = jnp.ones(teacher.width)
    for v in teacher.variables:
        clear = clear.at[jnp.asarray(v.indices)].set(30.0 if v.kind == "categorical" else 1.0)
    params = Adapter(jnp.diag(clear), jnp.zeros(teacher.width))
    batch = batch._replace(ids=jnp.asarray(batch.ids), answer_mask=jnp.zeros_like(batch.answer_mask))
    aligned = jax.jit(
        lambda on: loss(TrainParams({"follows": on}, params), Frozen({}, phi), batch, 0.3)[1]["alignment"]
    )
    follows, ignores = float(aligned(1)), float(aligned(0))
    assert follows < 1e-6
    assert (ignores > 0.01) == (interchange > 0)
