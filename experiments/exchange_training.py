"""One run of exchange training on dyck, with what it shows: answers, the chain of variables, and swaps.

    python experiments/exchange_training.py NAME --lm tiny --offset 2 --stride 2 --merge-values --hand-on

Writes experiments/exchange/NAME.json. Checkpoints lie in --folder: started again, a run goes on where it stopped,
and a finished one is measured again. The untrained GPT-2 of 14 blocks x 256 is `--lm random:256x14`.
"""

import argparse
import dataclasses
import json
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import tracr_jax
from tracr_jax.config import ExchangeConfig
from tracr_jax.data.samples import reported_samples
from tracr_jax.files import write_json
from tracr_jax.interpret import swap as W
from tracr_jax.intervene import ResidualEdit
from tracr_jax.lm.blocks import first_blocks
from tracr_jax.lm.gpt2 import GPT2
from tracr_jax.lm.load import load_lm
from tracr_jax.measure.answers import make_predictor
from tracr_jax.measure.language.scores import perplexity
from tracr_jax.presets import preset
from tracr_jax.runs.build import build
from tracr_jax.train import losses as L
from tracr_jax.train.checkpoint import Checkpoints
from tracr_jax.train.exchange import make_exchange_loss_fn
from tracr_jax.train.reserved import directions, reserve
from tracr_jax.train.step import Frozen, TrainParams, init_state, make_optimizer, make_step

SETS = ("test", "near_miss_balanced", "order_miss_balanced", "length_ood", "almost_balanced_even")


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("name")
    p.add_argument("--task", default="dyck")
    p.add_argument("--lm", default="tiny", help="a name for load_lm, or random:WIDTHxBLOCKS, an untrained GPT-2")
    p.add_argument("--steps", type=int, default=400)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--rows", type=int, default=16, help="clean rows of a step, and as many exchanged ones")
    p.add_argument("--offset", type=int, default=2)
    p.add_argument("--stride", type=int, default=2)
    p.add_argument("--optimizer", default="muon")
    p.add_argument("--lr", type=float, default=1.5e-3)
    p.add_argument("--adapter-lr", type=float, default=3e-3)
    p.add_argument("--retention", type=float, default=0.0)
    p.add_argument("--every", type=int, default=100, help="steps between checkpoints")
    p.add_argument("--pairs", type=int, default=60)
    p.add_argument("--folder", type=Path, default=Path("runs/exchange"))
    for f in dataclasses.fields(ExchangeConfig):
        switch = {"action": "store_true"} if isinstance(f.default, bool) else {"type": type(f.default)}
        p.add_argument(f"--{f.name.replace('_', '-')}", default=f.default, **switch)
    return p.parse_args()


def load(o):
    if not o.lm.startswith("random:"):
        return load_lm(o.lm)
    width, blocks = map(int, o.lm.removeprefix("random:").split("x"))
    base = load_lm("tiny")
    model = GPT2(dataclasses.replace(base.model.config, n_embd=width, n_layer=blocks, n_head=8))
    params = jax.tree.map(np.asarray, model.init(jax.random.key(o.seed)))
    return dataclasses.replace(base, model=model, params=params)


def set_up(o):
    config = preset("variable", task=o.task, lm="tiny" if o.lm.startswith("random") else o.lm)
    half = o.rows // 2
    data = {"batch": half, "free_items": o.rows - half, "free_supervised": o.rows - half, "text_batch": 2}
    rates = {"kind": o.optimizer, "learning_rate": o.lr, "adapter_learning_rate": o.adapter_lr}
    config = dataclasses.replace(
        config,
        steps=o.steps,
        seed=o.seed,
        # Under the roll, and in exchanged rows, no block can know whether the answer is over.
        data=dataclasses.replace(config.data, **data, text_length=64, answer_end=False),
        optim=dataclasses.replace(config.optim, **rates, muon_iterations=3, final_rate=0.02),
        losses=dataclasses.replace(config.losses, retention_weight=o.retention, retention_growth=8.0),
    )
    return build(config, task=o.task, lm=load(o), say=lambda x: print(x, flush=True))


