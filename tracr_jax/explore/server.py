"""The page's server: the standard library's, on 127.0.0.1 alone, for the person at this machine.

What reaches a local port may still come from elsewhere: any page that is open in the same browser can send
requests to it. So a request must name this address as its Host (a foreign name that was pointed at 127.0.0.1 is
refused), a question must be JSON by its content type and of this origin (other pages cannot send that without
being allowed to, and they never are), and nothing is larger than the page itself would send.
"""

import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tracr_jax.errors import UserError
from tracr_jax.explore.page import Page
from tracr_jax.explore.session import Change, Explorer

ADDRESS = "127.0.0.1"
LARGEST = 65_536  # bytes of a question
_PATIENCE = 20.0  # seconds that a connection may keep still


class Refused(Exception):
    """A request that is answered with a status and one line."""

    def __init__(self, status: HTTPStatus, line: str):
        super().__init__(line)
        self.status = status


class Server(ThreadingHTTPServer):
    """Answers the page and its questions, one question at a time."""

    # Browsers open connections before they need them: one thread alone would wait for those.
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, explorer: Explorer, page: Page, *, port: int = 0):
        """Begin to listen.

        Args:
          explorer: answers the questions.
          page: what is shown.
          port: 0 takes one that is free.

        Raises:
          UserError: the port is taken, or not a port.
        """
        self.explorer, self.page, self.one_at_a_time = explorer, page, threading.Lock()
        if not 0 <= port <= 65535:
            raise UserError(f"--port must be between 0 and 65535, got {port}")
        try:
            super().__init__((ADDRESS, port), Handler)
        except OSError as e:
            advice = "give --port N, or --port 0 for a free one"
            raise UserError(f"port {port} of {ADDRESS}: {e.strerror or e}; {advice}") from e

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{ADDRESS}:{self.server_port}/"

    @property
    def hosts(self) -> tuple[str, str]:
        """The values of Host that are answered."""
        return f"{ADDRESS}:{self.server_port}", f"localhost:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    timeout = _PATIENCE

    def do_GET(self) -> None:
        """The page, and nothing else."""
        self._guarded(self._page)

    def do_POST(self) -> None:
        """A question about a prompt."""
        self._guarded(self._answer)

    def version_string(self) -> str:
        """Without the version of Python."""
        return "tracr-jax"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is the user's."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class refuses (a method, a line that is too long), in the same form as ours."""
        self.close_connection = True
        self._send(HTTPStatus(code), "text/plain; charset=utf-8", (message or HTTPStatus(code).phrase).encode())

    def _guarded(self, action) -> None:
        try:
            if self.headers.get_all("Host", []) not in [[h] for h in self.server.hosts]:
                raise Refused(HTTPStatus.MISDIRECTED_REQUEST, "this server answers its own address alone")
            action()
        except Refused as e:
            # What was not read of the request must not be taken for the next one.
            self.close_connection = True
            self._json(e.status, {"error": str(e)})
        except UserError as e:
            self._json(HTTPStatus.UNPROCESSABLE_ENTITY, {"error": str(e)})
        except (ConnectionError, TimeoutError):
            self.close_connection = True  # the browser went away
        except Exception as e:
            self.close_connection = True
            line = str(UserError(f"{type(e).__name__}: {' '.join(str(e).split())[:300]}"))
            self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"this is a fault of tracr_jax: {line}"})

    def _page(self) -> None:
        if self.path != "/":
            raise Refused(HTTPStatus.NOT_FOUND, "there is one page, /")
        page = self.server.page
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.html, policy=page.policy)

    def _answer(self) -> None:
        prompt, changes = self._question()
        with self.server.one_at_a_time:
            found = self.server.explorer.read(prompt, changes)
        self._json(HTTPStatus.OK, found)

    def _question(self) -> tuple[str, list[Change]]:
        if self.path != "/read":
            raise Refused(HTTPStatus.NOT_FOUND, "questions go to /read")
        origins = [f"http://{host}" for host in self.server.hosts]
        if self.headers.get("Origin", origins[0]) not in origins:
            raise Refused(HTTPStatus.FORBIDDEN, "questions of other pages are not answered")
        if self.headers.get("Sec-Fetch-Site", "same-origin") != "same-origin":
            raise Refused(HTTPStatus.FORBIDDEN, "questions of other pages are not answered")
        if self.headers.get_content_type() != "application/json" or "Content-Type" not in self.headers:
            raise Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "a question is application/json")
        size = self.headers.get("Content-Length", "")
        if "Transfer-Encoding" in self.headers or not (size.isascii() and size.isdecimal()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "a question says its length")
        if len(size) > 9 or int(size) > LARGEST:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a question has at most {LARGEST} bytes")
        try:
            return question(json.loads(self.rfile.read(int(size))))
        except (ValueError, RecursionError) as e:
            raise Refused(HTTPStatus.BAD_REQUEST, f"not a question: {e}") from e

    def _json(self, status: HTTPStatus, value: Any) -> None:
        text = json.dumps(value, separators=(",", ":"), allow_nan=False)
        self._send(status, "application/json", text.encode())

    def _send(self, status: HTTPStatus, kind: str, body: bytes, *, policy: str = "default-src 'none'") -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
            **({"Connection": "close"} if self.close_connection else {}),
        }.items():
            self.send_header(name, value)
        try:
            self.end_headers()
            self.wfile.write(body)
        except (ConnectionError, TimeoutError):
            self.close_connection = True


def question(value: Any) -> tuple[str, list[Change]]:
    """{"prompt": text, "changes": [{"variable", "layer", "token", "value"}, …]}, all of them whole numbers.

    Raises:
      ValueError: it is anything else.
    """
    if not isinstance(value, dict) or not value.keys() <= {"prompt", "changes"}:
        raise ValueError("an object with a prompt and changes is expected")
    prompt, changes = value.get("prompt"), value.get("changes", [])
    if not isinstance(prompt, str) or not isinstance(changes, list):
        raise ValueError("the prompt is a text, the changes are a list")
    for change in changes:
        if not isinstance(change, dict) or change.keys() != set(Change._fields):
            raise ValueError(f"a change is an object with {', '.join(Change._fields)}")
        if any(type(x) is not int for x in change.values()):
            raise ValueError("a change is made of whole numbers")
    return prompt, [Change(**c) for c in changes]
