"""What goes with what: toolkit, driver, GPU, libc, host compiler. Data with sources; a pure check.

A row of :data:`TOOLKITS` holds from its own release on, up to the next row. What isn't known isn't
refused: a newer toolkit than the last row is taken to be like it.

Sources, by the letter in each row:

- R: NVIDIA's CUDA toolkit release notes, table "CUDA Toolkit and Corresponding Driver Versions": up
  to 12.4 the lower bound of minor version compatibility; from 12.8 on the driver of the release
  itself, for what an older one of the same major version lacks shows at run time alone
- I: NVIDIA's CUDA installation guide for Linux of that release, "Host Compiler Support Policy"; the
  same figures release by release in nixpkgs' ``_cuda/db/bootstrap/nvcc.nix``
- P: the PTX ISA's release notes, which say which toolkit first knew a compute capability; the same
  in nixpkgs' ``_cuda/db/bootstrap/cuda.nix``
- D: release notes of 13.0, "Deprecated Architectures": it compiles for 7.5 and newer only
- G: glibc 2.41 declares ``cospi`` and ``sinpi`` with ``noexcept``, glibc 2.42 ``rsqrt`` too; the
  headers of toolkits up to 12.9 contradict the former (NVIDIA/cuda-samples issue 378, on Ubuntu
  25.04); the latter broke 12.8 and 13.0 until nixpkgs patched it (pull request 484031), and 13.3's
  headers mend both (JustVugg/colibri, pull request 630)
- K: NVIDIA's driver installation guide, "Kernel Modules": open modules need Turing (7.5) or newer,
  Blackwell has no others, and driver 620 dropped the proprietary ones; 580 is the last branch for
  what is older than Turing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from packaging.version import InvalidVersion, Version

from facts.gpu import Gpu


@dataclass(frozen=True)
class Toolkit:
    """A release of the toolkit, and those after it up to the next row.

    + driver: lowest driver that runs its programs (R)
    + capabilities: lowest and highest compute capability that it compiles for (P, D)
    + gcc: highest major version of gcc that nvcc takes as host compiler (I)
    + glibc: the first one that its headers contradict; None for none that is known (G)
    """

    release: Version
    driver: Version
    capabilities: tuple[Version, Version]
    gcc: int
    glibc: Version | None = None


def _row(
    release: str, driver: str, lowest: str, highest: str, gcc: int, glibc: str | None = None
) -> Toolkit:
    capabilities = (Version(lowest), Version(highest))
    contradicted = Version(glibc) if glibc else None
    return Toolkit(Version(release), Version(driver), capabilities, gcc, contradicted)


# release, driver (R), capabilities from and to (P, D), gcc (I), glibc (G)
TOOLKITS = (
    _row("11.8", "450.80.02", "3.5", "9.0", 11, "2.41"),
    _row("12.0", "525.60.13", "5.0", "9.0", 12, "2.41"),
    _row("12.4", "525.60.13", "5.0", "9.0", 13, "2.41"),
    _row("12.8", "570.26", "5.0", "12.0", 14, "2.41"),
    _row("12.9", "575.51.03", "5.0", "12.1", 14, "2.41"),
    _row("13.0", "580.65.06", "7.5", "12.1", 15, "2.42"),
    _row("13.3", "580.65.06", "7.5", "12.1", 15),
)
MINIMUM_DRIVER = tuple((row.release, row.driver) for row in reversed(TOOLKITS))
"""Lowest driver that runs programs of a toolkit and those after it, newest first."""
LOWEST_CAPABILITY_OF_13 = Version("7.5")
GLIBC_THAT_BREAKS_12 = Version("2.41")

# Major version of the gcc that a distribution's build tools bring.
GCC = {
    "debian12": 12,
    "debian13": 14,
    "ubuntu2204": 11,
    "ubuntu2404": 13,
    "ubuntu2604": 15,
    "rhel9": 11,
    "rhel10": 14,
}
# Lowest driver that runs a GPU at all, by compute capability (R: the driver of the toolkit that
# first knew it; K).
DRIVER_OF_CAPABILITY = (
    (Version("12.1"), Version("575.51.03")),
    (Version("10.0"), Version("570.26")),
    (Version("9.0"), Version("525.60.13")),
    (Version("8.9"), Version("520.61.05")),
)
OPEN_MODULES_FROM = Version("7.5")
OPEN_MODULES_ONLY_FROM = Version("10.0")
LAST_BRANCH_BEFORE_TURING = 580
LAST_BRANCH_WITH_PROPRIETARY_MODULES = 615


@dataclass(frozen=True)
class Combination:
    """What of a host and its settings must go together.

    + toolkit: as the fleet says it; empty when that isn't known beforehand
    + gcc: major version of the host's compiler; 0 when it isn't known
    + capabilities: further compute capabilities to compile for, such as ``8.9``
    + driver: False where the driver is not to be judged, for it will be another one
    + instead: how a person takes another toolkit, with ``{}`` for its version
    """

    toolkit: str
    glibc: str
    gpus: Sequence[Gpu]
    gcc: int = 0
    capabilities: Sequence[str] = ()
    driver: bool = True
    instead: str = "set cuda.version to {}"


def conflicts(combination: Combination) -> list[str]:
    """What can't work, each with the setting that would mend it; empty when nothing is known."""
    toolkit = _version(combination.toolkit)
    found = []
    row = None if toolkit is None else row_of(toolkit)
    instead = combination.instead
    if toolkit is not None and row is not None:
        found += _libc(toolkit, row, combination.glibc, instead)
        found += _compiler(toolkit, row, combination.gcc, instead)
        for capability in combination.capabilities:
            found += _capability(toolkit, row, "llama_cpp.architectures", capability, instead)
    for gpu in combination.gpus:
        if row is not None and toolkit is not None:
            found += _driver(toolkit, row, gpu, instead) if combination.driver else []
            found += _capability(toolkit, row, gpu.name, gpu.compute_capability or "", instead)
        found += _card(gpu) if combination.driver else []
    return list(dict.fromkeys(found))


