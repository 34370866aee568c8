"""A git server that can fail in the middle of what it sends: git's own, over HTTPS.

Speaks for ``git http-backend``: real packs, real protocol. What it is asked of references is
answered as ever; a pack breaks off, or stands still, after half of its bytes.
"""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

PACK = 1 << 20
"""Bytes from which an answer is the pack, and not the talk before it."""


class GitFault(StrEnum):
    """How a pack goes wrong: the connection ends, or nothing more comes."""

    BREAKS_OFF = "breaks off"
    STALLS = "stalls"


class GitServer(ThreadingHTTPServer):
    """Serves the bare repositories below a folder.

    + fault: how packs go wrong from now on; None for not at all
    + broken: how many packs went wrong
    """

    daemon_threads = True

    def __init__(self, root: Path, bind: str, certificate: Path) -> None:
        super().__init__((bind, 0), _Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.socket = context.wrap_socket(
            self.socket, server_side=True, do_handshake_on_connect=False
        )
        self.root = root
        self.fault: GitFault | None = None
        self.broken = 0
        self.over = threading.Event()
        self.url = f"https://{bind}:{self.server_address[1]}"

    def __enter__(self) -> GitServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news here."""


class _Handler(BaseHTTPRequestHandler):
    server: GitServer

    def do_GET(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        head, _, content = self._backend(body).partition(b"\r\n\r\n")
        self.send_response(200)
        for line in head.decode().splitlines():
            name, _, value = line.partition(": ")
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.server.fault is None or len(content) < PACK:
            self.wfile.write(content)
            return
        self.wfile.write(content[: len(content) // 2])
        self.wfile.flush()
        self.server.broken += 1
        if self.server.fault is GitFault.STALLS:
            self.server.over.wait(600)
        self.close_connection = True

    def _backend(self, body: bytes) -> bytes:
        url = urlsplit(self.path)
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.server.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            # Tests run as root, and a repository may be somebody else's.
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "REQUEST_METHOD": self.command,
            "PATH_INFO": url.path,
            "QUERY_STRING": url.query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
        }
        return subprocess.run(
            ["git", "http-backend"], input=body, env=environment, stdout=subprocess.PIPE, check=True
        ).stdout

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""
