"""Settings of the process before it computes: memory is kept between steps, compiled programs between processes,
and steps run in the caller's thread.

A third of a training step can be page faults: XLA takes its temporary buffers from malloc and gives them back
after every step; glibc returns large ones to the kernel, which zeroes them again at the next step. glibc reads its
settings only when a process starts.
"""

import gc
import hashlib
import itertools
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from tracr_jax.files import cache_folder
from tracr_jax.names import BUNDLED

_SETTINGS = {"hugetlb": 1, "mmap_threshold": 2**33, "trim_threshold": 2**34, "top_pad": 2**28}
_VARIABLE = "GLIBC_TUNABLES"
_COMPILED = 2**30  # bytes of compiled programs that are kept; the least recently used go first


def keep_pages(*, one_arena: bool = False) -> None:
    """Start this process again with glibc told to keep its memory, in huge pages where the kernel allows.

    Does nothing outside Linux, where GLIBC_TUNABLES is already set (so never twice), or with another C library,
    which ignores the variable. Called by the command line before anything is imported.

    Args:
      one_arena: all threads share one heap. XLA's buffers are taken by threads of its own, whose heaps hold no
        buffer above 64 MiB: larger ones (1 GiB a step for gpt2 at B 2) are mapped and given back every step,
        whatever the settings. Worth it for a large model; small ones compile slower, as threads wait for the heap.
    """
    if sys.platform != "linux" or _VARIABLE in os.environ:
        return
    settings = _SETTINGS | ({"arena_max": 1} if one_arena else {})
    os.environ[_VARIABLE] = ":".join(f"glibc.malloc.{name}={value}" for name, value in settings.items())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def stay_small() -> None:
    """What short commands gain from; before NumPy is imported.

    NumPy's products are computed by one thread, unless the user has set their number: they are small (the proof of
    a network took 1.5 s of two busy cores, and takes 0.4 s of one), and XLA has threads of its own. Garbage in
    circles is looked for at every 50,000th new object, not at every 700th: imports make many, which stay.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    gc.set_threshold(50_000, *gc.get_threshold()[1:])


def dispatch_inline() -> None:
    """Let the caller's thread wait for each step on a CPU; before the first use of a device.

    A thread of its own for each step is one too many beside the pool that computes it: some 6 % of the main job's
    step (experiments/benchmarks/dispatch.py).
    """
    import jax  # not before `keep_pages`

    jax.config.update("jax_cpu_enable_async_dispatch", False)


def keep_compiled() -> Path | None:
    """Keep compiled programs from one process to the next, in JAX's persistent cache below `cache_folder("xla")`.

    Each kind of processor has a folder, since XLA compiles for the instructions of the one at hand. Several
    processes may share it. A cache that the user has set up stands. JAX is told by its environment variables where
    it is not imported yet: a command that needs no JAX, or has a mistake in it, does not wait a second for it.

    Returns:
      The folder; None where the user has another or it cannot be written.
    """
    from importlib.metadata import version  # not before `keep_pages`

    import filelock  # noqa: F401 - JAX bounds the size of its cache with it

    jax = sys.modules.get("jax")
    own = jax.config.jax_compilation_cache_dir if jax else os.environ.get("JAX_COMPILATION_CACHE_DIR")
    if own is not None:
        return None
    folder = cache_folder("xla") / f"jax-{version('jax')}-{_processor()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_compilation_cache_max_size": _COMPILED,
        "jax_persistent_cache_min_compile_time_secs": 0,  # many small ones are seconds too
    }
    for name, value in settings.items():
        if jax:
            jax.config.update(name, value)
        else:
            os.environ[name.upper()] = str(value)
    return folder


def _processor() -> str:
    """Name of the machine's kind, and on Linux a hash of what its processor can do."""
    try:
        features = re.search(r"^(?:flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        features = None
    known = features[1] if features else platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def names_a_model(argv: Sequence[str]) -> bool:
    """Whether a command line asks for another model than the bundled small one: a large one, for `keep_pages`."""
    words = [part for word in argv for part in word.split("=", 1)]
    return any(option == "--lm" and value != BUNDLED for option, value in itertools.pairwise(words))
