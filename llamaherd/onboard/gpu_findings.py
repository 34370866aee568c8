"""What stands between a box's GPUs and CUDA: findings with a remedy. Pure.

Sources of the rules: NVIDIA's Xid catalogue and the tables of
:mod:`deploys.preflight.compatibility`. A rule that can't be decided from what the box told stays
silent. Why a card isn't shown at all is :mod:`llamaherd.onboard.hidden_cards`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from packaging.version import Version

from deploys.preflight.compatibility import (
    GLIBC_THAT_BREAKS_12,
    LOWEST_CAPABILITY_OF_13,
    MINIMUM_DRIVER,
)
from facts.gpu import Gpu
from facts.onboarding_values import Probe
from llamaherd.onboard.findings import blocker, listed, version_of, warning
from llamaherd.onboard.hidden_cards import error_remedy, error_words, hidden_cards
from llamaherd.onboard.report import Finding

# 11.8 is known, too, but NVIDIA's repositories for the systems of today begin with 12.
_LOWEST_CUDA = Version("12.0")


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
    yield from hidden_cards(missing, probe)
    if probe.driver.error and not missing:
        yield _driver_error(probe)
    if probe.gpus:
        yield from _driver_version(probe)
        yield from _cards(probe)


def _driver_error(probe: Probe) -> Finding:
    text = probe.driver.error
    name = "driver.mismatch" if "mismatch" in text else "driver.error"
    return blocker(name, error_words(text), error_remedy(text))


def _driver_version(probe: Probe) -> Iterator[Finding]:
    loaded = probe.driver.loaded or probe.driver.userland
    version, glibc = version_of(loaded), version_of(probe.machine.libc.removeprefix("glibc "))
    if version is None:
        return
    best = next((start for start, low in MINIMUM_DRIVER if version >= low), None)
    if best is None or best < _LOWEST_CUDA:
        yield blocker(
            "driver.too-old",
            f"driver {loaded} runs no CUDA from {MINIMUM_DRIVER[-1][0]} on, which builds take",
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
            f"unlike cards: {listed(kinds)}",
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
        yield from _xids(gpu, card.address if card else "", probe.driver.xids)


# An application's own fault, by NVIDIA's Xid catalogue: it says nothing about the card.
_XIDS_OF_APPLICATIONS = {"13", "31", "43", "45"}


def _xids(gpu: Gpu, address: str, records: Sequence[str]) -> Iterator[Finding]:
    slot = address.rsplit(".", 1)[0]
    own = [record for record in records if slot and slot in record.lower()]
    numbers = dict.fromkeys(number for r in own for number in re.findall(r"\): (\d+),", r))
    told = [number for number in numbers if number not in _XIDS_OF_APPLICATIONS]
    if told:
        yield warning(
            "gpu.xid",
            f"the kernel's log has Xid {listed(told)} of GPU {gpu.index} ({gpu.name}): "
            f"{own[-1].rpartition(', ')[2]}",
            "look the number up in NVIDIA's Xid catalogue; power, cooling and slot come first",
        )


def _kind(gpu: Gpu) -> str:
    size = f" {gpu.memory_total / 1024:.0f} GiB" if gpu.memory_total else ""
    return gpu.name.removeprefix("NVIDIA ") + size


def _busy(gpu: Gpu) -> bool:
    total, free = gpu.memory_total, gpu.memory_free
    return total is not None and free is not None and total - free > max(2048, total // 10)


def _capability(gpu: Gpu) -> Iterator[Finding]:
    capability = version_of(gpu.compute_capability or "")
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
