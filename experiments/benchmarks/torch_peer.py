"""The same training step in PyTorch, written from docs/method.md: what our step is timed against.

HF's GPT2LMHeadModel, the dense teacher as a torch module, the losses of docs/method.md §4, AdamW of §5; eager or
through torch.compile. Nothing of tracr_jax is imported: weights and batch come from the folder of
`write_for_torch`.

It is faster than the original in two ways, both on purpose: the teacher gets no gradients (the original computes
and never uses them), and AdamW is torch's fused one. Elsewhere it does what docs/method.md says, logits at every
position included, as HF computes them.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn


class DenseTeacher(nn.Module):
    """tracr's transformer with dense weights (docs/method.md §1.1); no gradients."""

    def __init__(self, arrays: dict[str, np.ndarray], *, layers: int, heads: int):
        """Weights and biases by tracr's names, such as "transformer/layer_0/attn/query/w"."""
        super().__init__()
        self.layers, self.heads = layers, heads
        for name, value in arrays.items():
            self.register_buffer(name.replace("/", "__"), torch.tensor(value))

    def _linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        name = name.replace("/", "__")
        return x @ getattr(self, f"{name}__w") + getattr(self, f"{name}__b")

    @torch.no_grad()
    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """r_0..r_L [L+1, B, T, D] of ids [B, T], BOS first."""
        b, t = ids.shape
        tokens: Any = self.token_embed__embeddings  # buffers, of which torch's types know nothing
        places: Any = self.pos_embed__embeddings
        x = tokens[ids] + places[:t]
        states = [x]
        for i in range(self.layers):
            at = f"transformer/layer_{i}"
            q, k, v = (
                self._linear(x, f"{at}/attn/{n}").view(b, t, self.heads, -1).transpose(1, 2)
                for n in ("query", "key", "value")
            )
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self._linear(mixed.transpose(1, 2).reshape(b, t, -1), f"{at}/attn/linear")
            x = x + self._linear(F.relu(self._linear(x, f"{at}/mlp/linear_1")), f"{at}/mlp/linear_2")
            states.append(x)
        return torch.stack(states)


