"""Ctrl-C during training is a request: the step is finished and a checkpoint saved. The second one is an order."""

import contextlib
import signal
import threading
from collections.abc import Iterator


class InterruptedRunError(KeyboardInterrupt):
    """Training was stopped on request after `steps` steps, which are saved if there is a place for checkpoints."""

    def __init__(self, steps: int, *, saved: bool):
        super().__init__(f"stopped after {steps} steps, which are {'' if saved else 'not '}saved")
        self.steps = steps


@contextlib.contextmanager
def requests_to_stop() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C in the block sets; the second one raises KeyboardInterrupt.

    Signals reach the main thread alone, and a handler of somebody else's stays: then the event is never set.
    """
    asked = threading.Event()
    free = threading.current_thread() is threading.main_thread()
    if not free or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return

    def heard(*_) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, heard)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def training() -> bool:
    """Whether a Ctrl-C now would be taken as a request."""
    return signal.getsignal(signal.SIGINT) is not signal.default_int_handler
