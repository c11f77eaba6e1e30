"""A request to stop training: the step is finished and a checkpoint saved. A second Ctrl-C is an order.

Ctrl-C is one, and so is SIGTERM, by which a batch system or a TPU VM says that it will take the machine away.
"""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}

_listening = threading.Event()


class InterruptedRunError(KeyboardInterrupt):
    """Training was stopped on request after `steps` steps, which are saved if there is a place for checkpoints."""

    def __init__(self, steps: int, *, saved: bool):
        super().__init__(f"stopped after {steps} steps, which are {'' if saved else 'not '}saved")
        self.steps = steps


@contextlib.contextmanager
def requests_to_stop() -> Iterator[Callable[[], bool]]:
    """A function that says whether a signal asked to stop; the second Ctrl-C raises KeyboardInterrupt.

    Signals reach the main thread alone, and a handler of somebody else's stays: that signal is not heard. SIGTERM
    may come several times, as `timeout` sends it to a process and to its group.
    """
    asked = threading.Event()
    presses = 0

    def heard(number: int, _) -> None:
        nonlocal presses
        presses += number == signal.SIGINT
        if presses > 1:
            raise KeyboardInterrupt
        asked.set()

    taken = {}
    if threading.current_thread() is threading.main_thread():
        taken = {s: default for s, default in _DEFAULTS.items() if signal.getsignal(s) is default}
    for number in taken:
        signal.signal(number, heard)
    if signal.SIGINT in taken:
        _listening.set()
    try:
        yield asked.is_set
    finally:
        _listening.clear()
        for number, default in taken.items():
            signal.signal(number, default)


def training() -> bool:
    """Whether a Ctrl-C now would be taken as a request."""
    return _listening.is_set()
