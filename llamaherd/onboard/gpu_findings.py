"""What stands between a box's GPUs and CUDA: findings with a remedy. Pure.

Sources of the rules: NVIDIA's driver README (chapters "Open Linux Kernel Modules", "Supported
NVIDIA GPU Products", "Xid") and the tables of :mod:`deploys.preflight.compatibility`. A rule that
can't be decided from what the box told stays silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from packaging.version import InvalidVersion, Version

from deploys.preflight.compatibility import (
    GLIBC_THAT_BREAKS_12,
    LOWEST_CAPABILITY_OF_13,
    MINIMUM_DRIVER,
)
from facts.gpu import Gpu
from facts.onboarding_values import PciGpu, Probe
from llamaherd.onboard.findings import blocker, warning
from llamaherd.onboard.report import Finding

_BLACKWELL = re.compile(r"2[b-f][0-9a-f]{2}|29[0-9a-f]{2}|31[0-9a-f]{2}")
_BLACKWELL_DRIVER = Version("570")


def gpu_findings(probe: Probe) -> Iterator[Finding]:
    """Each card that the driver doesn't show, with the reason; then the driver, and those shown."""
    if not probe.pci and not probe.gpus:
        if probe.driver.error:
            yield _driver_error(probe)
        else:
            yield warning(
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
        yield blocker(name, f"the driver doesn't show {_and(cards)}: {why}", remedy)


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
    return blocker(name, text.split(" (")[0], _remedy_of(text))


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
        yield blocker(
            "driver.too-old",
            f"driver {loaded} runs no CUDA 12, which llama.cpp is built with",
            "upgrade the driver to 580 or newer",
        )
    elif best < Version("13.0"):
        if glibc is not None and glibc >= GLIBC_THAT_BREAKS_12:
            yield blocker(
                "driver.too-old",
                f"driver {loaded} runs CUDA up to {best}, and toolkits before 13 don't compile "
                f"with {probe.machine.libc}",
                "upgrade the driver to 580.65 or newer",
            )
        else:
            yield warning(
                "driver.old",
                f"driver {loaded} runs CUDA up to {best}",
                f'set cuda.version to "{best}", or upgrade the driver to 580.65 or newer for 13',
            )
    installed = probe.driver.installed
    if installed and probe.driver.loaded and installed != probe.driver.loaded:
        yield warning(
            "driver.upgraded",
            f"driver {probe.driver.loaded} runs, {installed} is installed",
            "reboot before something else starts using the GPU",
        )


def _cards(probe: Probe) -> Iterator[Finding]:
    by_uuid = {card.uuid: card for card in probe.cards}
    kinds = sorted({_kind(gpu) for gpu in probe.gpus})
    if len(kinds) > 1:
        smallest = min((gpu.memory_total or 0 for gpu in probe.gpus), default=0)
        yield warning(
            "gpu.unlike",
            f"unlike cards: {_and(kinds)}",
            "one server a card (gpus: [UUID]) suits them best; split over both, set "
            f"--tensor-split (the smallest has {smallest / 1024:.0f} GiB)",
        )
    for gpu in probe.gpus:
        card = by_uuid.get(gpu.uuid)
        if card is not None and card.mig:
            yield blocker(
                "gpu.mig",
                f"GPU {gpu.index} ({gpu.name}) is split by MIG: a server sees one slice at most",
                f"nvidia-smi -i {gpu.index} -mig 0 (ends what runs on it)",
            )
        elif _busy(gpu):
            used = (gpu.memory_total or 0) - (gpu.memory_free or 0)
            yield warning(
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
        yield blocker(
            "gpu.too-old",
            f"{gpu.name}: no CUDA 12 compiles for compute capability {capability}",
            "cuda: {provider: none} makes it a CPU host",
        )
        return
    yield warning(
        "gpu.old",
        f"{gpu.name}: CUDA 13 doesn't compile for compute capability {capability}",
        'set cuda.version to "12.9"',
    )


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
