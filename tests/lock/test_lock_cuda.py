"""CUDA toolkits: packages of the vendor's repository, and Python wheels."""

from __future__ import annotations

import functools
import hashlib
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lock_support import (
    CUDA_INDEX,
    KEY,
    FileServer,
    make_apt_repository,
    make_wheel,
    request,
    stanza,
    world,
)

from inventories.lock import CudaPin
from inventories.pinning import PinError, resolve
from inventories.pinning.cuda_repository import compare_versions


def pin_repository(files: FileServer, version: str, **body: Any) -> CudaPin:
    distributions = body.pop("distributions", ["debian12"])
    whole = {
        "provider": "nvidia-repo",
        "version": version,
        "url": f"{files.url}/repos",
        "distributions": distributions,
        **body,
    }
    found = resolve(request("cuda", whole), world(files.root))
    assert isinstance(found, CudaPin)
    return found


def versions(found: CudaPin) -> dict[str, str]:
    (repository,) = found.repositories
    return {package.name: package.version for package in repository.packages}


def test_the_newest_packages_of_a_series_and_their_dependencies_are_pinned(
    files: FileServer,
) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    found = pin_repository(files, "13.0")
    assert versions(found) == {
        "cuda-nvcc-13-0": "13.0.88-1",
        "cuda-crt-13-0": "13.0.88-1",
        "cuda-cudart-dev-13-0": "13.0.96-1",
        "cuda-cudart-13-0": "13.0.96-1",
        "cuda-toolkit-13-0-config-common": "13.0.96-1",
        "libcublas-dev-13-0": "13.1.0.3-1",
        "libcublas-13-0": "13.1.0.3-1",
        "cuda-cccl-13-0": "13.0.85-1",
        "cuda-driver-dev-13-0": "13.0.96-1",
    }
    (repository,) = found.repositories
    assert repository.url == f"{files.url}/repos/debian12/x86_64/"
    assert repository.packages[0].sha256 == hashlib.sha256(b"cuda-cccl-13-0=13.0.85-1").hexdigest()
    assert repository.key.sha256 == hashlib.sha256(KEY.encode()).hexdigest()
    assert repository.key.size == len(KEY)


def test_a_release_takes_what_its_own_metapackage_names(files: FileServer) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    assert versions(pin_repository(files, "13.0.0"))["cuda-nvcc-13-0"] == "13.0.48-1"
    assert versions(pin_repository(files, "13.0.0"))["cuda-cccl-13-0"] == "13.0.50-1"
    assert versions(pin_repository(files, "13.0.2"))["cuda-nvcc-13-0"] == "13.0.88-1"


def test_distributions_that_the_repository_lacks_are_left_out(files: FileServer) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    make_apt_repository(files.root / "repos", "ubuntu2404")
    found = pin_repository(files, "13.0", distributions=["debian12", "debian13", "ubuntu2404"])
    assert [r.distribution for r in found.repositories] == ["debian12", "ubuntu2404"]


def test_an_unpacked_index_will_do(files: FileServer) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    folder = files.root / "repos" / "debian12" / "x86_64"
    (folder / "Packages.gz").unlink()
    (folder / "Packages").write_text(CUDA_INDEX)
    assert "cuda-nvcc-13-0" in versions(pin_repository(files, "13.0"))


@pytest.mark.parametrize(
    ("version", "body", "message"),
    [
        ("13.0", {"distributions": ["debian13"]}, r"has none of debian13 \(HTTP 404\)"),
        ("13.1", {}, r"has no cuda-nvcc-13-1.*\(there are: 12\.9, 13\.0\)"),
        ("13.0.9", {}, r"release 13\.0\.9 \(there are: 13\.0\.0, 13\.0\.2\)"),
        ("13.0", {"key": "other.pub"}, "no signing key there; name it as cuda.repository.key"),
    ],
)
def test_what_the_repository_lacks_is_named_with_what_it_has(
    files: FileServer, version: str, body: dict[str, Any], message: str
) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    with pytest.raises(PinError, match=message):
        pin_repository(files, version, **body)


def test_an_index_that_is_none_is_said_so(files: FileServer) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    index = files.root / "repos" / "debian12" / "x86_64" / "Packages.gz"
    index.write_bytes(index.read_bytes()[:50])
    with pytest.raises(PinError, match="is no package index"):
        pin_repository(files, "13.0")


def test_packages_that_disagree_are_an_error(files: FileServer) -> None:
    index = CUDA_INDEX.replace("libcublas-13-0 (>= 13.1.0.3)", "cuda-cccl-13-0 (= 13.0.50-1)")
    index = index.replace("cuda-crt-13-0,", "cuda-cccl-13-0 (= 13.0.85-1),")
    make_apt_repository(files.root / "repos", "debian12", index)
    with pytest.raises(PinError, match="packages disagree"):
        pin_repository(files, "13.0")


