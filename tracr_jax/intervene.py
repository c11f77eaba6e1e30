"""Edits of the residual stream: the training hook of docs/method.md §4.3, the noise of §11, the swaps, the
exchange.

A `ResidualEdit` names a block and a function of that block's output; a `LayerEdit` changes what every block reads.
Block b's output is hidden[b + 1], so an edit at block b leaves hidden[0..b] unchanged. An edit `before` a block
changes what the block reads and no hidden state up to that: hidden[b] can then be aligned as it was, while its
reader sees another state. The original projects with a d×d matrix made by an SVD; here the subspace is held as an
orthonormal basis Q [d, R], so that the projector P = Q Qᵀ is never formed.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Float, Int

from tracr_jax.errors import UserError
from tracr_jax.types import EXACT, Array


@dataclass(frozen=True)
class ResidualEdit:
    """Replace the output h [B, S, d] of block `block` (0-based) by `fn(h)`, of the same shape and dtype.

    With `before` it is the block's input instead, and hidden[block] stays as it was.

    The block may be traced: one compiled program then serves all of them.

    `fn` is computed in every block and its value used in one: it must be finite, with finite gradients, in all of
    them (a norm that is 0 elsewhere and divides makes gradients NaN).

    With `before` and `skip` the blocks below are not computed, where `fn` knows the state without them: what the
    pass says of hidden[0..block] is then nothing, and what comes after it is the same.
    """

    block: int | Int[Array, ""]
    fn: Callable[[Float[Array, "B S d"]], Float[Array, "B S d"]]
    before: bool = False
    skip: bool = False


@dataclass(frozen=True)
class LayerEdit:
    """Replace the input h [B, S, d] of every block i by `fn(h, i)`, of the same shape and dtype, in one pass.

    hidden[i] stays what block i - 1 wrote: it can be aligned as it was, while block i reads another state. The
    index may be traced (the counter of the scan), so `fn` selects with `jnp.where` and indexes arrays with it.
    """

    fn: Callable[[Float[Array, "B S d"], int | Int[Array, ""]], Float[Array, "B S d"]]


Edit = ResidualEdit | LayerEdit | tuple[ResidualEdit | LayerEdit, ...]
"""One of the two, or several in their order."""


def on_part(edit: Edit, change: Callable[[Callable, jax.Array], jax.Array]) -> Edit:
    """The same edit of a larger array: `change(fn, x)` applies the edit's function to its part of x."""

    def one(edit: ResidualEdit | LayerEdit) -> ResidualEdit | LayerEdit:
        if isinstance(edit, LayerEdit):
            return LayerEdit(lambda x, i: change(lambda part: edit.fn(part, i), x))
        return replace(edit, fn=lambda x: change(edit.fn, x))

    return tuple(map(one, edit)) if isinstance(edit, tuple) else one(edit)


def check_blocks(edit: Edit | None, count: int) -> None:
    """Refuse an edit at a block that a stack of `count` does not have; of a traced block nothing is known.

    Raises:
      UserError: it is not one of 0..count - 1; there is no counting from the end.
    """
    for one in each_edit(edit):
        if isinstance(one, ResidualEdit) and not isinstance(one.block, Tracer) and not 0 <= int(one.block) < count:
            raise UserError(f"edit at block {one.block}: the blocks are 0 to {count - 1}")


def each_edit(edit: Edit | None) -> tuple[ResidualEdit | LayerEdit, ...]:
    """The edits in their order."""
    return edit if isinstance(edit, tuple) else () if edit is None else (edit,)


def edited(
    x: Float[Array, "B S d"], edit: Edit | None, index: int | Int[Array, ""], *, before: bool
) -> Float[Array, "B S d"]:
    """The input (`before`) or the output of block `index`, edited where the edit says so. For forward passes."""
    if isinstance(edit, tuple):
        for one in edit:
            x = edited(x, one, index, before=before)
        return x
    if isinstance(edit, LayerEdit):
        return edit.fn(x, index).astype(x.dtype) if before else x
    if edit is None or edit.before != before:
        return x
    return jnp.where(index == edit.block, edit.fn(x).astype(x.dtype), x)


def subspace_basis(rows: Float[Array, "R d"]) -> Float[Array, "d R"]:
    """Orthonormal basis Q of the span of R linearly independent rows, so that P = Q Qᵀ (docs/method.md §4.1).

    Equal to the pseudo-inverse form Rᵀ(Rᵀ)⁺ for independent rows, which a trained adapter's result rows are.
    """
    return jnp.linalg.qr(rows.T, mode="reduced")[0]


def result_basis(rows: Float[Array, "R d"], *, span: str) -> Float[Array, "d _R"]:
    """Orthonormal basis of what the hook leaves of the result, see `LossConfig.result_span`.

    Args:
      rows: the adapter's rows of the result's R values, linearly independent.
      span: "rows", all that they span, as in the paper, or "contrasts", their differences: one direction less.
    """
    return subspace_basis(rows if span == "rows" else rows[1:] - rows[:1])


def project(h: Float[Array, "*B d"], basis: Float[Array, "d R"]) -> Float[Array, "*B d"]:
    """Component of h in the subspace: h Q Qᵀ."""
    return jnp.matmul(jnp.matmul(h, basis, precision=EXACT), basis.T, precision=EXACT)


def detach_and_roll(basis: Float[Array, "d R"], *, block: int, before: bool = False) -> ResidualEdit:
    """The training hook of docs/method.md §4.3: the answer may only flow through the subspace of `basis`.

    The component inside the subspace stays and carries the gradient. Its complement is cut from the gradient
    and exchanged for that of the previous example of the batch (cyclic). With B = 1 only the cut remains.

    Args:
      basis: orthonormal basis of the subspace; no gradient flows into it.
      block: whose output is edited, or, with `before`, whose input.
      before: see `ResidualEdit`.
    """
    basis = jax.lax.stop_gradient(basis)

    def fn(h):
        inside = project(h, basis.astype(h.dtype))
        outside = jax.lax.stop_gradient(h - inside)
        return inside + jnp.roll(outside, 1, axis=0)

    return ResidualEdit(block, fn, before)