def main(o):
    setup = set_up(o)
    model, teacher = setup.lm.model, setup.teacher
    config = ExchangeConfig(**{f.name: getattr(o, f.name) for f in dataclasses.fields(ExchangeConfig)})
    reserved = reserve(
        teacher, setup.oracle, directions=config.directions, sigma=config.sigma, merge_values=config.merge_values,
        hand_on=config.hand_on, seed=o.seed,
    )  # fmt: skip
    layers = [o.offset + o.stride * layer for layer in range(teacher.num_layers + 1)]
    tokens = teacher.variable("tokens")
    loss_fn = make_exchange_loss_fn(
        model, setup.residuals, teacher, reserved=reserved, states=layers,
        marker=tokens.indices[tokens.values.index(setup.task.marker)],
        losses=setup.config.losses, config=config, shape=setup.shape, seed=o.seed,
    )  # fmt: skip
    print(f"model {model.num_blocks} x {model.width}, {reserved.total} directions, states {layers}", flush=True)
    optimizer = make_optimizer(setup.config.optim, steps=o.steps)
    lm = jax.tree.map(jnp.asarray, setup.lm.params)
    codes = reserved.init(directions(o.seed, width=model.width, count=reserved.total))
    state = init_state(TrainParams(lm, codes), optimizer)
    checkpoints = Checkpoints(o.folder / o.name)
    if checkpoints.latest() is not None:
        state = checkpoints.restore(state)
        print("goes on after", int(state.step), flush=True)
    step = jax.jit(make_step(loss_fn, optimizer, steps=o.steps), donate_argnums=0)
    history, predict, frozen = [], make_predictor(setup), Frozen(lm, setup.phi)
    samples = {n: s for n, s in reported_samples(setup.task, 100).items() if n in SETS}
    seconds = []
    for i in range(int(state.step), o.steps):
        begun = time.time()
        state, terms = step(state, frozen, setup.batches.batch_at(i))
        terms = {k: round(float(v), 4) for k, v in terms.items() if np.ndim(v) == 0}
        seconds.append(time.time() - begun)
        if i % 20 == 0 or i + 1 == o.steps:
            history.append({"step": i, **terms})
            print(i, terms, f"{np.median(seconds):.2f} s", flush=True)
        if (i + 1) % o.every == 0 or i + 1 == o.steps:
            checkpoints.save(state)
    checkpoints.wait()
    out = {
        "options": {k: str(v) if isinstance(v, Path) else v for k, v in vars(o).items()},
        "directions": reserved.total,
        "seconds_per_step": round(float(np.median(seconds)), 3) if seconds else None,
        "history": history,
    }
    before = o.folder / f"{o.name}.json"
    if before.exists() and not seconds:
        out |= {k: json.loads(before.read_text())[k] for k in ("history", "seconds_per_step")}
    out["answers"] = {n: round(100 * float(np.mean(predict(state.params.lm, s))), 1) for n, s in samples.items()}
    out["perplexity"] = round(float(perplexity(model, state.params.lm, setup.valid_text)), 2)
    print(out["answers"], out["perplexity"], flush=True)
    out["chain"] = chain(setup, reserved, state.params, layers)
    for name, row in out["chain"].items():
        print(f"reads {name:<26}", row, flush=True)
    write_json(before, out)
    out["swaps"] = swaps(setup, reserved, state.params, layers, pairs=o.pairs)
    write_json(before, out)
    write_json(Path(__file__).parent / "exchange" / f"{o.name}.json", out)


def chain(setup, reserved, params, layers):
    """Share of places where the clean pass reads the class that the program holds, by variable and layer."""
    tally = np.zeros((2, len(layers), len(reserved.names)))

    @jax.jit
    def count(params, ids, teacher_ids, phi):
        hidden = setup.lm.model.apply(params.lm, ids).hidden[np.array(layers)]
        read = L.apply_adapter(reserved.readout(params.adapter), hidden)
        truth = reserved.classes(setup.residuals(phi, teacher_ids)[:, :, 1:])
        item = L.item_positions(ids, pad_id=setup.shape.pad_id)[None, :, :, None]
        right, held = [], []
        for g in reserved.groups:
            z, r = reserved.group(read, g), reserved.group(truth, g)
            here = (jnp.max(r, -1) > 0.5) & item
            held.append(jnp.sum(here, (1, 2)))
            right.append(jnp.sum(here & (jnp.argmax(z, -1) == jnp.argmax(r, -1)), (1, 2)))
        return jnp.stack([jnp.concatenate(right, -1), jnp.concatenate(held, -1)])

    for i in range(3):
        b = setup.batches.batch_at(8000 + i)
        tally += np.asarray(count(params, jnp.asarray(b.ids), jnp.asarray(b.teacher_ids), setup.phi))
    shares = {}
    for i, name in enumerate(reserved.names):
        cells = [(at, *tally[:, at, i]) for at in np.flatnonzero(reserved.alive[:, i] & (tally[1, :, i] > 0))]
        shares[name] = {str(at): round(right / held, 3) for at, right, held in cells}
    return shares


