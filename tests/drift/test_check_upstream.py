"""What is published beyond the lock: asked of a real repository and a small hub and registry."""

from __future__ import annotations

import http.server
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from inventories.fleet import load_fleet
from inventories.lock import Lock, ModelPin, OpenCodePin, SourcePin, requests_of
from inventories.pinning.web import World
from inventories.settings import Artifact
from llamaherd.drift.report import DriftReport, Finding, HostReport
from llamaherd.drift.upstream import upstream_findings

OLD, NEW = "1" * 40, "2" * 40


class Web(http.server.BaseHTTPRequestHandler):
    """A hub with one repository, and a registry with one package."""

    def do_GET(self) -> None:
        if self.path == "/api/models/org/m-GGUF/refs":
            body = {"branches": [{"name": "main", "targetCommit": NEW}], "tags": []}
        elif self.path == "/opencode-linux-x64/latest":
            body = {"version": "1.18.40"}  # type: ignore[dict-item]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def web() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Web)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with the releases b9 and b10."""
    path = tmp_path / "llama.cpp"
    git = ["git", "-C", str(path), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "--quiet", str(path)], check=True)
    for tag in ("b9", "b10"):
        subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", tag], check=True)
        subprocess.run([*git, "tag", tag], check=True)
    return path


def findings(tmp_path: Path, web: str, repository: Path, pins: str) -> dict[str, Finding]:
    """News of a fleet whose lock is old (``OLD``), or as new as it gets (``NEW``)."""
    path = tmp_path / "fleet.yaml"
    path.write_text(
        f"""\
version: 1
models:
  m: {{hub: {{repo: org/m-GGUF, quant: Q4_0, endpoint: "{web}"}}}}
hosts:
  a:
    cuda: {{provider: none}}
    llama_cpp: {{repository: "file://{repository}", ref: b{"9" if pins == OLD else "10"}}}
    servers: {{s: {{model: m, port: 8888}}}}
    opencode: {{users: [dev], version: 1.18.{"33" if pins == OLD else "40"}, registry: "{web}"}}
"""
    )
    fleet = load_fleet(path)
    bodies = {request.kind: request.body for request in requests_of(fleet)}
    number = 9 if pins == OLD else 10
    commit = subprocess.run(
        ["git", "-C", str(repository), "rev-parse", f"b{number}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    version = bodies["opencode"]["version"]
    lock = Lock(
        models={"m": ModelPin(bodies["models"], (Artifact("m.gguf", 1, "a" * 64, "x"),), pins)},
        llama_cpp={f"b{number}": SourcePin(bodies["llama_cpp"], commit, number)},
        opencode={version: OpenCodePin(bodies["opencode"], version, {})},
    )
    found = upstream_findings(fleet, lock, World(tmp_path))
    assert all(finding.plane == "upstream" for finding in found)
    return {finding.component: finding for finding in found}


def test_what_is_behind_is_told_with_what_moves_it(
    tmp_path: Path, web: str, repository: Path
) -> None:
    found = findings(tmp_path, web, repository, OLD)
    assert found["models"].summary == "locked at 1111111, published is 2222222"
    assert found["models"].remedy == "run llamaherd lock --update m"
    assert found["llama_cpp"].summary == "locked at b9, published is b10"
    assert "set llama_cpp.ref" in found["llama_cpp"].remedy
    assert found["opencode"].summary == "locked at 1.18.33, published is 1.18.40"


def test_what_is_current_is_not_told(tmp_path: Path, web: str, repository: Path) -> None:
    assert findings(tmp_path, web, repository, NEW) == {}


def test_without_network_there_is_one_line_for_each_question(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "r")], check=True)
    git = ["git", "-C", str(tmp_path / "r"), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "-m", "x"], check=True)
    subprocess.run([*git, "tag", "b10"], check=True)
    found = findings(tmp_path, "http://127.0.0.1:9", tmp_path / "r", NEW)
    assert set(found) == {"models", "opencode"}
    for finding in found.values():
        assert finding.summary.startswith("could not be asked: http://127.0.0.1:9")
        assert "\n" not in finding.summary


def test_news_never_changes_the_exit_code() -> None:
    news = Finding("upstream", "models", "m", "locked at 1111111, published is 2222222")
    report = DriftReport("f", "2026-11-22T09:18:14+00:00", 1.0, (HostReport("a", "ok"),), (news,))
    assert report.exit_code == 0
