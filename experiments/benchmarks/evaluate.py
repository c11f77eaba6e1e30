"""Evaluation: our batched greedy decoding against Hugging Face's generate, in batches and one prompt at a time.

  python -m experiments.benchmarks.evaluate

The first 1,000 items of dyck's test set on the bundled model, as untouched weights: both sides get the items as
text, tokenise them, and return the answers' token ids, which must be equal. Sides are processes that take turns.
The batched peer gets our batches: as many prompts, sorted by length, padded on the left as generate wants it. A
matrix product takes its turn, too: the share of its rate is of the operations that each prompt cannot do without,
what stands before all prompts counted once for a batch.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker, measure
from tracr_jax.data.samples import ROWS
from tracr_jax.errors import UserError


def _untouched(items: int) -> tuple[Any, list]:
    from tracr_jax.data.samples import sample_of
    from tracr_jax.presets import preset
    from tracr_jax.runs.build import build
    from tracr_jax.runs.model import untouched

    run = untouched(build(preset(task="dyck", lm="tiny"), task="dyck", lm="tiny"))
    chosen = run.program.task.eval_sets()["test"]
    if chosen.size < items:
        raise UserError(f"evaluate: the test set has {chosen.size} items, {items} were asked for")
    return run, sample_of(chosen, items)


def ours(options: dict[str, Any]) -> tuple[dict, Callable[[], list]]:
    """A side for `Worker`: all items in batches, with the cache, jitted."""
    from tracr_jax.measure.answers import greedy_answers

    run, items = _untouched(options["items"])
    return {}, lambda: greedy_answers(run, run.params, items)


def hugging_face(options: dict[str, Any]) -> tuple[dict, Callable[[], list]]:
    """A side for `Worker`: HF's generate on `rows` prompts of similar length at a time; with one, as the original
    evaluates (docs/method.md §9).
    """
    import torch
    from transformers import GPT2LMHeadModel

    untrained, items = _untouched(options["items"])
    program = untrained.program
    model: Any = GPT2LMHeadModel.from_pretrained(untrained.original.source, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # neither side stops early
    rows, pad = options["rows"], program.tokenizer.eos_id

    @torch.no_grad()
    def run():
        out: list[list[int]] = [[] for _ in items]
        encoded = [program.bridge.split(item) for item in items]
        order = sorted(range(len(items)), key=lambda k: -len(encoded[k][0]))
        for start in range(0, len(order), rows):
            chosen = order[start : start + rows]
            width = max(len(encoded[k][0]) for k in chosen)
            before = [width - len(encoded[k][0]) for k in chosen]
            ids = torch.tensor([[pad] * n + list(encoded[k][0]) for n, k in zip(before, chosen, strict=True)])
            new = model.generate(
                ids,
                attention_mask=(torch.arange(width)[None] >= torch.tensor(before)[:, None]).long(),
                max_new_tokens=max(len(encoded[k][1]) for k in chosen),
                do_sample=False,
                pad_token_id=pad,
            )
            for row, k in enumerate(chosen):
                out[k] = new[row, width : width + len(encoded[k][1])].tolist()
        return out

    return {"threads": torch.get_num_threads()}, run


def needed_flops(items: int) -> float:
    """Operations that the answers cannot do without: each prompt's own tokens, shared ones once for a batch."""
    from experiments.benchmarks.case import forward_flops
    from tracr_jax.data.samples import ROWS
    from tracr_jax.measure.answers import shared_tokens

    run, chosen = _untouched(items)
    encoded = [run.program.bridge.split(i) for i in chosen]
    shared = shared_tokens([prompt for prompt, _ in encoded])
    before = forward_flops(run.model, rows=1, length=shared, logits=0)
    # A prompt behind the prefix attends to it, too: the whole text's operations without the prefix's own.
    own = [
        forward_flops(run.model, rows=1, length=len(prompt) + len(label) - 1, logits=len(label)) - before
        for prompt, label in encoded
    ]
    return -(-items // ROWS) * before + sum(own)


def main() -> None:
    parser = common.parser(__doc__ or "", repetitions=3)
    parser.add_argument("--items", type=int, help="prompts; default 1000")
    args = parser.parse_args()
    options = {"items": args.items or (20 if args.small else 1000)}
    about = common.machine()
    with ExitStack() as stack:
        workers = {
            "ours, batched": stack.enter_context(Worker(".evaluate:ours", options)),
            "HF, batched": stack.enter_context(Worker(".evaluate:hugging_face", options | {"rows": ROWS})),
            "HF, one at a time": stack.enter_context(Worker(".evaluate:hugging_face", options | {"rows": 1})),
            "matrix product": stack.enter_context(
                Worker(".case:product_worker", {"size": 256 if args.small else 2048, "dtype": "float32"})
            ),
        }
        timed = measure(workers, repetitions=args.repetitions, warmup=1, settle_s=common.settle_s(args))
    product = timed.pop("matrix product")
    rate = product["info"]["flops"] / common.summary(product["seconds"])["median_s"]
    needed = needed_flops(options["items"])
    a, *others = (t.pop("warmup_values")[0] for t in timed.values())
    different = max(sum(x != y for x, y in zip(a, b, strict=True)) for b in others)
    # Rounding may turn a near tie; more than that is another computation.
    if different > 0.01 * len(a):
        raise UserError(
            f"evaluate: {different} of {len(a)} answers differ between the sides; times are not compared"
        )
    ours_s = timed["ours, batched"]["seconds"]
    results = {
        "items": options["items"],
        "different_answers": different,
        "needed_flops": needed,
        "matrix_product_flops_per_s": rate,
        "sides": {
            name: common.summary(t["seconds"])
            | {"first_call_s": t["warmup_seconds"][0], "peak_memory_gib": t["peak_memory_gib"], "info": t["info"]}
            | {"ours_faster": common.ratio(t["seconds"], ours_s)}
            for name, t in timed.items()
        },
    }
    rows = [
        {
            "side": name,
            "prompts": options["items"],
            "s": side["median_s"],
            "first call, s": side["first_call_s"],
            "prompts/s": options["items"] / side["median_s"],
            "of a product's rate, %": 100 * needed / side["median_s"] / rate,
            "peak, GiB": side["peak_memory_gib"],
            "ours faster": None if name.startswith("ours") else side["ours_faster"]["median"],
        }
        for name, side in results["sides"].items()
    ]
    common.finish("evaluate", args, about, results, title="greedy answers, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
