"""Test-wide strictness: 8 virtual CPU devices, no silent rank promotion, full-precision matmuls."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")


@pytest.fixture
def x64():
    """float64 for one test only; everything else runs as a user would, in float32."""
    with jax.enable_x64(True):
        yield
