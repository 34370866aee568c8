"""The ``nvidia-repo`` provider against a real dnf and a real rpm, with dummy packages.

No archive of a distribution of the RHEL family is within reach of a lab, and Debian packages dnf,
rpm and createrepo_c: the host is Debian with those, and an os-release that says Rocky Linux 9.
"""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pytest
from cuda_dummies import Dummy, toolkit
from cuda_support import Converge

from inventories.pinning.cuda_repository import pin_toolkit
from inventories.pinning.rpm_metadata import fetch_primary
from inventories.pinning.web import World
from inventories.settings import AptPackage, CudaSettings

pytestmark = pytest.mark.lab

ROOT = "/srv/repository"
FLAT = f"{ROOT}/rhel9/x86_64"
RELEASE = 'ID="rocky"\nVERSION_ID="9.6"\nID_LIKE="rhel centos fedora"\n'
SPEC = """%global debug_package %{{nil}}
Name: {name}
Version: {version}
Release: {release}
Summary: dummy
License: none
AutoReqProv: no
{requires}
%description
dummy
%install
mkdir -p %{{buildroot}}
{install}
%files
{files}
"""


def rpm_name(name: str) -> str:
    return name.replace("-dev-", "-devel-")


def spec(package: Dummy) -> str:
    """A dummy's spec file, with RPM's names of packages."""
    version, _, release = package.version.partition("-")
    needs = [need.partition("(")[0].strip() for need in package.depends.split(",")]
    install = [
        f"mkdir -p %{{buildroot}}{Path(path).parent}\n"
        f"cat > %{{buildroot}}{path} <<'END'\n{content}END\nchmod 755 %{{buildroot}}{path}"
        for path, content in package.files.items()
    ]
    return SPEC.format(
        name=rpm_name(package.name),
        version=version,
        release=release,
        requires="\n".join(f"Requires: {rpm_name(need)}" for need in needs if need),
        install="\n".join(install),
        files="\n".join(package.files),
    )


class RpmRepository:
    """A signed repository on the host itself, as NVIDIA's is."""

    def __init__(self, host: Any) -> None:
        self.host = host
        host.run("apt-get -q update && apt-get -y -q install dnf rpm createrepo-c gpg", timeout=500)
        host.run(f"printf %s {shlex.quote(RELEASE)} > /etc/os-release")
        host.run(
            f"mkdir -p {FLAT}; gpg --batch --passphrase '' --quick-generate-key 'Lab repository' "
            f"rsa2048 sign never && gpg --armor --export > {FLAT}/D42D0685.pub"
        )
        # Debian's rpm looks for gpg under another name than Debian's gpg has.
        macros = "%_gpg_name Lab repository\\n%__gpg /usr/bin/gpg\\n"
        host.run(f"printf '%b' {shlex.quote(macros)} > ~/.rpmmacros")
        host.run(
            f"systemd-run --quiet --unit=rpms -p WorkingDirectory={ROOT} "
            "python3 -m http.server 8000"
        )
        host.run(
            "until curl -sf http://127.0.0.1:8000/ > /dev/null; do sleep 0.2; done", timeout=30
        )

    @property
    def url(self) -> str:
        """Where this machine and the host itself reach it."""
        return f"http://{self.host.address}:8000"

    def add(self, packages: list[Dummy]) -> None:
        """Build, sign and index anew."""
        specs = [f"cat > {p.name}.spec <<'END OF SPEC'\n{spec(p)}END OF SPEC" for p in packages]
        names = " ".join(f"{p.name}.spec" for p in packages)
        build = (
            f"for one in {names}; do rpmbuild --quiet --target x86_64-linux --nodeps -bb $one "
            f"--define '_rpmdir {ROOT}/built'; done"
        )
        move = (
            f"find {ROOT}/built -name '*.rpm' > built; test -s built\n"
            "for rpm in $(cat built); do rpm -qp --nosignature --qf '%{ARCH}\\n' $rpm | "
            f"grep -x x86_64; rpmsign --addsign $rpm; mv $rpm {FLAT}/; done\n"
            f"createrepo_c --quiet {FLAT}"
        )
        text = "\n".join(["set -e", "mkdir -p /root/specs; cd /root/specs", *specs, build, move])
        self.host.run(text, timeout=200)


@pytest.fixture(scope="module")
def repository(host: Any) -> RpmRepository:
    """This toolkit, and a driver that nobody asked for."""
    made = RpmRepository(host)
    made.add([*toolkit("13.0.88"), Dummy("nvidia-open", "580.65.06-1")])
    return made


