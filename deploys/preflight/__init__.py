"""Refuses, before anything changes, what can't work on a host; names the setting that mends it.

It is the first operation of a converge, and pyinfra carries out each one on all hosts before the
next one: so every host is checked before the first change on any. A host that is refused is left
as it is, the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pyinfra.api import deploy

from deploys.common.changes import Change, refusal
from deploys.common.operations import (
    Commands,
    HostError,
    UnknownStateError,
    current_host,
    host_operation,
    host_settings,
    system,
)
from deploys.common.summary import record_verdict
from deploys.llama_cpp import NO_GPU, gpu_change
from deploys.llama_cpp.build import uses_cuda
from deploys.llama_server import stranger_on_port, taken_port
from deploys.preflight.compatibility import (
    GCC,
    Combination,
    branch_conflicts,
    conflicts,
    driver_conflicts,
)
from deploys.preflight.disk import disk_findings
from deploys.preflight.memory import declared_findings, memory_findings
from facts.system import SystemState
from inventories.builds import too_old
from inventories.settings import CudaSettings, HostSettings

# systemd before this has no LoadCredential.
LOWEST_SYSTEMD = 247


@deploy("Preflight")
def preflight(settings: HostSettings | None = None) -> None:
    """Check the host against what is declared for it.

    + settings: default to the host's own
    """
    checks(name="Check the host against the fleet", settings=settings or host_settings())


@host_operation
def checks(settings: HostSettings) -> Commands:
    """Fail the host with everything that can't work there; change nothing.

    + settings: what the host should become
    """
    facts = system()
    areas = by_area(settings, facts)
    record_verdict(current_host().name, {area: not stops for area, stops in areas.items()})
    found = [finding for stops in areas.values() for finding in stops]
    if not facts.root:
        # Without root's rights most facts would answer, and wrongly.
        raise UnknownStateError("; ".join(map(_text, found)))
    if found:
        raise HostError("; ".join(map(_text, found)), *found)
    current_host().noop("nothing stands in the way")
    return
    yield


def problems(settings: HostSettings, facts: SystemState) -> list[str]:
    """What can't work, each with its remedy, in the order a person would mend it."""
    return [_text(finding) for finding in findings(settings, facts)]


def _text(finding: Change) -> str:
    return f"{finding.summary}: {finding.remedy}"


def findings(settings: HostSettings, facts: SystemState) -> list[Change]:
    """What can't work as differences that no converge mends."""
    return [finding for found in by_area(settings, facts).values() for finding in found]


def by_area(settings: HostSettings, facts: SystemState) -> dict[str, list[Change]]:
    """What can't work, by what was looked at; an area in order has nothing."""
    return {
        "rights": _rights(settings, facts),
        "system": _systemd(facts),
        "disk": disk_findings(settings, facts),
        "GPU": _gpus(settings, facts),
        "build": _builds(settings),
        "memory": [*declared_findings(settings, facts), *memory_findings(settings, facts)],
        "ports": _ports(settings, facts),
    }


def _rights(settings: HostSettings, facts: SystemState) -> list[Change]:
    if facts.root:
        return []
    remedy = "allow that user sudo, or set ssh.user to root"
    return [
        Change("declared", "rights", f"no root rights as {settings.ssh.user}", remedy=remedy),
    ]


def _systemd(facts: SystemState) -> list[Change]:
    if facts.systemd >= LOWEST_SYSTEMD:
        return []
    found = f"systemd {facts.systemd}" if facts.systemd else "a host without systemd"
    remedy = f"llamaherd needs systemd {LOWEST_SYSTEMD} or newer"
    return [Change("declared", "systemd", found, remedy=remedy)]


def _gpus(settings: HostSettings, facts: SystemState) -> list[Change]:
    toolkits = [toolkit for toolkit in settings.toolkits if _needed(settings, toolkit)]
    if not toolkits:
        return []
    if settings.driver is not None:
        return [refusal(text, "NVIDIA driver") for text in _managed(settings, toolkits, facts)]
    if facts.gpu_error:
        return [gpu_change(facts.gpu_error)]
    on_cuda = [server for server in settings.servers if "cuda" in settings.backends_of(server)]
    if on_cuda and not facts.gpus:
        return [NO_GPU]
    found = [
        text for toolkit in toolkits for text in conflicts(_combination(settings, toolkit, facts))
    ]
    return [refusal(text, "CUDA toolkit") for text in dict.fromkeys(found)]


def _managed(
    settings: HostSettings, toolkits: Sequence[CudaSettings], facts: SystemState
) -> Iterator[str]:
    """What stands against a driver that llamaherd brings; the one that runs now isn't judged."""
    driver = settings.driver
    if driver is None:
        return
    yield from driver_conflicts(driver.branch, driver.modules, facts.gpus)
    for toolkit in toolkits:
        yield from branch_conflicts(toolkit.version or "", driver.branch)
        combination = replace(_combination(settings, toolkit, facts), driver=False)
        yield from conflicts(combination)


def _needed(settings: HostSettings, toolkit: CudaSettings) -> bool:
    """Whether a build with CUDA uses the toolkit, or no build says that it doesn't."""
    builds = [build for build, used in settings.builds if used == toolkit]
    return not builds or any(uses_cuda(build, toolkit) for build in builds)


def _combination(settings: HostSettings, toolkit: CudaSettings, facts: SystemState) -> Combination:
    builds = [build for build, used in settings.builds if used == toolkit]
    chosen = any("CMAKE_CUDA_HOST_COMPILER" in build.cmake for build in builds)
    # A distribution's own toolkit brings the compiler that it takes.
    own = toolkit.provider == "distribution"
    return Combination(
        toolkit="" if own else toolkit.version or "",
        glibc=facts.glibc,
        gpus=facts.gpus,
        gcc=0 if chosen else _gcc(facts),
        capabilities=[
            f"{name[:-1]}.{name[-1]}"
            for build in builds
            for name in (name.rstrip("af") for name in build.architectures)
        ],
    )


def _gcc(facts: SystemState) -> int:
    """Major version of the host's compiler; of what its build tools will bring where it has none.

    0 where neither is known.
    """
    major = facts.compiler.partition(".")[0]
    return int(major) if major.isdecimal() else GCC.get(facts.platform, 0)


def _builds(settings: HostSettings) -> list[Change]:
    lowest = {model.name: model.llama_cpp_build for model in settings.models}
    found = []
    for server in settings.servers:
        build = server.llama_cpp or settings.llama_cpp
        if build is None:
            continue
        for model in [part.model for part in server.models] or [server.model]:
            found.append(too_old(build.build_number, lowest.get(model), model))
    return [refusal(text, "llama.cpp") for text in dict.fromkeys(found) if text]


def _ports(settings: HostSettings, facts: SystemState) -> list[Change]:
    found = []
    for server in settings.servers:
        stranger = stranger_on_port(server, facts.listeners)
        if stranger is not None:
            found.append(taken_port(server, stranger))
    return found