def row_of(toolkit: Version) -> Toolkit | None:
    """The row that holds for a toolkit; None for one that is older than all of them."""
    return next((row for row in reversed(TOOLKITS) if toolkit >= row.release), None)


def driver_conflicts(branch: int, modules: str, gpus: Sequence[Gpu]) -> list[str]:
    """Why a driver branch with these kernel modules can't run the host's GPUs."""
    found = []
    for gpu in gpus:
        capability = _version(gpu.compute_capability or "")
        if capability is None:
            continue
        card = f"{gpu.name} (compute capability {gpu.compute_capability})"
        if capability < OPEN_MODULES_FROM and branch > LAST_BRANCH_BEFORE_TURING:
            found.append(
                f"driver {branch} no longer runs {card}: "
                f"set driver.branch to {LAST_BRANCH_BEFORE_TURING}"
            )
        if capability < OPEN_MODULES_FROM and modules == "open":
            found.append(
                f"the open kernel modules don't run {card}: set driver.modules to proprietary"
            )
        if capability >= OPEN_MODULES_ONLY_FROM and modules != "open":
            found.append(f"{card} runs with the open kernel modules only: set driver.modules: open")
        needed = _lowest_driver(capability)
        if needed is not None and branch < needed.major:
            found.append(
                f"{card} needs driver {needed} or newer: "
                f"set driver.branch to {needed.major} or more"
            )
    return list(dict.fromkeys(found))


def branch_conflicts(toolkit: str, branch: int) -> list[str]:
    """Why programs of a toolkit can't run with a driver branch; empty when nothing is known."""
    version = _version(toolkit)
    row = None if version is None else row_of(version)
    if row is None or branch >= row.driver.major:
        return []
    return [
        f"CUDA {toolkit} needs driver {row.driver} or newer, driver.branch is {branch}: "
        f"set driver.branch to {row.driver.major} or more"
    ]


def _libc(toolkit: Version, row: Toolkit, glibc: str, instead: str) -> list[str]:
    version = _version(glibc)
    if version is None or row.glibc is None or version < row.glibc:
        return []
    better = next((r for r in TOOLKITS if r.glibc is None or version < r.glibc), None)
    remedy = instead.format(f"{better.release} or newer") if better else "use an older release"
    return [f"CUDA {toolkit} does not compile with glibc {glibc}: {remedy}"]


def _compiler(toolkit: Version, row: Toolkit, gcc: int, instead: str) -> list[str]:
    if gcc <= row.gcc:
        return []
    better = next((r for r in TOOLKITS if r.gcc >= gcc and r.release > row.release), None)
    older = (
        f"install gcc-{row.gcc} and g++-{row.gcc}, and set llama_cpp.cmake: "
        f"{{CMAKE_CUDA_HOST_COMPILER: /usr/bin/g++-{row.gcc}}}"
    )
    remedy = f"{instead.format(f'{better.release} or newer')}, or {older}" if better else older
    return [f"CUDA {toolkit} takes no gcc newer than {row.gcc}, the host has {gcc}: {remedy}"]


def _driver(toolkit: Version, row: Toolkit, gpu: Gpu, instead: str) -> list[str]:
    driver = _version(gpu.driver)
    if driver is None or driver >= row.driver:
        return []
    fitting = [str(r.release) for r in TOOLKITS if driver >= r.driver]
    other = f", or {instead.format(fitting[-1])}" if fitting else ""
    return [
        f"CUDA {toolkit} needs driver {row.driver} or newer, {gpu.name} has {gpu.driver}: "
        f"upgrade the driver (driver.manage: true does){other}"
    ]


def _capability(toolkit: Version, row: Toolkit, name: str, text: str, instead: str) -> list[str]:
    capability = _version(text)
    if capability is None:
        return []
    lowest, highest = row.capabilities
    if capability < lowest:
        last = [r for r in TOOLKITS if r.capabilities[0] <= capability]
        remedy = instead.format(last[-1].release) if last else "no toolkit here does"
        return [
            f"CUDA {toolkit} no longer compiles for {name} (compute capability {text}): {remedy}"
        ]
    if capability <= highest:
        return []
    first = next((r for r in TOOLKITS if r.capabilities[1] >= capability), None)
    if first is None:
        return []  # newer than all that is known here
    return [
        f"{name} (compute capability {text}) needs CUDA {first.release} or newer: "
        f"{instead.format(f'{first.release} or newer')}"
    ]


def _card(gpu: Gpu) -> list[str]:
    capability, driver = _version(gpu.compute_capability or ""), _version(gpu.driver)
    needed = None if capability is None else _lowest_driver(capability)
    if driver is None or needed is None or driver >= needed:
        return []
    return [
        f"{gpu.name} needs driver {needed} or newer, it has {gpu.driver}: upgrade the driver "
        "(driver.manage: true does)"
    ]


def _lowest_driver(capability: Version) -> Version | None:
    return next((low for start, low in DRIVER_OF_CAPABILITY if capability >= start), None)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None
