"""Why the driver doesn't show a card that is on the bus, and what would mend it. Pure.

The kernel's own words decide where there are any: a record of its log that names the card's
address, else one that names none. Sources of the rules: NVIDIA's driver README (chapters "Open
Linux Kernel Modules", "Supported NVIDIA GPU Products", "GSP Firmware"), its Xid catalogue, the
kernel's ``kernel/module/signing.c`` and kernel_lockdown(7); each text that is looked for stands,
as somebody's machine wrote it, in ``tests/onboard/recorded_kernel.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from packaging.version import Version

from facts.gpu import MISMATCH, MISMATCH_REMEDY
from facts.onboarding_values import PciGpu, Probe
from llamaherd.onboard.findings import blocker, listed, version_of
from llamaherd.onboard.report import Finding

_BLACKWELL = re.compile(r"2[b-f][0-9a-f]{2}|29[0-9a-f]{2}|31[0-9a-f]{2}")
_BLACKWELL_DRIVER = Version("570")
# PCI device ids grow with the generations: Turing, the first with a GSP, begins at 1e02, Maxwell,
# the first that CUDA 12 compiles for, at 1340. Branch 580 is the last for what lies between.
_FIRST_WITH_GSP = 0x1E00
_FIRST_OF_CUDA_12 = 0x1340

_OPEN = "install NVIDIA's driver 580 or newer with the open modules (nvidia-open), then reboot"
_CLOSED = (
    "install branch 580 of NVIDIA's driver, the last one for this card, with the closed modules, "
    "then reboot"
)
_IN_TREE = {"nouveau": "nouveau", "nova": "nova_core", "novacore": "nova_core"}
"""Kernel module by the name, in lower case, of each driver in the kernel's own tree."""

_ADDRESS = re.compile(r"\b[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\b", re.I)
_LOST = re.compile(
    r"GPU ?[0-9a-f]{3,8}:(?P<slot>[0-9a-f]{2}:[0-9a-f]{2})\.\d: .*(?:Error|lost)", re.I
)
_LEGACY = re.compile(r"supported through the NVIDIA (?P<branch>\d+)\.xx Legacy drivers")
_START = re.compile(r"RmInitAdapter failed! \(\S+\)")
_REFUSED = re.compile(
    r"Loading of .* is rejected|Lockdown: .*unsigned module loading is restricted|"
    r"Key was rejected by service"
)


@dataclass(frozen=True)
class _Reason:
    """Finding's id, why the driver doesn't show the card, and what would mend it."""

    name: str
    why: str
    remedy: str


def hidden_cards(missing: Sequence[PciGpu], probe: Probe) -> Iterator[Finding]:
    """One finding a reason, naming all the cards that it keeps from us."""
    lost = [gpu for gpu in missing if _is_lost(gpu, probe.driver.error)]
    if lost:
        # nvidia-smi then shows none at all: the others may be well.
        names = listed([_card_name(gpu) for gpu in lost])
        others = " and nvidia-smi shows no other card while it is so" if len(missing) > 1 else ""
        reason = _FALLEN
        yield blocker(reason.name, f"the driver lost {names}: {reason.why}{others}", reason.remedy)
        return
    reasons: dict[_Reason, list[str]] = {}
    for gpu in missing:
        reasons.setdefault(_reason(gpu, probe), []).append(_card_name(gpu))
    for reason, cards in reasons.items():
        message = f"the driver doesn't show {listed(cards)}: {reason.why}"
        yield blocker(reason.name, message, reason.remedy)


def _is_lost(gpu: PciGpu, error: str) -> bool:
    """Whether nvidia-smi ends on this card: no answer, or "GPU is lost"."""
    match = _LOST.search(error)
    return match is not None and match["slot"].lower() == gpu.address[5:10]


def _card_name(gpu: PciGpu) -> str:
    name = re.sub(r".*\[(.*)\]", r"\1", gpu.name) or f"10de:{gpu.device_id}"
    return f"{name} ({gpu.address.removeprefix('0000:')})"


_FALLEN = _Reason(
    "gpu.fallen-off",
    "it has fallen off the bus",
    "power the box off and on; then look at power cables, riser and cooling (Xid 79)",
)
_MISMATCH = _Reason(
    "driver.mismatch",
    MISMATCH,
    MISMATCH_REMEDY,
)
_SECURE_BOOT = _Reason(
    "driver.secure-boot",
    "the kernel refuses the driver's module, which isn't signed with an enrolled key",
    "enrol the key (mokutil --import /var/lib/dkms/mok.pub, reboot), or turn secure boot off",
)


def _reason(gpu: PciGpu, probe: Probe) -> _Reason:
    words = _about(gpu, (*probe.driver.xids, *probe.driver.messages))
    return (
        _by_the_bus(gpu, probe, words)
        or _by_the_log(gpu, probe, words)
        or (_loaded_but(gpu, probe, words) if probe.driver.loaded else _not_loaded(gpu, probe))
    )


def _about(gpu: PciGpu, records: Sequence[str]) -> str:
    """The kernel's records that name this card, then those that name none."""
    slot = gpu.address.rsplit(".", 1)[0]
    own = [record for record in records if slot in record.lower()]
    return "\n".join([*own, *(record for record in records if not _ADDRESS.search(record))])


