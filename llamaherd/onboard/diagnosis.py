"""What follows from a look at a box: findings with a severity and a remedy. Pure.

A rule that can't be decided from what the box told stays silent. What is said of GPUs and of the
first contact has files of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from deploys.common.progress import human_bytes
from facts.onboarding_values import Probe, Space
from llamaherd.onboard.adoption import Wanted, adoptable
from llamaherd.onboard.contact_findings import contact_findings
from llamaherd.onboard.findings import blocker, info, listed, warning
from llamaherd.onboard.gpu_findings import gpu_findings
from llamaherd.onboard.report import Contact, Finding, Severity, Target

GIB = 1024**3
DEFAULT_PORT = 8888
LOWEST_SYSTEMD = 247
# The toolkit's parts and a build below /opt; one model of the recipe's size below /var/lib.
NEEDED = {"/opt": 6 * GIB, "/var/lib": 20 * GIB}
COMFORTABLE = 60 * GIB
LITTLE_MEMORY = 8 * GIB
CLOCK_BLOCKS = 300.0
CLOCK_WARNS = 5.0
SLOW_HUB = 5_000_000
RECIPE_MODEL = 17_520_169_312
"""Bytes of the recipe's model, for "how long would that take"."""

# Debian 12 and 13 are run on real hosts; what Ubuntu's are told is held by snapshots alone.
_PLANNED_FOR = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
_CONTAINERS = {"systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "openvz", "wsl"}


@dataclass(frozen=True)
class Expectations:
    """What the fleet would want of the box.

    + ports: server name by port that servers would listen on; ``declared`` when a fleet file
      says so, else they are the recipe's
    + files: that models of the fleet and the catalogue need
    + host: the box's name in the fleet file; empty when it isn't there
    """

    ports: Mapping[int, str] = field(default_factory=lambda: {DEFAULT_PORT: "llama-server"})
    declared: bool = False
    host: str = ""
    files: tuple[Wanted, ...] = ()


def diagnose(
    target: Target, contact: Contact, probe: Probe | None, expected: Expectations | None = None
) -> tuple[Finding, ...]:
    """Everything found, blockers first, then warnings, then what is good to know."""
    expected = expected or Expectations()
    if probe is None:
        return tuple(contact_findings(target, contact))
    found = [
        *_login(contact),
        *_rights(probe),
        *_system(probe),
        *_disks(probe),
        *gpu_findings(probe),
        *_memory(probe),
        *_clock(probe),
        *_ports(probe, expected),
        *_software(probe),
        *_models(probe, expected),
        *_hub(probe),
        *_already(probe, expected),
    ]
    order: tuple[Severity, ...] = ("blocker", "warning", "info")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _login(contact: Contact) -> Iterator[Finding]:
    if contact.login == "password":
        yield warning(
            "ssh.password-login",
            "we got in with a password, not with a key",
            "--install-key leaves this machine's public key there",
        )


def _rights(probe: Probe) -> Iterator[Finding]:
    access = probe.access
    if access.sudo == "none":
        yield blocker(
            "sudo.none",
            f"{access.user} may not use sudo: nothing can be installed",
            "log in as root or as a user with sudo; --create-user NAME makes one "
            "(once, from an account that has the rights)",
        )
    elif access.sudo == "password":
        yield warning(
            "sudo.password",
            f"sudo wants {access.user}'s password; what needs root stayed unseen",
            "set ssh.sudo_password, or --create-user NAME for an account without one",
        )
    if access.permit_root == "yes" and access.password_login == "yes":
        yield info(
            "ssh.root-password",
            "root may log in with a password over SSH",
            "PermitRootLogin prohibit-password, once keys work",
        )


# The system


def _system(probe: Probe) -> Iterator[Finding]:
    machine = probe.machine
    name = machine.title or machine.distribution or "an unknown system"
    if not machine.packages:
        yield blocker(
            "system.distribution",
            f"{name}: packages are installed with apt or dnf, and this is neither's family",
            "install Debian 12 or 13, Ubuntu 22.04 or 24.04, or one of the RHEL family",
        )
    elif machine.version_id not in _PLANNED_FOR.get(machine.distribution, ()):
        yield warning(
            "system.version",
            f"{name} is none of those tested: Debian 12 and 13 on real hosts, Ubuntu 22.04 and "
            "24.04 by what is planned for them",
        )
    if machine.systemd < LOWEST_SYSTEMD:
        what = f"systemd {machine.systemd}" if machine.systemd else "no systemd"
        yield blocker(
            "system.systemd",
            f"{what} runs this box",
            f"systemd {LOWEST_SYSTEMD} or newer is needed",
        )
    if machine.reboot:
        yield warning("system.reboot", f"a reboot is due: {machine.reboot}", "reboot the box")
    if machine.virtualization in _CONTAINERS:
        yield info(
            "system.container",
            f"a container ({machine.virtualization}): kernel, driver and clock are its host's",
        )


def _disks(probe: Probe) -> Iterator[Finding]:
    mounts: dict[str, list[Space]] = {}
    for space in probe.space:
        mounts.setdefault(space.mount, []).append(space)
    for mount, spaces in mounts.items():
        needed = sum(NEEDED.get(space.path, 0) for space in spaces)
        free, paths = spaces[0].free, " and ".join(space.path for space in spaces)
        if free < needed:
            yield blocker(
                "disk.full",
                f"{human_bytes(free)} free for {paths} (on {mount}); toolkit, build and one "
                f"model need {human_bytes(needed)}",
                "make room, or mount a larger disk there",
            )
        elif any(space.path == "/var/lib" for space in spaces) and free < COMFORTABLE:
            yield warning(
                "disk.tight", f"{human_bytes(free)} free for {paths}: room for a model or two"
            )
        yield from _slow(spaces)


def _slow(spaces: Sequence[Space]) -> Iterator[Finding]:
    models = next((space for space in spaces if space.path == "/var/lib"), None)
    if models is None:
        return
    if models.speed == "hdd":
        minutes = RECIPE_MODEL / 150e6 / 60
        yield warning(
            "disk.slow",
            f"models would lie on a rotating disk: about {minutes:.0f} minutes to load 17.5 GB",
            "mount an SSD at /var/lib/llamaherd",
        )
    elif models.speed in ("network", "memory"):
        yield warning(
            "disk.kind",
            f"models would lie on {models.filesystem} ({models.speed})",
            "mount a local disk at /var/lib/llamaherd",
        )


def _memory(probe: Probe) -> Iterator[Finding]:
    total = probe.machine.memory_total
    if 0 < total < LITTLE_MEMORY:
        yield warning(
            "memory.little",
            f"{human_bytes(total)} of memory: the build runs one job at a time, and llama-server "
            "keeps up to 8 GiB of prompts",
            "set the server's cache_ram lower",
        )


def _clock(probe: Probe) -> Iterator[Finding]:
    clock = probe.clock
    offset = clock.offset or 0.0
    if abs(offset) >= CLOCK_WARNS:
        way = "ahead of" if offset > 0 else "behind"
        message = f"the clock is {_duration(abs(offset))} {way} this machine's"
        remedy = "on the box: timedatectl set-ntp true (package systemd-timesyncd or chrony)"
        if abs(offset) >= CLOCK_BLOCKS:
            message += ": certificates and package indexes will be refused"
            yield blocker("clock.wrong", message, remedy)
        else:
            yield warning("clock.off", message, remedy)
    elif clock.synchronized is False:
        yield info("clock.unsynchronized", "the clock is right, but nothing keeps it so")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# What is there already


def _ports(probe: Probe, expected: Expectations) -> Iterator[Finding]:
    ours = {f"llama-server@{name}.service" for name in probe.onboarded.servers}
    for listener in probe.listeners:
        server = expected.ports.get(listener.port)
        if server is None or listener.unit in ours:
            continue
        who = listener.unit or listener.process or "something"
        message = f"port {listener.port}, meant for {server}, is taken by {who}"
        remedy = "stop that, or give the server another port"
        if expected.declared:
            yield blocker("port.taken", message, remedy)
        else:
            yield warning("port.taken", message, remedy)


def _software(probe: Probe) -> Iterator[Finding]:
    for program in probe.programs:
        if not program.active:
            continue
        stop = f"systemctl disable --now {program.unit}" if program.unit else "stop it"
        yield warning(
            "software.running",
            f"{program.kind} runs here ({program.path}) and may take GPU memory at any time",
            f"{stop}, once its users have moved",
        )


def _models(probe: Probe, expected: Expectations) -> Iterator[Finding]:
    foreign = [model for model in probe.models if model.source != "llamaherd"]
    if not foreign:
        return
    total = sum(model.size for model in foreign)
    sources = ", ".join(sorted({model.source for model in foreign}))
    matches = adoptable(foreign, expected.files)
    certain = sorted({match.model for match in matches if match.certain})
    guesses = sorted({match.model for match in matches} - set(certain))
    words = []
    if certain:
        words.append(f"{listed(certain)} {'is' if len(certain) == 1 else 'are'} among them")
    if guesses:
        words.append(f"{listed(guesses)} may be, by size and name")
    yield info(
        "models.found",
        f"{len(foreign)} model file{'s' * (len(foreign) > 1)} of {human_bytes(total)} ({sources}) "
        f"{'lie' if len(foreign) > 1 else 'lies'} there already: "
        + ("; ".join(words) or "none that the fleet or the catalogue knows"),
    )


def _hub(probe: Probe) -> Iterator[Finding]:
    hub = probe.hub
    if not hub.endpoint:
        return
    if hub.error and hub.reached:
        yield info("hub.unmeasured", f"{hub.endpoint} answers, but wasn't measured: {hub.error}")
    elif hub.error:
        yield warning(
            "hub.unreachable",
            f"{hub.endpoint}: {hub.error}",
            "set hub.endpoint to a mirror that the box reaches, or a model's source to a path",
        )
    elif hub.bytes_per_second is not None and hub.bytes_per_second < SLOW_HUB:
        hours = RECIPE_MODEL / hub.bytes_per_second / 3600
        yield info(
            "hub.slow",
            f"the hub gives {hub.bytes_per_second / 1e6:.1f} MB/s: {hours:.1f} h for 17.5 GB",
        )


def _already(probe: Probe, expected: Expectations) -> Iterator[Finding]:
    servers = ", ".join(probe.onboarded.servers)
    if expected.host:
        running = f", and serves {servers}" if servers else ", and nothing of ours is on it yet"
        yield info("fleet.known", f"it is {expected.host} in the fleet{running}")
    elif servers or probe.onboarded.builds:
        has = f"servers {servers}" if servers else "a build"
        yield warning(
            "fleet.foreign",
            f"llamaherd was here already ({has}), and no host of this fleet has this address",
            "another fleet may own it: ask whose it is before you add it to yours",
        )
