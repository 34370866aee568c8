"""The distribution's packages that our components stand on: one operation for all of them."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api import deploy

from deploys.common.changes import Change, record
from deploys.common.jobs import Job, run_job
from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    host_operation,
    host_settings,
    read,
    system,
)
from deploys.common.progress import Amount
from deploys.common.shell import digest, operand
from facts.packages import DebPackages
from inventories.settings import HostSettings

# ca-certificates and curl fetch; iproute2 tells who listens on a port.
BASE = ("ca-certificates", "curl", "iproute2")
BUILD = ("build-essential", "cmake", "libssl-dev", "ninja-build")
GIT = ("git",)
# The loader and its headers, the shaders' compiler, and headers that find_package asks for.
VULKAN = ("glslc", "libvulkan-dev", "spirv-headers")
# OpenCode fetches ripgrep for itself where there is none, and wants git for its snapshots.
OPENCODE = ("git", "ripgrep")
# llamaherd's own environment there, and the key it checks with.
DRIFT_TIMER = ("openssh-client", "python3-venv")


@deploy("Packages")
def packages() -> None:
    """Install what the host's components need from its own distribution."""
    installed(name="Install the distribution's packages", names=wanted(host_settings()))


def wanted(settings: HostSettings) -> tuple[str, ...]:
    """Names of the packages that a host's components need, sorted."""
    names = set(BASE)
    for build, _ in settings.builds:
        names.update(BUILD)
        if hasattr(build.source, "repository"):
            names.update(GIT)
        if build.compiler_cache != "none":
            names.add(build.compiler_cache)
        if "vulkan" in build.backends:
            names.update(VULKAN)
    if settings.servers:
        names.add("libgomp1")
    if any(toolkit.provider == "wheels" for toolkit in settings.toolkits):
        names.add("unzip")
    if settings.opencode is not None:
        names.update(OPENCODE)
    if settings.drift_timer is not None:
        names.update(DRIFT_TIMER)
    return tuple(sorted(names))


@host_operation
def installed(names: Iterable[str]) -> Commands:
    """Install those packages of the distribution that aren't; never upgrades one that is.

    + names: binary packages
    """
    names = tuple(names)
    require_apt()
    present = read(DebPackages, names=names)
    missing = sorted(set(names) - set(present))
    if not missing:
        current_host().noop(f"all of {', '.join(names)} are installed")
        return
    for name in missing:
        record(Change("declared", name, "not installed"))
    yield from run_job(install_job(missing))


def require_apt() -> None:
    """HostError unless the host's distribution is Debian or a child of it."""
    facts = system()
    if "debian" not in (facts.distribution, *facts.like):
        raise HostError(
            f"{facts.distribution or 'this system'} {facts.version_id} isn't supported: "
            "llamaherd installs packages with apt (Debian, Ubuntu)"
        )


# What apt says it will do, and how much of it is done: a package is unpacked, then set up.
APT_PROBE = r"""sed -n 's/^.* \([0-9]*\) newly installed.*/total \1/p' log 2>/dev/null
grep -cE '^(Unpacking|Setting up) ' log 2>/dev/null"""


def apt_progress(lines: list[str]) -> Amount | None:
    """The lines of :data:`APT_PROBE` as steps, two a package."""
    totals = [int(line.split()[1]) for line in lines if line.startswith("total ")]
    counts = [int(line) for line in lines if line.isdigit()]
    if not totals or not totals[-1] or not counts:
        return None
    return Amount(min(counts[-1], totals[-1] * 2), totals[-1] * 2)


def install_job(missing: list[str]) -> Job:
    """The job that refreshes the package lists and installs; it waits for another dpkg."""
    apt = "apt-get -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3"
    script = (
        "export DEBIAN_FRONTEND=noninteractive\n"
        "dpkg --configure -a\n"
        f"{apt} update -q\n"
        f"{apt} install -q -y --no-install-recommends -- {' '.join(map(operand, missing))}\n"
    )
    return Job(
        name=f"packages-{digest(missing)}",
        title=f"installing {len(missing)} packages",
        script=script,
        probe=APT_PROBE,
        progress=apt_progress,
        remedy="check the host's package sources and whether another dpkg holds its lock",
    )
