"""A small model hub for the lab and for tests: real HTTP, real files, the real hub's API.

Serves ``DIR/<org>/<repo>/...`` as repositories, each with the branch ``main`` at one commit, made
of its contents. Speaks what clients ask (read in llama.cpp's common/hf-cache.cpp at 0c1e570):
``/api/models/REPO/refs``, ``/api/models/REPO/tree/COMMIT`` (paginated by
``Link``), ``/REPO/resolve/COMMIT/PATH``, which redirects a large file to its storage, as the real
hub does, with ``X-Repo-Commit``, ``X-Linked-Size`` and ``X-Linked-Etag``; HEAD, Range, ETag; and if
wanted a token and a limit of bytes a second. Standard library only.

    python molecule/lab/hub.py --root DIR --port 8090 --bind 127.0.0.1

It can be broken while it serves, in the ways of :class:`Fault`: by ``hub.fault`` inside a process,
by the words of ``--fault-file`` from outside.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import signal
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import parse_qs, quote, unquote, urlsplit

LARGE = 1 << 20
"""Bytes from which a file counts as large (LFS): it has a SHA-256 and a storage address."""

CHUNK = 64 << 10

SLOW_RATE = 512 << 10
"""Bytes a second of a hub that was made slow."""

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPO = rf"(?P<repo>{_NAME}/{_NAME})"
_REFS = re.compile(rf"/api/models/{_REPO}/refs")
_TREE = re.compile(rf"/api/models/{_REPO}/tree/(?P<revision>[^/]+)/?")
_RESOLVE = re.compile(rf"/{_REPO}/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
_STORAGE = re.compile(rf"/storage/{_REPO}/(?P<path>.+)")
_RANGE = re.compile(r"bytes=(?P<first>\d*)-(?P<last>\d*)")


@dataclass(frozen=True)
class StoredFile:
    """A file of a repository. ``large`` ones are addressed by SHA-256, others by git blob id."""

    path: str
    size: int
    sha256: str
    blob: str
    large: bool

    @property
    def etag(self) -> str:
        """What the hub's ``ETag`` says, without quotes."""
        return self.sha256 if self.large else self.blob


class Fault(StrEnum):
    """A way in which downloads go wrong; lists of files (refs, trees) are answered as ever.

    + SERVER_ERROR, FORBIDDEN, NOT_FOUND: the answer's status: 500, 403, 404
    + TRUNCATED: the connection ends after half of what was announced, each time anew
    + WRONG_BYTES: the right number of bytes, every one of them another
    + REDIRECT_LOOP: sent back to the very address that was asked for
    + NO_RANGE: asked for the rest of a file, it sends the whole, with status 200
    + STALL: after half of what was announced nothing more comes, with the connection open
    + SLOW: all is well, at SLOW_RATE
    """

    SERVER_ERROR = "500"
    FORBIDDEN = "403"
    NOT_FOUND = "404"
    TRUNCATED = "truncated"
    WRONG_BYTES = "wrong-bytes"
    REDIRECT_LOOP = "redirect-loop"
    NO_RANGE = "no-range"
    STALL = "stall"
    SLOW = "slow"


_STATUSES = {
    Fault.SERVER_ERROR: HTTPStatus.INTERNAL_SERVER_ERROR,
    Fault.FORBIDDEN: HTTPStatus.FORBIDDEN,
    Fault.NOT_FOUND: HTTPStatus.NOT_FOUND,
}
_WRONG = bytes(255 - value for value in range(256))


