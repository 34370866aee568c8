"""What follows from a look at a box: findings with a severity and a remedy. Pure.

Sources of the rules: NVIDIA's driver README (chapters "Open Linux Kernel Modules", "Supported
NVIDIA GPU Products", "Xid"), the tables of :mod:`deploys.preflight.compatibility`, and
KNOWLEDGE.md's "CUDA toolkit". A rule that can't be decided from what the box told stays silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from packaging.version import InvalidVersion, Version

from deploys.common.progress import human_bytes
from deploys.preflight.compatibility import (
    GLIBC_THAT_BREAKS_12,
    LOWEST_CAPABILITY_OF_13,
    MINIMUM_DRIVER,
)
from facts.gpu import Gpu
from facts.onboarding_values import PciGpu, Probe, Space
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

_TESTED = {"debian": ("12", "13"), "ubuntu": ("22.04", "24.04")}
_BLACKWELL = re.compile(r"2[b-f][0-9a-f]{2}|29[0-9a-f]{2}|31[0-9a-f]{2}")
_BLACKWELL_DRIVER = Version("570")
_CONTAINERS = {"systemd-nspawn", "lxc", "lxc-libvirt", "docker", "podman", "openvz", "wsl"}


@dataclass(frozen=True)
class Expectations:
    """What the fleet would want of the box.

    + ports: server name by port that servers would listen on; ``declared`` when a fleet file
      says so, else they are the recipe's
    + host: the box's name in the fleet file; empty when it isn't there
    """

    ports: Mapping[int, str] = field(default_factory=lambda: {DEFAULT_PORT: "llama-server"})
    declared: bool = False
    host: str = ""


def diagnose(
    target: Target, contact: Contact, probe: Probe | None, expected: Expectations | None = None
) -> tuple[Finding, ...]:
    """Everything found, blockers first, then warnings, then what is good to know."""
    expected = expected or Expectations()
    if probe is None:
        return tuple(_contact(target, contact))
    found = [
        *_login(contact),
        *_rights(probe),
        *_system(probe),
        *_disks(probe),
        *_gpus(probe),
        *_memory(probe),
        *_clock(probe),
        *_ports(probe, expected),
        *_software(probe),
        *_hub(probe),
        *_already(probe, expected),
    ]
    order: tuple[Severity, ...] = ("blocker", "warning", "info")
    return tuple(sorted(found, key=lambda finding: order.index(finding.severity)))


def _blocker(name: str, message: str, remedy: str) -> Finding:
    return Finding(name, "blocker", message, remedy)


def _warning(name: str, message: str, remedy: str = "") -> Finding:
    return Finding(name, "warning", message, remedy)


def _info(name: str, message: str, remedy: str = "") -> Finding:
    return Finding(name, "info", message, remedy)


# First contact


def _contact(target: Target, contact: Contact) -> Iterator[Finding]:
    """Why there is no look at the box. One finding: what comes after it can't be known."""
    key = contact.host_key
    where = f"{target.hostname} port {target.port}"
    if key is not None and key.state == "changed":
        yield _blocker(
            "ssh.host-key-changed",
            f"{where} shows the host key {key.fingerprint}, and known_hosts has another one",
            "find out why: a new installation has a new key, and so has somebody in between; "
            f"then: ssh-keygen -R {known_name(target)}",
        )
    elif key is not None and key.state == "refused":
        yield _blocker(
            "ssh.fingerprint-differs",
            f"{where} shows the host key {key.fingerprint}, which isn't the one that was named",
            "is the address right? If it is, somebody may be in between: look on its console",
        )
    elif key is not None and key.state == "unknown":
        yield _blocker(
            "ssh.host-key-unknown",
            f"the host key of {where} isn't in known_hosts: {key.kind} {key.fingerprint}",
            "compare it with the box's own (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub "
            f"on its console), then: --fingerprint {key.fingerprint}",
        )
    elif not contact.methods:
        yield _blocker(
            "ssh.unreachable",
            f"{where} can't be reached: {contact.error or 'no answer'}",
            _unreachable_remedy(target, contact.error),
        )
    else:
        yield _refused(target, contact)


def known_name(target: Target) -> str:
    """How known_hosts names the box."""
    return target.hostname if target.port == 22 else f"'[{target.hostname}]:{target.port}'"


