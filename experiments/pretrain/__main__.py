"""Pretrain the bundled tiny GPT-2 (tracr_jax/lm/tiny) on shared/data: tokenizer, one pass, export.

  python -m experiments.pretrain tokenize --run DIR     own BPE, token streams
  python -m experiments.pretrain train --run DIR        resumes from DIR's newest checkpoint
  python -m experiments.pretrain export --run DIR       the newest checkpoint as a Hugging Face folder
  python -m experiments.pretrain evaluate --run DIR     perplexities, controls -> pretrain_tiny.json, the card

Two CPU cores are enough (about an hour); what the run measured stands in pretrain_tiny.json. The recipe is in
recipe.py: 24 blocks x 128, grown from 6 and 12 during the pass.
"""

import json
import os
import signal
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
import numpy as np
import optax
import tokenizers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from experiments.pretrain import corpus, measure, publish
from experiments.pretrain.ngram import NGram
from experiments.pretrain.recipe import Recipe, Stage, grow, grow_optimizer, mean_loss
from tracr_jax.files import write_json
from tracr_jax.host import keep_pages
from tracr_jax.lm.load import load_lm

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("TRACR_JAX_DATA", ROOT.parent / "shared" / "data"))
TINY = ROOT / "tracr_jax" / "lm" / "tiny"


def tokenize(run: Path) -> None:
    """Train the tokenizer on both training texts; write run/tokenizer.json and one .npy stream per file."""
    run.mkdir(parents=True, exist_ok=True)
    text = {(c, s): corpus.documents(DATA, c, s) for c in corpus.CORPORA for s in ("train", "valid")}
    train = [d for c in corpus.CORPORA for d in text[c, "train"]]
    tokenizer = corpus.train_tokenizer(train)
    tokenizer.save(str(run / "tokenizer.json"))
    np.save(run / "train.npy", corpus.encode(tokenizer, train))
    for c in corpus.CORPORA:
        np.save(run / f"{c}_valid.npy", corpus.encode(tokenizer, text[c, "valid"]))
    wiki = (DATA / "wikitext2" / "wiki.test.raw").read_text(encoding="utf-8")
    np.save(run / "wikitext2_test.npy", corpus.encode(tokenizer, [wiki]))
    for file in sorted(run.glob("*.npy")):
        print(file.name, f"{len(np.load(file)):,} tokens")


def train(run: Path, recipe: Recipe, *, minutes_per_checkpoint: float = 5.0) -> None:
    """Run the pass, or what is left of it; a second interrupt is not needed, the first one saves and stops."""
    stream = np.load(run / "train.npy")
    steps = _steps(run, recipe)
    optimizer = recipe.optimizer(steps)
    params, state, step = restore(run, recipe, optimizer)
    valid = {c: _first_windows(np.load(run / f"{c}_valid.npy"), 32) for c in corpus.CORPORA}
    stopped = []
    for s in (signal.SIGINT, signal.SIGTERM):
        signal.signal(s, lambda *_: stopped.append(True))

    log = (run / "metrics.jsonl").open("a", buffering=1)
    log.write(json.dumps({"recipe": asdict(recipe), "steps": steps, "start": step}) + "\n")
    saved, clock, since, losses, model, update = time.time(), time.time(), step, [], None, None
    with _progress(steps) as progress:
        while step < steps and not stopped:
            stage = recipe.stage_at(step, steps)
            while (blocks := params["blocks"]["ln_1"]["scale"].shape[0]) < stage.blocks:
                params, state = grow(params), grow_optimizer(state)
                log.write(json.dumps({"step": step, "grown_from": blocks}) + "\n")
            if model is None or update is None or model.num_blocks != stage.blocks:
                model = recipe.model(stage.blocks)
                update = jax.jit(partial(_update, model, optimizer), donate_argnums=(0, 1))
            ids = corpus.batch_at(stream, step, windows=recipe.windows, length=stage.length, seed=recipe.seed)
            params, state, loss = update(params, state, ids, recipe.first_position(step, stage.length))
            losses.append(loss)
            step += 1
            if step % 25 == 0 or step == steps:
                mean = float(np.mean(jax.device_get(losses)))
                if not np.isfinite(mean):
                    raise FloatingPointError(f"step {step}: the loss is {mean}; lower the learning rate")
                rate = (step - since) * recipe.windows * corpus.WINDOW / (time.time() - clock)
                line = {"step": step, "loss": round(mean, 4), "tokens_per_second": round(rate)}
                if step % 500 == 0 or step == steps:
                    line |= {f"valid_{c}": round(float(_score(model, params, x)), 4) for c, x in valid.items()}
                log.write(json.dumps(line | {"time": round(time.time())}) + "\n")
                progress(step, line)
                clock, since, losses = time.time(), step, []
            if time.time() - saved > 60 * minutes_per_checkpoint:
                save(run, params, state, step)
                saved = time.time()
    save(run, params, state, step)


