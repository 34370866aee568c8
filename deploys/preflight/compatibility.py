"""What goes with what: toolkit, driver, GPU, libc. Data with its sources, and a pure check.

Sources: NVIDIA's CUDA toolkit release notes (table "CUDA Toolkit and Corresponding Driver
Versions", and "Deprecated Architectures" of 13.0); glibc 2.41's release notes (``cospi`` and
``sinpi`` in ``math.h`` collide with the declarations of toolkits up to 12.9).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from facts.gpu import Gpu

# Lowest driver that runs programs of a toolkit, newest first.
MINIMUM_DRIVER = (
    (Version("13.0"), Version("580.65")),
    (Version("12.9"), Version("575.51")),
    (Version("12.8"), Version("570.26")),
    (Version("12.0"), Version("525.60")),
)
# Lowest toolkit that compiles for a compute capability.
MINIMUM_TOOLKIT = (
    (Version("12.1"), Version("12.9")),
    (Version("12.0"), Version("12.8")),
    (Version("9.0"), Version("11.8")),
)
# Toolkits from 13.0 on compile for this capability and newer only.
LOWEST_CAPABILITY_OF_13 = Version("7.5")
GLIBC_THAT_BREAKS_12 = Version("2.41")


@dataclass(frozen=True)
class Combination:
    """What of a host and its settings must go together. ``toolkit`` as the fleet says it."""

    toolkit: str
    glibc: str
    gpus: Sequence[Gpu]


def conflicts(combination: Combination) -> list[str]:
    """What can't work, each with the setting that would mend it; empty when nothing is known."""
    toolkit = _version(combination.toolkit)
    if toolkit is None:
        return []
    found = [*_libc(toolkit, combination.glibc)]
    for gpu in combination.gpus:
        found += _driver(toolkit, gpu)
        found += _capability(toolkit, gpu)
    return list(dict.fromkeys(found))


def _libc(toolkit: Version, glibc: str) -> list[str]:
    version = _version(glibc)
    if version is None or version < GLIBC_THAT_BREAKS_12 or toolkit >= Version("13.0"):
        return []
    return [
        f"CUDA {toolkit} does not compile with glibc {glibc}: set cuda.version to 13.0 or newer"
    ]


def _driver(toolkit: Version, gpu: Gpu) -> list[str]:
    driver = _version(gpu.driver)
    needed = next((low for start, low in MINIMUM_DRIVER if toolkit >= start), None)
    if driver is None or needed is None or driver >= needed:
        return []
    fitting = next((str(start) for start, low in MINIMUM_DRIVER if driver >= low), None)
    instead = f", or set cuda.version to {fitting}" if fitting else ""
    return [
        f"CUDA {toolkit} needs driver {needed} or newer, {gpu.name} has {gpu.driver}: "
        f"upgrade the driver{instead}"
    ]


def _capability(toolkit: Version, gpu: Gpu) -> list[str]:
    capability = _version(gpu.compute_capability or "")
    if capability is None:
        return []
    if toolkit >= Version("13.0") and capability < LOWEST_CAPABILITY_OF_13:
        return [
            f"CUDA {toolkit} no longer compiles for {gpu.name} (compute capability "
            f"{gpu.compute_capability}): set cuda.version to 12.9"
        ]
    needed = next((low for start, low in MINIMUM_TOOLKIT if capability >= start), None)
    if needed is None or toolkit >= needed:
        return []
    return [
        f"{gpu.name} (compute capability {gpu.compute_capability}) needs CUDA {needed} or newer: "
        f"set cuda.version"
    ]


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
