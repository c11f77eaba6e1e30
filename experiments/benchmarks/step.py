"""The full training step: time, tokens per second, memory, model FLOP utilisation, and where the time goes.

  python -m experiments.benchmarks.step                          gpt2, tiny and smollm2-135m shapes, B 2, 16 and 64
  python -m experiments.benchmarks.step --torch --shapes gpt2    beside the PyTorch peer, eager and torch.compile
  python -m experiments.benchmarks.step --shapes gpt2-large --batches 16 128 --dtype bfloat16 --torch     on a GPU

Every side is a process of its own, woken in turn, and so is a matrix product: model FLOP utilisation is the
needed operations (case.py: step_flops) over the step's time, as a share of the product's rate in the same
rounds. With --torch the losses of the first steps must agree before anything is timed. Shares come from one more
process that runs the step and each of its parts, compiled alone, in turn; what is left is the backward pass.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages(one_arena=True)  # before anything is imported: it starts the process again

import functools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker, measure
from tracr_jax.errors import UserError

# Largest relative difference of a loss from the peer's. bfloat16 has 8 bits, and the sides round at other places.
TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
CHECKED = ("supervised", "retention", "alignment", "loss")


def shares_worker(options: dict[str, Any]) -> tuple[dict, Callable[[], dict[str, Any]]]:
    """A side for `Worker` that runs the step and its parts in turn, `repetitions` times."""
    import jax
    import jax.numpy as jnp

    from experiments.benchmarks import case as C
    from tracr_jax.intervene import detach_and_roll, subspace_basis
    from tracr_jax.train import losses as L
    from tracr_jax.train.step import apply_gradients

    repetitions = options.pop("repetitions")
    case = C.Case(**options)
    parts, model = C.make_parts(case), case.model
    state, frozen, batches, shape = parts.state, parts.frozen, parts.batch, parts.shape
    (batch,) = batches
    parts = parts._replace(state=None)  # pyright: ignore[reportArgumentType]

    @jax.jit
    def supervised(params, batch):
        rows = params.adapters[0].weight[jnp.array(shape.result_rows)]
        where, _, _ = L.answer_positions(batch.ids, batch.answer_mask, count=shape.max_answers)
        edit = detach_and_roll(subspace_basis(rows), block=shape.depth)
        out = model.apply(params.lm, batch.ids, edit=edit, logit_positions=where)
        return out.logits, out.hidden[: shape.depth + 1]

    text = jax.jit(lambda lm, ids: model.apply(lm, ids).logits)
    teacher = jax.jit(parts.residuals)
    loss = jax.jit(lambda params, frozen, batches: parts.loss_fn(params, frozen, batches)[0])

    update = jax.jit(functools.partial(apply_gradients, optimizer=parts.optimizer), donate_argnums=0)
    # Any numbers serve as gradients; θ₀ is there already.
    grads = state.params._replace(lm=frozen.lm, adapters=jax.tree.map(jnp.copy, state.params.adapters))

    def run_step():
        nonlocal state
        state, terms = parts.step(state, frozen, batches)
        jax.block_until_ready((state, terms))

    def run_update():
        nonlocal state
        state, norm = update(state, grads)
        jax.block_until_ready((state, norm))

    sides = {
        "step": run_step,
        "forward, items with the hook": common.waiting(lambda: supervised(state.params, batch)),
        "forward, text": common.waiting(lambda: text(state.params.lm, batch.text_ids)),
        "forward, text, original": common.waiting(lambda: text(frozen.lm, batch.text_ids)),
        "forward, teacher": common.waiting(lambda: teacher(frozen.teachers[0], batch.teacher_ids)),
        "all forwards and losses": common.waiting(lambda: loss(state.params, frozen, batches)),
        "update and gradient norm": run_update,
    }

    return {}, lambda: common.shares_of_step(sides, repetitions=repetitions)


def check_losses(sides: Mapping[str, Mapping[str, list]], *, tolerance: float) -> dict[str, float]:
    """Largest relative difference of each loss between ours and every other side over all warm-up steps.

    Raises:
      UserError: one is larger than `tolerance`; nothing should be timed then.
    """
    worst: dict[str, float] = dict.fromkeys(CHECKED, 0.0)
    for name, side in sides.items():
        for ours, theirs in zip(sides["ours"]["warmup_values"], side["warmup_values"], strict=True):
            for k in CHECKED:
                difference = abs(ours[k] - theirs[k]) / max(abs(theirs[k]), 1e-12)
                worst[k] = max(worst[k], difference)
                if not difference <= tolerance:
                    raise UserError(
                        f"step: {k} is {ours[k]!r} here and {theirs[k]!r} in {name}, further apart than "
                        f"{tolerance:g} of it; they do not compute the same step, so times are not compared"
                    )
    return worst


def measure_step(
    options: Mapping[str, Any], *, torch: bool, product: int, repetitions: int, settle_s: float
) -> dict[str, Any]:
    """One case: our step, the peer's and the matrix product in turn."""
    from experiments.benchmarks import case as C

    case = C.Case(**options)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        sides = {"ours": (".case:step_worker", options)}
        if torch:
            with Worker(".case:write_worker", {"case": options, "folder": folder, "torch": True}):
                pass
            for name, compiled in (("torch eager", False), ("torch.compile", True)):
                sides[name] = ".torch_peer:worker", {"folder": folder, "compiled": compiled, "dtype": case.dtype}
        sides["matrix product"] = ".case:product_worker", {"size": product, "dtype": case.dtype}
        workers = {name: stack.enter_context(Worker(*side)) for name, side in sides.items()}
        losses = {name: w for name, w in workers.items() if name != "matrix product"}
        first = common.in_turn({name: w.go for name, w in losses.items()}, repetitions=0, warmup=2)
        differences = check_losses(first, tolerance=TOLERANCE[case.dtype]) if torch else None
        timed = measure(workers, repetitions=repetitions, warmup=1, settle_s=settle_s)
    rate = (
        timed["matrix product"]["info"]["flops"] / common.summary(timed["matrix product"]["seconds"])["median_s"]
    )
    needed = C.step_flops(case, C.compile_teacher(case))
    out: dict[str, Any] = {
        "case": asdict(case),
        "step_flops": needed,
        "matrix_product_flops_per_s": rate,
        "sides": {},
    }
    for name in losses:
        side = common.summary(timed[name]["seconds"])
        out["sides"][name] = side | {
            "first_step_s": first[name]["warmup_seconds"][0],  # with compilation
            "tokens_per_s": case.tokens / side["median_s"],
            "model_flop_utilisation": needed / side["median_s"] / rate,
            "peak_memory_gib": timed[name]["peak_memory_gib"],
            "info": timed[name]["info"],
        }
    if torch:
        best = min(("torch eager", "torch.compile"), key=lambda n: out["sides"][n]["median_s"])
        out["largest_relative_differences"] = differences
        out["best_peer"] = best
        out["speedup"] = common.ratio(timed[best]["seconds"], timed["ours"]["seconds"])
    return out


