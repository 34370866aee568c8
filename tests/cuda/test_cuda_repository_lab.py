"""The ``nvidia-repo`` provider against a real apt, with dummy packages of the real names."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cuda_dummies import Dummy, Repository, toolkit
from cuda_support import Converge

from inventories.pinning.cuda_repository import pin_toolkit
from inventories.pinning.web import World
from inventories.settings import CudaSettings

pytestmark = pytest.mark.lab

OWN = (
    "/etc/apt/keyrings/llamaherd-cuda.asc",
    "/etc/apt/sources.list.d/llamaherd-cuda.list",
    "/etc/apt/preferences.d/llamaherd-cuda",
)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The vendor's repository: this toolkit, and a driver that nobody asked for."""
    made = Repository(tmp_path_factory.mktemp("repository"))
    made.add([*toolkit("13.0.88"), Dummy("cuda-drivers", "580.65.06-1")])
    return made


@pytest.fixture(scope="module")
def base(repository: Repository, host: Any) -> Iterator[str]:
    """Where the host reaches the repository."""
    with repository.serve(host.gateway) as address:
        yield address


@pytest.fixture
def settings(base: str, tmp_path: Path) -> CudaSettings:
    """What the lock file says of this repository, by the lock's own code."""
    return lock(base, "13.0", tmp_path)


def lock(base: str, version: str, folder: Path) -> CudaSettings:
    """Pin the toolkit as ``llamaherd lock`` does."""
    request = {
        "provider": "nvidia-repo",
        "version": version,
        "url": base,
        "distributions": ["debian12"],
    }
    pin = pin_toolkit(request, World(folder))
    return CudaSettings("nvidia-repo", version, repositories=pin.repositories)


def installed(host: Any) -> dict[str, str]:
    """Installed packages of the vendor's, by dpkg's own word."""
    form = "${db:Status-Status} ${Package} ${Version}\\n"
    lines = host.run(f"dpkg-query -W -f '{form}' 'cuda*' 'lib*-13-0' || :").stdout.splitlines()
    rows = [line.split() for line in lines]
    return {row[1]: row[2] for row in rows if row[0] == "installed"}


def tampered(settings: CudaSettings, name: str) -> CudaSettings:
    """The same settings with another SHA-256 for one package."""
    chosen = settings.repositories[0]
    packages = tuple(
        dataclasses.replace(package, sha256="0" * 64) if package.name == name else package
        for package in chosen.packages
    )
    changed = dataclasses.replace(chosen, packages=packages)
    return dataclasses.replace(settings, repositories=(changed,))


def test_a_package_with_another_hash_is_refused_before_anything_is_installed(
    host: Any, converge: Converge, settings: CudaSettings
) -> None:
    outcome = converge(tampered(settings, "cuda-nvcc-13-0"))
    assert outcome.status != 0
    assert "cuda-nvcc-13-0 13.0.88-1: the repository offers SHA-256" in outcome.output
    assert installed(host) == {}


def test_another_distribution_is_refused_with_the_settings_that_mend_it(
    converge: Converge, settings: CudaSettings
) -> None:
    other = dataclasses.replace(settings.repositories[0], distribution="ubuntu2404")
    outcome = converge(dataclasses.replace(settings, repositories=(other,)))
    assert outcome.status != 0
    assert "this host is debian12" in outcome.output
    assert "ubuntu2404" in outcome.output
    assert "cuda.provider to wheels or existing" in outcome.output


def test_the_locked_packages_are_installed_and_nothing_else_of_the_vendors(
    host: Any, converge: Converge, settings: CudaSettings
) -> None:
    outcome = converge(settings, user="ops")
    assert outcome.status == 0, outcome.output
    assert outcome.changed
    locked = {package.name: package.version for package in settings.repositories[0].packages}
    assert installed(host) == locked
    assert "13.0.88" in host.run(f"{settings.root}/bin/nvcc --version").stdout


def test_a_second_run_changes_nothing(converge: Converge, settings: CudaSettings) -> None:
    outcome = converge(settings, user="ops")
    assert outcome.status == 0, outcome.output
    assert outcome.changed == ()


def test_an_upgrade_moves_neither_our_packages_nor_the_driver(
    host: Any, converge: Converge, repository: Repository, settings: CudaSettings
) -> None:
    repository.add([*toolkit("13.0.99"), Dummy("cuda-drivers", "590.10-1")])
    before = installed(host)
    host.run("apt-get -q update && apt-get -y -q dist-upgrade")
    assert installed(host) == before
    assert converge(settings).changed == ()


def test_a_moved_lock_moves_the_packages(
    host: Any, converge: Converge, base: str, tmp_path: Path
) -> None:
    moved = lock(base, "13.0", tmp_path)
    assert installed(host)["cuda-nvcc-13-0"] == "13.0.88-1"
    outcome = converge(moved)
    assert outcome.status == 0, outcome.output
    assert installed(host)["cuda-nvcc-13-0"] == "13.0.99-1"
    assert converge(moved).changed == ()