def _by_the_bus(gpu: PciGpu, probe: Probe, words: str) -> _Reason | None:
    """What sysfs says: gone, or somebody else's."""
    if not gpu.enabled or "fallen off the bus" in words:
        return _FALLEN
    bound = re.search(r"already bound to (\w+)", words)
    holder = gpu.driver or (bound[1] if bound else "")
    if holder.lower() in _IN_TREE:
        return _in_tree(gpu, holder, f"{holder} is bound to it, which can't run CUDA")
    if gpu.driver.startswith("vfio"):
        return _Reason(
            "gpu.passthrough",
            f"{gpu.driver} holds it for a virtual machine",
            "take it out of the passed-through devices, or onboard that virtual machine",
        )
    if probe.driver.nouveau and not probe.driver.loaded:
        why = "nouveau is loaded in the place of NVIDIA's driver, and can't run CUDA"
        return _in_tree(gpu, "nouveau", why)
    return None


def _in_tree(gpu: PciGpu, holder: str, why: str) -> _Reason:
    module = _IN_TREE[holder.lower()]
    remedy = (
        f"blacklist it (echo blacklist {module} > /etc/modprobe.d/{module}.conf; "
        f"update-initramfs -u) and {_install(gpu)}"
    )
    return _Reason("gpu.nouveau", why, remedy)


def _by_the_log(gpu: PciGpu, probe: Probe, words: str) -> _Reason | None:
    """What the kernel and nvidia-smi say themselves."""
    driver = probe.driver
    version = driver.loaded or driver.installed
    if "mismatch" in driver.error:
        return _MISMATCH
    if "requires use of the NVIDIA open kernel modules" in words:
        return _open_needed(version)
    if "not supported by open nvidia.ko" in words:
        return _Reason(
            "driver.closed-needed",
            "it has no GSP, which the open kernel modules need",
            _CLOSED,
        )
    legacy = _LEGACY.search(words)
    if legacy is not None:
        return _Reason(
            "driver.wrong-branch",
            f"driver {version or '?'} has dropped it; branch {legacy['branch']} is its last",
            f"install branch {legacy['branch']} of NVIDIA's driver, then reboot",
        )
    if re.search(r"is not supported by the (?:NVIDIA )?[\d.]+", words):
        return _Reason(
            "driver.wrong-branch",
            f"driver {version or '?'} doesn't support it",
            _install(gpu),
        )
    return None


def _not_loaded(gpu: PciGpu, probe: Probe) -> _Reason:
    driver, machine = probe.driver, probe.machine
    refused = any(_REFUSED.search(record) for record in driver.messages)
    if refused or (machine.secure_boot and driver.installed):
        return _SECURE_BOOT
    if driver.installed or machine.reboot:
        return _Reason(
            "driver.not-loaded",
            "its module is installed and not loaded"
            if driver.installed
            else "no module runs, and a reboot is due",
            "reboot; if that doesn't help: modprobe nvidia, and read dmesg",
        )
    if driver.error:
        return _error(driver.error)
    if _is_older(gpu, _FIRST_OF_CUDA_12):
        return _Reason(
            "gpu.too-old",
            "no driver for it runs CUDA 12, which llama.cpp is built with",
            "cuda: {provider: none} makes it a CPU host",
        )
    secure = "; secure boot is on: its key must be enrolled" if machine.secure_boot else ""
    return _Reason("driver.missing", "no driver is installed", _install(gpu) + secure)


def _loaded_but(gpu: PciGpu, probe: Probe, words: str) -> _Reason:
    """A module runs and leaves this card alone."""
    driver = probe.driver
    loaded = version_of(driver.loaded)
    if _BLACKWELL.fullmatch(gpu.device_id):
        if loaded is not None and loaded < _BLACKWELL_DRIVER:
            return _Reason(
                "driver.too-old",
                f"driver {driver.loaded} is older than the card, which needs 570 or newer",
                "upgrade the driver to 580 or newer with the open modules",
            )
        if driver.open_module is False:
            return _open_needed(driver.loaded)
    started = _START.search(words)
    if started is not None:
        return _Reason(
            "gpu.not-started",
            f"driver {driver.loaded} can't start it: {started[0]}",
            "power the box off and on (a reboot keeps the card's state); then look whether Above "
            "4G Decoding is on in the firmware, at power cables, riser and slot",
        )
    if driver.error:
        return _error(driver.error)
    return _Reason(
        "gpu.hidden",
        f"driver {driver.loaded} runs and doesn't say why",
        f"read dmesg on the box for {gpu.address}; reboot; try the card in another slot",
    )


def _open_needed(version: str) -> _Reason:
    return _Reason(
        "driver.open-needed",
        f"it needs the open kernel modules, and driver {version or '?'} came with the closed ones",
        "install the open ones of the same version (nvidia-open, nvidia-kernel-open-dkms), reboot",
    )


def _error(error: str) -> _Reason:
    return _Reason("driver.error", error_words(error), error_remedy(error))


def error_words(error: str) -> str:
    """What nvidia-smi said; facts.gpu puts the remedy behind it, in parentheses at the end."""
    return error.split(" (")[0]


def error_remedy(error: str) -> str:
    """That remedy."""
    return error.partition(" (")[2].removesuffix(")") or "run nvidia-smi on the box"


def _install(gpu: PciGpu) -> str:
    return _CLOSED if _is_older(gpu, _FIRST_WITH_GSP) else _OPEN


def _is_older(gpu: PciGpu, first: int) -> bool:
    return int(gpu.device_id, 16) < first
