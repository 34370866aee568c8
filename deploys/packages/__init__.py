"""The distribution's packages that our components stand on: one operation for all of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

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
from facts.system import SystemState
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
    names = rpm_names(names) if rpm else deb_names(names, system())
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


def deb_names(names: Iterable[str], facts: SystemState) -> tuple[str, ...]:
    """Debian's names, but for what a host has from elsewhere and no package of."""
    elsewhere = facts.platform in WITHOUT_GLSLC and facts.there.keys() & {*GLSLC}
    return tuple(name for name in names if not (elsewhere and name == "glslc"))


def rpm_names(names: Iterable[str]) -> tuple[str, ...]:
    """Debian's names of packages as the RHEL family calls them, sorted."""
    return tuple(sorted({rpm for name in names for rpm in RPM_NAMES.get(name, (name,))}))


def require_supported() -> bool:
    """Whether the host installs with dnf; False for apt, HostError for anything else."""
    facts = system()
    text = unsupported(facts)
    if text:
        raise HostError(text)
    return "debian" not in _family(facts)


def _family(facts: SystemState) -> tuple[str, ...]:
    return (facts.distribution, *facts.like)


def unsupported(facts: SystemState) -> str:
    """Why nothing can be installed on a host, by its distribution; empty where it can."""
    if {"debian", "rhel"}.intersection(_family(facts)):
        return ""
    name = f"{facts.distribution or 'this system'} {facts.version_id}".rstrip()
    return (
        f"{name} isn't supported: llamaherd "
        "installs packages with apt (Debian, Ubuntu) and dnf (RHEL, Rocky, AlmaLinux)"
    )


# Packages that no stock host of the RHEL family can install, with the program that tells that one
# is there already.
FURTHER = {
    "ninja-build": ("CRB", "/usr/bin/ninja"),
    "spirv-headers-devel": ("CRB", ""),
    "ccache": ("EPEL", "/usr/bin/ccache"),
    "ripgrep": ("EPEL", "/usr/bin/rg"),
}
ENABLE = {
    "CRB": "enable it on the host (dnf config-manager --set-enabled crb; on RHEL "
    "subscription-manager repos --enable codeready-builder-for-rhel-N-ARCH-rpms)",
    "EPEL": "install epel-release on the host (dnf install epel-release; on RHEL from "
    "https://dl.fedoraproject.org/pub/epel/)",
}
_KNOWN = {
    "CRB": re.compile(r"crb|codeready|powertools"),
    "EPEL": re.compile(r"epel"),
    # What a fresh installation has enabled, and the vendor's: none of the above is in there.
    "": re.compile(
        r"^((rhel-[\d.]+-for-\w+-)?(baseos|appstream|extras)(-common|-rpms)?"
        r"|llamaherd-\w+|cuda-.*)$"
    ),
}

# Distributions that have no package of the shaders' compiler; one from elsewhere is taken there.
WITHOUT_GLSLC = ("ubuntu2204",)
GLSLC = ("/usr/bin/glslc", "/usr/local/bin/glslc")


def lacking(settings: HostSettings, facts: SystemState) -> Iterator[Change]:
    """Packages that a host's own sources can't have, as far as it told of them."""
    names = wanted(settings)
    if "glslc" in names and facts.platform in WITHOUT_GLSLC and not facts.there.keys() & {*GLSLC}:
        yield Change(
            "declared",
            "glslc",
            f"{facts.distribution} {facts.version_id} has no package glslc, which compiles "
            "Vulkan's shaders",
            remedy=f"install one to {GLSLC[1]} (LunarG's Vulkan SDK has it), or take vulkan out "
            "of llama_cpp.backends",
            component="packages",
        )
    if "debian" not in _family(facts) and facts.repositories:
        yield from _repositories(rpm_names(names), facts)


def _repositories(names: Iterable[str], facts: SystemState) -> Iterator[Change]:
    """CRB and EPEL, where they are needed and not enabled; a site's own repository may stand for
    them, so nothing is said where there is one."""
    kinds = {_kind(name.lower()) for name in facts.repositories}
    if None in kinds:
        return
    for repository, remedy in ENABLE.items():
        needed = [
            name
            for name in names
            if name in FURTHER
            and FURTHER[name][0] == repository
            and FURTHER[name][1] not in facts.there
        ]
        if needed and repository not in kinds:
            summary = f"{', '.join(needed)} must come from {repository}, which isn't enabled"
            yield Change("declared", repository, summary, remedy=remedy, component="packages")


def _kind(name: str) -> str | None:
    return next((kind for kind, names in _KNOWN.items() if names.search(name)), None)


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
