"""Ctrl-C is answered within two seconds, whatever the main thread computes, and says where a resumed run begins.

Python delivers a signal to the main thread between two of its instructions; compiling a step is one instruction
that takes half a minute. A thread of its own hears the signal at once.
"""

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from tracr_jax.config_file import read_config
from tracr_jax.errors import UserError
from tracr_jax.files import numbered
from tracr_jax.train.interrupt import training

_PATIENCE = 1.5  # seconds for the main thread to end by itself where no training is under way


@contextlib.contextmanager
def answering(folder: Path) -> Iterator[None]:
    """Answer Ctrl-C while a run is made in `folder`; a KeyboardInterrupt leaves with the line to be shown.

    Raises:
      KeyboardInterrupt: with where the run stands.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(read, folder), daemon=True)
    watch.start()
    try:
        yield
    except KeyboardInterrupt as e:
        raise KeyboardInterrupt(standing(folder)) from e
    finally:
        signal.set_wakeup_fd(before)
        os.close(write)  # the thread reads the end and leaves
        watch.join()
        os.close(read)


def _watch(read: int, folder: Path) -> None:
    """Hear every signal; end the process where the main thread does not."""
    heard, told = 0, False
    while True:
        waiting = heard and not training()
        if waiting and not select.select([read], [], [], _PATIENCE)[0]:
            _end(folder)
        for number in os.read(read, 64) or (None,):
            if number is None:
                return
            if number == signal.SIGTERM and not told:
                told = True
                print("\nstopping after this step, with a checkpoint", file=sys.stderr)
            if number != signal.SIGINT:
                continue
            heard += 1
            if heard > 1:
                _end(folder)
            if training():
                print("\nstopping after this step, with a checkpoint; Ctrl-C again ends at once", file=sys.stderr)


def _end(folder: Path) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\x1b[?25h")  # a progress bar hides the cursor
    print(f"\n{standing(folder)}", file=sys.stderr, flush=True)
    os._exit(130)


def standing(folder: Path) -> str:
    """What a run that was interrupted has on disk, and what goes on with it."""
    try:
        steps = read_config(folder).steps
    except UserError:
        return f"interrupted; nothing was written to {folder}"
    done = max(numbered(folder / "checkpoints"), default=0)
    how = f"tracr-jax resume {folder}"
    if not done:
        return f"interrupted before the first checkpoint; {how} begins with step 1 of {steps} again"
    if done < steps:
        return f"interrupted; {how} goes on after step {done} of {steps}"
    return f"interrupted; all {steps} steps are trained and saved, {how} measures them"
