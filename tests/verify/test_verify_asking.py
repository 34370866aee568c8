"""The questions themselves: real shell, real curl, against what may listen at a server's port.

The listener here is a small HTTP server, for what a real llama-server never does: a stranger at
its port, an answer that stops halfway. Real answers are in ``test_verify_server.py``.
"""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from facts.live import Endpoint, LiveServer, LiveServerState, parse_live_server, url_host
from llamaherd.verification import read_completion


class Listener(http.server.BaseHTTPRequestHandler):
    """Answers from a table; keeps what was asked."""

    replies: dict[str, tuple[int, list[str], float]]
    seen: list[tuple[str, str | None, bytes]]

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.seen.append((self.path, self.headers.get("Authorization"), body))
        status, chunks, pause = self.replies.get(self.path, (404, ["not here"], 0))
        self.send_response(status)
        self.end_headers()
        for chunk in chunks:
            self.wfile.write(chunk.encode())
            self.wfile.flush()
            time.sleep(pause)

    do_POST = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def listening(
    replies: dict[str, tuple[int, list[str], float]],
) -> Iterator[tuple[int, list[tuple[str, str | None, bytes]]]]:
    seen: list[tuple[str, str | None, bytes]] = []
    handler = type("Handler", (Listener,), {"replies": replies, "seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()


def asked(port: int, *, key_file: Path | None = None, timeout: int = 10) -> LiveServerState:
    command = LiveServer().command("coder", port, "m", timeout=timeout)
    if key_file is not None:
        command = command.replace("/etc/llama-server/coder/api-key", str(key_file))
    done = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin:/bin", "http_proxy": "http://127.0.0.1:9"},
    )
    return parse_live_server(done.stdout.splitlines())


def event(text: str) -> str:
    return f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n"


def test_nothing_listens() -> None:
    with listening({}) as (port, _):
        pass
    state = asked(port)
    assert (state.health.status, state.health.exit_code) == (0, 7)
    assert state.health.error.startswith("curl: (7) ")
    assert state.completion is None


def test_only_health_is_asked_of_what_is_not_healthy() -> None:
    with listening({"/health": (503, ['{"error": {"message": "Loading model"}}'], 0)}) as (
        port,
        seen,
    ):
        state = asked(port)
    assert state.health.status == 503
    assert [path for path, _, _ in seen] == ["/health"]
    assert state.props is None


def test_a_strangers_page_is_an_answer_like_any_other() -> None:
    page = "<html>\n@@status 7 is none of ours\n@@status 503\n</html>\n\n"
    with listening({"/health": (200, ["ok"], 0), "/props": (200, [page], 0)}) as (port, _):
        state = asked(port)
    assert state.props is not None
    assert (state.props.status, state.props.json()) == (200, None)
    assert state.models is not None
    assert (state.models.status, state.models.body) == (404, "not here")


def test_the_key_is_read_on_the_host_and_is_in_no_argument(tmp_path: Path) -> None:
    key_file = tmp_path / "api-key"
    key_file.write_text('# a comment\n\nge"ner\\ated\nsecond\n')
    with listening({"/health": (200, ["ok"], 0)}) as (port, seen):
        asked(port, key_file=key_file)
    assert {key for _, key, _ in seen} == {'Bearer ge"ner\\ated'}
    assert len(seen) == 4
    assert 'ge"ner' not in LiveServer().command("coder", port, "m")


def test_each_event_is_stamped_with_the_time_it_came() -> None:
    chunks = ["data: {}\n\n", event("one"), event("two"), "data: [DONE]\n\n"]
    replies = {"/health": (200, ["ok"], 0.0), "/v1/chat/completions": (200, chunks, 0.3)}
    with listening(replies) as (port, seen):
        state = asked(port)
    assert state.completion is not None
    completion = read_completion(state.completion)
    assert completion.tokens == 2
    assert completion.first_token is not None
    assert 0.25 < completion.first_token < 0.9
    assert json.loads(seen[-1][2])["model"] == "m"


def test_a_completion_that_never_ends_is_cut_off_and_keeps_what_came() -> None:
    replies = {
        "/health": (200, ["ok"], 0.0),
        "/v1/chat/completions": (200, [event("one"), event("two")], 2.0),
    }
    with listening(replies) as (port, _):
        started = time.monotonic()
        state = asked(port, timeout=1)
        assert time.monotonic() - started < 3
    assert state.completion is not None
    assert state.completion.exit_code == 28
    assert read_completion(state.completion).tokens == 1


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "[::1]"),
        ("127.0.0.1", "127.0.0.1"),
        ("10.0.0.4", "10.0.0.4"),
        ("fd00::1", "[fd00::1]"),
    ],
)
def test_a_server_is_asked_where_it_listens(address: str, host: str) -> None:
    assert url_host(address) == host


def answers(command: str) -> LiveServerState:
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    return parse_live_server(done.stdout.splitlines())


class UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """HTTP on a unix socket."""

    daemon_threads = True

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        """The handler wants an address to name."""
        return super().get_request()[0], ("local", 0)


def test_a_server_on_a_unix_socket_is_asked_there(tmp_path: Path) -> None:
    path = tmp_path / "llama.sock"
    replies = {"/health": (200, ["ok"], 0.0), "/props": (200, ["{}"], 0.0)}
    handler = type("Handler", (Listener,), {"replies": replies, "seen": []})
    with UnixServer(str(path), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        state = answers(LiveServer().command("coder", 0, "m", timeout=5, socket=str(path)))
        server.shutdown()
    assert state.health.status == 200
    assert state.props is not None
    assert state.props.body == "{}"


def test_a_router_is_asked_for_one_model_by_its_name() -> None:
    replies = {"/health": (200, ["ok"], 0.0), "/props?model=glm": (200, ["{}"], 0.0)}
    with listening(replies) as (port, seen):
        state = answers(LiveServer().command("coder", port, "glm", timeout=5, router=5))
    assert state.own is not None
    assert state.own.status == 200
    assert "/props?model=glm" in [path for path, _, _ in seen]


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
@pytest.mark.parametrize(("name", "code"), [("ai.example.com", 0), ("other.example.com", 60)])
def test_a_certificate_is_checked_for_the_name_that_clients_use(
    tmp_path: Path, name: str, code: int
) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    subject = "-subj /CN=ai.example.com -addext subjectAltName=DNS:ai.example.com"
    subprocess.run(
        [*make.split(), *subject.split(), "-keyout", str(key), "-out", str(certificate)],
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    handler = type("Handler", (Listener,), {"replies": {"/health": (200, ["ok"], 0)}, "seen": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        port = server.server_address[1]
        state = answers(
            LiveServer().command(
                "coder", port, "m", timeout=5, tls=True, certificate=str(certificate), known_as=name
            )
        )
        server.shutdown()
    assert state.health.status == 200  # the host itself asks whoever has the port
    assert state.certificate is not None
    assert state.certificate.exit_code == code


def test_an_endpoint_is_where_the_server_listens() -> None:
    assert Endpoint("s", 1, "0.0.0.0").url == "http://127.0.0.1:1"
    assert Endpoint("s", 1, "::1", tls=True).url == "https://[::1]:1"
    assert Endpoint("s", 0, socket="/run/x.sock").curl == "--unix-socket /run/x.sock "
