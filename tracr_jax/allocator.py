"""A host allocator that keeps its pages: on a CPU, a third of a training step can be page faults.

XLA takes its temporary buffers from malloc and gives them back after every step; glibc returns large ones
to the kernel, which zeroes them again at the next step. glibc reads its settings only when a process starts.
"""

import os
import sys

_SETTINGS = {"hugetlb": 1, "mmap_threshold": 2**33, "trim_threshold": 2**34, "top_pad": 2**28}
_VARIABLE = "GLIBC_TUNABLES"


def keep_pages() -> None:
    """Start this process again with glibc told to keep its memory, in huge pages where the kernel allows.

    Does nothing outside Linux, where GLIBC_TUNABLES is already set (so never twice), or with another C library,
    which ignores the variable. Called by the command line before anything is imported.
    """
    if sys.platform != "linux" or _VARIABLE in os.environ:
        return
    os.environ[_VARIABLE] = ":".join(f"glibc.malloc.{name}={value}" for name, value in _SETTINGS.items())
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
