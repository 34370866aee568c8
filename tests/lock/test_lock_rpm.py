"""RPM repositories: their index, the order of versions, and what is pinned of them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

import pytest
from lock_support import KEY, FileServer, make_apt_repository, request, world

from inventories.lock import DEFAULT_DISTRIBUTIONS, CudaPin, DriverPin, Lock, find_answer
from inventories.pinning import PinError, resolve
from inventories.pinning.cuda_repository import KEYS
from inventories.pinning.rpm_metadata import compare_rpm, evr

PRIMARY = """<?xml version="1.0" encoding="UTF-8"?>
<metadata xmlns="http://linux.duke.edu/metadata/common"
  xmlns:rpm="http://linux.duke.edu/metadata/rpm" packages="{count}">{packages}</metadata>"""
PACKAGE = """<package type="rpm"><name>{name}</name><arch>{arch}</arch>
<version epoch="{epoch}" ver="{ver}" rel="{rel}"/>
<checksum type="sha256" pkgid="YES">{sha256}</checksum><location href="{name}.rpm"/>
<format><rpm:provides><rpm:entry name="{name}"/>{provides}</rpm:provides>
<rpm:requires>{requires}</rpm:requires></format></package>"""
REPOMD = """<?xml version="1.0" encoding="UTF-8"?>
<repomd xmlns="http://linux.duke.edu/metadata/repo"><data type="primary">
<checksum type="sha256">{sha256}</checksum><location href="repodata/primary.xml{ending}"/>
</data></repomd>"""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def package(
    name: str, version: str, *needs: str, epoch: str = "0", arch: str = "x86_64", gives: str = ""
) -> str:
    ver, _, rel = version.partition("-")
    requires = ""
    for need in needs:
        bare, _, bound = need.partition(" = ")
        more = ""
        if bound:
            at, _, release = bound.partition("-")
            more = f' flags="EQ" epoch="{epoch}" ver="{at}" rel="{release}"'
        requires += f'<rpm:entry name="{bare}"{more}/>'
    provides = f'<rpm:entry name="{gives}"/>' if gives else ""
    return PACKAGE.format(
        name=name,
        arch=arch,
        epoch=epoch,
        ver=ver,
        rel=rel,
        sha256=sha256(f"{name}={version}"),
        requires=requires,
        provides=provides,
    )


TOOLKIT = [
    package("cuda-nvcc-13-0", "13.0.48-1", "cuda-crt-13-0", "gcc-c++", "/bin/sh"),
    package("cuda-nvcc-13-0", "13.0.88-1", "cuda-crt-13-0", "(gcc or clang)"),
    package("cuda-nvcc-13-0", "13.0.99-1", arch="aarch64"),
    package("cuda-crt-13-0", "13.0.88-1"),
    package("cuda-cudart-devel-13-0", "13.0.96-1", "libcudart.so.13()(64bit)"),
    package("cuda-cudart-13-0", "13.0.96-1", gives="libcudart.so.13()(64bit)"),
    package("libcublas-devel-13-0", "13.1.0.3-1"),
    package("cccl-13-0", "13.0.85-2", arch="noarch"),
    package("cuda-driver-devel-13-0", "13.0.96-1"),
    package("cuda-toolkit-13-0", "13.0.2-1", "cuda-nvcc-13-0", "nsight-compute-13-0"),
    package("nsight-compute-13-0", "2025.3.1-1"),
]
DRIVER = (
    [
        package("nvidia-open", f"{v}-1.el9", f"nvidia-driver = {v}-1.el9", "dkms", epoch="3")
        for v in ("580.65.06", "580.95.05", "610.10.01")
    ]
    + [
        package("nvidia-driver", f"{v}-1.el9", "kmod-nvidia-open-dkms", epoch="3")
        for v in ("580.65.06", "580.95.05", "610.10.01")
    ]
    + [
        package("kmod-nvidia-open-dkms", f"{v}-1.el9", epoch="3")
        for v in ("580.65.06", "580.95.05", "610.10.01")
    ]
)


def make_repository(
    root: Path, distribution: str, packages: list[str], *, ending: str = ".gz", key: str = ""
) -> Path:
    folder = root / distribution / "x86_64"
    (folder / "repodata").mkdir(parents=True)
    text = PRIMARY.format(count=len(packages), packages="".join(packages)).encode()
    raw = gzip.compress(text) if ending == ".gz" else text
    (folder / "repodata" / f"primary.xml{ending}").write_bytes(raw)
    repomd = REPOMD.format(sha256=hashlib.sha256(raw).hexdigest(), ending=ending)
    (folder / "repodata" / "repomd.xml").write_text(repomd)
    (folder / (key or KEYS[distribution])).write_text(KEY)
    return folder


def pin(files: FileServer, kind: str = "cuda", **body: Any) -> Any:
    whole = {"url": f"{files.url}/repos", "distributions": ["rhel9"], **body}
    if kind == "cuda":
        whole = {"provider": "nvidia-repo", "version": "13.0", **whole}
    return resolve(request(kind, whole), world(files.root))  # type: ignore[arg-type]


def versions(found: CudaPin | DriverPin) -> dict[str, str]:
    (repository,) = found.repositories
    return {each.name: each.version for each in repository.packages}


def test_what_a_build_needs_is_pinned_by_the_rpms_own_names(files: FileServer) -> None:
    make_repository(files.root / "repos", "rhel9", TOOLKIT)
    found = pin(files)
    assert versions(found) == {
        "cuda-nvcc-13-0": "13.0.88-1",
        "cuda-crt-13-0": "13.0.88-1",
        "cuda-cudart-devel-13-0": "13.0.96-1",
        "cuda-cudart-13-0": "13.0.96-1",
        "libcublas-devel-13-0": "13.1.0.3-1",
        "cccl-13-0": "13.0.85-2",
        "cuda-driver-devel-13-0": "13.0.96-1",
    }
    assert found.version == "13.0.88-1"
    (repository,) = found.repositories
    assert repository.packages[1].sha256 == sha256("cuda-crt-13-0=13.0.88-1")
    assert repository.key.name == "D42D0685.pub"


def test_the_full_profile_is_the_vendors_whole_toolkit(files: FileServer) -> None:
    make_repository(files.root / "repos", "rhel9", TOOLKIT)
    assert set(versions(pin(files, profile="full"))) == {
        *("cuda-toolkit-13-0", "cuda-nvcc-13-0", "cuda-crt-13-0", "nsight-compute-13-0")
    }


def test_a_driver_is_the_newest_of_its_branch_and_all_of_it_of_that_branch(
    files: FileServer,
) -> None:
    make_repository(files.root / "repos", "rhel9", DRIVER)
    found = pin(files, "driver", branch=580, modules="open")
    assert versions(found) == dict.fromkeys(
        ("nvidia-open", "nvidia-driver", "kmod-nvidia-open-dkms"), "3:580.95.05-1.el9"
    )
    assert found.version == "580.95.05"


def test_a_branch_that_isnt_there_is_named_with_those_that_are(files: FileServer) -> None:
    make_repository(files.root / "repos", "rhel9", DRIVER)
    message = r"has no nvidia-open of branch 570 \(there are: 580, 610\); change driver\.branch"
    with pytest.raises(PinError, match=message):
        pin(files, "driver", branch=570, modules="open")


def test_an_index_that_isnt_what_repomd_says_is_refused(files: FileServer) -> None:
    folder = make_repository(files.root / "repos", "rhel9", TOOLKIT)
    (folder / "repodata/primary.xml.gz").write_bytes(gzip.compress(b"<metadata/>"))
    with pytest.raises(PinError, match=r"is not what repomd\.xml says"):
        pin(files)


def test_zstd_is_named_with_what_to_do(files: FileServer) -> None:
    make_repository(files.root / "repos", "rhel9", TOOLKIT, ending=".zst")
    with pytest.raises(PinError, match="createrepo_c --general-compress-type=gz"):
        pin(files)


def test_a_document_with_entities_is_refused(files: FileServer) -> None:
    folder = make_repository(files.root / "repos", "rhel9", TOOLKIT)
    (folder / "repodata/repomd.xml").write_text(
        '<!DOCTYPE x [<!ENTITY a "b">]><repomd>&a;</repomd>'
    )
    with pytest.raises(PinError, match="is no repository metadata"):
        pin(files)


@pytest.mark.parametrize("name", ["debian13", "ubuntu2604"])
def test_each_distributions_own_key_is_found(files: FileServer, name: str) -> None:
    make_apt_repository(files.root / "repos", name)
    folder = files.root / "repos" / name / "x86_64"
    (folder / "3bf863cc.pub").rename(folder / "8793F200.pub")
    (repository,) = pin(files, distributions=[name]).repositories
    assert repository.key.name == "8793F200.pub"


def test_of_the_default_distributions_those_without_the_series_are_left_out(
    files: FileServer,
) -> None:
    make_apt_repository(files.root / "repos", "debian12")
    make_repository(files.root / "repos", "rhel9", DRIVER)
    found = pin(files, distributions=list(DEFAULT_DISTRIBUTIONS))
    assert [each.distribution for each in found.repositories] == ["debian12"]
    with pytest.raises(PinError, match="rhel9/x86_64/: has no cuda-nvcc-13-0"):
        pin(files, distributions=["debian12", "rhel9"])


def test_a_lock_of_before_there_were_more_distributions_still_answers() -> None:
    body = {"provider": "nvidia-repo", "version": "13.0", "url": "u"}
    former = {"distributions": ["debian12", "debian13", "ubuntu2204", "ubuntu2404"]}
    now = {**body, "distributions": list(DEFAULT_DISTRIBUTIONS)}
    for old in ({**body, **former}, {**body, **former, "key": "3bf863cc.pub"}):
        kept = CudaPin(old, "13.0.88-1")
        assert find_answer(Lock(cuda={"x": kept}).cuda, now) is kept
    other = CudaPin({**body, "distributions": ["debian12"]}, "13.0.88-1")
    assert find_answer({"x": other}, now) is None
    named = CudaPin({**body, **former, "key": "other.pub"}, "13.0.88-1")
    assert find_answer({"x": named}, now) is None


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("13.0.48-1", "13.0.88-1"),
        ("13.0.9-1", "13.0.10-1"),
        ("1.0~rc1-1", "1.0-1"),
        ("1.0-1", "1.0^git1-1"),
        ("1.0^git1-1", "1.0.1-1"),
        ("1.0a-1", "1.0.1-1"),
        ("9.9-1", "1:0.1-1"),
        ("3:580.65.06-1.el9", "3:580.95.05-1.el9"),
        ("1.0-1.el9", "1.0-1.el10"),
    ],
)
def test_versions_are_ordered_as_rpm_orders_them(older: str, newer: str) -> None:
    assert compare_rpm(older, newer) < 0 < compare_rpm(newer, older)
    assert compare_rpm(older, older) == 0


def test_a_bound_without_a_release_takes_any() -> None:
    assert compare_rpm("13.0.88-3", "13.0.88") == 0
    assert evr({"epoch": "0", "ver": "1.0", "rel": "1"}) == "1.0-1"
    assert evr({"epoch": "3", "ver": "1.0"}) == "3:1.0"
