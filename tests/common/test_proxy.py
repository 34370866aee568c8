"""What goes through a host's HTTP proxy: a real curl, a real request, a small real proxy."""

from __future__ import annotations

import hashlib
import http.client
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from deploys.common.downloads import fetch_functions
from deploys.common.jobs import Job, through_proxy
from inventories.pinning.web import hash_url
from inventories.settings import ProxySettings

CONTENT = b"a toolkit\n"
# A name that nothing resolves: only a proxy can know where it is.
FAR = "http://files.invalid"


class Proxy(ThreadingHTTPServer):
    """A forward proxy that knows one far name, and remembers what it was asked for."""

    def __init__(self, origin: int) -> None:
        super().__init__(("127.0.0.1", 0), _Forward)
        self.origin = origin
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Forward(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.origin)
        connection.request("GET", urlsplit(self.path).path)
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[Proxy]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "toolkit.bin").write_bytes(CONTENT)

    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(folder))  # type: ignore[arg-type]

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

    origin = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    made = Proxy(origin.server_address[1])
    servers = (origin, made)
    threads = [threading.Thread(target=server.serve_forever, daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    yield made
    for server in servers:
        server.shutdown()
        server.server_close()


def run(settings: ProxySettings, url: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """A job's download, as the host's shell carries it out."""
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    script = f"{fetch_functions()}\nfetch {url} ./got {len(CONTENT)} {sha256}\n"
    job = through_proxy(Job("x", "x", script), settings)
    return subprocess.run(
        ["sh", "-eu", "-c", job.script],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin"},
    )


def test_a_hosts_download_goes_through_its_proxy(proxy: Proxy, tmp_path: Path) -> None:
    done = run(ProxySettings(proxy.url), f"{FAR}/toolkit.bin", tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "got").read_bytes() == CONTENT
    assert proxy.asked == [f"{FAR}/toolkit.bin"]


def test_a_name_of_no_proxy_and_loopback_are_reached_without_it(
    proxy: Proxy, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:{proxy.origin}/toolkit.bin"
    done = run(ProxySettings(proxy.url, no_proxy=(".lan",)), url, tmp_path)
    assert done.returncode == 0, done.stderr
    assert proxy.asked == []


def test_the_lock_takes_the_controllers_own_environment(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    size, sha256 = hash_url(f"{FAR}/toolkit.bin")
    assert (size, sha256) == (len(CONTENT), hashlib.sha256(CONTENT).hexdigest())
    assert proxy.asked == [f"{FAR}/toolkit.bin"]
