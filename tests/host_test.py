"""Settings of a process: which, and once."""

import os
import subprocess
import sys

import jax
import pytest

from tracr_jax import host as allocator
from tracr_jax.host import keep_compiled


@pytest.fixture
def restarted(monkeypatch):
    """What `keep_pages` starts, as (command, its GLIBC_TUNABLES)."""
    found = []

    def execv(_, command):
        found.append((command, os.environ["GLIBC_TUNABLES"]))

    monkeypatch.setattr(allocator.sys, "platform", "linux")
    monkeypatch.setattr(allocator.os, "execv", execv)
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that it is put back afterwards
    monkeypatch.delenv("GLIBC_TUNABLES")
    return found


def test_a_process_starts_again_once_with_its_own_command(restarted):
    allocator.keep_pages()
    allocator.keep_pages()
    ((command, settings),) = restarted
    assert command == [sys.executable, *sys.orig_argv[1:]]
    assert "glibc.malloc.mmap_threshold=8589934592" in settings
    assert "arena_max" not in settings


def test_one_heap_where_a_model_is_named(restarted):
    allocator.keep_pages(one_arena=True)
    assert "glibc.malloc.arena_max=1" in restarted[0][1]
    assert allocator.names_a_model(["inject", "dyck", "--lm", "gpt2"])
    assert allocator.names_a_model(["--lm=gpt2"])
    assert not allocator.names_a_model(["inject", "dyck", "--lm-eval"])
    assert not allocator.names_a_model(["inject", "dyck", "--lm", "tiny"])
    assert not allocator.names_a_model(["--lm=tiny"])


def test_what_the_user_has_set_stays(restarted, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=4")
    allocator.keep_pages(one_arena=True)
    assert not restarted
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=4"


_COMPILES = """
from tracr_jax.host import keep_compiled
folder = keep_compiled()
import jax, jax.numpy as jnp
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
def f(x):
    for i in range(200):
        x = jnp.sin(x @ x) + i
    return x
print(folder, jax.jit(f)(jnp.ones((8, 8))).shape, events.count("/jax/compilation_cache/cache_hits"))
"""


def compiling(cache):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    kept |= {"JAX_PLATFORMS": "cpu", "TRACR_JAX_CACHE": str(cache)}
    done = subprocess.run([sys.executable, "-c", _COMPILES], env=kept, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_what_is_compiled_is_kept_for_the_next_process(tmp_path):
    first, again = compiling(tmp_path), compiling(tmp_path)
    assert first[0].startswith(str(tmp_path / "xla" / "jax-"))
    assert first[-1] == "0"
    assert int(again[-1]) >= 1


def test_a_cache_of_the_user_s_own_stands(monkeypatch, tmp_path):
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path))
    assert jax.config.jax_compilation_cache_dir  # the tests have theirs
    assert keep_compiled() is None
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_left_out(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRACR_JAX_CACHE", str(tmp_path / "file"))
    own = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert keep_compiled() is None
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", own)