def test_a_file_of_ours_that_was_changed_is_put_right(
    host: Any, converge: Converge, base: str, tmp_path: Path
) -> None:
    settings = lock(base, "13.0", tmp_path)
    host.run(f"echo '# edited' >> {OWN[2]}")
    assert converge(settings).changed
    assert "# edited" not in host.run(f"cat {OWN[2]}").stdout
    assert converge(settings).changed == ()


def test_a_missing_compiler_is_brought_back(
    host: Any, converge: Converge, base: str, tmp_path: Path
) -> None:
    settings = lock(base, "13.0", tmp_path)
    host.run(f"rm {settings.root}/bin/nvcc")
    assert converge(settings).changed
    host.run(f"test -x {settings.root}/bin/nvcc")


def test_the_administrators_own_entry_for_the_repository_is_used(
    host: Any, converge: Converge, base: str, tmp_path: Path
) -> None:
    settings = lock(base, "13.0", tmp_path)
    url = settings.repositories[0].url
    entry = f"deb [signed-by=/usr/share/keyrings/cuda.asc] {url} /"
    host.run(
        f"cp {OWN[0]} /usr/share/keyrings/cuda.asc;"
        f"echo '{entry}' > /etc/apt/sources.list.d/cuda-debian12-x86_64.list"
    )
    assert "Conflicting values" in host.run("apt-get -q update 2>&1", check=False).stdout
    outcome = converge(settings)
    assert outcome.status == 0, outcome.output
    host.run("apt-get -q update")
    host.run(f"test ! -e {OWN[0]} && test ! -e {OWN[1]}")
    assert converge(settings).changed == ()


HOLD = """
use Fcntl; use strict;
foreach my $path (@ARGV) {
  open(my $file, ">>", $path) or die $!; push @main::kept, $file;
  my $whole = pack("s s x4 q q i", F_WRLCK, 0, 0, 0, 0);
  fcntl($file, F_SETLK, $whole) or die $!;
}
open(my $held, ">", "/run/held");
sleep 20;
"""


def test_another_apt_is_waited_for(
    host: Any, converge: Converge, base: str, tmp_path: Path
) -> None:
    settings = lock(base, "13.0", tmp_path)
    host.run("apt-get -y -q purge cuda-cccl-13-0")
    locks = "/var/lib/dpkg/lock-frontend /var/lib/apt/lists/lock"
    host.run(f"cat > /root/hold.pl <<'END'\n{HOLD}END")
    host.run(f"systemd-run --quiet --unit=other-apt perl /root/hold.pl {locks}")
    host.run("until [ -e /run/held ]; do sleep 0.1; done", timeout=30)
    assert "Could not get lock" in host.run("apt-get update 2>&1", check=False).stdout
    outcome = converge(settings)
    assert outcome.status == 0, outcome.output
    assert host.run("systemctl is-active other-apt", check=False).stdout == "inactive\n"
    assert "cuda-cccl-13-0" in installed(host)


def test_packages_that_would_bring_a_driver_are_refused(
    host: Any, converge: Converge, base: str, repository: Repository, tmp_path: Path
) -> None:
    driver = Dummy("nvidia-driver-cuda", "590.10-1")
    repository.add([*toolkit("13.1.50", depends=driver.name), driver])
    outcome = converge(lock(base, "13.1", tmp_path))
    assert outcome.status != 0
    assert "would bring a driver along (Inst nvidia-driver-cuda)" in outcome.output
    assert not [name for name in installed(host) if name.endswith("13-1")]


def test_no_installed_package_is_removed(
    host: Any, converge: Converge, base: str, repository: Repository, tmp_path: Path
) -> None:
    own = Dummy("cuda-of-the-distribution", "11.8-1")
    repository.add([*toolkit("13.2.10", conflicts=own.name), own])
    host.run(f"apt-get -q update && apt-get -y -q install {own.name}")
    outcome = converge(lock(base, "13.2", tmp_path))
    assert outcome.status != 0
    assert "Packages need to be removed but remove is disabled" in outcome.output
    assert own.name in installed(host)


def test_a_version_that_the_repository_dropped_is_named(
    host: Any, converge: Converge, base: str, repository: Repository, tmp_path: Path
) -> None:
    settings = lock(base, "13.0", tmp_path)
    host.run("apt-get -y -q purge cuda-nvcc-13-0")
    for deb in repository.flat.glob("cuda-nvcc-13-0_13.0.99*"):
        deb.unlink()
    repository.index()
    outcome = converge(settings)
    assert outcome.status != 0
    assert "doesn't offer cuda-nvcc-13-0 13.0.99-1" in outcome.output
    assert "llamaherd lock --update cuda" in outcome.output