def rows(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The printed table."""
    out = []
    for r in results:
        ours = r["sides"]["ours"]
        row = {
            "shape": r["case"]["shape"],
            "B": r["case"]["batch"],
            "step, s": ours["median_s"],
            "tokens/s": round(ours["tokens_per_s"]),
            "FLOP use, %": 100 * ours["model_flop_utilisation"],
            "peak, GiB": ours["peak_memory_gib"],
        }
        for name in ("torch eager", "torch.compile"):
            row[f"{name}, s"] = r["sides"].get(name, {}).get("median_s")
        row["faster than the best"] = r.get("speedup", {}).get("median")
        row["update, %"] = 100 * r["shares"]["update and gradient norm"]["share"]["median"]
        row["teacher, %"] = 100 * r["shares"]["forward, teacher"]["share"]["median"]
        out.append(row)
    return out


def main() -> None:
    parser = common.parser(__doc__ or "")
    add = parser.add_argument
    add(
        "--shapes",
        nargs="+",
        metavar="SHAPE",
        help="default gpt2 tiny smollm2-135m; also gpt2-medium, gpt2-large …",
    )
    add("--batches", nargs="+", type=int, metavar="B", help="default 2 16 64")
    add("--dtype", choices=TOLERANCE, default="float32", help="of the computation")
    add("--alignment", choices=("cosine", "variable"), default="cosine", help="the paper's, or ours")
    add("--torch", action="store_true", help="beside the PyTorch peer (GPT-2 shapes, cosine)")
    add("--product", type=int, help="size of the matrix product; default 2048, on a GPU take 8192")
    args = parser.parse_args()
    if args.torch and args.alignment != "cosine":
        raise UserError("step: the peer has the paper's alignment only; leave out --alignment or --torch")
    shapes = args.shapes or (["small"] if args.small else ["gpt2", "tiny", "smollm2-135m"])
    batches = args.batches or ([2] if args.small else [2, 16, 64])
    about, results = common.machine(), []
    for shape in shapes:
        for batch in batches:
            options = {"shape": shape, "batch": batch, "dtype": args.dtype, "alignment": args.alignment}
            options |= {"length": 12, "text_length": 8} if args.small else {}
            torch = args.torch and not shape.startswith("smollm2")
            product = args.product or (256 if args.small else 2048)
            result = measure_step(
                options, torch=torch, product=product, repetitions=args.repetitions, settle_s=common.settle_s(args)
            )
            with Worker(".step:shares_worker", options | {"repetitions": args.repetitions}) as worker:
                result["shares"] = worker.go()[1]
            results.append(result)
            print(f"{shape}, B {batch}: {result['sides']['ours']['median_s']:.3g} s per step", flush=True)
    common.finish("step", args, about, results, title="training step, medians", rows=rows(results))


if __name__ == "__main__":
    common.main(main)
