"""Exchange training: what nothing mixed means, where gradients go, attention sinks, rows without an answer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import exchange_parts as E
from tracr_jax.config import ExchangeConfig, LossConfig
from tracr_jax.intervene import LayerEdit
from tracr_jax.train import exchange
from tracr_jax.train import losses as L
from tracr_jax.train.exchange import make_exchange_loss_fn
from tracr_jax.train.mesh import batch_sharding, keep_rows, make_mesh
from tracr_jax.train.mixing import Mix, draw_mix
from tracr_jax.train.step import Frozen, TrainParams, init_adapter, make_loss_fn
from tracr_jax.train.variable_losses import distance_loss, reading_loss
from tracr_jax.train.writes import Written, deinterleave, interleave, make_edit, make_write
from tracr_jax.types import Batch

LOSSES = LossConfig(retention_weight=0.0, answer_alignment=5.0)
LAYERS = E.LAYERS


def parts(form=(("hand_on", True), ("merge_values", True))):
    s, r = E.setup(), E.reserved(**dict(form))
    tokens = s.teacher.variable("tokens")
    static = {
        "reserved": r, "marker": tokens.indices[tokens.values.index(s.program.task.marker)],
        "losses": LOSSES, "config": ExchangeConfig(directions=3), "shape": s.shape,
    }  # fmt: skip
    return s, r, static


def batch_of(s, count=8, seed=0):
    items = [s.program.task.free_item(i, seed=seed) for i in range(count)]
    prompts = [s.program.bridge.split(i) for i in items]
    ids = np.full((count, s.program.length), s.program.tokenizer.eos_id, np.int32)
    mask = np.zeros(ids.shape, np.float32)
    for row, (prompt, answer) in enumerate(prompts):
        ids[row, : len(prompt) + len(answer)] = [*prompt, *answer]
        mask[row, len(prompt) - 1] = 1
    return Batch(ids, mask, s.program.bridge.to_teacher(ids), ids[:2])


def edit_of(r, codes, written, mix, item, *, result):
    """The edit of a step, on one device."""
    write = make_write(r, codes, written, mix, item, states=E.STATES)
    answer = r.basis(codes)[:, r.coordinates(result)]
    return make_edit(write, answer, item, top=E.STATES[-1], keep_rows=lambda x: x)


def test_with_nothing_mixed_it_is_plain_alignment(monkeypatch):
    s, r, static = parts()
    batch = batch_of(s)
    rows_ = len(batch.ids)
    never = Mix(
        jnp.broadcast_to(jnp.arange(rows_), (len(s.teacher.variables), rows_)),
        jnp.ones(rows_, bool),
        jnp.full(rows_, LAYERS + 1),
    )
    monkeypatch.setattr(exchange, "draw_mix", lambda *a, **k: never)
    loss_fn = make_exchange_loss_fn(s.model, s.program.residuals, s.teacher, **static)
    codes = E.trained(r)
    params = TrainParams(s.params, (codes,))
    terms = jax.jit(lambda p: loss_fn(p, Frozen(s.params, (s.program.phi,)), (batch,))[1])(params)
    hidden = jax.jit(s.model.apply)(s.params, batch.ids).hidden[np.array(E.STATES)]
    truth = np.asarray(r.classes(jax.jit(s.program.residuals)(s.program.phi, batch.teacher_ids)[:, :, 1:]))
    item = np.asarray(L.item_positions(jnp.asarray(batch.ids), pad_id=s.shape.pad_id))
    # The definition, one variable and layer at a time.
    logits = np.asarray(jax.jit(L.apply_adapter)(r.readout(codes), hidden), np.float64)
    asks = np.asarray(batch.teacher_ids)[:, 1:] == s.teacher.vocab[s.program.task.marker]
    weight = 0.3 * np.where(asks, 10.0, 1.0)  # every layer lies below an exchange that never comes
    found = []
    for g in r.groups:
        for k in range(g.n):
            total, cut = 0.0, slice(g.column + k * g.m, g.column + (k + 1) * g.m)
            for layer in range(1, LAYERS + 1):
                z, t = logits[layer][..., cut], truth[layer][..., cut]
                here = (t.max(-1) > 0.5) & item & r.alive[layer, g.variable + k]
                losses, weights = [], []
                for c in range(g.m):
                    those = here & (t.argmax(-1) == c)
                    often = max(weight[those].sum(), 1.0)
                    losses += (np.log(np.exp(z[those]).sum(-1)) - z[those][:, c]).tolist()
                    weights += (weight[those] * often**-0.4).tolist()
                total += np.average(losses, weights=weights) if weights else 0.0
            alive = np.flatnonzero(r.alive[1:, g.variable + k])
            share = (LAYERS - alive[0]) / LAYERS if len(alive) else 0.0  # as if aligned to the end
            found.append(share * total / max(len(alive), 1))
    assert min(found) > 1e-4
    np.testing.assert_allclose(terms["alignment_parts"], found, rtol=1e-3)


class Sink:
    """A model that reports its second token's state as huge in some rows, as pretrained models' first ones are."""

    def __init__(self, model, by):
        self.model, self.by = model, by

    def apply(self, *args, **options):
        out = self.model.apply(*args, **options)
        return out._replace(hidden=out.hidden.at[:, 2:4, 1].multiply(self.by))


def test_attention_sinks_are_in_no_term():
    s, _, static = parts()
    batch = batch_of(s)
    params = TrainParams(s.params, (E.trained(static["reserved"]),))
    found = []
    for by in (1.0, 3.0, 300.0, 3000.0):
        loss_fn = make_exchange_loss_fn(Sink(s.model, by), s.program.residuals, s.teacher, **static)
        run = jax.jit(
            jax.grad(lambda p, f=loss_fn: f(p, Frozen(s.params, (s.program.phi,)), (batch,)), has_aux=True)
        )
        found.append(run(params))
    plain, large, sink, other = found
    for name in ("alignment", "distance", "size"):
        assert large[1][name] > 1.005 * plain[1][name], name
        np.testing.assert_allclose(sink[1][name], other[1][name], rtol=1e-5, err_msg=name)
        assert sink[1][name] < 1.05 * plain[1][name], name
    for one, two in zip(jax.tree.leaves(sink[0]), jax.tree.leaves(other[0]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("layer", [3, LAYERS])
def test_attention_sinks_stay_what_they_are_and_whose_they_are(layer):
    """Nothing is written there; neither the cut before the answer nor an exchanged outside moves them."""
    r = parts()[1]
    rng, rows = np.random.default_rng(0), 4
    q = np.asarray(r.basis(E.trained(r)))
    places = rng.standard_normal((LAYERS + 1, rows, 5, q.shape[1])).astype(np.float32)
    mix = E.mix_of(0, rows=rows, free=0.0)._replace(outside=jnp.ones(rows, bool))
    item = np.ones((rows, 5), bool)
    item[:, 4] = False
    written = Written(jnp.asarray(places), jnp.ones_like(places))
    edit = edit_of(r, E.trained(r), written, mix, jnp.asarray(item), result=r.names[-1])
    h = rng.standard_normal((2 * rows, 5, q.shape[0])).astype(np.float32)
    h[:, 4] *= 100  # padding, which says nothing of the others
    before = [np.array(x) for x in deinterleave(h)]
    for x in before:
        x[1, 0] *= 100
    after = map(np.asarray, deinterleave(edit.fn(interleave(*before), jnp.asarray(E.STATES[layer]))))
    for kind, one, two in zip(("clean", "exchanged"), before, after, strict=True):
        changed = np.abs(two - one)[:, :4].max(axis=-1) > 0.1
        if kind == "clean" and layer < LAYERS:
            assert not np.any(changed)
            continue
        assert not changed[1, 0]
        large = np.sqrt(np.mean(np.square(two), axis=-1))[:, :4] > 20
        assert large.sum() == large[1, 0] == 1
        # The row after the sink's keeps its own rest there; everything else has changed.
        rest = two[2, 0] - one[2, 0]
        u, size, _ = np.linalg.svd(q if kind == "exchanged" else q[:, r.coordinates(r.names[-1])])
        own = u[:, : np.sum(size > 1e-3)]
        np.testing.assert_allclose(rest - own @ (own.T @ rest), 0, atol=1e-3)
        others = changed.copy()
        others[1:3, 0] = True
        assert np.all(others)


@functools.cache
def gradients():
    """Gradients of the states behind a written layer, by parameter: of rows mixed everywhere."""
    s, r, _ = parts()
    batch, layer = batch_of(s), 3
    mix = E.mix_of(0, rows=8, free=0.0)
    classes = r.classes(E.passes(s.program.phi, jnp.asarray(batch.teacher_ids), mix)[1][:, :, 1:])
    alive = jnp.asarray(r.by_coordinate(r.alive), jnp.float32)[:, None, None]

    def read(params, result):
        places, held = r.encode(params.adapters[0], classes)
        item = L.item_positions(jnp.asarray(batch.ids), pad_id=s.shape.pad_id)
        edit = edit_of(r, params.adapters[0], Written(places, held * alive), mix, item, result=result)
        both = interleave(jnp.asarray(batch.ids), jnp.asarray(batch.ids))
        hidden = s.model.apply(params.lm, both, edit=edit).hidden
        return jnp.sum(jnp.sin(deinterleave(hidden, axis=1)[1][E.STATES[layer] + 1])), hidden

    result = next(v.name for v in s.teacher.variables if v.indices[0] == s.shape.result_rows[0])
    grads, hidden = jax.jit(jax.grad(lambda p: read(p, result), has_aux=True))(
        TrainParams(s.params, (E.trained(r),))
    )
    return grads, hidden, E.STATES[layer], batch


def test_the_gradient_of_what_is_written_reaches_the_centroids_and_nothing_else():
    grads, _, block, _ = gradients()
    codes = grads.adapters[0]
    assert max(float(jnp.abs(c).max()) for c in codes.centroids) > 1e-4
    assert not np.any(codes.basis)
    assert not np.any(codes.sharpness)
    for name, g in grads.lm.items():
        if name != "blocks":
            assert not np.any(g.get("embedding", 0)), name
    for leaf in jax.tree.leaves(grads.lm["blocks"]):
        assert not np.any(leaf[:block])  # below the write: cut
        assert not np.any(leaf[block + 1 :])
    assert max(float(jnp.abs(x[block]).max()) for x in jax.tree.leaves(grads.lm["blocks"])) > 1e-4


def test_clean_rows_of_the_pass_are_the_plain_pass_up_to_the_hook():
    s = E.setup()
    _, hidden, _, batch = gradients()
    plain = jax.jit(s.model.apply)(s.params, batch.ids).hidden
    top = E.STATES[-1]
    np.testing.assert_allclose(deinterleave(hidden, axis=1)[0][: top + 1], plain[: top + 1], atol=1e-4)
    assert np.abs(deinterleave(hidden, axis=1)[0][top + 1] - plain[top + 1]).max() > 1e-2


def test_what_no_variable_holds_becomes_another_rows():
    s, r, _ = parts()
    rng, rows, layer = np.random.default_rng(0), 8, 3
    codes, q = E.trained(r), np.asarray(r.basis(E.trained(r)))
    config = ExchangeConfig(free_share=0.75, outside_share=0.5)
    mix = draw_mix(jax.random.key(1), variables=len(s.teacher.variables), rows=rows, layers=LAYERS, config=config)
    assert not np.any(mix.outside & ~mix.free)
    mix = mix._replace(layer=jnp.where(mix.free, layer, -1), outside=mix.free & (jnp.arange(rows) % 2 == 0))
    h = rng.standard_normal((2 * rows, 5, q.shape[0])).astype(np.float32)
    places, held = rng.standard_normal((2, LAYERS + 1, rows, 5, q.shape[1])).astype(np.float32)
    held = (held > 0) * r.by_coordinate(r.alive)[:, None, None]
    written = Written(jnp.asarray(places), jnp.asarray(held, jnp.float32))
    edit = edit_of(r, codes, written, mix, jnp.ones((rows, 5), bool), result=r.names[-1])
    before = np.asarray(deinterleave(h)[1])
    clean, after = (np.asarray(x) for x in deinterleave(edit.fn(jnp.asarray(h), jnp.asarray(E.STATES[layer]))))
    np.testing.assert_array_equal(clean, deinterleave(h)[0])
    own = q[:, r.by_coordinate(r.alive)[layer]]  # disjoint: these variables are alive together
    expected = np.where(held[layer], places[layer], before @ q)[..., r.by_coordinate(r.alive)[layer]]
    np.testing.assert_allclose(after @ own, expected, atol=1e-4)
    beside = before - before @ own @ own.T
    exchanged = np.where(np.asarray(mix.outside)[:, None, None], np.roll(beside, 1, axis=0), beside)
    np.testing.assert_allclose(after - after @ own @ own.T, exchanged, atol=1e-4)
    assert 0 < mix.outside.sum() < mix.free.sum()


@pytest.mark.parametrize("layers", [1, 2])
def test_rows_without_an_answer_run_through_the_lower_blocks_only(layers):
    """Their terms are those of a pass through the whole model, and the other rows' are as without them."""
    s, r, static = parts()
    batch, params = batch_of(s, count=12), TrainParams(s.params, (E.trained(r),))
    frozen = Frozen(s.params, (s.program.phi,))
    config = ExchangeConfig(directions=3, lower_layers=layers, noise=0.0)
    upper = Batch(*(x[:8] for x in batch[:3]), batch.text_ids)
    found = []
    for given, lower in ((upper, 0), (batch, 4)):
        static |= {"config": config, "shape": s.shape._replace(aligned_only=lower)}
        loss_fn = make_exchange_loss_fn(s.model, s.program.residuals, s.teacher, **static)
        found.append(jax.jit(lambda p, b, f=loss_fn: f(p, frozen, (b,))[1])(params, given))
    without, together = found
    for name, value in without.items():
        if name != "loss":
            np.testing.assert_allclose(together[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    weighed = (
        config.read_weight * together["alignment_lower"] + config.distance_weight * together["distance_lower"]
    )
    np.testing.assert_allclose(together["loss"], without["loss"] + weighed, rtol=1e-5)

    def lower_terms(params):
        terms = loss_fn(params, frozen, (batch,))[1]
        return terms["alignment_lower"] + terms["distance_lower"]

    grads = jax.jit(jax.grad(lower_terms))(params)
    first, last = E.STATES[0], E.STATES[layers]
    largest = [
        max(float(jnp.abs(x[i]).max()) for x in jax.tree.leaves(grads.lm["blocks"])) for i in range(E.BLOCKS)
    ]
    assert min(largest[first:last]) > 1e-5
    assert max(largest[:first] + largest[last:]) == 0
    assert max(float(jnp.abs(c).max()) for c in grads.adapters[0].centroids) > 1e-5


@pytest.mark.parametrize("alignment", ["exchange", "cosine"])
def test_the_loss_of_shifted_rows_is_that_of_a_shifted_table(alignment):
    """Rows with and without an answer, clean and exchanged."""
    s, r, static = parts()
    batch, frozen = batch_of(s, count=12), Frozen(s.params, (s.program.phi,))
    shift = s.model.max_positions - batch.ids.shape[1]
    assert shift > 0
    shape = s.shape._replace(aligned_only=4)
    if alignment == "exchange":
        loss_fn = make_exchange_loss_fn(s.model, s.program.residuals, s.teacher, **static | {"shape": shape})
        adapter = E.trained(r)
    else:
        losses = LossConfig(alignment="cosine", retention_weight=0.0)
        loss_fn = make_loss_fn(s.model, s.program.residuals, config=losses, shape=shape)
        adapter = init_adapter(jax.random.key(1), width=E.WIDTH, directions=s.teacher.width)
    terms = jax.jit(lambda lm, b: loss_fn(TrainParams(lm, (adapter,)), frozen, (b,))[1])
    table = s.params["wpe"]["embedding"]
    rolled = s.params | {"wpe": {"embedding": jnp.roll(table, -shift, axis=0)}}
    moved = terms(s.params, batch._replace(starts=np.full(12, shift, np.int32)))
    for name, value in terms(rolled, batch).items():
        np.testing.assert_allclose(moved[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
    usual = terms(s.params, batch)
    read = [n for n in ("alignment", "alignment_lower", "supervised") if n in usual]
    assert all(abs(float(moved[n] - usual[n])) > 1e-5 for n in read)


def test_the_terms_of_lower_rows_are_those_of_a_pass_through_the_whole_model():
    s, r, static = parts()
    batch, codes = batch_of(s, count=4, seed=1), E.trained(r)
    config = ExchangeConfig(directions=3, free_share=0.0, noise=0.0, lower_layers=2)
    fixed = {"reserved": r, "marker": static["marker"], "config": config, "keep_rows": lambda x, **_: x}
    key, rows = jax.random.key(3), jax.tree.map(jnp.asarray, batch)
    lesson = jax.jit(exchange._make_teach(s.program.residuals, s.teacher, **fixed))(
        s.program.phi, rows, jax.random.split(key)[0]
    )
    align_lower = exchange._make_align_lower(s.model, s.program.residuals, s.teacher, shape=s.shape, **fixed)
    found = jax.jit(align_lower)(s.params, codes, s.program.phi, rows, key)
    item = L.item_positions(jnp.asarray(batch.ids), pad_id=s.shape.pad_id)
    places, held = r.encode(codes, lesson.mixed)
    alive = jnp.asarray(r.by_coordinate(r.alive), jnp.float32)[:, None, None]
    write = make_write(r, codes, Written(places, held * alive), lesson.mix, item, states=E.STATES)
    hidden = s.model.apply(s.params, batch.ids, edit=LayerEdit(write)).hidden[np.array(E.STATES)][1:3]
    weights = item[None].astype(jnp.float32) * (1 + 9.0 * lesson.begins[1:3].astype(jnp.float32))
    same = {"own": lesson.own[1:3], "changed_weight": 3.0, "layers": slice(1, 3)}
    read = reading_loss(
        r, L.apply_adapter(r.readout(codes), hidden), lesson.target[1:3], weights, rare_power=0.4, **same
    )
    far = distance_loss(r, codes, hidden, lesson.target[1:3], weights, **same)
    np.testing.assert_allclose(found["alignment_lower"], read.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["distance_lower"], far.mean(), rtol=1e-5)


@pytest.mark.soak
def test_rows_spread_over_devices_give_the_same_loss():
    s, r, static = parts()
    batch = batch_of(s)
    params = TrainParams(s.params, (E.trained(r),))
    frozen = Frozen(s.params, (s.program.phi,))
    mesh = make_mesh("data=8")
    there = Batch(*(jax.device_put(x, batch_sharding(mesh)) for x in batch[:3]), batch.text_ids)
    found = []
    for given, options in ((batch, {}), (there, {"keep_rows": keep_rows(mesh)})):
        loss_fn = make_exchange_loss_fn(s.model, s.program.residuals, s.teacher, **static, **options)
        run = jax.jit(lambda p, b, step, loss_fn=loss_fn: loss_fn(p, frozen, (b,), 0.0, step)[1])
        found += [run(params, given, 3), run(params, given, 4)]
    for one, other in (found[0::2], found[1::2]):
        assert set(one) == set(other)
        for name, value in one.items():
            np.testing.assert_allclose(other[name], value, rtol=2e-4, atol=1e-5, err_msg=name)
    # Another step, another mixture.
    assert abs(float(found[0]["alignment"]) - float(found[1]["alignment"])) > 1e-6
