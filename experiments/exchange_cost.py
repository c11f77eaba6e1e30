"""What exchange costs: arithmetic and time of its step against variable alignment's on as many rows.

    python -m experiments.exchange_cost [--lm random:256x14] [--steps 5]

An exchange step of n rows runs 2n: each as it is and exchanged. Compared with a step of variable alignment on
2n rows. Writes experiments/exchange/cost.json: floating-point operations as XLA counts them in the compiled steps,
which do not depend on what else the machine does, and the median processor times of alternating steps.
"""

import argparse
import dataclasses
import time
from pathlib import Path

import jax
import numpy as np

from tracr_jax.config import ExchangeConfig, RunConfig
from tracr_jax.files import write_json
from tracr_jax.lm.load import load_lm
from tracr_jax.presets import preset
from tracr_jax.runs.build import build, make_batch_at, make_parts


def configure(o: argparse.Namespace) -> RunConfig:
    """Exchange training of all of a model, of so many rows a step."""
    half = o.rows // 2
    config = preset("exchange", task="dyck", lm="tiny")
    rows = {"batch": half, "domain_items": o.rows - half, "domain_supervised": o.rows - half, "text_batch": 2}
    return dataclasses.replace(
        config,
        train="all",
        seed=o.seed,
        layer_offset=o.offset,
        layer_stride=o.stride,
        layer_blocks=(),
        data=dataclasses.replace(config.data, other_words=0.0, **rows),
        losses=dataclasses.replace(config.losses, retention_weight=0.1),
        exchange=ExchangeConfig(),
    )


def main() -> None:
    p = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    p.add_argument("--lm", default="random:256x14")
    p.add_argument("--rows", type=int, default=16)
    p.add_argument("--steps", type=int, default=5)
    p.add_argument("--offset", type=int, default=1)
    p.add_argument("--stride", type=int, default=1)
    p.add_argument("--seed", type=int, default=0)
    o = p.parse_args()
    exchange = configure(o)
    data, losses = exchange.data, dataclasses.replace(exchange.losses, alignment="variable", alignment_weight=10.0)
    rows = {name: 2 * getattr(data, name) for name in ("batch", "domain_items", "domain_supervised")}
    plain = dataclasses.replace(exchange, losses=losses, data=dataclasses.replace(data, **rows))
    parts, out = {}, {"rows": 2 * o.rows, "lm": o.lm, "device": jax.devices()[0].device_kind}
    for name, config in (("plain", plain), ("exchange", exchange)):
        setup = build(config, task="dyck", lm=load_lm(o.lm, seed=o.seed))
        state, frozen, step = make_parts((setup,))
        batch_at = make_batch_at((setup,))
        begun = time.process_time()
        compiled = step.lower(state, frozen, batch_at(0)).compile()
        flops = compiled.cost_analysis()["flops"]
        out[name] = {"flops": flops, "compile_cpu_s": round(time.process_time() - begun, 1), "cpu_s": []}
        parts[name] = [compiled, state, frozen, batch_at]
        print(name, out[name], flush=True)
    for i in range(o.steps):
        for name, (compiled, state, frozen, batch_at) in parts.items():
            batch = batch_at(i)
            begun = time.process_time()
            parts[name][1], terms = compiled(state, frozen, batch)
            jax.block_until_ready(terms)
            out[name]["cpu_s"].append(round(time.process_time() - begun, 3))
    for name in parts:
        out[name]["cpu_s_median"] = float(np.median(out[name]["cpu_s"][1:]))
    for what in ("flops", "cpu_s_median"):
        out[f"{what}_ratio"] = round(out["exchange"][what] / out["plain"][what], 3)
    print(out, flush=True)
    write_json(Path(__file__).parent / "exchange" / "cost.json", out)


if __name__ == "__main__":
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    main()
