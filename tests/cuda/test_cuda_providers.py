"""What the providers decide, without a host: manifests, pins, refusals, progress."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess

import pytest
from cuda_settings import KEY, NVIDIA_REPO, REPOSITORY, WHEELS, as_installed
from hypothesis import given
from hypothesis import strategies as st

from deploys.common.operations import HostError
from deploys.common.progress import Amount
from deploys.cuda import repository, wheels
from facts.cuda import CudaState, Toolkit
from inventories.settings import Artifact

GIB = 2**30


def test_a_manifest_names_every_wheel_with_its_hash() -> None:
    assert wheels.manifest(WHEELS)["wheels"] == {w.name: w.sha256 for w in WHEELS.wheels}
    assert wheels.is_current(WHEELS, wheels.manifest(WHEELS))


def test_another_hash_makes_another_manifest_and_another_job() -> None:
    first = dataclasses.replace(WHEELS.wheels[0], sha256="f" * 64)
    other = dataclasses.replace(WHEELS, wheels=(first, *WHEELS.wheels[1:]))
    assert not wheels.is_current(WHEELS, wheels.manifest(other))
    assert wheels.job(WHEELS).name != wheels.job(other).name


def test_where_a_wheel_comes_from_changes_nothing_on_a_host() -> None:
    mirrored = dataclasses.replace(WHEELS.wheels[0], url="https://mirror.invalid/nvcc.whl")
    other = dataclasses.replace(WHEELS, wheels=(mirrored, *WHEELS.wheels[1:]))
    assert wheels.is_current(WHEELS, wheels.manifest(other))
    assert wheels.job(WHEELS).name == wheels.job(other).name


def test_wheels_for_another_machine_are_refused() -> None:
    with pytest.raises(HostError, match=r"nvcc.*not for aarch64.*nvidia-repo"):
        wheels.check_wheels(WHEELS, "aarch64", 100 * GIB)


def test_a_full_disk_is_refused_before_anything_is_fetched() -> None:
    with pytest.raises(HostError, match=r"has 0\.5 GiB free and the toolkit needs 1\.5 GiB"):
        wheels.check_wheels(WHEELS, "x86_64", GIB // 2)


def test_settings_without_wheels_point_to_the_lock() -> None:
    with pytest.raises(HostError, match="llamaherd lock"):
        wheels.check_wheels(dataclasses.replace(WHEELS, wheels=()), "x86_64", 100 * GIB)


@pytest.mark.parametrize("text", [wheels.script(WHEELS), wheels.script(as_installed(WHEELS))])
def test_the_wheels_script_is_one_that_a_posix_shell_takes(text: str) -> None:
    subprocess.run(["/bin/sh", "-n"], input=text, text=True, check=True)
    assert not re.search(r"@[A-Z]+@", text)


def test_progress_says_what_is_done_with_the_wheels() -> None:
    size = WHEELS.wheels[0].size
    total = sum(wheel.size for wheel in WHEELS.wheels)
    lines = [str(size), "log", "unpacking the wheels"]
    assert wheels.progress(WHEELS.wheels, lines) == Amount(size, total, "bytes", "unpacking")
    assert wheels.progress(WHEELS.wheels, ["log"]) == Amount(0, total, "bytes", "")
    assert wheels.progress(WHEELS.wheels, []) is None


@given(st.lists(st.text(max_size=20), max_size=5))
def test_progress_bears_whatever_a_log_holds(lines: list[str]) -> None:
    for amount in (wheels.progress(WHEELS.wheels, lines), repository.progress(lines)):
        assert amount is None or amount.done >= 0 or amount.total >= 0


def test_the_repository_of_the_hosts_distribution_is_chosen() -> None:
    assert repository.choose(NVIDIA_REPO, "debian12", "x86_64") == REPOSITORY


@pytest.mark.parametrize(
    ("platform", "architecture"), [("ubuntu2404", "x86_64"), ("debian12", "aarch64"), ("rhel9", "")]
)
def test_a_host_without_a_locked_repository_is_told_what_there_is(
    platform: str, architecture: str
) -> None:
    with pytest.raises(HostError, match=rf"{platform}.*for debian12.*cuda\.provider"):
        repository.choose(NVIDIA_REPO, platform, architecture)


def test_every_package_is_pinned_and_the_rest_of_the_repository_is_held_back() -> None:
    text = repository.pins(REPOSITORY, everything=True)
    for package in REPOSITORY.packages:
        assert f"Package: {package.name}\nPin: version {package.version}\n" in text
    assert text.endswith('Package: *\nPin: origin "cuda.invalid"\nPin-Priority: 1\n')


def test_an_administrators_entry_keeps_its_own_priorities() -> None:
    assert "Package: *" not in repository.pins(REPOSITORY, everything=False)


def in_order(**changes: object) -> CudaState:
    """The state of a host on which everything is as locked, but for the changes."""
    files = {
        file.path: hashlib.sha256(file.content.encode()).hexdigest()
        for file in repository.files(REPOSITORY, CudaState())
    }
    root = str(NVIDIA_REPO.root)
    state = CudaState(
        toolkits={root: Toolkit(root, "13.0.88")},
        packages={package.name: package.version for package in REPOSITORY.packages},
        files={**files, repository.KEY: KEY.sha256},
        sources=(repository.LIST,),
    )
    return dataclasses.replace(state, **changes)  # type: ignore[arg-type]


def differences(state: CudaState) -> tuple[str, ...]:
    return repository.differences(REPOSITORY, state, str(NVIDIA_REPO.root))


def test_a_host_in_order_has_no_difference() -> None:
    assert differences(in_order()) == ()


def test_a_package_that_moved_is_told_with_both_versions() -> None:
    packages = {**in_order().packages, "cuda-nvcc-13-0": "13.0.99-1"}
    assert differences(in_order(packages=packages)) == ("cuda-nvcc-13-0 13.0.99-1 -> 13.0.88-1",)


@pytest.mark.parametrize("path", repository.OWN_FILES)
def test_a_file_that_is_missing_or_changed_is_a_difference(path: str) -> None:
    files = dict(in_order().files)
    assert differences(in_order(files={**files, path: "0" * 64})) == (path,)
    del files[path]
    assert differences(in_order(files=files)) == (path,)


def test_a_missing_compiler_is_a_difference() -> None:
    assert differences(in_order(toolkits={})) == (f"{NVIDIA_REPO.root}/bin/nvcc",)


def test_beside_an_administrators_entry_ours_has_to_go() -> None:
    state = in_order(sources=(repository.LIST, "/etc/apt/sources.list.d/cuda.list"))
    assert set(differences(state)) == set(repository.OWN_FILES)


@pytest.mark.parametrize("sources", [(), ("/etc/apt/sources.list.d/cuda.list",)])
@pytest.mark.parametrize("path", [None, "/srv/cuda.asc"])
def test_the_repository_script_is_one_that_a_posix_shell_takes(
    sources: tuple[str, ...], path: str | None
) -> None:
    key = KEY if path is None else Artifact(KEY.name, KEY.size, KEY.sha256, path=path)
    chosen = dataclasses.replace(REPOSITORY, key=key)
    text = repository.script((str(NVIDIA_REPO.root),), chosen, CudaState(sources=sources))
    subprocess.run(["/bin/sh", "-n"], input=text, text=True, check=True)
    assert not re.search(r"@[A-Z]+@", text)


@pytest.mark.parametrize(
    ("line", "amount"),
    [
        ("dlstatus:1:42.4:Retrieving file 1 of 7", Amount(42, 100, note="downloading")),
        ("pmstatus:cuda-nvcc-13-0:80.0:Unpacking", Amount(80, 100, note="installing")),
        ("media-change: medium:1:2", None),
        ("dlstatus:1:", None),
    ],
)
def test_apts_own_percentage_is_shown(line: str, amount: Amount | None) -> None:
    assert repository.progress([line]) == amount


def test_a_value_that_would_be_an_option_is_refused() -> None:
    package = dataclasses.replace(REPOSITORY.packages[0], name="-oAPT::Update::Pre-Invoke=x")
    chosen = dataclasses.replace(REPOSITORY, packages=(package,))
    with pytest.raises(ValueError, match="option"):
        repository.script((str(NVIDIA_REPO.root),), chosen, CudaState())
