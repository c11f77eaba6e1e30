"""The PyTorch peer of the benchmarks computes our step: losses, gradients, and losses after updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import case as C
from tracr_jax.lm.convert import to_tensors
from tracr_jax.teacher import make_forward

pytestmark = pytest.mark.parity

CASE = C.Case(shape="small", batch=3, length=12, text_length=8)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from experiments.benchmarks import torch_peer

    folder = tmp_path_factory.mktemp("peer")
    C.write_for_torch(CASE, folder)
    return torch_peer.load_peer(folder)


def test_the_dense_teacher_is_the_sparse_one(x64):
    """In float64: the dense form takes differences of large numbers, worth 2.5e-3 in float32."""
    import torch

    from experiments.benchmarks import torch_peer

    teacher = C.compile_teacher(CASE)
    ids = C.random_batch(CASE, teacher).teacher_ids
    phi, residuals = make_forward(teacher, dtype=jnp.float64)
    arrays = {f"{m}/{k}": v for m, group in teacher.densify(np.float64).items() for k, v in group.items()}
    dense = torch_peer.DenseTeacher(arrays, layers=teacher.num_layers, heads=teacher.num_heads)
    want = dense(torch.tensor(ids).long()).numpy()
    np.testing.assert_allclose(jax.jit(residuals)(phi, ids), want, atol=1e-9)


def test_losses_and_gradients(peer):
    module, batch = peer
    parts = C.make_parts(CASE)
    grads, terms = jax.jit(jax.grad(parts.loss_fn, has_aux=True))(parts.state.params, parts.frozen, parts.batch)
    module.update_projection()
    losses = module(*batch)
    for name, theirs in zip(("loss", "supervised", "retention", "alignment"), losses, strict=True):
        np.testing.assert_allclose(terms[name], float(theirs.detach()), rtol=1e-4, err_msg=name)
        assert float(theirs.detach()) > 1e-3, f"{name} is nothing, a comparison of it cannot fail"
    module.zero_grad()
    losses[0].backward()
    theirs = {k: p.grad.numpy() for k, p in module.lm.named_parameters()}
    ours = to_tensors(CASE.model, grads.lm)
    assert set(ours) == set(theirs)
    for name, value in ours.items():
        scale = float(np.abs(theirs[name]).max())
        np.testing.assert_allclose(value, theirs[name], atol=1e-3 * scale, err_msg=name)
    for ours_, theirs_ in zip(grads.adapters[0], (module.adapter.weight, module.adapter.bias), strict=True):
        want = theirs_.grad.numpy()
        np.testing.assert_allclose(ours_, want, atol=1e-3 * float(np.abs(want).max()))
    module.zero_grad()


def test_losses_after_updates(peer, tmp_path):
    from experiments.benchmarks import torch_peer

    C.write_for_torch(CASE, tmp_path)
    module, batch = torch_peer.load_peer(tmp_path)  # its own: training changes it
    torch_step = torch_peer.make_step(module, compiled=False)
    parts = C.make_parts(CASE)
    state = parts.state
    first = None
    for _ in range(4):
        state, terms = parts.step(state, parts.frozen, parts.batch)
        theirs = torch_step(*batch)
        for name, value in theirs.items():
            np.testing.assert_allclose(terms[name], value, rtol=1e-4, err_msg=name)
        first = first or theirs
    assert theirs["alignment"] < first["alignment"] - 1e-3  # further than the tolerance: the updates are seen
