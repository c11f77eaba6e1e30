"""Settings of a process: which, and once."""

import os
import sys

import pytest

from tracr_jax import host as allocator


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