def _update(model, optimizer, params, state, ids, first_position):
    loss, grads = jax.value_and_grad(partial(mean_loss, model))(params, ids, first_position)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state, loss


@partial(jax.jit, static_argnums=0)
def _score(model, params, ids):
    return mean_loss(model, params, ids)


def _first_windows(stream, count):
    starts = np.arange(count)[:, None] * corpus.WINDOW
    return stream[starts + np.arange(corpus.WINDOW + 1)].astype(np.int32)


def save(run: Path, params, state, step: int) -> None:
    """Replace run/checkpoint.safetensors in one step."""
    leaves = jax.tree.leaves((params, state))
    beside = run / "checkpoint.tmp"
    save_file({f"{i:04d}": np.ascontiguousarray(x) for i, x in enumerate(leaves)}, beside, {"step": str(step)})
    os.replace(beside, run / "checkpoint.safetensors")
    (run / "step.txt").write_text(f"{step}\n")


def restore(run: Path, recipe: Recipe, optimizer: optax.GradientTransformation):
    """(params, optimiser state, step) of the checkpoint, or of a fresh start."""
    params = recipe.initial()
    state = optimizer.init(params)
    file = run / "checkpoint.safetensors"
    if not file.exists():
        return params, state, 0
    with safe_open(file, "numpy") as f:
        step = int(f.metadata()["step"])
    tensors = load_file(file)
    # The leaves' shapes say how far the network had grown; the tree's structure never changes.
    leaves = [jax.numpy.asarray(tensors[k]) for k in sorted(tensors)]
    params, state = jax.tree.unflatten(jax.tree.structure((params, state)), leaves)
    return params, state, step


def export(run: Path, out: Path, recipe: Recipe) -> None:
    """Write the newest checkpoint to `out` as Hugging Face reads it."""
    params, _, step = restore(run, recipe, recipe.optimizer(_steps(run, recipe)))
    publish.export(out, params, recipe, tokenizers.Tokenizer.from_file(str(run / "tokenizer.json")))
    print(f"{out}: step {step} of {_steps(run, recipe)}")


