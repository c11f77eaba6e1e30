"""Two processes of four devices compute what one device does, and stop together."""

import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import numpy as np
import pytest

import tracr_jax
from tests.helpers.bounds import FLOAT32, assert_same
from tests.helpers.interpret_parts import DYCK
from tests.helpers.random_models import write_random_gpt2
from tests.train.mesh_test import SHARED_RUN
from tracr_jax import injection as run
from tracr_jax.injection import inject
from tracr_jax.runs.folder import check_folder
from tracr_jax.train.metrics import read_lines


def without_key_bias(params):
    """Softmax does not see a key's bias: its gradient is rounding, which Adam makes as large as any other."""
    bias = params["blocks"]["c_attn"]["bias"]
    query, _, value = np.split(np.asarray(bias), 3, axis=-1)
    attention = params["blocks"]["c_attn"] | {"bias": (query, value)}
    return params | {"blocks": params["blocks"] | {"c_attn": attention}}


def size_of_parameters(run, **_):
    """In place of the evaluation: what it would be given, whole."""
    leaves = jax.tree.leaves((run.params, run.adapter))
    return {"size": float(np.sqrt(sum(np.sum(np.square(x)) for x in leaves)))}


def no_examples(run, evaluation):
    """In place of the examples for the report."""
    return {}


def not_scored(*_, **__):
    """In place of the untouched model's answers."""


def start_two(lm: str, text: str, folder: Path, *more: str) -> list[subprocess.Popen]:
    """Two processes of four devices each that run the main job together."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, sys.path)]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0 "
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",  # of 40: four devices may share one busy core
        "TRACR_JAX_CACHE": str(folder.parent / "cache"),
    }
    script = Path(__file__).parents[1] / "helpers" / "mesh_process.py"
    return [
        subprocess.Popen(
            [sys.executable, str(script), f"{address},2,{i}", lm, text, str(folder), *more],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]


def test_two_processes_of_four_devices_run_the_main_job_as_one_device_does(tmp_path):
    """Each makes half of the rows, the first alone writes, and its checkpoint is read by one device."""
    lm = write_random_gpt2(tmp_path / "lm", num_blocks=8, width=16, heads=2)
    text = tmp_path / "text.txt"
    text.write_text("the number of this text is here\n" * 900)
    config = dataclasses.replace(SHARED_RUN, data=dataclasses.replace(SHARED_RUN.data, text=str(text)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", str(tmp_path / "cache_alone"))
        patch.setattr(run, "evaluate_programs", size_of_parameters)
        patch.setattr(run, "score_once", not_scored)
        patch.setattr(run, "first_examples", no_examples)
        processes = start_two(lm.source, str(text), tmp_path / "two")
        alone = inject(DYCK, lm=lm.source, config=config, folder=tmp_path / "one", progress=False)
        outputs = [p.communicate(timeout=900) for p in processes]
        if any(p.returncode < 0 for p in processes):
            # A signal (SIGABRT, seen once on a loaded machine) comes from the native threads of JAX's collectives;
            # a fault of ours ends with 1. They run once more, and nothing is forgiven the second time.
            shutil.rmtree(tmp_path / "two", ignore_errors=True)
            processes = start_two(lm.source, str(text), tmp_path / "two")
            outputs = [p.communicate(timeout=900) for p in processes]
        ends = "\n".join(f"process {i}: {out[-500:]}\n{err[-3000:]}" for i, (out, err) in enumerate(outputs))
        assert [p.returncode for p in processes] == [0, 0], ends
        read = tracr_jax.open(tmp_path / "two", task=DYCK)
    for i, (out, _) in enumerate(outputs):
        said = json.loads(out.splitlines()[-1])
        assert said["devices"] == 8
        # Of 16 items and 8 texts; the first process has made one batch whole, for original.json.
        assert said["rows"] == ([[8, 4], [16, 8]] if i == 0 else [[8, 4]])
        assert_same(said["evaluation"], alone.evaluation, bound=FLOAT32)
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
    a, b = (
        [{k: v for k, v in line.items() if k != "seconds"} for line in read_lines(tmp_path / n / "metrics.jsonl")]
        for n in ("one", "two")
    )
    chex.assert_trees_all_close(a, b, rtol=1e-4, atol=1e-5)  # written with six digits
    trained = [(without_key_bias(jax.device_get(x.params)), x.adapter) for x in (read, alone)]
    assert_same(*trained)
    # Another mesh is no other run.
    saved = json.loads((tmp_path / "two" / "config.json").read_text())
    assert saved["mesh"] == "data=4,fsdp=2"
    check_folder(tmp_path / "two", alone.program.config, resume=True)


def test_a_notice_to_one_of_two_processes_stops_both_after_the_same_step(tmp_path):
    """SIGTERM, as a machine that is taken away receives it; the other process hears of it by JAX's service."""
    lm = write_random_gpt2(tmp_path / "lm", num_blocks=8, width=16, heads=2)
    text = tmp_path / "text.txt"
    text.write_text("the number of this text is here\n" * 900)
    folder = tmp_path / "two"
    lines = folder / "metrics.jsonl"
    processes = start_two(lm.source, str(text), folder, "2000")
    try:
        until = time.monotonic() + 600
        while not (lines.exists() and lines.read_text()):
            assert time.monotonic() < until
            assert [p.poll() for p in processes] == [None, None]
            time.sleep(0.2)
        processes[1].send_signal(signal.SIGTERM)
        said = [p.communicate(timeout=300)[1] for p in processes]
    finally:
        for p in processes:
            p.kill()
    (saved,) = (int(p.name) for p in (folder / "checkpoints").iterdir())
    assert 0 < saved < 2000
    assert len(read_lines(lines)) == saved
    for p, end in zip(processes, said, strict=True):
        assert f"stopped after {saved} steps, which are saved" in end, end[-2000:]
        assert p.returncode in (1, -signal.SIGINT)  # as Python ends where nobody takes a KeyboardInterrupt
