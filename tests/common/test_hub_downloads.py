"""Transfers from the lab's hub, by the very script that hosts get: gated, stalling, redirecting."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

LAB = Path(__file__).resolve().parents[2] / "molecule" / "lab"
sys.path.insert(0, str(LAB))

from hub import Fault, Hub  # noqa: E402

from deploys.common.downloads import Fetch, fetch_lines  # noqa: E402
from deploys.common.jobs import REASON, start_command  # noqa: E402
from inventories.settings import Artifact  # noqa: E402

REPO = "acme/Tiny-GGUF"
CONTENT = os.urandom(3_000_000)
NAME = "Tiny-Q4_0.gguf"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploys.common.downloads.STALL_SECONDS", 1)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "hub" / REPO
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(CONTENT)
    return tmp_path / "hub"


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """The folder that stands for a host's; a job's own folder lies beside it."""
    (tmp_path / "host").mkdir()
    (tmp_path / "job").mkdir()
    return tmp_path / "host"


def artifact(hub: Hub) -> Artifact:
    url = f"{hub.url}/{REPO}/resolve/main/{NAME}"
    return Artifact(NAME, len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), url=url)


def fetch(
    wanted: Artifact, host: Path, token: str | None = None
) -> subprocess.CompletedProcess[str]:
    job = host.parent / "job"
    header = None if token is None else f"Authorization: Bearer {token}"
    made = Fetch("model-x", "fetching", (wanted,), str(host), header).job()
    for name, content in made.secrets.items():
        (job / f"secret.{name}").write_text(content)
    script = made.script.replace("sleep $((", ": $((")
    return subprocess.run(
        ["sh", "-eu", "-c", script], capture_output=True, text=True, check=False, cwd=job
    )


def test_a_gated_hub_gets_the_token_and_the_storage_it_sends_us_to_does_not(
    root: Path, host: Path
) -> None:
    token = f"hf_{secrets.token_hex(16)}"
    with Hub(root) as storage, Hub(root, token=token, elsewhere=storage.url) as hub:
        assert fetch(artifact(hub), host, token).returncode == 0
        assert (host / NAME).read_bytes() == CONTENT
        assert [request[2] for request in hub.requests] == [f"Bearer {token}"]
        assert [request[2] for request in storage.requests] == [None]


def test_without_its_token_a_gated_hub_gives_nothing(root: Path, host: Path) -> None:
    with Hub(root, token="another") as hub:
        result = fetch(artifact(hub), host, "wrong")
    assert result.returncode != 0
    assert "401" in result.stderr
    assert list(host.iterdir()) == []


def test_a_token_is_in_no_argument_and_no_environment_of_the_job(root: Path, host: Path) -> None:
    token = f"hf_{secrets.token_hex(16)}"
    with Hub(root, token=token) as hub:
        wanted = artifact(hub)
    job = Fetch("model-x", "fetching", (wanted,), str(host), f"Authorization: Bearer {token}").job()
    assert token not in job.script + job.probe + job.title + job.name
    assert token not in "".join(job.environment.values())
    assert token not in str(start_command(job))
    assert token not in start_command(job).get_raw_value()


def test_a_hub_that_stands_still_is_left_and_asked_for_the_rest(root: Path, host: Path) -> None:
    with Hub(root, stall=1_200_000) as hub:
        result = fetch(artifact(hub), host)
        assert result.returncode == 0, result.stderr
        asked = [path for _, path, _ in hub.requests if path.startswith("/storage")]
    assert (host / NAME).read_bytes() == CONTENT
    assert len(asked) == 3
    assert "going on at 1200000" in result.stderr
    assert "going on at 2400000" in result.stderr


def test_a_hub_that_stands_still_at_once_is_given_up(
    root: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.common.downloads.ATTEMPTS", 2)
    with Hub(root, stall=1000) as hub:
        result = fetch(artifact(hub), host)
    assert result.returncode != 0
    assert "after 2 attempts that brought less than 1048576 bytes each (curl: (28)" in result.stderr
    # What came is kept: the next run goes on from there.
    assert (host / f"{NAME}.part").stat().st_size == 2000


def test_a_line_that_breaks_often_still_brings_a_big_file(
    root: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.common.downloads.ATTEMPTS", 1)
    monkeypatch.setattr("deploys.common.downloads.PROGRESS", 1_000_000)
    with Hub(root, stall=1_000_000) as hub:
        result = fetch(artifact(hub), host)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("going on at") == 2


def test_no_disk_to_write_to_is_said_at_once(root: Path, host: Path) -> None:
    with Hub(root) as hub:
        script = fetch_lines([artifact(hub)], str(host)).replace('--output "$2"', "-o /dev/full")
        result = subprocess.run(
            ["sh", "-euc", script], capture_output=True, text=True, check=False, cwd=host.parent
        )
        asked = [path for _, path, _ in hub.requests if path.startswith("/storage")]
    assert result.returncode != 0
    assert f"can't write {host}/{NAME}.part" in result.stderr
    assert len(asked) == 1
    assert f"{REASON}can't write {host}/{NAME}.part" in result.stderr


def reason(result: subprocess.CompletedProcess[str]) -> str:
    """What a person is told when the job failed."""
    assert result.returncode != 0
    return [line for line in result.stderr.splitlines() if line.startswith(REASON)][-1]


@pytest.mark.parametrize(
    ("fault", "asked", "words"),
    [
        (Fault.SERVER_ERROR, 3, "answers 500, three times: it is in trouble"),
        (Fault.FORBIDDEN, 3, "answers 403: check the token"),
        (Fault.NOT_FOUND, 3, "answers 404, it isn't there any more: run llamaherd lock --update"),
        (Fault.REDIRECT_LOOP, 3 * 11, "redirects in a circle: check the address"),
    ],
)
def test_a_source_that_refuses_is_asked_three_times_and_named_with_its_answer(
    root: Path, host: Path, fault: Fault, asked: int, words: str
) -> None:
    with Hub(root, fault=fault) as hub:
        result = fetch(artifact(hub), host)
        assert f"{artifact(hub).url} {words}" in reason(result)
        assert len(hub.requests) == asked
    assert list(host.iterdir()) == []


@pytest.mark.parametrize("fault", [Fault.SERVER_ERROR, Fault.FORBIDDEN, Fault.REDIRECT_LOOP])
def test_a_refusal_costs_nothing_of_what_has_arrived(root: Path, host: Path, fault: Fault) -> None:
    (host / f"{NAME}.part").write_bytes(CONTENT[:2_000_000])
    with Hub(root, fault=fault) as hub:
        assert fetch(artifact(hub), host).returncode != 0
        assert (host / f"{NAME}.part").stat().st_size == 2_000_000
        hub.fault, hub.requests = None, []
        assert fetch(artifact(hub), host).returncode == 0
    assert (host / NAME).read_bytes() == CONTENT


def test_a_source_without_ranges_whose_line_breaks_each_time_is_given_up(
    root: Path, host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploys.common.downloads.ATTEMPTS", 3)
    with Hub(root, stall=1_500_000, fault=Fault.NO_RANGE) as hub:
        result = fetch(artifact(hub), host)
    assert "after 3 attempts" in reason(result)


def test_a_line_that_breaks_again_and_again_brings_it_all_the_same(root: Path, host: Path) -> None:
    with Hub(root, fault=Fault.TRUNCATED) as hub:
        result = fetch(artifact(hub), host)
        assert "check the host's way there; the next run goes on at byte" in reason(result)
        arrived = (host / f"{NAME}.part").stat().st_size
        assert arrived > 0.99 * len(CONTENT)
        hub.fault = None
        assert fetch(artifact(hub), host).returncode == 0
    assert (host / NAME).read_bytes() == CONTENT


def test_wrong_bytes_of_the_right_size_are_removed_and_told(root: Path, host: Path) -> None:
    with Hub(root, fault=Fault.WRONG_BYTES) as hub:
        result = fetch(artifact(hub), host)
    assert f"{host}/{NAME}: its SHA-256 is " in reason(result)
    assert list(host.iterdir()) == []


def test_a_partial_file_and_a_source_without_ranges_make_a_whole_one(
    root: Path, host: Path
) -> None:
    (host / f"{NAME}.part").write_bytes(CONTENT[:2_000_000])
    with Hub(root, fault=Fault.NO_RANGE) as hub:
        assert fetch(artifact(hub), host).returncode == 0
    assert (host / NAME).read_bytes() == CONTENT