def swaps(setup, reserved, params, layers, *, pairs):
    """Share of swaps followed, of the pairs that flip the program's answer and whose own answer is right.

    "swap" exchanges the variable, "complement" all but it, "outside" all that no variable alive at the layer
    holds: that one must never be followed. At the decoded result and at the answer.
    """
    model, top = setup.lm.model, layers[-1]
    adapter = reserved.adapter(params.adapter)
    result = np.array(setup.shape.result_rows)
    pool = W.make_pool(setup.bridge, W.sample_pool(setup.bridge, items=200)[0])
    cells, _ = W.list_cells(setup.teacher, pool.oracle)
    find = W.PairFinder(pool, count=pairs, seed=0)
    short, cut = first_blocks(model, params.lm, top + 1)
    hidden = jax.jit(lambda p, ids: short.apply(p, ids).hidden[np.array(layers)])
    states = W.in_batches(hidden, cut, W.padded_items(pool))
    q = np.asarray(reserved.basis(params.adapter))
    alive = reserved.by_coordinate(reserved.alive)

    @jax.jit
    def run(lm, ids, source, where, basis, weights, block):
        def fn(h):
            return W.exchange(h, source, basis, where, weights=weights, direction=jnp.zeros_like(h))

        out = model.apply(lm, ids, edit=ResidualEdit(block, fn))
        return L.apply_adapter(adapter, out.hidden[top])[..., result].argmax(-1), out.logits.argmax(-1)

    rows = []
    for cell in cells:
        found = find(cell)
        if isinstance(found, str) or cell.variable not in reserved.names:
            continue
        own = np.zeros_like(q)
        own[:, reserved.coordinates(cell.variable)] = q[:, reserved.coordinates(cell.variable)]
        every = q * alive[cell.layer]
        got = {k: ([], []) for k in ("none", "swap", "complement", "outside")}
        flips, base = [], []
        chunks = [found.pairs[k : k + W.ROWS] for k in range(0, len(found.pairs), W.ROWS)]
        for (ids, mask, sources, where, n), chunk in zip(W.pair_batches(pool, found.pairs), chunks, strict=True):
            at = (np.arange(len(mask)), mask.argmax(1))
            predicted = np.array([int(p.values[0]) for p in chunk])
            answer = ids[at[0], at[1] + 1][:n]
            flips += [p.flips for p in chunk]
            base += [pool.items[p.base].answer[0] for p in chunk]
            for kind, (decoded, said) in got.items():
                weights = np.asarray(W.WEIGHTS["complement" if kind == "outside" else kind], np.float32)
                basis = every if kind == "outside" else own
                block = np.int32(layers[cell.layer] - 1)
                read, told = run(params.lm, ids, states[cell.layer, sources], where, basis, weights, block)
                decoded += (np.asarray(read)[at][:n] == predicted).tolist()
                said += (np.asarray(told)[at][:n] == answer).tolist()
        row = {"variable": cell.variable, "layer": cell.layer}
        for j, what in enumerate(("decoded", "answer")):
            # A model that always says the same would follow whatever flips to it.
            asked = np.array(flips) & ~np.array(got["none"][j])
            row[what] = {
                k: round(float(np.mean(np.array(got[k][j])[asked])), 3) if asked.any() else None for k in got
            }
            row[what]["pairs"] = int(asked.sum())
        print(f"swap {cell.variable:<26} l{cell.layer}", row["decoded"], row["answer"], flush=True)
        rows.append(row)
    return rows


if __name__ == "__main__":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    print(tracr_jax.__file__, flush=True)
    main(options())