def _unreachable_remedy(target: Target, error: str) -> str:
    if "refused" in error:
        return f"is sshd running, and does it listen on port {target.port}? Name it: HOST:PORT"
    if "resolve" in error or "not known" in error:
        return "give an address, or a name or alias that ssh knows"
    return f"try: ssh -p {target.port} {target.user}@{target.hostname}"


def _refused(target: Target, contact: Contact) -> Finding:
    passwords = {"password", "keyboard-interactive"} & set(contact.methods)
    offered = ", ".join(contact.methods)
    if target.user == "root":
        once = "; or give root's password once: --password prompt --install-key"
        return _blocker(
            "ssh.root-refused",
            f"root isn't let in on {target.label} (offered: {offered})",
            "log in as the installer's user (USER@HOST): PermitRootLogin may be off"
            + (once if passwords else ""),
        )
    if contact.error.startswith("neither key nor password"):
        return _blocker(
            "ssh.password-refused",
            f"{target.label} takes neither a key nor the password for {target.user}",
            "look whether both are that user's; sshd's log on the box says why",
        )
    if "publickey" not in contact.methods:
        return _blocker(
            "ssh.password-only",
            f"{target.label} takes passwords only, no keys",
            "allow PubkeyAuthentication in its sshd_config; for this look: --password prompt",
        )
    return _blocker(
        "ssh.key-refused",
        f"{target.label} doesn't take our key for {target.user}",
        "log in once with the password and leave the key: --password prompt --install-key"
        if passwords
        else f"add this machine's public key to ~{target.user}/.ssh/authorized_keys there",
    )


def _login(contact: Contact) -> Iterator[Finding]:
    if contact.login == "password":
        yield _warning(
            "ssh.password-login",
            "we got in with a password, not with a key",
            "--install-key leaves this machine's public key there",
        )


def _rights(probe: Probe) -> Iterator[Finding]:
    access = probe.access
    if access.sudo == "none":
        yield _blocker(
            "sudo.none",
            f"{access.user} may not use sudo: nothing can be installed",
            "log in as root or as a user with sudo; --create-user NAME makes one "
            "(once, from an account that has the rights)",
        )
    elif access.sudo == "password":
        yield _warning(
            "sudo.password",
            f"sudo wants {access.user}'s password; what needs root stayed unseen",
            "set ssh.sudo_password, or --create-user NAME for an account without one",
        )
    if access.permit_root == "yes" and access.password_login == "yes":
        yield _info(
            "ssh.root-password",
            "root may log in with a password over SSH",
            "PermitRootLogin prohibit-password, once keys work",
        )


# The system