class Repositories:
    """The folders below a root, hashed once for as long as a file's time and size stay."""

    def __init__(self, root: Path, large: int = LARGE) -> None:
        self._root = root.resolve()
        self._large = large
        self._hashes: dict[tuple[str, int, int], tuple[str, str]] = {}
        self._lock = threading.Lock()

    def files(self, repo: str) -> list[StoredFile] | None:
        """A repository's files by path; None when there is no such repository."""
        folder = self._root / repo
        if not folder.is_dir():
            return None
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        return [self._stored(path, path.relative_to(folder).as_posix()) for path in paths]

    def open(self, repo: str, path: str) -> BinaryIO | None:
        """A file's content; None when it isn't there or lies outside the repository."""
        folder = self._root / repo
        wanted = (folder / path).resolve()
        if folder.resolve() not in wanted.parents or not wanted.is_file():
            return None
        return wanted.open("rb")

    @staticmethod
    def commit(files: list[StoredFile]) -> str:
        """The commit of these contents: 40 hex digits, other contents another one."""
        text = "".join(f"{file.path}\0{file.sha256}\n" for file in files)
        return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()

    def _stored(self, path: Path, name: str) -> StoredFile:
        state = path.stat()
        key = (str(path), state.st_mtime_ns, state.st_size)
        with self._lock:
            if key not in self._hashes:
                self._hashes[key] = _hashes(path, state.st_size)
            sha256, blob = self._hashes[key]
        return StoredFile(name, state.st_size, sha256, blob, state.st_size >= self._large)


def _hashes(path: Path, size: int) -> tuple[str, str]:
    """SHA-256 and git blob id of a file."""
    sha256 = hashlib.sha256()
    blob = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            sha256.update(chunk)
            blob.update(chunk)
    return sha256.hexdigest(), blob.hexdigest()


