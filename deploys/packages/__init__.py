"""The distribution's packages that our components stand on: one operation for all of them."""

from __future__ import annotations

from collections.abc import Iterable

from pyinfra.api import deploy

from deploys.common.apt import APT_FUNCTIONS
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
from facts.packages import DebPackages, RpmPackages
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
    rpm = require_supported()
    names = rpm_names(names) if rpm else tuple(names)
    present = read(RpmPackages if rpm else DebPackages, names=names)
    missing = sorted(set(names) - set(present))
    if not missing:
        current_host().noop(f"all of {', '.join(names)} are installed")
        return
    for name in missing:
        record(Change("declared", name, "not installed"))
    yield from run_job(dnf_job(missing) if rpm else install_job(missing))


# As the distributions of the RHEL family call them. A path takes whatever provides it: curl-minimal
# is there on most of them, and doesn't go with curl.
RPM_NAMES = {
    "build-essential": ("gcc", "gcc-c++", "make"),
    "curl": ("/usr/bin/curl",),
    "iproute2": ("iproute",),
    "libgomp1": ("libgomp",),
    "libssl-dev": ("openssl-devel",),
    "libvulkan-dev": ("vulkan-headers", "vulkan-loader-devel"),
    "openssh-client": ("openssh-clients",),
    "python3-venv": ("python3",),
    "spirv-headers": ("spirv-headers-devel",),
}


def rpm_names(names: Iterable[str]) -> tuple[str, ...]:
    """Debian's names of packages as the RHEL family calls them, sorted."""
    return tuple(sorted({rpm for name in names for rpm in RPM_NAMES.get(name, (name,))}))


def require_supported() -> bool:
    """Whether the host installs with dnf; False for apt, HostError for anything else."""
    facts = system()
    family = (facts.distribution, *facts.like)
    if "debian" in family:
        return False
    if "rhel" in family:
        return True
    raise HostError(
        f"{facts.distribution or 'this system'} {facts.version_id} isn't supported: llamaherd "
        "installs packages with apt (Debian, Ubuntu) and dnf (RHEL, Rocky, AlmaLinux)"
    )


DNF_PROBE = r"""sed -n 's/^Install *\([0-9]*\) Packages*.*/total \1/p' log 2>/dev/null
grep -cE '^ +(Installing|Verifying) ' log 2>/dev/null"""


def dnf_job(missing: list[str]) -> Job:
    """The job that installs on the RHEL family; dnf itself waits for another one."""
    return Job(
        name=f"packages-{digest(missing)}",
        title=f"installing {len(missing)} packages",
        script=f"dnf -y install -- {' '.join(map(operand, missing))}\n",
        probe=DNF_PROBE,
        progress=apt_progress,
        remedy="check the host's repositories: ninja-build and spirv-headers-devel are in CRB, "
        "ccache and ripgrep in EPEL",
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
    script = (
        f"{APT_FUNCTIONS}"
        "dpkg_ready\n"
        # A source of somebody else's that fails is no reason to stop: what counts is ours.
        "apt_update -o Acquire::Retries=3 -o APT::Update::Error-Mode=persistent\n"
        "apt_get -o Acquire::Retries=3 install --no-install-recommends -- "
        f"{' '.join(map(operand, missing))} || {{\n"
        "  said=$(grep -a '^E: ' log | tail -n 1)\n"
        '  [ -z "$said" ] || reason "apt: ${said#E: }: check the host\'s package sources"\n'
        "  exit 100\n"
        "}\n"
    )
    return Job(
        name=f"packages-{digest(missing)}",
        title=f"installing {len(missing)} packages",
        script=script,
        probe=APT_PROBE,
        progress=apt_progress,
        remedy="check the host's package sources",
    )
