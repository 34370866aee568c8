"""The parts of the lab that need neither root nor a host."""

from __future__ import annotations

import hashlib
import ipaddress
from pathlib import Path

import downloads
import machines
import networks
import pytest
import roots
from downloads import Download
from roots import LabError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "STATE", tmp_path / "state")
    return tmp_path / "cache/llamaherd/lab/downloads"


def sample(content: bytes = b"content") -> Download:
    digest = hashlib.sha256(content).hexdigest()
    return Download("file", digest, len(content), "package==1", None, "downloads")


def giving(content: bytes, calls: list[str] | None = None) -> downloads.Fetch:
    def fetch(download: Download, scratch: Path) -> Path:
        if calls is not None:
            calls.append(download.name)
        path = scratch / download.name
        path.write_bytes(content)
        return path

    return fetch


def test_a_download_is_fetched_once_and_put_in_its_place(cache: Path) -> None:
    calls: list[str] = []
    first = downloads.ensure(sample(), giving(b"content", calls))
    second = downloads.ensure(sample(), giving(b"content", calls))
    assert first == second
    assert first.read_bytes() == b"content"
    assert calls == ["file"]
    assert [path.name for path in cache.iterdir()] == ["file"]


def test_a_wrong_download_is_refused_and_not_kept(cache: Path) -> None:
    with pytest.raises(LabError, match=r"package==1: file is not the file with SHA-256"):
        downloads.ensure(sample(), giving(b"c0ntent"))
    assert list(cache.iterdir()) == []


@pytest.mark.parametrize("damaged", [b"", b"conten", b"c0ntent"])
def test_a_damaged_copy_is_replaced(cache: Path, damaged: bytes) -> None:
    place = downloads.ensure(sample(), giving(b"content"))
    for path in (place, cache / "file"):
        path.unlink()
        path.write_bytes(damaged)
    assert downloads.ensure(sample(), giving(b"content")).read_bytes() == b"content"


def test_a_subnet_that_is_in_use_is_passed_over() -> None:
    used = [ipaddress.IPv4Network("10.213.5.0/24"), ipaddress.IPv4Network("10.213.6.128/25")]
    assert networks.free_subnet(used, 5) == "10.213.7.0/24"


def test_the_search_for_a_subnet_goes_round() -> None:
    used = [ipaddress.IPv4Network("10.213.255.0/24")]
    assert networks.free_subnet(used, 255) == "10.213.0.0/24"


def test_no_free_subnet_is_an_error_with_a_remedy() -> None:
    with pytest.raises(LabError, match="destroy a lab"):
        networks.free_subnet([networks.RANGE], 0)


def test_interface_names_fit_the_kernel() -> None:
    network = networks.Network("0123abcd", "10.213.1.0/24")
    assert len(network.bridge) <= 15
    assert (network.gateway, network.address) == ("10.213.1.1", "10.213.1.2")


def test_an_unknown_suite_is_refused_by_name() -> None:
    with pytest.raises(LabError, match="no suite 'sid': choose one of bookworm, trixie"):
        roots.base_root("sid")


def test_roots_of_different_making_never_share_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    before = roots.root_name("bookworm")
    monkeypatch.setattr(roots, "PACKAGES", (*roots.PACKAGES, "hello"))
    assert roots.root_name("bookworm") != before


def test_without_root_a_lab_says_that_it_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(LabError, match="needs root"):
        machines.create("anything")