class Hub(ThreadingHTTPServer):
    """The server. As a context manager it serves from a thread of its own.

    + root: folder of the repositories
    + bind, port: where it listens; port 0 takes a free one (see ``url``)
    + token: what clients must send, as ``Authorization: Bearer``; None lets everyone in
    + rate: bytes a second that each download gets; None for no limit
    + stall: bytes after which a download stands still, for good, with its connection open; None
      for never. What is asked for from there on by ``Range`` comes up to the same number again
    + fault: how downloads go wrong from the next request on; None for well. May be set at any time
    + fault_file: a file whose word, read at each request, is the fault; absent or empty for well
    + elsewhere: address of another hub of the same repositories, to whose storage downloads are
      redirected; None for its own
    + page: entries on one page of a tree
    + large: bytes from which a file counts as large
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self,
        root: Path,
        bind: str = "127.0.0.1",
        port: int = 0,
        *,
        token: str | None = None,
        rate: int | None = None,
        stall: int | None = None,
        fault: Fault | None = None,
        fault_file: Path | None = None,
        elsewhere: str | None = None,
        page: int = 50,
        large: int = LARGE,
        quiet: bool = True,
    ) -> None:
        super().__init__((bind, port), _Handler)
        self.repositories = Repositories(root, large)
        self.token = token
        self.rate = rate
        self.stall = stall
        self.fault = fault
        self._fault_file = fault_file
        self.elsewhere = elsewhere
        self.stopped = threading.Event()
        self.page = page
        self.quiet = quiet
        self.requests: list[tuple[str, str, str | None]] = []
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Its address, as ``HF_ENDPOINT`` wants it."""
        return f"http://{self.server_address[0]!s}:{self.server_port}"

    def current_fault(self) -> Fault | None:
        """How a download goes wrong now; ValueError for a word in the file that names no fault."""
        if self._fault_file is None or not self._fault_file.exists():
            return self.fault
        word = self._fault_file.read_text().strip()
        return Fault(word) if word else self.fault

    def __enter__(self) -> Hub:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        self.shutdown()
        self.server_close()
        if self._thread is not None:
            self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing to say when a client went away; that is what interrupted downloads do."""
        if not self.quiet:
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    timeout = 120
    server: Hub

    def do_GET(self) -> None:
        """Answer with a body."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the headers alone."""
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:
        """To stderr, unless the hub is quiet."""
        if not self.server.quiet:
            super().log_message(format, *args)

    def _answer(self, *, with_body: bool) -> None:
        self._with_body = with_body
        parts = urlsplit(self.path)
        authorization = self.headers.get("Authorization")
        self.server.requests.append((self.command, self.path, authorization))
        path, query = unquote(parts.path), parse_qs(parts.query)
        # Storage is another host at the real hub: its addresses are signed, no token is sent there.
        if match := _STORAGE.fullmatch(path):
            return self._file(match["repo"], match["path"], redirect=False)
        if self.server.token is not None and authorization != f"Bearer {self.server.token}":
            return self._error(HTTPStatus.UNAUTHORIZED, "Invalid username or password.")
        if match := _REFS.fullmatch(path):
            return self._refs(match["repo"])
        if match := _TREE.fullmatch(path):
            return self._tree(match["repo"], match["revision"], query)
        if (match := _RESOLVE.fullmatch(path)) and self._at(match["repo"], match["revision"]):
            return self._file(match["repo"], match["path"], redirect=True)
        return self._error(HTTPStatus.NOT_FOUND, "Repository not found")

    def _at(self, repo: str, revision: str) -> list[StoredFile] | None:
        """The repository's files at a revision; None when there is no such thing."""
        files = self.server.repositories.files(repo)
        if files is None or revision not in ("main", Repositories.commit(files)):
            return None
        return files

    def _refs(self, repo: str) -> None:
        files = self._at(repo, "main")
        if files is None:
            return self._error(HTTPStatus.NOT_FOUND, "Repository not found")
        commit = Repositories.commit(files)
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": commit}
        return self._json({"branches": [main], "converts": [], "tags": []})

    def _tree(self, repo: str, revision: str, query: dict[str, list[str]]) -> None:
        files = self._at(repo, revision)
        if files is None:
            return self._error(HTTPStatus.NOT_FOUND, "Revision not found")
        cursor = query.get("cursor", ["0"])[0]
        first = int(cursor) if cursor.isdigit() else 0
        page = files[first : first + self.server.page]
        headers = {}
        if first + len(page) < len(files):
            following = f"{self._self()}/api/models/{repo}/tree/{quote(revision)}"
            following += f"?recursive=true&cursor={first + len(page)}"
            headers["Link"] = f'<{following}>; rel="next"'
        return self._json([_entry(file) for file in page], headers)

    def _self(self) -> str:
        """Our address as the client knows it."""
        scheme = "https" if isinstance(self.connection, ssl.SSLSocket) else "http"
        return f"{scheme}://{self.headers.get('Host') or urlsplit(self.server.url).netloc}"

    def _file(self, repo: str, path: str, *, redirect: bool) -> None:
        self._fault = fault = self.server.current_fault()
        if fault in _STATUSES:
            return self._error(_STATUSES[fault], f"Broken on purpose: {fault}")
        if fault is Fault.REDIRECT_LOOP:
            return self._send(HTTPStatus.FOUND, b"", {"Location": f"{self._self()}{self.path}"})
        files = self.server.repositories.files(repo) or []
        file = next((f for f in files if f.path == path), None)
        content = self.server.repositories.open(repo, path) if file is not None else None
        if file is None or content is None:
            return self._error(HTTPStatus.NOT_FOUND, "Entry not found")
        with content:
            headers = {"X-Repo-Commit": Repositories.commit(files), "Accept-Ranges": "bytes"}
            if redirect and file.large:
                headers["X-Linked-Size"] = str(file.size)
                headers["X-Linked-Etag"] = f'"{file.etag}"'
                headers["Location"] = (
                    f"{self.server.elsewhere or self._self()}/storage/{repo}/{quote(path)}"
                )
                return self._send(HTTPStatus.FOUND, b"", headers)
            return self._content(content, file, headers)

    def _content(self, content: BinaryIO, file: StoredFile, headers: dict[str, str]) -> None:
        headers |= {"ETag": f'"{file.etag}"', "Content-Type": "application/octet-stream"}
        wanted = (0, file.size - 1) if self._fault is Fault.NO_RANGE else self._range(file)
        if wanted is None:
            headers["Content-Range"] = f"bytes */{file.size}"
            return self._send(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, b"", headers)
        first, last = wanted
        partial = "Range" in self.headers and (first, last) != (0, file.size - 1)
        status = HTTPStatus.PARTIAL_CONTENT if partial else HTTPStatus.OK
        if partial:
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
        self._head(status, headers | {"Content-Length": str(last - first + 1)})
        if not self._with_body:
            return None
        content.seek(first)
        wrong = self._fault is Fault.WRONG_BYTES
        for chunk in self._paced(content, last - first + 1):
            self.wfile.write(chunk.translate(_WRONG) if wrong else chunk)
        return None

    def _range(self, file: StoredFile) -> tuple[int, int] | None:
        """First and last byte that are wanted; None when there are no such bytes."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        whole = (0, file.size - 1)
        if match is None or (condition is not None and condition != f'"{file.etag}"'):
            return whole
        first, last = match["first"], match["last"]
        if first == "":
            return (max(0, file.size - int(last)), file.size - 1) if last else whole
        if int(first) >= file.size:
            return None
        return int(first), min(int(last or file.size), file.size - 1)

    def _paced(self, content: BinaryIO, length: int) -> Iterator[bytes]:
        """``length`` bytes in pieces, no faster than the hub's rate."""
        rate, stall, sent, began = self.server.rate, self.server.stall, 0, time.monotonic()
        if self._fault is Fault.SLOW:
            rate = SLOW_RATE
        if self._fault is Fault.STALL:
            stall = max(1, length // 2)
        if self._fault is Fault.TRUNCATED:
            length //= 2
            self.close_connection = True
        size = CHUNK if rate is None else max(1, min(CHUNK, rate // 10))
        while sent < length:
            if stall is not None and sent >= stall:
                self.server.stopped.wait()
                return
            chunk = content.read(min(size, length - sent, stall - sent if stall else length))
            if not chunk:
                return
            yield chunk
            sent += len(chunk)
            if rate is not None:
                time.sleep(max(0.0, began + sent / rate - time.monotonic()))

    def _json(self, document: Any, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        headers = {"Content-Type": "application/json"} | (headers or {})
        return self._send(HTTPStatus.OK, body, headers)

    def _error(self, status: HTTPStatus, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        self._send(status, body, {"Content-Type": "application/json", "X-Error-Message": message})

    def _send(self, status: HTTPStatus, body: bytes, headers: dict[str, str]) -> None:
        self._head(status, headers | {"Content-Length": str(len(body))})
        if self._with_body:
            self.wfile.write(body)

    def _head(self, status: HTTPStatus, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()


def _entry(file: StoredFile) -> dict[str, Any]:
    """A file as the tree API lists it."""
    entry: dict[str, Any] = {
        "type": "file",
        "oid": file.blob,
        "size": file.size,
        "path": file.path,
    }
    if file.large:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description="A small model hub")
    parser.add_argument("--root", type=Path, required=True, help="folder of ORG/REPO/files")
    parser.add_argument("--bind", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8090, help="0 takes a free one")
    parser.add_argument("--token", help="what clients must send")
    parser.add_argument("--rate", type=int, help="bytes a second for each download")
    parser.add_argument("--stall", type=int, help="bytes after which each download stands still")
    parser.add_argument(
        "--fault-file", type=Path, help=f"file that says how downloads go wrong: {', '.join(Fault)}"
    )
    parser.add_argument("--verbose", action="store_true", help="log requests to stderr")
    options = parser.parse_args(arguments)
    if not options.root.is_dir():
        parser.error(f"--root {options.root}: no such folder")
    hub = Hub(
        options.root,
        options.bind,
        options.port,
        token=options.token,
        rate=options.rate,
        stall=options.stall,
        fault_file=options.fault_file,
        quiet=not options.verbose,
    )
    with hub:
        print(f"hub at {hub.url}", flush=True)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        stop.wait()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
