"""The network's growth, its loss and its optimiser.

The pass begins with few blocks. To grow, a block becomes two that each add half of what it added: read as an
ordinary differential equation, the residual stream takes two half steps where it took one, so the function barely
changes and both halves learn from the first step on (compare progressive stacking, Gong et al., ICML 2019). Only
the first block adds more than the small embedding that it reads; it stays whole, before a copy that adds nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from optax import contrib

from tracr_jax.errors import UserError
from tracr_jax.lm.gpt2 import GPT2, GPT2Config
from tracr_jax.types import Params


@dataclass(frozen=True)
class Stage:
    """From `start` (fraction of the pass) on: so many blocks, sequences of so many positions."""

    start: float
    blocks: int
    length: int


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the numbers of the run.

    Attributes:
      windows: windows of 256 tokens in a step.
      peak: learning rate after `warmup` steps; a cosine to `floor` of it follows.
      decay: weight decay of the blocks' matrices.
    """

    width: int = 128
    heads: int = 4
    vocabulary: int = 8192
    positions: int = 256
    stages: tuple[Stage, ...] = (Stage(0.0, 6, 128), Stage(0.8177, 12, 256), Stage(0.94, 24, 256))
    windows: int = 8
    passes: float = 1.0
    peak: float = 5e-3
    floor: float = 0.02
    warmup: int = 200
    decay: float = 0.1
    beta2: float = 0.98
    clip: float = 1.0
    seed: int = 0

    def __post_init__(self):
        for a, b in zip(self.stages, self.stages[1:], strict=False):
            if b.start <= a.start or b.blocks % a.blocks or (b.blocks // a.blocks) & (b.blocks // a.blocks - 1):
                raise UserError(f"stages: {a} to {b}: starts must rise and blocks grow by doublings")

    def stage_at(self, step: int, steps: int) -> Stage:
        """The stage that step (of `steps`) belongs to."""
        return [s for s in self.stages if step >= round(s.start * steps)][-1]

    def first_position(self, step: int, length: int) -> int:
        """Where the step's sequences begin: every fourth step of short ones in the table's second half."""
        return self.positions // 2 if step % 4 == 3 and 2 * length <= self.positions else 0

    def model(self, blocks: int) -> GPT2:
        """The network with that many blocks."""
        return GPT2(
            GPT2Config(
                vocab_size=self.vocabulary,
                n_positions=self.positions,
                n_embd=self.width,
                n_layer=blocks,
                n_head=self.heads,
            )
        )

    def optimizer(self, steps: int) -> optax.GradientTransformation:
        """Muon on the blocks' matrices, Adam on tables and vectors; warm-up, cosine, clipping by the global norm.

        With AdamW on everything the loss after 400 steps was 5.32 nats, with Muon 5.15, for a tenth more time
        per step: a pass over little text is all there is, so what a token teaches counts most.
        """
        rate = optax.warmup_cosine_decay_schedule(0.0, self.peak, self.warmup, steps, self.peak * self.floor)
        muon = contrib.muon(
            rate,
            weight_decay=self.decay,
            adam_b2=self.beta2,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=0.2,  # updates as large as Adam's, so that one rate serves both
        )
        return optax.chain(optax.clip_by_global_norm(self.clip), muon)

    def initial(self) -> Params:
        """Random parameters of the first stage.

        GPT-2's deviation of 0.02 is meant for widths of 768 and more: matrices get 0.55/√width instead
        (the same at 768), those that write to the residual stream that over √(2 blocks).
        """
        blocks = self.stages[0].blocks
        params = self.model(blocks).init(jax.random.key(self.seed))
        wider = 0.55 / self.width**0.5 / 0.02

        def scaled(path, x):
            name = jax.tree_util.keystr(path)
            if "kernel" not in name:
                return x
            return x * (wider / (2 * blocks) ** 0.5 if "c_proj" in name else wider)

        return jax.tree_util.tree_map_with_path(scaled, params)


def _matrices(params: Params) -> Any:
    # Stacked over blocks: [block, in, out]. None leaves a tensor to Adam.
    return jax.tree_util.tree_map_with_path(
        lambda path, _: contrib.MuonDimensionNumbers(1, 2) if path[-1].key == "kernel" else None, params
    )


def mean_loss(
    model: GPT2, params: Params, ids: Int[Array, "B S1"], first_position: Int[Array, ""] | int = 0
) -> Float[Array, ""]:
    """Mean cross entropy of ids[:, 1:], in nats per token, with the text at `first_position` of the table.

    Short sequences placed further on train the rows of the position table that they would never reach.
    """
    rows = jnp.roll(params["wpe"]["embedding"], -jnp.asarray(first_position), axis=0)
    final = model.apply(params | {"wpe": {"embedding": rows}}, ids[:, :-1]).hidden[-1]
    flat = final.reshape(-1, final.shape[-1])
    return tied_cross_entropy(flat, params["wte"]["embedding"], ids[:, 1:].reshape(-1))


@jax.custom_vjp
def tied_cross_entropy(
    x: Float[Array, "T d"], table: Float[Array, "V d"], targets: Int[Array, " T"]
) -> Float[Array, ""]:
    """Mean cross entropy, in nats, of the logits x tableᵀ.

    Its gradient is written out: the exponentials are computed once and kept, and the one-hot part of the
    gradient touches rows of width d, not of width V. On a CPU that saves a tenth of the step.
    """
    return _tied_forward(x, table, targets)[0]


def _tied_forward(x, table, targets):
    logits = x @ table.T
    top = logits.max(axis=-1, keepdims=True)
    weights = jnp.exp(logits - top)
    total = weights.sum(axis=-1, keepdims=True)
    chosen = jnp.sum(x * table[targets], axis=-1)
    value = jnp.mean(jnp.log(total[:, 0]) + top[:, 0] - chosen)
    return value, (x, table, targets, weights, total)


def _tied_backward(saved, g):
    x, table, targets, weights, total = saved
    scale = g / x.shape[0]
    grad_x = ((weights @ table) / total - table[targets]) * scale
    grad_table = (weights.T @ (x / total * scale)).at[targets].add(-x * scale)
    return grad_x, grad_table, None


tied_cross_entropy.defvjp(_tied_forward, _tied_backward)


def grow(params: Params) -> Params:
    """Parameters with twice the blocks and nearly the same function."""
    return _split(params, writes=_shares, reads=np.ones_like)


def grow_optimizer(state: Any) -> Any:
    """The optimiser's moments after `grow`.

    Where the share of what a block adds shrinks, so does the gradient of all in front of its writing matrices.
    """

    def is_moments(x):
        return isinstance(x, optax.ScaleByAdamState | contrib.MuonState)

    def moments(x):
        if not is_moments(x):
            return x
        x = x._replace(mu=_split(x.mu, writes=np.ones_like, reads=_shares))
        if isinstance(x, contrib.MuonState):
            return x
        return x._replace(nu=_split(x.nu, writes=np.ones_like, reads=lambda index: _shares(index) ** 2))

    return jax.tree.map(moments, state, is_leaf=is_moments)


def _shares(index):
    return np.where(index == 0, 1.0, np.where(index == 1, 0.0, 0.5))


def _split(tree: Params, *, writes: Callable, reads: Callable) -> Params:
    def split(path, x):
        twice = jnp.repeat(x, 2, axis=0)
        factor = (writes if "c_proj" in jax.tree_util.keystr(path) else reads)(np.arange(len(twice)))
        return twice * factor.astype(np.float32).reshape(-1, *[1] * (x.ndim - 1))

    return tree | {"blocks": jax.tree_util.tree_map_with_path(split, tree["blocks"])}
