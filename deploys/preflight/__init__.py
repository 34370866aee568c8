"""Refuses, before anything changes, what can't work on a host; names the setting that mends it."""

from __future__ import annotations

from pyinfra.api import deploy

from deploys.common.operations import (
    Commands,
    HostError,
    current_host,
    host_operation,
    host_settings,
    system,
)
from deploys.common.progress import human_bytes
from deploys.llama_server import stranger_on_port
from deploys.preflight.compatibility import Combination, conflicts
from facts.system import SystemState
from inventories.settings import HostSettings

# systemd before this has no LoadCredential.
LOWEST_SYSTEMD = 247
DISK_MARGIN = 1024**3


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
    found = problems(settings, system())
    if found:
        raise HostError("; ".join(found))
    current_host().noop("nothing stands in the way")
    return
    yield


def problems(settings: HostSettings, facts: SystemState) -> list[str]:
    """What can't work, in the order a person would mend it."""
    return [
        *_rights(settings, facts),
        *_systemd(facts),
        *_disk(facts),
        *_gpus(settings, facts),
        *_ports(settings, facts),
    ]


def _rights(settings: HostSettings, facts: SystemState) -> list[str]:
    if facts.root:
        return []
    return [f"no root rights as {settings.ssh.user}: allow that user sudo, or set ssh.user to root"]


def _systemd(facts: SystemState) -> list[str]:
    if facts.systemd >= LOWEST_SYSTEMD:
        return []
    found = f"systemd {facts.systemd}" if facts.systemd else "a host without systemd"
    return [f"{found}: llamaherd needs systemd {LOWEST_SYSTEMD} or newer"]


def _disk(facts: SystemState) -> list[str]:
    return [
        f"{path} has {human_bytes(free)} left, at least {human_bytes(DISK_MARGIN)} are needed: "
        "make room"
        for path, free in facts.disk_free.items()
        if free < DISK_MARGIN
    ]


def _gpus(settings: HostSettings, facts: SystemState) -> list[str]:
    cuda = settings.cuda
    if cuda is None or cuda.provider == "none":
        return []
    if settings.servers and not facts.gpus:
        return [
            "no GPU answers (nvidia-smi): install or mend the NVIDIA driver, "
            "or set cuda: {provider: none} for a CPU host"
        ]
    return conflicts(Combination(cuda.version or "", facts.glibc, facts.gpus))


def _ports(settings: HostSettings, facts: SystemState) -> list[str]:
    found = []
    for server in settings.servers:
        stranger = stranger_on_port(server, facts.listeners)
        if stranger is not None:
            found.append(
                f"port {server.port} of server {server.name} is taken by "
                f"{stranger.process or stranger.unit or 'another process'}: "
                f"stop that, or set servers.{server.name}.port"
            )
    return found
