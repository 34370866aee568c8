"""Refuses, before anything changes, what can't work on a host; names the setting that mends it.

It is the first operation of a converge, and pyinfra carries out each one on all hosts before the
next one: so every host is checked before the first change on any. A host that is refused is left
as it is, the others go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from pyinfra import logger
from pyinfra.api import deploy

from deploys.common.changes import Change, listened, refusal
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
from deploys.common.users import account_problem
from deploys.llama_cpp import NO_GPU, gpu_change
from deploys.llama_cpp.build import uses_cuda
from deploys.llama_server import masked_unit, missing_file, stranger_on_port, taken_port
from deploys.llama_server.possible import settings_problems
from deploys.llama_server.unit import tls_credentials
from deploys.preflight.compatibility import (
    GCC,
    Combination,
    branch_conflicts,
    conflicts,
    driver_conflicts,
)
from deploys.preflight.controller import SUBJECT as CONTROLLER
from deploys.preflight.controller import controller_findings
from deploys.preflight.disk import disk_findings
from deploys.preflight.memory import declared_findings, memory_findings, memory_notes
from deploys.preflight.platform import platform_findings, toolkit_findings
from facts.servers import unit_name
from facts.system import SystemState
from inventories.builds import too_old
from inventories.settings import CudaSettings, HostSettings

# systemd before this has no LoadCredential.
LOWEST_SYSTEMD = 247

# How another toolkit is taken, where cuda.version alone doesn't bring it.
INSTEAD = {
    "existing": "install CUDA {} and set cuda.path to it",
    "distribution": "set cuda.provider to nvidia-repo or wheels, and cuda.version to {}",
}


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
    facts = system(**questions(settings))
    areas = by_area(settings, facts)
    record_verdict(current_host().name, {area: not stops for area, stops in areas.items()})
    found = [finding for stops in areas.values() for finding in stops]
    if listened():
        # What this machine lacks is no difference of the host's: whoever needs it can't judge.
        found = [finding for finding in found if finding.subject != CONTROLLER]
    if not facts.root:
        # Without root's rights most facts would answer, and wrongly.
        raise UnknownStateError("; ".join(map(_text, found)))
    if found:
        raise HostError("; ".join(map(_text, found)), *found)
    for note in () if listened() else memory_notes(settings, facts):
        logger.warning(f"{current_host().print_prefix}{note}")
    current_host().noop("nothing stands in the way")
    return
    yield


def questions(settings: HostSettings) -> dict[str, Sequence[str]]:
    """What the host is asked beside what it is: arguments of :class:`facts.system.System`."""
    existing = [toolkit for toolkit in settings.toolkits if toolkit.provider == "existing"]
    own = [toolkit for toolkit in settings.toolkits if toolkit.provider == "distribution"]
    files = [f"{toolkit.root}/bin/nvcc" for toolkit in existing]
    files += [path for server in settings.servers for path in tls_credentials(server).values()]
    groups = [server.socket_group for server in settings.servers if server.socket_group]
    asked = {
        "toolkits": [toolkit.root for toolkit in (*existing, *own) if toolkit.root],
        "accounts": [user.name for user in _users(settings)],
        "groups": groups,
        "files": files,
    }
    return {what: tuple(dict.fromkeys(names)) for what, names in asked.items() if names}


@dataclass(frozen=True)
class _User:
    """An account that gets files of ours, and the setting that names it."""

    name: str
    setting: str
    component: str
    subject: str


def _users(settings: HostSettings) -> Iterator[_User]:
    if settings.opencode is not None:
        for name in settings.opencode.users:
            yield _User(name, "opencode.users", "opencode", "OpenCode")
    if settings.claude_code is not None:
        for name in settings.claude_code.users:
            yield _User(name, "clients.claude_code.users", "claude_code", "Claude Code")


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
        "system": [*_systemd(facts), *platform_findings(settings, facts)],
        "disk": disk_findings(settings, facts),
        "GPU": [*toolkit_findings(settings, facts), *_gpus(settings, facts)],
        "build": _builds(settings),
        "memory": [*declared_findings(settings, facts), *memory_findings(settings, facts)],
        "ports": _ports(settings, facts),
        "settings": [
            *_servers(settings, facts),
            *_accounts(settings, facts),
            *controller_findings(settings, facts),
        ],
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
        yield from branch_conflicts(_version(toolkit, facts), driver.branch)
        combination = replace(_combination(settings, toolkit, facts), driver=False)
        yield from conflicts(combination)


def _needed(settings: HostSettings, toolkit: CudaSettings) -> bool:
    """Whether a build with CUDA uses the toolkit, or no build says that it doesn't."""
    builds = [build for build, used in settings.builds if used == toolkit]
    return not builds or any(uses_cuda(build, toolkit) for build in builds)


def _combination(settings: HostSettings, toolkit: CudaSettings, facts: SystemState) -> Combination:
    builds = [build for build, used in settings.builds if used == toolkit]
    chosen = any("CMAKE_CUDA_HOST_COMPILER" in build.cmake for build in builds)
    # A distribution's own toolkit goes with its libc, and brings the compiler that it takes.
    own = toolkit.provider == "distribution"
    return Combination(
        toolkit=_version(toolkit, facts),
        glibc="" if own else facts.glibc,
        gpus=facts.gpus,
        gcc=0 if chosen or own else _gcc(facts),
        instead=INSTEAD.get(toolkit.provider, "set cuda.version to {}"),
        capabilities=[
            f"{name[:-1]}.{name[-1]}"
            for build in builds
            for name in (name.rstrip("af") for name in build.architectures)
        ],
    )


def _version(toolkit: CudaSettings, facts: SystemState) -> str:
    """What nvcc says, where the host was asked; what is declared otherwise."""
    return facts.toolkits.get(toolkit.root or "") or toolkit.version or ""


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


def _servers(settings: HostSettings, facts: SystemState) -> Iterator[Change]:
    for text in settings_problems(settings):
        yield replace(refusal(text, "servers"), component="llama_server")
    for server in settings.servers:
        if any(listener.unit == unit_name(server.name) for listener in facts.listeners):
            continue  # one that runs needs nothing of this until it is started again
        if unit_name(server.name) in facts.masked:
            yield replace(masked_unit(server), component="llama_server")
        for path in tls_credentials(server).values():
            if f"file {path}" in facts.missing:
                yield replace(missing_file(server, path), component="llama_server")
        if f"group {server.socket_group}" in facts.missing:
            yield Change(
                "declared",
                f"group {server.socket_group}",
                f"the host has no group {server.socket_group}",
                remedy=f"create it (groupadd {server.socket_group}), or change "
                f"servers.{server.name}.socket_group",
                component="llama_server",
            )


def _accounts(settings: HostSettings, facts: SystemState) -> Iterator[Change]:
    for user in _users(settings):
        text = account_problem(user.name, None, user.setting)
        if f"account {user.name}" in facts.missing and text is not None:
            yield replace(refusal(text, user.subject), component=user.component)
