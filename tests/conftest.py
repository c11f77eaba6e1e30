"""Test-wide strictness: 8 virtual CPU devices, no silent rank promotion, full-precision matmuls."""

import os
import shutil
import signal
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# The tests compile much and run little: LLVM's costly passes and XLA's emitters of fused loops would be most of
# their time (28 s of processor time for one step of exchange training, 19 s without the emitters).
_FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 "
    "--xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"  # of 40: eight devices may share one busy core
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}"
os.environ.setdefault("HF_HUB_OFFLINE", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax  # noqa: E402 - the environment comes first
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_default_matmul_precision", "highest")
# Many tests compile the same step; within one session it is compiled once. The first process makes the folder and
# removes it; pytest-xdist's workers inherit its name.
if "TRACR_JAX_TEST_XLA" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="tracr_jax_xla_")
    os.environ["TRACR_JAX_TEST_XLA"] = _CACHE.name
jax.config.update("jax_compilation_cache_dir", os.environ["TRACR_JAX_TEST_XLA"])
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


# Files that together call what computes with arrays, by room.
_STRICT = {
    "tests": {"intervene"},
    "teacher": {"values"},
    "lm": {"generate", "gpt2", "graft", "llama"},
    "data": {"batches", "bridge"},
    "train": {"dtypes", "exchange", "golden", "losses", "reserved", "trainable"},
    "measure": {"reading", "scores"},
    "interpret": {"decode", "probe"},
}


@pytest.fixture(autouse=True)
def strict_types(request):
    """Our functions mix no types by themselves: JAX refuses every implicit promotion."""
    strict = request.path.stem.removesuffix("_test") in _STRICT.get(request.path.parent.name, ())
    with jax.numpy_dtype_promotion("strict" if strict else "standard"):
        yield


@pytest.fixture
def mixed_types(strict_types):
    """For models that do not compute in float32: Flax's norms promote to at least that by themselves."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def x64(mixed_types):
    """float64 for one test only; everything else runs as a user would, in float32."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def own_cache(tmp_path_factory):
    """The module's runs find nothing in the user's cache, and leave nothing there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACR_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Random GPT-2 folders by number of blocks: dyck needs 8, count 14, int_sum 22."""
    from tests.helpers.random_models import write_random_gpt2  # JAX is configured above first

    made = {}

    def get(blocks):
        if blocks not in made:
            folder = tmp_path_factory.mktemp("lm") / str(blocks)
            write_random_gpt2(folder, num_blocks=blocks, width=32, heads=2)
            made[blocks] = str(folder)
        return made[blocks]

    return get


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium from the system's packages, for tests with the mark `browser`."""
    from playwright.sync_api import sync_playwright  # not in the dev extra: collected by every run of the tests

    with sync_playwright() as playwright:
        # Chromium refuses its sandbox to root, as which containers run.
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield browser
        browser.close()
