"""Files of other programs' caches, taken over by the very script that hosts get."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from deploys.common.downloads import fetch_lines, fetch_probe, fetch_progress, fetch_report
from deploys.models.adoption import adoption_functions
from inventories.settings import Artifact

CONTENT = os.urandom(200_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
NOWHERE = "http://127.0.0.1:9/model.gguf"
WANTED = Artifact("model.gguf", len(CONTENT), SHA256, url=NOWHERE)
PLACES = {
    "usr/share/ollama/.ollama/models/blobs/sha256-" + SHA256: "Ollama's store",
    "home/dev/.ollama/models/blobs/sha256-" + SHA256: "Ollama's store",
    "home/dev/.cache/huggingface/hub/models--acme--Tiny/blobs/" + SHA256: "the hub's cache",
    "root/.cache/huggingface/hub/models--acme--Tiny/blobs/" + SHA256: "the hub's cache",
    "data/hf/hub/models--acme--Tiny/blobs/" + SHA256: "the hub's cache",
    "home/dev/.cache/llama.cpp/acme_Tiny_Tiny-Q4_0.gguf": "llama.cpp's cache",
    "data/llama/models--acme--Tiny/blobs/" + SHA256: "llama.cpp's cache",
    "home/dev/.lmstudio/models/acme/Tiny/Tiny-Q4_0.gguf": "LM Studio's models",
    "home/dev/.cache/lm-studio/models/acme/Tiny/Tiny Q4_0.gguf": "LM Studio's models",
}
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root's files are linked: run as root")


@pytest.fixture
def box(tmp_path: Path) -> Path:
    """A host's file system, with our folder for models and the job's own."""
    for folder in ("etc", "home", "models", "job"):
        (tmp_path / folder).mkdir()
    (tmp_path / "etc/passwd").write_text("ollama:x:998:998::/usr/share/ollama:/bin/false\n")
    (tmp_path / "etc/environment").write_text("HF_HOME=/data/hf\nLLAMA_CACHE=/data/llama\n")
    return tmp_path


def put(path: Path, content: bytes = CONTENT, mode: int = 0o644, uid: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    if uid:
        os.chown(path, uid, uid)
    return path


def run(box: Path, wanted: Artifact = WANTED) -> subprocess.CompletedProcess[str]:
    functions = adoption_functions(str(box))
    script = fetch_lines([wanted], f"{box}/models", elsewhere=functions)
    result = subprocess.run(
        ["sh", "-euc", script.replace("sleep $((", ": $((")],
        capture_output=True,
        text=True,
        check=False,
        cwd=box / "job",
    )
    (box / "job/log").write_text(result.stdout)
    return result


def model(box: Path) -> Path:
    return box / "models/model.gguf"


@pytest.mark.parametrize("place", PLACES, ids=lambda place: place.replace(SHA256, "HASH"))
def test_a_file_in_a_known_cache_is_not_fetched(box: Path, place: str) -> None:
    theirs = put(box / place)
    result = run(box)
    assert result.returncode == 0, result.stderr
    assert f"found in {PLACES[place]}: {theirs}" in result.stdout
    assert model(box).read_bytes() == CONTENT
    assert theirs.read_bytes() == CONTENT
    assert (box / "models/.verified/model.gguf.json").exists()
    assert [path.name for path in (box / "job").iterdir()] == ["log"]


@as_root
def test_a_file_that_only_root_may_write_is_linked(box: Path) -> None:
    theirs = put(box / "root/.cache/llama.cpp/m.gguf")
    assert "(linked)" in run(box).stdout
    assert model(box).stat().st_ino == theirs.stat().st_ino


@as_root
@pytest.mark.parametrize(
    ("mode", "uid"),
    [(0o644, 1234), (0o664, 0), (0o646, 0), (0o600, 0), (0o640, 0)],
    ids=["a user's", "its group's", "everybody's", "root's alone", "unreadable to servers"],
)
def test_a_file_that_others_may_write_or_servers_may_not_read_is_copied(
    box: Path, mode: int, uid: int
) -> None:
    theirs = put(box / "home/dev/.cache/llama.cpp/m.gguf", mode=mode, uid=uid)
    before = theirs.stat()
    assert "(copied)" in run(box).stdout
    ours = model(box).stat()
    assert ours.st_ino != theirs.stat().st_ino
    assert (ours.st_uid, ours.st_mode & 0o777) == (0, 0o644)
    after = theirs.stat()
    assert (after.st_uid, after.st_mode, after.st_nlink) == (uid, before.st_mode, 1)


def test_a_file_with_other_bytes_is_left_and_the_next_one_taken(box: Path) -> None:
    wrong = put(box / "home/a/.cache/llama.cpp/m.gguf", b"x" * len(CONTENT))
    put(box / "home/b/.cache/llama.cpp/m.gguf")
    result = run(box)
    assert result.returncode == 0
    assert "its SHA-256 is" in result.stderr
    assert model(box).read_bytes() == CONTENT
    assert wrong.read_bytes() == b"x" * len(CONTENT)


def test_a_named_blob_comes_before_a_file_of_that_size(box: Path) -> None:
    put(box / "home/a/.cache/llama.cpp/m.gguf", b"x" * len(CONTENT))
    put(box / f"home/b/.ollama/models/blobs/sha256-{SHA256}")
    assert "found in llama.cpp" not in run(box).stdout


@pytest.mark.parametrize("name", [SHA256, "another"])
def test_a_symbolic_link_is_not_followed(box: Path, name: str) -> None:
    """A user could point one at what only root may read."""
    target = put(box / "secret")
    link = box / "home/dev/.cache/huggingface/hub/models--a--b/blobs" / name
    link.parent.mkdir(parents=True)
    link.symlink_to(target)
    result = run(box)
    assert result.returncode != 0
    assert "found in" not in result.stdout


def test_a_name_with_a_line_break_finds_nothing_else(box: Path) -> None:
    put(box / "home/dev/.cache/llama.cpp/m\nhub\t/dev/zero\n.gguf")
    result = run(box)
    assert result.returncode != 0
    assert "found in" not in result.stdout


def test_without_any_the_file_is_fetched(box: Path) -> None:
    result = run(box)
    assert result.returncode != 0
    assert f"gave up on {NOWHERE}" in result.stderr
    assert list((box / "job").iterdir()) == [box / "job/log"]


def test_what_had_arrived_gives_way_to_a_whole_file(box: Path) -> None:
    put(box / "models/model.gguf.part", CONTENT[:1000])
    put(box / "home/dev/.cache/llama.cpp/m.gguf")
    assert run(box).returncode == 0
    assert model(box).read_bytes() == CONTENT


@as_root
def test_a_linked_file_is_never_written_to(box: Path) -> None:
    """It changed under us: ours is fetched anew, theirs stays what they made of it."""
    theirs = put(box / "root/.cache/llama.cpp/m.gguf")
    run(box)
    theirs.write_bytes(CONTENT[:1000])
    result = run(box)
    assert result.returncode != 0  # there is nobody to fetch it from
    assert theirs.read_bytes() == CONTENT[:1000]
    assert (theirs.stat().st_nlink, theirs.stat().st_mode & 0o777) == (1, 0o644)
    assert not model(box).exists()


def test_progress_and_report_tell_where_it_was_found(box: Path) -> None:
    put(box / "home/dev/.cache/llama.cpp/m.gguf", uid=1234 if os.getuid() == 0 else 0)
    run(box)
    lines = probe(box)
    assert [line.partition(" (copied)")[0] for line in fetch_report(lines)] == [
        "took model.gguf from llama.cpp's cache"
    ]
    (box / "job/log").write_text("found in Ollama's store: /some/where\n")
    amount = fetch_progress([WANTED], probe(box))
    assert amount is not None
    assert (amount.done, amount.note) == (len(CONTENT), "found in Ollama's store")


def probe(box: Path) -> list[str]:
    done = subprocess.run(
        ["sh", "-c", fetch_probe([WANTED], f"{box}/models")],
        capture_output=True,
        text=True,
        check=False,
        cwd=box / "job",
    )
    return done.stdout.splitlines()