def _system(probe: Probe) -> Iterator[Finding]:
    machine = probe.machine
    name = machine.title or machine.distribution or "an unknown system"
    tested = _TESTED.get(machine.distribution)
    if tested is None:
        yield _blocker(
            "system.distribution",
            f"{name}: packages are installed with apt, and this isn't Debian or Ubuntu",
            "install Debian 12 or 13, or Ubuntu 22.04 or 24.04",
        )
    elif machine.version_id not in tested:
        yield _warning("system.version", f"{name} isn't one of those tested: {', '.join(tested)}")
    if machine.systemd < LOWEST_SYSTEMD:
        what = f"systemd {machine.systemd}" if machine.systemd else "no systemd"
        yield _blocker(
            "system.systemd",
            f"{what} runs this box",
            f"systemd {LOWEST_SYSTEMD} or newer is needed",
        )
    if machine.reboot:
        yield _warning("system.reboot", f"a reboot is due: {machine.reboot}", "reboot the box")
    if machine.virtualization in _CONTAINERS:
        yield _info(
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
            yield _blocker(
                "disk.full",
                f"{human_bytes(free)} free for {paths} (on {mount}); toolkit, build and one "
                f"model need {human_bytes(needed)}",
                "make room, or mount a larger disk there",
            )
        elif any(space.path == "/var/lib" for space in spaces) and free < COMFORTABLE:
            yield _warning(
                "disk.tight", f"{human_bytes(free)} free for {paths}: room for a model or two"
            )
        yield from _slow(spaces)


def _slow(spaces: Sequence[Space]) -> Iterator[Finding]:
    models = next((space for space in spaces if space.path == "/var/lib"), None)
    if models is None:
        return
    if models.speed == "hdd":
        minutes = RECIPE_MODEL / 150e6 / 60
        yield _warning(
            "disk.slow",
            f"models would lie on a rotating disk: about {minutes:.0f} minutes to load 17.5 GB",
            "mount an SSD at /var/lib/llamaherd",
        )
    elif models.speed in ("network", "memory"):
        yield _warning(
            "disk.kind",
            f"models would lie on {models.filesystem} ({models.speed})",
            "mount a local disk at /var/lib/llamaherd",
        )


def _memory(probe: Probe) -> Iterator[Finding]:
    total = probe.machine.memory_total
    if 0 < total < LITTLE_MEMORY:
        yield _warning(
            "memory.little",
            f"{human_bytes(total)} of memory: the build runs one job at a time, and llama-server "
            "keeps up to 8 GiB of prompts",
            "set --cache-ram lower in the server's extra_args",
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
            yield _blocker("clock.wrong", message, remedy)
        else:
            yield _warning("clock.off", message, remedy)
    elif clock.synchronized is False:
        yield _info("clock.unsynchronized", "the clock is right, but nothing keeps it so")


def _duration(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


# GPUs


def _gpus(probe: Probe) -> Iterator[Finding]:
    if not probe.pci and not probe.gpus:
        if probe.driver.error:
            yield _driver_error(probe)
        else:
            yield _warning(
                "gpu.none",
                "no NVIDIA GPU is on the PCI bus: models would run on the CPU",
                "cuda: {provider: none} makes it a CPU host",
            )
        return
    shown = {card.address for card in probe.cards}
    # Without the second query, counting is what is left.
    missing = [gpu for gpu in probe.pci if gpu.address not in shown]
    if not shown and probe.gpus:
        missing = missing[len(probe.gpus) :]
    yield from _grouped(missing, probe)
    if probe.driver.error and not missing:
        yield _driver_error(probe)
    if probe.gpus:
        yield from _driver_version(probe)
        yield from _cards(probe)


def _grouped(missing: Sequence[PciGpu], probe: Probe) -> Iterator[Finding]:
    """One finding a reason, naming all the cards that it keeps from us."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for gpu in missing:
        reasons.setdefault(_reason(gpu, probe), []).append(_card_name(gpu))
    for (name, why, remedy), cards in reasons.items():
        yield _blocker(name, f"the driver doesn't show {_and(cards)}: {why}", remedy)


def _card_name(gpu: PciGpu) -> str:
    name = re.sub(r".*\[(.*)\]", r"\1", gpu.name) or f"10de:{gpu.device_id}"
    return f"{name} ({gpu.address.removeprefix('0000:')})"


def _and(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


_INSTALL = "install NVIDIA's driver 580 or newer with the open modules (nvidia-open), then reboot"


def _reason(gpu: PciGpu, probe: Probe) -> tuple[str, str, str]:
    """Finding's id, why the driver doesn't show this card, and what would mend it."""
    driver, machine = probe.driver, probe.machine
    words = "\n".join(driver.messages)
    if not gpu.enabled or _fallen(gpu, (*driver.xids, *driver.messages)):
        return (
            "gpu.fallen-off",
            "it has fallen off the bus",
            "power the box off and on; then look at power cables, riser and cooling (Xid 79)",
        )
    if gpu.driver == "nouveau" or (driver.nouveau and not driver.loaded):
        return (
            "gpu.nouveau",
            "nouveau is bound to it, which can't run CUDA",
            "blacklist nouveau (echo blacklist nouveau > /etc/modprobe.d/nouveau.conf; "
            f"update-initramfs -u) and {_INSTALL}",
        )
    if gpu.driver.startswith("vfio"):
        return (
            "gpu.passthrough",
            f"{gpu.driver} holds it for a virtual machine",
            "take it out of the passed-through devices, or onboard that virtual machine",
        )
    if "mismatch" in driver.error:
        return (
            "driver.mismatch",
            "the driver was upgraded under the running kernel module",
            "reboot; then hold the driver's packages back from unattended upgrades",
        )
    if re.search(r"open kernel modules?", words) and "requires use of" in words:
        return _open_needed(driver.loaded or driver.installed)
    if driver.loaded:
        return _loaded_but(gpu, probe, words)
    if _signature_refused(words) or (machine.secure_boot and driver.installed):
        return (
            "driver.secure-boot",
            "secure boot refuses the driver's module, which isn't signed with an enrolled key",
            "enrol the key (mokutil --import /var/lib/dkms/mok.pub, reboot), or turn it off",
        )
    if driver.installed or machine.reboot:
        return (
            "driver.not-loaded",
            "its module is installed and not loaded"
            if driver.installed
            else "no module runs, and a reboot is due",
            "reboot; if that doesn't help: modprobe nvidia, and read dmesg",
        )
    if driver.error:
        return ("driver.error", driver.error.split(" (")[0], _remedy_of(driver.error))
    secure = "; secure boot is on: its key must be enrolled" if machine.secure_boot else ""
    return ("driver.missing", "no driver is installed", _INSTALL + secure)


def _loaded_but(gpu: PciGpu, probe: Probe, words: str) -> tuple[str, str, str]:
    """A module runs and leaves this card alone."""
    driver = probe.driver
    loaded = _version(driver.loaded)
    if _BLACKWELL.fullmatch(gpu.device_id):
        if loaded is not None and loaded < _BLACKWELL_DRIVER:
            return (
                "driver.too-old",
                f"driver {driver.loaded} is older than the card, which needs 570 or newer",
                "upgrade the driver to 580 or newer with the open modules",
            )
        if driver.open_module is False:
            return _open_needed(driver.loaded)
    if "not supported by" in words or "legacy" in words.lower():
        return (
            "driver.wrong-branch",
            f"driver {driver.loaded} doesn't support it",
            "install the branch that NVIDIA names for this card (580 is the last one for "
            "Maxwell, Pascal and Volta; RTX 50 needs 570 or newer)",
        )
    if driver.error:
        return ("driver.error", driver.error.split(" (")[0], _remedy_of(driver.error))
    return (
        "gpu.hidden",
        f"driver {driver.loaded} runs and doesn't say why",
        f"read dmesg on the box for {gpu.address}; reboot; try the card in another slot",
    )


def _open_needed(version: str) -> tuple[str, str, str]:
    return (
        "driver.open-needed",
        f"it needs the open kernel modules, and driver {version or '?'} came with the closed ones",
        "install the open ones of the same version (nvidia-open, nvidia-kernel-open-dkms), reboot",
    )


def _fallen(gpu: PciGpu, lines: Sequence[str]) -> bool:
    short = gpu.address.rsplit(".", 1)[0]
    return any("fallen off the bus" in line and short in line.lower() for line in lines)


def _signature_refused(words: str) -> bool:
    return bool(re.search(r"Lockdown|rejected|module verification failed: .*required", words))


def _driver_error(probe: Probe) -> Finding:
    text = probe.driver.error
    name = "driver.mismatch" if "mismatch" in text else "driver.error"
    return _blocker(name, text.split(" (")[0], _remedy_of(text))


def _remedy_of(error: str) -> str:
    """facts.gpu puts the remedy in parentheses at the end."""
    return error.partition(" (")[2].removesuffix(")") or "run nvidia-smi on the box"


def _driver_version(probe: Probe) -> Iterator[Finding]:
    loaded = probe.driver.loaded or probe.driver.userland
    version, glibc = _version(loaded), _version(probe.machine.libc.removeprefix("glibc "))
    if version is None:
        return
    best = next((start for start, low in MINIMUM_DRIVER if version >= low), None)
    if best is None:
        yield _blocker(
            "driver.too-old",
            f"driver {loaded} runs no CUDA 12, which llama.cpp is built with",
            "upgrade the driver to 580 or newer",
        )
    elif best < Version("13.0"):
        if glibc is not None and glibc >= GLIBC_THAT_BREAKS_12:
            yield _blocker(
                "driver.too-old",
                f"driver {loaded} runs CUDA up to {best}, and toolkits before 13 don't compile "
                f"with {probe.machine.libc}",
                "upgrade the driver to 580.65 or newer",
            )
        else:
            yield _warning(
                "driver.old",
                f"driver {loaded} runs CUDA up to {best}",
                f'set cuda.version to "{best}", or upgrade the driver to 580.65 or newer for 13',
            )
    installed = probe.driver.installed
    if installed and probe.driver.loaded and installed != probe.driver.loaded:
        yield _warning(
            "driver.upgraded",
            f"driver {probe.driver.loaded} runs, {installed} is installed",
            "reboot before something else starts using the GPU",
        )


def _cards(probe: Probe) -> Iterator[Finding]:
    by_uuid = {card.uuid: card for card in probe.cards}
    kinds = sorted({_kind(gpu) for gpu in probe.gpus})
    if len(kinds) > 1:
        smallest = min((gpu.memory_total or 0 for gpu in probe.gpus), default=0)
        yield _warning(
            "gpu.unlike",
            f"unlike cards: {_and(kinds)}",
            "one server a card (gpus: [UUID]) suits them best; split over both, set "
            f"--tensor-split (the smallest has {smallest / 1024:.0f} GiB)",
        )
    for gpu in probe.gpus:
        card = by_uuid.get(gpu.uuid)
        if card is not None and card.mig:
            yield _blocker(
                "gpu.mig",
                f"GPU {gpu.index} ({gpu.name}) is split by MIG: a server sees one slice at most",
                f"nvidia-smi -i {gpu.index} -mig 0 (ends what runs on it)",
            )
        elif _busy(gpu):
            used = (gpu.memory_total or 0) - (gpu.memory_free or 0)
            yield _warning(
                "gpu.busy",
                f"{used / 1024:.1f} GiB of GPU {gpu.index} ({gpu.name}) are in use",
                "stop what uses it (nvidia-smi on the box lists it)",
            )
        yield from _capability(gpu)


def _kind(gpu: Gpu) -> str:
    size = f" {gpu.memory_total / 1024:.0f} GiB" if gpu.memory_total else ""
    return gpu.name.removeprefix("NVIDIA ") + size


def _busy(gpu: Gpu) -> bool:
    total, free = gpu.memory_total, gpu.memory_free
    return total is not None and free is not None and total - free > max(2048, total // 10)


def _capability(gpu: Gpu) -> Iterator[Finding]:
    capability = _version(gpu.compute_capability or "")
    if capability is None or capability >= LOWEST_CAPABILITY_OF_13:
        return
    if capability < Version("5.0"):
        yield _blocker(
            "gpu.too-old",
            f"{gpu.name}: no CUDA 12 compiles for compute capability {capability}",
            "cuda: {provider: none} makes it a CPU host",
        )
        return
    yield _warning(
        "gpu.old",
        f"{gpu.name}: CUDA 13 doesn't compile for compute capability {capability}",
        'set cuda.version to "12.9"',
    )


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


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
            yield _blocker("port.taken", message, remedy)
        else:
            yield _warning("port.taken", message, remedy)


def _software(probe: Probe) -> Iterator[Finding]:
    for program in probe.programs:
        if not program.active:
            continue
        stop = f"systemctl disable --now {program.unit}" if program.unit else "stop it"
        yield _warning(
            "software.running",
            f"{program.kind} runs here ({program.path}) and may take GPU memory at any time",
            f"{stop}, once its users have moved",
        )
    foreign = [model for model in probe.models if model.source != "llamaherd"]
    if foreign:
        total = sum(model.size for model in foreign)
        sources = ", ".join(sorted({model.source for model in foreign}))
        yield _info(
            "models.found",
            f"{len(foreign)} model file{'s' * (len(foreign) > 1)} of {human_bytes(total)} "
            f"({sources}) could be adopted instead of downloaded",
        )


def _hub(probe: Probe) -> Iterator[Finding]:
    hub = probe.hub
    if not hub.endpoint:
        return
    if hub.error:
        yield _warning(
            "hub.unreachable",
            f"{hub.endpoint}: {hub.error}",
            "set hub.endpoint to a mirror that the box reaches, or a model's source to a path",
        )
    elif hub.bytes_per_second is not None and hub.bytes_per_second < SLOW_HUB:
        hours = RECIPE_MODEL / hub.bytes_per_second / 3600
        yield _info(
            "hub.slow",
            f"the hub gives {hub.bytes_per_second / 1e6:.1f} MB/s: {hours:.1f} h for 17.5 GB",
        )


def _already(probe: Probe, expected: Expectations) -> Iterator[Finding]:
    servers = ", ".join(probe.onboarded.servers)
    if expected.host:
        running = f", and serves {servers}" if servers else ", and nothing of ours is on it yet"
        yield _info("fleet.known", f"it is {expected.host} in the fleet{running}")
    elif servers or probe.onboarded.builds:
        has = f"servers {servers}" if servers else "a build"
        yield _warning(
            "fleet.foreign",
            f"llamaherd was here already ({has}), and no host of this fleet has this address",
            "another fleet may own it: ask whose it is before you add it to yours",
        )
