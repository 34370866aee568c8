"""Transfers, run by the very script that hosts get, against real HTTP servers."""

import hashlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploys.common.downloads import fetch_lines, fetch_probe, fetch_progress, upload_path
from facts.live import _ASK, parse_answer
from facts.models import ModelFiles
from inventories.settings import Artifact

CONTENT = os.urandom(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Source:
    """A real HTTP server with one file and chosen bad habits."""

    ranges: bool = True
    cut_after: int | None = None
    content: bytes = CONTENT
    statuses: list[int] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def serve(self) -> http.server.ThreadingHTTPServer:
        source = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                source.requests.append(self.headers.get("Range", ""))
                if source.statuses:
                    self.send_error(source.statuses.pop(0))
                    return
                start = 0
                if self.headers.get("Range") and source.ranges:
                    start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
                body = source.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                if start:
                    end = len(source.content)
                    self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
                self.end_headers()
                if source.cut_after is not None:
                    body, source.cut_after = body[: source.cut_after], None
                    self.wfile.write(body)
                    self.close_connection = True
                    return
                self.wfile.write(body)

            def log_message(self, *args: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_port}/model.gguf"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    server = source.serve()
    yield source
    server.shutdown()
    server.server_close()


def artifact(source: Source, size: int = len(CONTENT), sha256: str = SHA256) -> Artifact:
    return Artifact("model.gguf", size, sha256, url=source.url)


def fetch(wanted: Artifact, directory: Path) -> subprocess.CompletedProcess[str]:
    script = fetch_lines([wanted], str(directory)).replace("sleep", ": sleep")
    return subprocess.run(
        ["sh", "-eu", "-c", script], capture_output=True, text=True, check=False, cwd=directory
    )


def verified(directory: Path) -> str:
    fact = ModelFiles()
    path = str(directory / "model.gguf")
    out = subprocess.run(
        ["sh", "-c", fact.command([path])], capture_output=True, text=True, check=True
    )
    return fact.process(out.stdout.splitlines())[path].verified


def test_a_file_arrives_verified_and_recorded(source: Source, tmp_path: Path) -> None:
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert verified(tmp_path) == SHA256
    assert not (tmp_path / "model.gguf.part").exists()


def test_roots_own_settings_of_curl_are_not_used(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".curlrc").write_text("max-filesize = 1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CURL_HOME", str(tmp_path))
    done = fetch(artifact(source), tmp_path)
    assert done.returncode == 0, done.stderr
    key = f"{_ASK}use_key /none\nask own {source.url}\n"
    said = subprocess.run(["sh", "-c", key], capture_output=True, text=True, check=True).stdout
    assert parse_answer(said.splitlines()[1:]).status == 200


def test_brackets_in_an_address_are_no_pattern(source: Source, tmp_path: Path) -> None:
    source.url += "?a=[1-3]&b={x,y}"
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert source.requests == [""]


def test_a_cut_transfer_goes_on_where_it_stopped(source: Source, tmp_path: Path) -> None:
    source.cut_after = 100_000
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert source.requests == ["", "bytes=100000-"]
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT


def test_a_partial_file_of_an_earlier_run_is_gone_on_with(source: Source, tmp_path: Path) -> None:
    (tmp_path / "model.gguf.part").write_bytes(CONTENT[:200_000])
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert source.requests == ["bytes=200000-"]


def test_a_server_without_ranges_is_asked_from_the_start(source: Source, tmp_path: Path) -> None:
    source.ranges = False
    (tmp_path / "model.gguf.part").write_bytes(CONTENT[:1000])
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT


def test_a_wrong_partial_file_is_fetched_once_more_from_its_first_byte(
    source: Source, tmp_path: Path
) -> None:
    (tmp_path / "model.gguf.part").write_bytes(b"x" * 1000)
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert source.requests == ["bytes=1000-", ""]


def test_wrong_bytes_of_the_right_size_never_get_the_final_name(
    source: Source, tmp_path: Path
) -> None:
    source.content = b"y" * len(CONTENT)
    result = fetch(artifact(source), tmp_path)
    assert result.returncode != 0
    assert f"the lock file says {SHA256}" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == []


@pytest.mark.parametrize("size", [len(CONTENT) + 1, len(CONTENT) - 1])
def test_another_size_than_locked_is_refused(source: Source, tmp_path: Path, size: int) -> None:
    result = fetch(artifact(source, size=size), tmp_path)
    assert result.returncode != 0
    assert f"the lock file says {size}" in result.stderr
    assert not (tmp_path / "model.gguf").exists()


def test_passing_trouble_is_sat_out(source: Source, tmp_path: Path) -> None:
    source.statuses = [503, 500]
    assert fetch(artifact(source), tmp_path).returncode == 0


def test_a_refusal_ends_after_three_attempts(source: Source, tmp_path: Path) -> None:
    source.statuses = [403] * 20
    result = fetch(artifact(source), tmp_path)
    assert result.returncode != 0
    assert "403" in result.stderr
    assert len(source.requests) == 3


def test_a_file_that_is_there_is_hashed_and_not_fetched(source: Source, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(CONTENT)
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert source.requests == []
    assert verified(tmp_path) == SHA256


def test_a_flipped_bit_is_healed(source: Source, tmp_path: Path) -> None:
    fetch(artifact(source), tmp_path)
    damaged = bytearray(CONTENT)
    damaged[1234] ^= 1
    (tmp_path / "model.gguf").write_bytes(damaged)
    os.utime(tmp_path / "model.gguf", (1, 1))
    assert verified(tmp_path) == ""
    assert fetch(artifact(source), tmp_path).returncode == 0
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT


def test_the_record_holds_for_these_very_bytes_on_disk_only(source: Source, tmp_path: Path) -> None:
    fetch(artifact(source), tmp_path)
    path = tmp_path / "model.gguf"
    path.write_bytes(path.read_bytes()[:-1])
    assert verified(tmp_path) == ""


def test_an_upload_is_verified_like_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.common.downloads.UPLOADS", str(tmp_path / "uploads"))
    wanted = Artifact("model.gguf", len(CONTENT), SHA256, path="/controller/model.gguf")
    upload = Path(upload_path(wanted))
    upload.parent.mkdir()
    upload.write_bytes(CONTENT)
    assert fetch(wanted, tmp_path).returncode == 0
    assert (tmp_path / "model.gguf").read_bytes() == CONTENT
    assert not upload.exists()


def test_the_probe_counts_what_has_arrived(source: Source, tmp_path: Path) -> None:
    (tmp_path / "model.gguf.part").write_bytes(b"x" * 77)
    (tmp_path / "log").write_text(f"verifying {tmp_path}/model.gguf\n")
    wanted = [artifact(source)]
    out = subprocess.run(
        ["sh", "-c", fetch_probe(wanted, str(tmp_path))],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    amount = fetch_progress(wanted, out.stdout.splitlines())
    assert amount is not None
    assert (amount.done, amount.total, amount.note) == (77, len(CONTENT), "verifying")
