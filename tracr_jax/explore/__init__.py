"""A local page to type prompts into: variables by token and layer, and what follows when one is set."""

from tracr_jax.explore.page import make_page
from tracr_jax.explore.server import Server
from tracr_jax.explore.session import Change, Explorer
from tracr_jax.progress import Say
from tracr_jax.runs.model import Injected

__all__ = ["Change", "Explorer", "Server", "explore"]

PORT = 8765


def explore(run: Injected, *, port: int = PORT, say: Say = print) -> None:
    """Serve the page of a run on 127.0.0.1 until Ctrl-C (or KeyboardInterrupt).

    Args:
      run: from `inject` or `open`.
      port: where; 0 takes a free one.
      say: receives a line before each slow part, and the page's address.

    Raises:
      UserError: the run has no variables to read, or the port is taken.
    """
    explorer = Explorer(run)
    with Server(explorer, make_page(explorer), port=port) as server:
        explorer.warm(say)
        try:
            say(f"{server.url}  (Ctrl-C ends it)")
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