class Peer(nn.Module):
    """θ, A, θ₀ and φ; forward is the loss of docs/method.md §4.5."""

    def __init__(self, lm: Any, original: nn.Module, teacher: DenseTeacher, adapter: nn.Linear, rows: Any):
        super().__init__()
        self.lm, self.adapter = lm, adapter
        self.original, self.teacher = original.requires_grad_(False), teacher
        self.rows = torch.as_tensor(rows)
        self.depth = teacher.layers
        width = adapter.in_features
        self.projection: torch.Tensor
        self.register_buffer("projection", torch.zeros(width, width))
        self._hooked, self._states = False, []
        for block in lm.transformer.h[: self.depth + 1]:
            block.register_forward_pre_hook(self._record)
        lm.transformer.h[self.depth].register_forward_hook(self._detach_and_roll)

    def _record(self, block: nn.Module, args: tuple) -> None:
        if self._hooked:
            self._states.append(args[0])

    def _detach_and_roll(self, block: nn.Module, args: tuple, output: Any) -> Any:
        if not self._hooked:
            return output
        h = output[0] if isinstance(output, tuple) else output  # transformers 4 gives a tuple
        z = h @ self.projection.to(h.dtype)
        h = z + torch.roll((h - z).detach(), 1, dims=0)
        return (h, *output[1:]) if isinstance(output, tuple) else h

    @torch.no_grad()
    def update_projection(self) -> None:
        """P = Rᵀ (Rᵀ)⁺ from the current adapter (docs/method.md §4.1)."""
        r = self.adapter.weight[self.rows].T
        self.projection.copy_(r @ torch.linalg.pinv(r))

    def forward(
        self, ids: torch.Tensor, mask: torch.Tensor, teacher_ids: torch.Tensor, text: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """(total, supervised, retention, alignment), nats; sums and means as in docs/method.md §4."""
        self._hooked, self._states = True, []
        logits = self.lm(ids, use_cache=False).logits
        hidden, self._hooked, self._states = self._states, False, []
        loss = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none")
        mask = mask[:, :-1]
        supervised = (loss * mask).sum() / mask.sum()

        r = self.teacher(teacher_ids)[:, :, 1:]
        alignment = logits.new_zeros((), dtype=torch.float32)
        for h, target in zip(hidden, r, strict=True):
            cosine = F.cosine_similarity(self.adapter(h).float(), target, dim=-1, eps=1e-12)
            alignment = alignment + (1 - cosine).mean()

        with torch.no_grad():
            log_p = F.log_softmax(self.original(text, use_cache=False).logits.float(), dim=-1)
        log_q = F.log_softmax(self.lm(text, use_cache=False).logits.float(), dim=-1)
        retention = F.kl_div(log_q, log_p, reduction="batchmean", log_target=True)
        return alignment + retention + supervised, supervised, retention, alignment


def load_peer(folder: Path) -> tuple[Peer, tuple[torch.Tensor, ...]]:
    """The peer and its batch (ids, mask, teacher ids, text ids) from a folder of `write_for_torch`."""
    from transformers import GPT2LMHeadModel

    arrays = dict(np.load(folder / "arrays.npz"))
    layers, heads = arrays["teacher_sizes"].tolist()
    tensors = {k.removeprefix("teacher/"): v for k, v in arrays.items() if k.startswith("teacher/")}
    teacher = DenseTeacher(tensors, layers=layers, heads=heads)
    lm, original = (GPT2LMHeadModel.from_pretrained(folder / n).eval() for n in ("lm", "original"))  # no dropout
    weight = torch.tensor(arrays["adapter/weight"])
    adapter = nn.Linear(weight.shape[1], weight.shape[0])
    with torch.no_grad():
        adapter.weight.copy_(weight)
        adapter.bias.copy_(torch.tensor(arrays["adapter/bias"]))
    batch = tuple(torch.tensor(arrays[f"batch/{k}"]) for k in ("ids", "answer_mask", "teacher_ids", "text_ids"))
    batch = tuple(x if x.is_floating_point() else x.long() for x in batch)
    return Peer(lm, original, teacher, adapter, arrays["result_rows"]), batch


def make_step(peer: Peer, *, compiled: bool, dtype: str = "float32") -> Callable[..., dict[str, float]]:
    """A function (*batch) -> losses that does one training step."""
    optimizer = torch.optim.AdamW(
        [{"params": peer.lm.parameters(), "lr": 1e-6}, {"params": peer.adapter.parameters(), "lr": 1e-4}],
        weight_decay=0.01,
        fused=True,
    )
    forward = torch.compile(peer) if compiled else peer
    device = next(peer.parameters()).device.type

    def step(*batch: torch.Tensor) -> dict[str, float]:
        peer.update_projection()
        with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
            losses = forward(*batch)
        optimizer.zero_grad(set_to_none=True)
        losses[0].backward()
        optimizer.step()
        values = (x.item() for x in losses)
        return dict(zip(("loss", "supervised", "retention", "alignment"), values, strict=True))

    return step


def worker(options: dict[str, Any]) -> tuple[dict, Callable[[], dict[str, float]]]:
    """A side for `Worker`: one training step a repetition, which returns its losses."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    peer, batch = load_peer(Path(options["folder"]))
    peer, batch = peer.to(device), tuple(x.to(device) for x in batch)
    step = make_step(peer, compiled=options["compiled"], dtype=options["dtype"])

    def run():
        out = step(*batch)  # reading the losses waits for the device, but not for the update
        if device == "cuda":
            torch.cuda.synchronize()
            out["device_peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        return out

    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": name, "threads": torch.get_num_threads()}, run
