"""One training step to be measured: model, weights, teacher, batch, and the operations it needs.

Weights are random and made from a seed by NumPy; θ₀ has another seed, so that the retention loss is not 0 and a
comparison of losses can fail. Token ids are random too: a step's time does not depend on them. Sizes are the
paper's (docs/method.md §5): U = 30, the dyck teacher at 42 positions, AdamW, cosine alignment, all positions
aligned.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.benchmarks import common
from tracr_jax.errors import UserError
from tracr_jax.lm.base import LanguageModel
from tracr_jax.lm.convert import save_hf_folder
from tracr_jax.lm.gpt2 import GPT2, SIZES, GPT2Config
from tracr_jax.lm.llama import Llama, LlamaConfig
from tracr_jax.presets import PAPER_FIXED
from tracr_jax.tasks.registry import get_task
from tracr_jax.teacher import Teacher, compile_program, make_forward
from tracr_jax.teacher.variables import variable_layout
from tracr_jax.train import mesh as M
from tracr_jax.train.optimizer import make_optimizer
from tracr_jax.train.step import (
    Frozen,
    StepShape,
    TrainParams,
    TrainState,
    init_adapter,
    make_loss_fn,
    make_step,
)
from tracr_jax.train.trainable import beside_frozen, in_stacks, pair_key, split
from tracr_jax.trained import trained_part
from tracr_jax.types import Batch, Params

SHAPES: dict[str, GPT2Config | LlamaConfig] = {
    "small": GPT2Config(vocab_size=512, n_positions=128, n_embd=64, n_layer=9, n_head=4),
    "tiny": GPT2Config(vocab_size=8192, n_positions=256, n_embd=128, n_layer=24, n_head=4),  # the bundled model's
    "smollm2-135m": LlamaConfig(),
} | {name.split("/")[1]: config for name, config in SIZES.items()}
# tracr's default where the paper takes it: in float32 a dense teacher can compute these (docs/teacher.md §3).
EXACTNESS = {"dyck": 100.0, "int_sum": 100.0, "count": 1e4}
ANSWERS = 2  # K: an answer token and the end of text


@dataclass(frozen=True)
class Case:
    """What one measured step is made of."""

    shape: str = "gpt2"
    """A name in SHAPES."""
    batch: int = 2
    """B: supervised rows, and as many retention rows."""
    length: int = 42
    """S, and the teacher's table."""
    text_length: int = 30
    """U."""
    task: str = "dyck"
    """Whose teacher."""
    blocks: int = 0
    """N, where not the shape's own."""
    width: int = 0
    """d, where not the shape's own; GPT-2 shapes only, heads of 64."""
    alignment: str = "cosine"
    """"cosine" or "variable"."""
    dtype: str = "float32"
    """Of the model's computation."""
    train: str = "all"
    """What of the model is trained, as `RunConfig.train`; of a part, θ₀ is what it begins with."""
    remat: bool = False
    """Each block is computed again for its gradient."""

    def __post_init__(self):
        if self.shape not in SHAPES:
            raise UserError(f"benchmark: no shape {self.shape!r}; there are {', '.join(SHAPES)}")

    @property
    def model(self) -> LanguageModel:
        """The model of this shape, without parameters."""
        config = SHAPES[self.shape]
        if isinstance(config, LlamaConfig):
            config = dataclasses.replace(config, num_hidden_layers=self.blocks or config.num_hidden_layers)
            return Llama(config, dtype=self.dtype, remat=self.remat)
        width = self.width or config.n_embd
        heads = max(1, self.width // 64) if self.width else config.n_head
        config = dataclasses.replace(config, n_layer=self.blocks or config.n_layer, n_embd=width, n_head=heads)
        return GPT2(config, dtype=self.dtype, remat=self.remat)

    @property
    def tokens(self) -> int:
        """Token positions that a step trains on: B · (S + U)."""
        return self.batch * (self.length + self.text_length)


def random_params(model: LanguageModel, *, seed: int) -> Params:
    """Normal weights of deviation 0.02, norms about 1; nothing is exactly 0 or 1, which would hide a mistake."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(model.init, jax.random.key(0))

    def draw(path, leaf):
        around = np.float32(path[-1].key == "scale")
        return jnp.asarray(around + np.float32(0.02) * rng.standard_normal(leaf.shape, np.float32))

    return jax.tree_util.tree_map_with_path(draw, shapes)


def compile_teacher(case: Case) -> Teacher:
    """The task's teacher with a table of S positions, as sharp as the paper's."""
    task, n = get_task(case.task), case.length
    return compile_program(
        task.program(max_seq_len=n), vocab=task.vocab(), max_seq_len=n, mlp_exactness=EXACTNESS[case.task]
    )


def random_batch(case: Case, teacher: Teacher, *, seed: int = 0) -> Batch:
    """Random ids; the last two positions but one are asked, as for the longest item."""
    rng = np.random.default_rng((seed, 7))
    vocab = case.model.vocab_size
    ids = rng.integers(0, vocab, (case.batch, case.length), np.int32)
    mask = np.zeros(ids.shape, np.float32)
    mask[:, -1 - ANSWERS : -1] = 1
    # A second BOS among the tokens is no program input: counts come out between two values there.
    words = np.setdiff1d(np.arange(len(teacher.vocab), dtype=np.int32), [teacher.bos_id])
    body = rng.choice(words, ids.shape)
    bos = np.full((case.batch, 1), teacher.bos_id, np.int32)
    text = rng.integers(0, vocab, (case.batch, case.text_length), np.int32)
    return Batch(ids, mask, np.concatenate([bos, body], axis=1), text)


class Parts(NamedTuple):
    """Everything that a measured step needs."""

    state: TrainState
    frozen: Frozen
    batch: tuple[Batch, ...]
    step: Callable  # jitted, donates its state
    loss_fn: Callable
    residuals: Callable
    optimizer: Any
    shape: StepShape
    teacher: Teacher


def make_parts(case: Case, *, mesh: str = "", params: tuple[Params, Params] | None = None) -> Parts:
    """Batch and jitted step of a case, on one device or over a mesh; `params`: θ and θ₀, random where None."""
    model, teacher = case.model, compile_teacher(case)
    if model.num_blocks <= teacher.num_layers:
        raise UserError(
            f"benchmark: {case.shape} with {model.num_blocks} blocks cannot host {case.task}'s teacher of "
            f"{teacher.num_layers} layers; choose a deeper shape"
        )
    phi, residuals = make_forward(teacher, dtype=jnp.float32)
    losses = dataclasses.replace(PAPER_FIXED.losses, alignment=case.alignment)
    shape = StepShape(
        depth=teacher.num_layers,
        result_rows=teacher.result_indices(),
        pad_id=-1,  # random ids hold no padding
        max_answers=ANSWERS,
    )
    optimizer = make_optimizer(PAPER_FIXED.optim, steps=1000)
    adapter = init_adapter(jax.random.key(0), width=model.width, directions=teacher.width)
    options: dict[str, Any] = {
        "config": losses, "shape": shape, "layout": variable_layout(teacher.variables)
    }  # fmt: skip
    part, base = trained_part(case.train).of_program(teacher.num_layers), None
    if part.kind == "all":
        theta, original = params or (random_params(model, seed=0), random_params(model, seed=1))
    else:
        original = in_stacks(part, random_params(model, seed=0))
        theta, base = split(part, original, key=pair_key(0))
    grid = M.make_mesh(mesh)
    everywhere = M.replicated(grid)
    state, places = M.init_sharded_state(grid, M.put_params(TrainParams(theta, (adapter,)), grid), optimizer)
    frozen = Frozen(M.put_params(original, grid), M.put((phi,), everywhere), M.put_params(base, grid))
    batch = (M.put(random_batch(case, teacher), M.batch_sharding(grid)),)
    loss_fn = make_loss_fn(model, residuals, keep_rows=M.keep_rows(grid), **options)
    loss_fn = loss_fn if base is None else beside_frozen(loss_fn)
    step = jax.jit(make_step(loss_fn, optimizer, steps=1), donate_argnums=0, out_shardings=(places, everywhere))
    return Parts(state, frozen, batch, step, loss_fn, residuals, optimizer, shape, teacher)


def step_worker(options: dict[str, Any]) -> tuple[dict, Callable[[], dict[str, float]]]:
    """A side for `Worker`: one training step a repetition, which returns its losses."""
    mesh = options.pop("mesh", "")
    case = Case(**options)
    parts = make_parts(case, mesh=mesh)
    state, frozen, batch, step = parts[:4]
    del parts  # it would hold the first state alive
    info = {"device": f"{jax.device_count()} x {jax.devices()[0].device_kind}"}

    def run():
        nonlocal state
        state, terms = jax.block_until_ready(step(state, frozen, batch))
        out = {k: float(terms[k]) for k in ("loss", "supervised", "retention", "alignment", "grad_norm")}
        stats = jax.devices()[0].memory_stats() or {}
        return out | (
            {"device_peak_gib": stats["peak_bytes_in_use"] / 2**30} if "peak_bytes_in_use" in stats else {}
        )

    return info, run


def product_worker(options: dict[str, Any]) -> tuple[dict, Callable[[], None]]:
    """A side for `Worker`: one square matrix product a repetition."""
    run, flops = common.matrix_product(options["size"], dtype=options["dtype"])
    return {"flops": flops}, run


def forward_flops(model: LanguageModel, *, rows: int, length: int, logits: int) -> float:
    """Operations of the matrix products of one forward pass, 2 per multiplication and addition.

    Args:
      model: its weights are counted, each once for every token; norms and nonlinearities are not.
      rows: sequences.
      length: tokens of each. Attention counts all length² pairs, as both libraries compute them.
      logits: positions of each at which logits are needed.
    """
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    weights = sum(
        float(np.prod(x.shape))
        for path, x in jax.tree_util.tree_leaves_with_path(shapes["blocks"])
        if path[-1].key == "kernel"
    )
    c = model.config
    heads = c.num_attention_heads * c.head_dim if isinstance(c, LlamaConfig) else model.width
    attention = 4.0 * model.num_blocks * length**2 * heads
    return rows * (2.0 * length * weights + attention + 2.0 * logits * model.vocab_size * model.width)


def step_flops(case: Case, teacher: Teacher) -> float:
    """Operations that one step cannot do without: three forwards' worth where gradients are asked, one for θ₀.

    The supervised logits are counted at the asked positions only; the teacher and the optimiser are not counted.
    """
    model, b, s, u = case.model, case.batch, case.length, case.text_length
    supervised = forward_flops(model, rows=b, length=s, logits=ANSWERS)
    text = forward_flops(model, rows=b, length=u, logits=u)
    adapter = 2.0 * (teacher.num_layers + 1) * b * s * model.width * teacher.width
    return 3.0 * (supervised + text + adapter) + text


def write_for_torch(case: Case, folder: Path) -> None:
    """Weights in Hugging Face's format, and adapter, dense teacher and batch as arrays, for torch_peer.py."""
    model, teacher = case.model, compile_teacher(case)
    for name, seed in (("lm", 0), ("original", 1)):
        save_hf_folder(folder / name, model, random_params(model, seed=seed))
    adapter = init_adapter(jax.random.key(0), width=model.width, directions=teacher.width)
    batch = random_batch(case, teacher)._asdict()
    arrays = {f"batch/{k}": np.asarray(v) for k, v in batch.items() if v is not None}
    arrays |= {f"adapter/{k}": np.asarray(v) for k, v in adapter._asdict().items()}
    for module, group in teacher.densify().items():
        arrays |= {f"teacher/{module}/{k}": v for k, v in group.items()}
    rows, sizes = teacher.result_indices(), (teacher.num_layers, teacher.num_heads)
    arrays |= {"result_rows": np.array(rows), "teacher_sizes": np.array(sizes)}
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)


def write_worker(options: dict[str, Any]) -> tuple[dict, Callable[[], None]]:
    """Files for other sides, in a process of its own: this one's memory would stay with the caller.

    options: "case", "folder", and "torch": everything for torch_peer.py, or θ's folder "lm" only.
    """
    case, folder = Case(**options["case"]), Path(options["folder"])
    if options["torch"]:
        write_for_torch(case, folder)
    else:
        save_hf_folder(folder / "lm", case.model, random_params(case.model, seed=0))
    return {}, lambda: None
