"""The wheel by itself, in a fresh environment and outside the checkout: it installs, and the main job runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.soak

CHECKOUT = Path(__file__).parents[2]


def run(*command, cwd, env=None):
    done = subprocess.run(
        [str(c) for c in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_wheel_runs_the_main_job_outside_the_checkout(tmp_path):
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, CHECKOUT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("tracr_jax-*.whl")
    assert wheel.stat().st_size < 25 * 2**20
    run(sys.executable, "-m", "venv", "fresh", cwd=tmp_path)
    fresh = tmp_path / "fresh" / "bin"
    run(fresh / "pip", "install", "-q", wheel, cwd=tmp_path)

    # Nothing of this session may help: neither the path nor the caches.
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TRACR_JAX", "XLA"))}
    env |= {"HOME": str(tmp_path), "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"}
    where = run(fresh / "python", "-c", "import tracr_jax; print(tracr_jax.__file__)", cwd=tmp_path, env=env)
    assert Path(where.strip()).is_relative_to(tmp_path / "fresh")
    shown = run(
        fresh / "tracr-jax", "inject", "dyck", "--steps", "2", "--eval-items", "2", "--folder", "run",
        cwd=tmp_path, env=env,
    )  # fmt: skip
    assert "near_miss_balanced" in shown
    assert "final_result" in shown
    evaluation = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert evaluation["sets"]["test"]["sample"] == 2
    assert (tmp_path / "run" / "report.html").stat().st_size > 10_000
