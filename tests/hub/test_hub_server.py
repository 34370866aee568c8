"""The lab's hub, asked over real HTTP: it must speak as the real one does."""

from __future__ import annotations

import hashlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

LAB = Path(__file__).resolve().parents[2] / "molecule" / "lab"
sys.path.insert(0, str(LAB))

from hub import SLOW_RATE, Fault, Hub  # noqa: E402

REPO = "acme/Tiny-GGUF"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / REPO
    (folder / "split").mkdir(parents=True)
    (folder / "Tiny-Q4_0.gguf").write_bytes(CONTENT)
    (folder / "README.md").write_text("Tiny\n")
    (folder / "split" / "Tiny-Q8_0-00001-of-00001.gguf").write_bytes(CONTENT[::-1])
    return tmp_path / "hub"


@pytest.fixture
def hub(root: Path) -> Iterator[Hub]:
    with Hub(root, page=2, large=1000) as hub:
        yield hub


def commit_of(hub: Hub) -> str:
    refs = requests.get(f"{hub.url}/api/models/{REPO}/refs", timeout=5).json()
    return str(refs["branches"][0]["targetCommit"])


def test_refs_name_the_commit_of_main(hub: Hub) -> None:
    refs = requests.get(f"{hub.url}/api/models/{REPO}/refs", timeout=5).json()
    assert [branch["name"] for branch in refs["branches"]] == ["main"]
    assert re.fullmatch("[0-9a-f]{40}", refs["branches"][0]["targetCommit"])


def test_another_content_is_another_commit(hub: Hub, root: Path) -> None:
    before = commit_of(hub)
    (root / REPO / "README.md").write_text("Tiny, improved\n")
    assert commit_of(hub) != before


def test_the_tree_comes_in_pages_and_large_files_carry_their_sha256(hub: Hub) -> None:
    url: str | None = f"{hub.url}/api/models/{REPO}/tree/{commit_of(hub)}?recursive=true"
    entries, pages = {}, 0
    while url:
        answer = requests.get(url, timeout=5)
        entries.update({entry["path"]: entry for entry in answer.json()})
        url = answer.links.get("next", {}).get("url")
        pages += 1
    assert pages == 2
    assert set(entries) == {"README.md", "Tiny-Q4_0.gguf", "split/Tiny-Q8_0-00001-of-00001.gguf"}
    assert entries["Tiny-Q4_0.gguf"]["lfs"]["oid"] == hashlib.sha256(CONTENT).hexdigest()
    assert entries["Tiny-Q4_0.gguf"]["size"] == len(CONTENT)
    assert "lfs" not in entries["README.md"]


