"""The server from outside: what it answers, and all that it must not, over real sockets on a random model."""

import dataclasses
import http.client
import json
import re
import socket
from pathlib import Path

import pytest

from tests.helpers.explore_parts import serving
from tests.helpers.interpret_parts import DYCK, small_run
from tracr_jax import cli
from tracr_jax.errors import UserError
from tracr_jax.explore.server import LARGEST, Server
from tracr_jax.explore.session import Explorer

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def server():
    run = small_run()
    item = dataclasses.replace(run.program.examples[0], prompt=EVIL)
    program = dataclasses.replace(run.program, name=EVIL, examples=(run.program.examples[0], item))
    explorer = Explorer(dataclasses.replace(run, programs=(program,)))
    with serving(explorer) as server:
        yield server


def ask(server, method="POST", path="/read", *, body=None, **headers):
    """(status, headers, text) of one request; a header that is None is left out."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    body = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    sent = {"Host": f"127.0.0.1:{server.server_port}"}
    if body is not None:
        sent |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
    for name, value in (sent | {k.replace("_", "-"): v for k, v in headers.items()}).items():
        if value is not None:
            connection.putheader(name, value)
    connection.endheaders(body)
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, response.headers, text


def test_the_page_holds_its_scripts_by_hash_and_texts_as_data(server):
    status, headers, text = ask(server, "GET", "/")
    assert status == 200
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Server"] == "tracr-jax"  # and no version of Python
    assert not any(name.lower().startswith("access-control") for name in headers)
    assert EVIL not in text
    assert text.count("<script") == text.count("</script>") == 2
    assert "innerHTML" not in text
    assert "style=" not in text


def test_a_question_is_answered(server):
    prompt = DYCK.item("([)]").prompt
    status, headers, text = ask(server, body={"prompt": prompt})
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    found = json.loads(text)
    assert found["prompt"] == prompt
    assert found["before"]["answer"]["program"] == "yes"
    variables = [v.name for v in server.explorer.program.teacher.variables]
    result, depth = variables.index(server.explorer.program.result), server.explorer.program.depth
    change = {"variable": result, "layer": depth, "token": 5, "value": found["settable"][result][0]}
    after = json.loads(ask(server, body={"prompt": prompt, "changes": [change]})[2])["after"]
    assert after["truth"][depth][result][5] == change["value"]


def test_a_text_beyond_the_programs_table_is_read_too(server):
    found = json.loads(ask(server, body={"prompt": DYCK.item("()" * 9).prompt})[2])["before"]
    assert len(found["tokens"]) > server.explorer.program.length
    assert found["unknown"] == ""
    assert found["answer"]["values"] == ["True"]


def test_other_hosts_and_origins_are_refused(server):
    port, body = server.server_port, {"prompt": "()"}
    for host in (None, "evil.example", f"evil.example:{port}", "127.0.0.1", f"127.0.0.1:{port + 1}", "0.0.0.0"):
        for method, path, sent in (("GET", "/", None), ("POST", "/read", body)):
            status, _, text = ask(server, method, path, body=sent, Host=host)
            assert status == 421, host
            assert "answers its own address alone" in text
    assert ask(server, "GET", "/", Host=f"localhost:{port}")[0] == 200
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
        assert ask(server, body=body, **headers)[0] == 403, headers
    assert ask(server, body=body, Origin=f"http://127.0.0.1:{port}", Sec_Fetch_Site="same-origin")[0] == 200
    status, headers, _ = ask(server, "OPTIONS", body=None, Origin="http://evil.example")
    assert status == 501
    assert not any(name.lower().startswith("access-control") for name in headers)


def test_two_host_headers_are_refused(server):
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as s:
        own = f"127.0.0.1:{server.server_port}"
        s.sendall(f"GET / HTTP/1.1\r\nHost: {own}\r\nHost: evil.example\r\nConnection: close\r\n\r\n".encode())
        assert b" 421 " in s.recv(100)


@pytest.mark.parametrize(
    ("body", "headers", "status", "message"),
    [
        (b"prompt=()", {"Content_Type": "application/x-www-form-urlencoded"}, 415, "application/json"),
        (b'{"prompt":"()"}', {"Content_Type": "text/plain"}, 415, "application/json"),
        (b'{"prompt":"()"}', {"Content_Type": None}, 415, "application/json"),
        (b"", {"Content_Length": None}, 411, "says its length"),
        (b"", {"Content_Length": "-1"}, 411, "says its length"),
        (b"", {"Content_Length": str(LARGEST + 1)}, 413, "at most 65536 bytes"),
        (b"", {"Content_Length": "9" * 5000}, 413, "at most 65536 bytes"),
        (b"", {"Transfer_Encoding": "chunked"}, 411, "says its length"),
        (b"{", {}, 400, "not a question"),
        (b"[" * 60_000, {}, 400, "not a question"),
        (b"\xff\xfe", {}, 400, "not a question"),
        ({"prompt": 3}, {}, 400, "the prompt is a text"),
        ({"prompt": "()", "more": 1}, {}, 400, "an object with a prompt and changes"),
        ({"prompt": "()", "changes": [{"variable": 1}]}, {}, 400, "an object with variable, layer"),
        ({"prompt": "()", "changes": [{"variable": True, "layer": 0, "token": 0, "value": 0}]}, {}, 400,
         "whole numbers"),
        ({"prompt": "()", "changes": [{"variable": 10**30, "layer": 0, "token": 0, "value": 0}]}, {}, 422,
         "no variable 1000000"),
        ({"prompt": ""}, {}, 422, "the prompt is empty"),
        ({"prompt": "(" * 9000}, {}, 422, "shorten it"),
        ({"prompt": "\ud800"}, {}, 422, "half of a pair"),
        ({"prompt": "\x00\x1b[2J"}, {}, 200, "before"),
    ],
)  # fmt: skip
def test_what_is_no_question_is_one_line(server, body, headers, status, message):
    found, answered, text = ask(server, body=body, **headers)
    assert found == status, text
    assert message in text
    assert answered["Content-Type"] == "application/json"
    assert status == 200 or "\n" not in json.loads(text)["error"]


def test_other_paths_and_methods(server):
    assert ask(server, "GET", "/../../etc/passwd")[0] == 404
    assert ask(server, "GET", "/read")[0] == 404
    assert ask(server, "POST", "/", body={"prompt": "()"})[0] == 404
    for method in ("PUT", "DELETE", "TRACE", "CONNECT"):
        assert ask(server, method, "/")[0] == 501


def test_a_fault_is_one_line_and_the_server_goes_on(server, monkeypatch):
    def broken(*_):
        raise RuntimeError("one\ntwo")

    monkeypatch.setattr(server.explorer, "read", broken)
    status, _, text = ask(server, body={"prompt": "()"})
    assert status == 500
    assert json.loads(text)["error"] == "this is a fault of tracr_jax: RuntimeError: one two"
    monkeypatch.undo()
    assert ask(server, body={"prompt": "()"})[0] == 200


def test_an_idle_connection_keeps_nobody_waiting(server):
    with socket.create_connection(("127.0.0.1", server.server_port)):
        assert ask(server, "GET", "/")[0] == 200


def test_only_this_machine_is_listened_to_and_a_taken_port_is_one_line(server):
    assert server.server_address[0] == "127.0.0.1"
    with pytest.raises(UserError, match=f"port {server.server_port} of 127.0.0.1: Address already in use; give"):
        Server(server.explorer, server.page, port=server.server_port)
    with pytest.raises(UserError, match="between 0 and 65535, got 70000"):
        Server(server.explorer, server.page, port=70000)


def test_the_command_opens_the_run_says_where_the_page_is_and_ends_quietly(monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("tracr_jax.runs.model.open", lambda path, **options: opened.append(path) or small_run())
    monkeypatch.setattr(Explorer, "warm", lambda self, say: say("compiling for texts of up to 20 tokens"))

    def stopped(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "serve_forever", stopped)
    cli.main(["explore", "runs/mine", "--port", "0"])
    assert opened == [Path("runs/mine")]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "compiling for texts of up to 20 tokens"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/  \(Ctrl-C ends it\)", lines[1])
    assert lines[2:] == ["ended"]