def evaluate(run: Path, out: Path, recipe: Recipe, *, length: int = 256) -> None:
    """Score `out`'s model and both controls; write experiments/pretrain_tiny.json and out/README.md."""
    lm = load_lm(str(out))
    stream = np.load(run / "train.npy")
    grams = {n: NGram(stream, order=n, vocabulary=recipe.vocabulary) for n in (4, 5)}
    untrained = recipe.model(lm.model.num_blocks)
    fresh = untrained.init(jax.random.key(recipe.seed))
    rows = {
        "this model": partial(measure.model_nats, lm.model, lm.params, length=length),
        **{f"{n}-gram": partial(_gram_nats, g) for n, g in grams.items()},
        "untrained": partial(measure.model_nats, untrained, fresh, length=length),
    }
    streams, sizes = {}, {}
    for c in corpus.CORPORA:
        streams[f"{c} valid"] = np.load(run / f"{c}_valid.npy")
        sizes[f"{c} valid"] = sum(len(d.encode()) for d in corpus.documents(DATA, c, "valid"))
    streams["wikitext2 test"] = np.load(run / "wikitext2_test.npy")
    sizes["wikitext2 test"] = (DATA / "wikitext2" / "wiki.test.raw").stat().st_size
    texts = measure.control_table(streams, sizes, rows)

    prompts = ("Once upon a time", "The old man looked at her and", "It was a cold morning when")
    drawn = []
    for seed, prompt in enumerate(prompts):
        ids = [lm.tokenizer.eos_id, *lm.tokenizer.encode(prompt)]
        drawn.append(measure.sample(lm.model, lm.params, ids, tokens=120, seed=seed))
    steps, (_, _, step) = _steps(run, recipe), restore(run, recipe, recipe.optimizer(_steps(run, recipe)))
    seen = step * recipe.windows * corpus.WINDOW
    result = {
        "command": "python -m experiments.pretrain evaluate --run RUN",
        "recipe": publish.recipe_as_json(recipe),
        "training": {
            "steps": step,
            "steps_planned": steps,
            "tokens_in_text": len(stream),
            "tokens_seen": seen,
            "passes": round(seen / len(stream), 4),
            "parameters": sum(x.size for x in jax.tree.leaves(lm.params)),
            "hours": round(_hours(run), 2),
            "note": f"{_hours(run):.2f} hours on two shared CPU cores.",
        },
        "evaluation": {
            "length": length,
            "tokens": {k: len(s) - 1 for k, s in streams.items()},
            "bytes": sizes,
        },
        "texts": texts,
        "sample": {
            "temperature": 0.8,
            "top": 40,
            "texts": [
                {"prompt": p, "seed": i, "text": lm.tokenizer.decode(ids)}
                for i, (p, ids) in enumerate(zip(prompts, drawn, strict=True))
            ],
        },
    }
    write_json(ROOT / "experiments" / "pretrain_tiny.json", result)
    publish.write_card(out, result)
    print(json.dumps(texts, indent=1))
    print("\n\n".join(s["prompt"] + s["text"] for s in result["sample"]["texts"]))


def _gram_nats(gram: NGram, stream) -> float:
    return float(-np.log(gram.probabilities(stream)).sum())


def _steps(run: Path, recipe: Recipe) -> int:
    return int(
        recipe.passes * (corpus.windows_per_pass(np.load(run / "train.npy", mmap_mode="r")) // recipe.windows)
    )


def _hours(run: Path) -> float:
    """Time between log lines; breaks of over ten minutes do not count."""
    lines = [json.loads(x) for x in (run / "metrics.jsonl").read_text().splitlines()]
    times = np.array([x["time"] for x in lines if "time" in x])
    gaps = np.diff(times)
    return float(gaps[gaps < 600].sum()) / 3600


def _progress(steps: int):
    from contextlib import contextmanager

    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    @contextmanager
    def bar():
        columns = (
            TextColumn("pretrain"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total} {task.description}"),
        )
        with Progress(*columns, TimeRemainingColumn()) as p:
            task = p.add_task("", total=steps)

            def show(step, line):
                text = " ".join(f"{k} {v}" for k, v in line.items() if k != "step")
                p.update(task, completed=step, description=text)
                if not p.console.is_terminal:
                    print(step, text, flush=True)

            yield show

    return bar()


def main() -> None:
    import argparse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tokenize", "train", "export", "evaluate"])
    parser.add_argument("--run", type=Path, required=True, help="folder for streams, checkpoints, metrics")
    parser.add_argument("--out", type=Path, default=TINY, help="folder to export to")
    parser.add_argument("--stages", help="start:blocks:length,... instead of the recipe's")
    parser.add_argument("--minutes", type=float, default=5.0, help="minutes between checkpoints")
    args = parser.parse_args()
    recipe = Recipe()
    if args.stages:
        parts = [s.split(":") for s in args.stages.split(",")]
        recipe = Recipe(stages=tuple(Stage(float(a), int(b), int(c)) for a, b, c in parts))
    if args.command == "tokenize":
        tokenize(args.run)
    elif args.command == "train":
        train(args.run, recipe, minutes_per_checkpoint=args.minutes)
    elif args.command == "export":
        export(args.run, args.out, recipe)
    else:
        evaluate(args.run, args.out, recipe)


if __name__ == "__main__":
    keep_pages()  # matrix products of this size ran at 156 GFLOP/s with it here, and at 34 without
    main()