def lock(repository: RpmRepository, version: str, folder: Path) -> CudaSettings:
    """Pin the toolkit as ``llamaherd lock`` does."""
    request = {
        "provider": "nvidia-repo",
        "version": version,
        "url": repository.url,
        "distributions": ["rhel9"],
    }
    pin = pin_toolkit(request, World(folder))
    return CudaSettings("nvidia-repo", version, repositories=pin.repositories)


def older_of(settings: CudaSettings, repository: RpmRepository) -> CudaSettings:
    """What a lock file of before the newer packages says."""
    found = {
        entry.name: entry
        for entry in fetch_primary(f"{repository.url}/rhel9/x86_64/", "x86_64") or []
        if not entry.version.startswith("13.0.99")
    }
    chosen = settings.repositories[0]
    packages = tuple(
        AptPackage(p.name, found[p.name].version, found[p.name].sha256) for p in chosen.packages
    )
    older = dataclasses.replace(chosen, packages=packages)
    return dataclasses.replace(settings, repositories=(older,))


def installed(host: Any) -> dict[str, str]:
    """Installed packages of the vendor's, by rpm's own word."""
    lines = host.run("rpm -qa --qf '%{NAME} %{VERSION}-%{RELEASE}\\n'").stdout.splitlines()
    rows = [line.split() for line in lines]
    return {name: version for name, version in rows if name != "gpg-pubkey"}


def test_a_package_with_another_hash_is_refused_before_anything_is_installed(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    settings = lock(repository, "13.0", tmp_path)
    first = settings.repositories[0]
    packages = (dataclasses.replace(first.packages[0], sha256="0" * 64), *first.packages[1:])
    changed = dataclasses.replace(first, packages=packages)
    outcome = converge(dataclasses.replace(settings, repositories=(changed,)))
    assert outcome.status != 0
    assert "the repository offers SHA-256" in outcome.output, outcome.output
    assert installed(host) == {}


def test_the_locked_packages_are_installed_and_nothing_else(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    settings = lock(repository, "13.0", tmp_path)
    outcome = converge(settings, user="ops")
    assert outcome.status == 0, outcome.output
    locked = {package.name: package.version for package in settings.repositories[0].packages}
    assert installed(host) == locked
    assert "cuda-cudart-devel-13-0" in locked
    assert "13.0.88" in host.run(f"{settings.root}/bin/nvcc --version").stdout
    assert converge(settings).changed == ()


def test_no_upgrade_moves_them_even_where_the_administrator_lists_the_repository(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    settings = lock(repository, "13.0", tmp_path)
    before = installed(host)
    repository.add(list(toolkit("13.0.99")))
    host.run(
        f"printf '[cuda-rhel9]\\nname=x\\nbaseurl={repository.url}/rhel9/x86_64\\ngpgcheck=0\\n' "
        "> /etc/yum.repos.d/cuda-rhel9.repo"
    )
    assert (
        "cuda-nvcc-13-0"
        in host.run("dnf -q --refresh --disablerepo=llamaherd-cuda list --upgrades").stdout
    )
    host.run("dnf -y --refresh upgrade")
    assert installed(host) == before
    assert converge(settings).changed == ()


def test_a_moved_lock_moves_the_packages_and_an_older_one_moves_them_back(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    newest = lock(repository, "13.0", tmp_path)
    older = older_of(newest, repository)
    for settings, version in ((newest, "13.0.99-1"), (older, "13.0.88-1"), (newest, "13.0.99-1")):
        outcome = converge(settings)
        assert outcome.status == 0, outcome.output
        assert installed(host)["cuda-nvcc-13-0"] == version
    assert converge(newest).changed == ()


def test_a_missing_compiler_is_brought_back(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    settings = lock(repository, "13.0", tmp_path)
    host.run(f"rm {settings.root}/bin/nvcc")
    outcome = converge(settings)
    assert outcome.status == 0, outcome.output
    host.run(f"test -x {settings.root}/bin/nvcc")


def test_two_toolkits_lie_side_by_side(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    repository.add(list(toolkit("12.9.86")))
    twelve = lock(repository, "12.9", tmp_path)
    outcome = converge(twelve)
    assert outcome.status == 0, outcome.output
    found = installed(host)
    assert found["cuda-nvcc-12-9"] == "12.9.86-1"
    assert found["cuda-nvcc-13-0"] == "13.0.99-1"


def test_packages_that_would_bring_a_driver_are_refused(
    host: Any, converge: Converge, repository: RpmRepository, tmp_path: Path
) -> None:
    repository.add(
        [*toolkit("13.1.50", depends="nvidia-driver"), Dummy("nvidia-driver", "590.10-1")]
    )
    outcome = converge(lock(repository, "13.1", tmp_path))
    assert outcome.status != 0
    assert "would bring a driver along (nvidia-driver-590.10" in outcome.output
    assert "nvidia-driver" not in installed(host)