def test_a_dependency_bound_is_kept(files: FileServer) -> None:
    more = stanza("libcublas-13-0", "13.9-1")
    index = CUDA_INDEX.replace("libcublas-13-0 (>= 13.1.0.3)", "libcublas-13-0 (<< 13.9)")
    make_apt_repository(files.root / "repos", "debian12", f"{index}\n\n{more}\n")
    assert versions(pin_repository(files, "13.0"))["libcublas-13-0"] == "13.1.0.3-1"


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("13.0.48-1", "13.0.88-1"),
        ("13.0.9-1", "13.0.10-1"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0a-1"),
        ("9.9", "1:0.1"),
        ("1.0-1", "1.0-1.1"),
    ],
)
def test_versions_are_ordered_as_debian_orders_them(older: str, newer: str) -> None:
    assert compare_versions(older, newer) < 0 < compare_versions(newer, older)
    assert compare_versions(older, older) == 0


VERSIONS = st.from_regex(r"([0-2]:)?[0-9][0-9a-c.+~]{0,5}(-[0-9a-c.+~]{1,3})?", fullmatch=True)


@functools.cache
def dpkg() -> str | None:
    return shutil.which("dpkg")


@pytest.mark.skipif(dpkg() is None, reason="dpkg isn't here")
@settings(max_examples=25)  # each asks dpkg twice
@given(VERSIONS, VERSIONS)
def test_dpkg_orders_versions_the_same(one: str, other: str) -> None:
    for operator, holds in (
        ("lt", compare_versions(one, other) < 0),
        ("eq", compare_versions(one, other) == 0),
    ):
        command = [str(dpkg()), "--compare-versions", one, operator, other]
        done = subprocess.run(command, check=False, capture_output=True)
        assert (done.returncode == 0) == holds, (one, operator, other)


# Wheels -----------------------------------------------------------------------------------------


@pytest.fixture
def wheelhouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of dummy wheels with the real names, and pip told to know no other place."""
    folder = tmp_path / "wheels"
    extras = "".join(
        f'Provides-Extra: {extra}\nRequires-Dist: nvidia-{extra}==13.*; extra == "{extra}"\n'
        for extra in ("nvcc", "cudart", "cublas", "cccl", "crt", "nvvm")
    )
    for version in ("13.0.1", "13.0.2", "13.1.0"):
        make_wheel(folder, "cuda-toolkit", version, extras)
    for extra in ("nvcc", "cudart", "cublas", "cccl", "crt", "nvvm"):
        make_wheel(folder, f"nvidia-{extra}", "13.0.88")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.delenv("PIP_CONSTRAINT", raising=False)
    return folder


def pin_wheels(version: str, folder: Path) -> CudaPin:
    body = {"provider": "wheels", "version": version}
    found = resolve(request("cuda", body), world(folder))
    assert isinstance(found, CudaPin)
    return found


def test_a_series_is_its_newest_release_and_every_wheel_is_pinned(wheelhouse: Path) -> None:
    found = pin_wheels("13.0", wheelhouse)
    assert found.version == "13.0.2"
    assert [wheel.name.split("-")[0] for wheel in found.wheels] == [
        "cuda_toolkit",
        "nvidia_cccl",
        "nvidia_crt",
        "nvidia_cublas",
        "nvidia_cudart",
        "nvidia_nvcc",
        "nvidia_nvvm",
    ]
    for wheel in found.wheels:
        content = Path(str(wheel.path)).read_bytes()
        assert (wheel.size, wheel.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_release_is_taken_as_written(wheelhouse: Path) -> None:
    assert pin_wheels("13.0.1", wheelhouse).version == "13.0.1"


def test_a_toolkit_that_is_not_published_is_named_with_those_that_are(wheelhouse: Path) -> None:
    with pytest.raises(PinError, match=r"there are cuda-toolkit 13\.0\.1, 13\.0\.2, 13\.1\.0"):
        pin_wheels("12.4", wheelhouse)


# Not in the fast part of the tests, for it takes what the index takes.
@pytest.mark.lab
def test_the_wheels_that_nvidia_publishes_resolve(tmp_path: Path) -> None:
    """Asks the index that pip is configured for; downloads none of the 866 MB."""
    found = pin_wheels("13.0.2", tmp_path)
    assert found.version == "13.0.2"
    sizes = {wheel.name.rsplit("-")[0]: wheel.size for wheel in found.wheels}
    assert {"nvidia_cublas", "nvidia_cuda_nvcc", "nvidia_cuda_runtime", "nvidia_nvvm"} <= set(sizes)
    assert sizes["nvidia_cublas"] > 100_000_000
