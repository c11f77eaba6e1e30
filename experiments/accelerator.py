"""The parts of accelerator.sh that are no command of their own: is the device right, and all results in one file.

python -m experiments.accelerator parity OUT [--lm tiny]
python -m experiments.accelerator collect OUT
"""

import argparse
from pathlib import Path
from typing import Any

import jax
import numpy as np

from tracr_jax.files import read_json, write_json
from tracr_jax.lm.load import load_lm

_BOUND = 1e-3  # of the largest number of a hidden state; a wrong formula is off by its size
_ROWS, _LENGTH = 4, 64


def parity(lm: str) -> dict[str, Any]:
    """Hidden states and logits of random tokens, on the default device against the host's processor, in float32.

    The largest difference as a share of the largest number, for each hidden state.

    Raises:
      SystemExit: one of them is above the bound.
    """
    model = load_lm(lm)
    ids = np.random.default_rng(0).integers(0, model.tokenizer.vocab_size, (_ROWS, _LENGTH)).astype(np.int32)

    def on(device: Any) -> list[np.ndarray]:
        with jax.default_device(device), jax.default_matmul_precision("highest"):
            out = jax.jit(model.model.apply)(jax.device_put(model.params, device), jax.device_put(ids, device))
        return [np.asarray(x, np.float64) for x in (*out.hidden, out.logits)]

    device = jax.devices()[0]
    off = [
        float(np.abs(a - b).max() / np.abs(b).max())
        for a, b in zip(on(device), on(jax.devices("cpu")[0]), strict=True)
    ]
    found = {"device": device.device_kind, "platform": device.platform, "lm": lm, "off": off, "bound": _BOUND}
    if max(off) > _BOUND:
        raise SystemExit(f"{device.device_kind}: hidden state {int(np.argmax(off))} is off by {max(off):.2g}")
    return found


def collect(out: Path) -> dict[str, Any]:
    """What lies in the folder: the parity, the steps, and of every run answers, language, time and swaps."""
    runs = {}
    for folder in sorted(p.parent for p in out.glob("*/evaluation.json")):
        run, found = read_json(folder / "run.json"), read_json(folder / "evaluation.json")
        runs[folder.name] = {
            "run": {k: run[k] for k in ("command", "started", "packages", "device", "times")},
            "answers": {name: s["injected"]["accuracy"] for name, s in found["sets"].items()},
            "retention": found["retention"],
        }
        if (folder / "interpretation.json").exists():
            swapped = read_json(folder / "interpretation.json")["swaps"]
            runs[folder.name] |= {"swaps": {k: swapped[k] for k in ("used", "swapped", "cells")}}
    steps = {p.stem: read_json(p) for p in sorted(out.glob("step-*.json"))}
    return {"parity": read_json(out / "parity.json"), "steps": steps, "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("parity", "collect"))
    parser.add_argument("out", type=Path)
    parser.add_argument("--lm", default="tiny")
    args = parser.parse_args()
    if args.part == "parity":
        write_json(args.out / "parity.json", parity(args.lm))
    else:
        write_json(args.out / "results.json", collect(args.out))


if __name__ == "__main__":
    main()
