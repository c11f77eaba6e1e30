"""Evaluation: our batched greedy decoding against one prompt at a time with Hugging Face's generate.

  python -m experiments.benchmarks.evaluate

The first 1,000 items of dyck's test set on the bundled model, as untouched weights: both sides get the items as
text, tokenise them, and return the answers' token ids, which must be equal. Sides are processes that take turns.
"""

from tracr_jax.host import keep_pages

if __name__ == "__main__":
    keep_pages()  # before anything is imported: it starts the process again

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from experiments.benchmarks import common
from experiments.benchmarks.workers import Worker, measure
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


def one_at_a_time(options: dict[str, Any]) -> tuple[dict, Callable[[], list]]:
    """A side for `Worker`: HF's generate, prompt by prompt, as the original evaluates
    (docs/method.md §9).
    """
    import torch
    from transformers import GPT2LMHeadModel

    untrained, items = _untouched(options["items"])
    program = untrained.program
    model = GPT2LMHeadModel.from_pretrained(untrained.original.source, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # neither side stops early

    @torch.no_grad()
    def run():
        out = []
        for item in items:
            prompt, label = program.bridge.split(item)
            ids = torch.tensor([prompt])
            new = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=len(label),
                do_sample=False,
                pad_token_id=program.tokenizer.eos_id,
            )
            out.append(new[0, len(prompt) :].tolist())
        return out

    return {"threads": torch.get_num_threads()}, run


def main() -> None:
    parser = common.parser(__doc__ or "", repetitions=3)
    parser.add_argument("--items", type=int, help="prompts; default 1000")
    args = parser.parse_args()
    options = {"items": args.items or (20 if args.small else 1000)}
    about = common.machine()
    with ExitStack() as stack:
        workers = {
            "ours, batched": stack.enter_context(Worker(".evaluate:ours", options)),
            "HF, one at a time": stack.enter_context(Worker(".evaluate:one_at_a_time", options)),
        }
        timed = measure(workers, repetitions=args.repetitions, warmup=1, settle_s=common.settle_s(args))
    a, b = (t.pop("warmup_values")[0] for t in timed.values())
    different = sum(x != y for x, y in zip(a, b, strict=True))
    # Rounding may turn a near tie; more than that is another computation.
    if different > 0.01 * len(a):
        raise UserError(
            f"evaluate: {different} of {len(a)} answers differ between the sides; times are not compared"
        )
    ours_s, theirs_s = (t["seconds"] for t in timed.values())
    results = {
        "items": options["items"],
        "different_answers": different,
        "speedup": common.ratio(theirs_s, ours_s),
        "sides": {
            name: common.summary(t["seconds"])
            | {"first_call_s": t["warmup_seconds"][0], "peak_memory_gib": t["peak_memory_gib"], "info": t["info"]}
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
            "peak, GiB": side["peak_memory_gib"],
            "faster": results["speedup"]["median"] if name.startswith("ours") else None,
        }
        for name, side in results["sides"].items()
    ]
    common.finish("evaluate", args, about, results, title="greedy answers, medians", rows=rows)


if __name__ == "__main__":
    common.main(main)