def test_a_large_file_is_redirected_to_its_storage(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/{commit_of(hub)}/Tiny-Q4_0.gguf"
    answer = requests.get(url, timeout=5, allow_redirects=False)
    assert answer.status_code == 302
    assert answer.headers["X-Repo-Commit"] == commit_of(hub)
    assert answer.headers["X-Linked-Size"] == str(len(CONTENT))
    assert answer.headers["X-Linked-Etag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert requests.get(answer.headers["Location"], timeout=5).content == CONTENT


def test_a_download_goes_on_where_it_broke_off(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/{commit_of(hub)}/Tiny-Q4_0.gguf"
    rest = requests.get(url, headers={"Range": "bytes=4000-"}, timeout=5)
    assert rest.status_code == 206
    assert rest.headers["Content-Range"] == f"bytes 4000-{len(CONTENT) - 1}/{len(CONTENT)}"
    assert rest.content == CONTENT[4000:]


@pytest.mark.parametrize(
    ("wanted", "status", "content"),
    [
        ("bytes=0-9", 206, CONTENT[:10]),
        ("bytes=-10", 206, CONTENT[-10:]),
        (f"bytes={len(CONTENT)}-", 416, b""),
        ("lines=1-2", 200, CONTENT),
    ],
)
def test_ranges_are_answered_as_http_says(
    hub: Hub, wanted: str, status: int, content: bytes
) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/Tiny-Q4_0.gguf"
    answer = requests.get(url, headers={"Range": wanted}, timeout=5)
    assert (answer.status_code, answer.content) == (status, content)


def test_a_changed_file_is_sent_whole_to_who_asks_for_the_rest_of_the_old_one(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/Tiny-Q4_0.gguf"
    headers = {"Range": "bytes=10-", "If-Range": '"of-the-old-one"'}
    assert requests.get(url, headers=headers, timeout=5).content == CONTENT


def test_head_says_the_same_without_a_body(hub: Hub) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/Tiny-Q4_0.gguf"
    answer = requests.head(url, timeout=5, allow_redirects=True)
    assert answer.status_code == 200
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.content == b""


@pytest.mark.parametrize(
    "path",
    [
        "api/models/acme/Nothing/refs",
        f"api/models/{REPO}/tree/{'0' * 40}",
        f"{REPO}/resolve/main/absent.gguf",
        f"{REPO}/resolve/main/..%2F..%2F..%2Fetc%2Fpasswd",
        f"{REPO}/resolve/{'0' * 40}/README.md",
        "etc/passwd",
    ],
)
def test_what_is_not_there_is_404(hub: Hub, path: str) -> None:
    assert requests.get(f"{hub.url}/{path}", timeout=5).status_code == 404


def test_a_gated_hub_wants_its_token_and_its_storage_does_not(root: Path) -> None:
    with Hub(root, token="hub-token", large=1000) as hub:
        url = f"{hub.url}/{REPO}/resolve/main/Tiny-Q4_0.gguf"
        assert requests.get(url, timeout=5).status_code == 401
        known = {"Authorization": "Bearer hub-token"}
        answer = requests.get(url, headers=known, timeout=5, allow_redirects=False)
        assert requests.get(answer.headers["Location"], timeout=5).content == CONTENT


def test_a_rate_limit_holds(root: Path) -> None:
    with Hub(root, rate=20_000) as hub:
        began = time.monotonic()
        answer = requests.get(f"{hub.url}/{REPO}/resolve/main/Tiny-Q4_0.gguf", timeout=10)
        assert answer.content == CONTENT
        assert time.monotonic() - began >= 0.4  # 10,240 bytes at 20,000 a second


def test_the_command_serves_until_it_is_told_to_stop(root: Path) -> None:
    command = [sys.executable, str(LAB / "hub.py"), "--root", str(root), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().removeprefix("hub at ").strip()
        assert requests.get(f"{url}/api/models/{REPO}/refs", timeout=5).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0


def download_of(hub: Hub) -> str:
    return f"{hub.url}/{REPO}/resolve/main/Tiny-Q4_0.gguf"


@pytest.mark.parametrize(
    ("fault", "status"),
    [(Fault.SERVER_ERROR, 500), (Fault.FORBIDDEN, 403), (Fault.NOT_FOUND, 404)],
)
def test_a_broken_hub_answers_downloads_alone_with_its_status(
    hub: Hub, fault: Fault, status: int
) -> None:
    hub.fault = fault
    assert requests.get(download_of(hub), timeout=5).status_code == status
    assert re.fullmatch("[0-9a-f]{40}", commit_of(hub))
    hub.fault = None
    assert requests.get(download_of(hub), timeout=5).content == CONTENT


def test_a_truncated_answer_announces_all_and_brings_half(hub: Hub) -> None:
    hub.fault = Fault.TRUNCATED
    for first in (0, 4):
        wanted = {"Range": f"bytes={first}-"}
        with requests.get(download_of(hub), headers=wanted, timeout=5, stream=True) as answer:
            announced = len(CONTENT) - first
            assert answer.headers["Content-Length"] == str(announced)
            assert b"".join(received(answer)) == CONTENT[first : first + announced // 2]


def received(answer: requests.Response) -> Iterator[bytes]:
    """The body as far as it comes."""
    try:
        yield from answer.iter_content(1)
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ConnectionError):
        return


def test_wrong_bytes_are_of_the_right_size_and_all_wrong(hub: Hub) -> None:
    hub.fault = Fault.WRONG_BYTES
    answer = requests.get(download_of(hub), timeout=5)
    assert answer.status_code == 200
    assert len(answer.content) == len(CONTENT)
    assert not any(a == b for a, b in zip(answer.content, CONTENT, strict=True))


def test_a_redirect_loop_never_ends(hub: Hub) -> None:
    hub.fault = Fault.REDIRECT_LOOP
    with pytest.raises(requests.exceptions.TooManyRedirects):
        requests.get(download_of(hub), timeout=5)


def test_a_hub_without_ranges_sends_the_whole_to_who_wants_the_rest(hub: Hub) -> None:
    hub.fault = Fault.NO_RANGE
    answer = requests.get(download_of(hub), headers={"Range": "bytes=10-"}, timeout=5)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "Content-Range" not in answer.headers


def test_a_stalling_hub_sends_half_and_keeps_the_line(hub: Hub) -> None:
    hub.fault = Fault.STALL
    with requests.get(download_of(hub), timeout=0.5, stream=True) as answer:
        assert b"".join(received(answer)) == CONTENT[: len(CONTENT) // 2]


def test_a_slow_hub_brings_all_of_it_in_its_time(hub: Hub, root: Path) -> None:
    hub.fault = Fault.SLOW
    (root / REPO / "Tiny-Q4_0.gguf").write_bytes(bytes(SLOW_RATE // 2))
    began = time.monotonic()
    assert len(requests.get(download_of(hub), timeout=5).content) == SLOW_RATE // 2
    assert time.monotonic() - began >= 0.4


def test_a_file_breaks_a_hub_that_runs_and_mends_it(root: Path, tmp_path: Path) -> None:
    control = tmp_path / "fault"
    with Hub(root, fault_file=control) as hub:
        assert requests.get(download_of(hub), timeout=5).status_code == 200
        control.write_text(f"{Fault.FORBIDDEN}\n")
        assert requests.get(download_of(hub), timeout=5).status_code == 403
        control.write_text("")
        assert requests.get(download_of(hub), timeout=5).status_code == 200
