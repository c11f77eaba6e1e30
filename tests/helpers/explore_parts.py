"""The page of `tracr-jax explore`, served for a test."""

import contextlib
import threading

from tracr_jax.explore.page import make_page
from tracr_jax.explore.server import Server


@contextlib.contextmanager
def serving(explorer):
    """Its server, which answers from a thread of its own until the block ends."""
    with Server(explorer, make_page(explorer)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()
