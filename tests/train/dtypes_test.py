"""No function of ours mixes types by itself: traced, not run (JAX refuses every implicit promotion)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import exchange_parts as E
from tracr_jax.config import ExchangeConfig, LossConfig
from tracr_jax.intervene import project
from tracr_jax.lm.generate import generate_ids
from tracr_jax.presets import PAPER_FIXED
from tracr_jax.train.exchange import make_exchange_loss_fn
from tracr_jax.train.losses import apply_adapter
from tracr_jax.train.step import Frozen, TrainParams, init_adapter, make_loss_fn
from tracr_jax.types import Batch

ROWS = 4


def batch():
    s = E.setup()
    ids = np.zeros((ROWS, s.program.length), np.int32)
    teacher_ids = np.zeros((ROWS, s.program.length + 1), np.int32)
    return Batch(ids, np.zeros(ids.shape, np.float32), teacher_ids, ids[:2])


def gradients(loss_fn, adapter):
    s = E.setup()
    params, frozen = TrainParams(s.params, (adapter,)), Frozen(s.params, (s.program.phi,))
    return jax.eval_shape(jax.grad(loss_fn, has_aux=True), params, frozen, (batch(),), jnp.float32(0.5), 3)


def test_implicit_promotion_is_refused_here():
    with pytest.raises(Exception, match="promotion"):
        jnp.ones(2, bool) * jnp.ones(2)


@pytest.mark.parametrize(
    "losses", [PAPER_FIXED.losses, LossConfig(answer_alignment=5.0)], ids=["cosine", "variable"]
)
@pytest.mark.parametrize("aligned_only", [0, 2])
def test_the_step(losses, aligned_only):
    s = E.setup()
    shape = s.shape._replace(aligned_only=aligned_only)
    loss_fn = make_loss_fn(s.model, s.program.residuals, config=losses, shape=shape, layout=s.program.layout)
    adapter = init_adapter(jax.random.key(0), width=E.WIDTH, directions=s.teacher.width)
    grads, terms = gradients(loss_fn, adapter)
    assert {x.dtype for x in jax.tree.leaves((grads, terms))} == {jnp.dtype("float32")}


def test_the_exchange_step():
    s = E.setup()
    loss_fn = make_exchange_loss_fn(
        s.model,
        s.program.residuals,
        s.teacher,
        reserved=E.reserved(),
        marker=0,
        losses=LossConfig(),
        config=ExchangeConfig(),
        shape=s.shape,
    )
    grads, terms = gradients(loss_fn, E.trained(E.reserved()))
    assert {x.dtype for x in jax.tree.leaves((grads, terms))} == {jnp.dtype("float32")}


def test_generation_and_reading():
    s, b = E.setup(), batch()
    lengths = np.full(ROWS, 3, np.int32)
    ids = jax.eval_shape(lambda p: generate_ids(s.model, p, b.ids, lengths, num_tokens=3), s.params)
    assert ids.dtype == jnp.int32

    def read(params, phi, codes):
        hidden = s.model.apply(params, b.ids).hidden
        return (
            apply_adapter(E.reserved().adapter(codes), hidden),
            s.program.residuals(phi, b.teacher_ids),
            E.reserved().read(codes, hidden),
            E.reserved().write(codes, hidden[0], E.reserved().names[0], 0),
        )

    jax.eval_shape(read, s.params, s.program.phi, E.trained(E.reserved()))


def products(jaxpr):
    """The precision of every matrix product, also inside scans and functions."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield eqn.params["precision"]
        for value in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from products(inner)


def test_what_selects_reads_and_writes_values_is_computed_exactly():
    """A TPU's float32 product has bfloat16 operands by default: of 121 values one in ten would be misread."""
    s, reserved = E.setup(), E.reserved()
    codes, name = E.trained(reserved), reserved.names[0]
    states, classes = jnp.zeros((2, 5, E.WIDTH)), jnp.zeros((2, 5, reserved.select.shape[1]))

    def all_of_them(codes, states, residuals):
        adapter = reserved.adapter(codes)
        return (
            apply_adapter(adapter, states),
            reserved.classes(residuals),
            reserved.encode(codes, classes),
            reserved.read(codes, states),
            reserved.write(codes, states, name, 0),
            project(states, reserved.basis(codes)),
        )

    residuals = jnp.zeros((2, 5, s.teacher.width))
    found = list(products(jax.make_jaxpr(all_of_them)(codes, states, residuals).jaxpr))
    highest = (jax.lax.Precision.HIGHEST,) * 2
    assert len(found) >= 10
    assert found == [highest] * len(found)
