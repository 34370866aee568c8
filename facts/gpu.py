"""Which NVIDIA GPUs a host has, as the driver's own ``nvidia-smi`` tells it.

One remote command, a pure parser beside it. :data:`GPU_QUERY` and :func:`parse_gpus` are public
because :mod:`facts.system` asks the same question inside its own single command.

Upstream behaviour relied on (nvidia-smi's manual page, "RETURN VALUE" and ``--help-query-gpu``):

- A field that a driver doesn't know (``compute_cap`` before 510, ``mig.mode.current`` before 450)
  is refused with ``Field "compute_cap" is not a valid field to query.``; the query is then
  repeated with what all drivers know, and the rest is None.
- ``--version`` names the highest CUDA version since 515, as ``CUDA UMD version`` since 610; older
  drivers refuse the option.
- A machine without a device answers ``No devices were found``. That is a host without GPUs.
- Values that a board doesn't report are bracketed words such as ``[N/A]``; GPUs that share the
  system's memory (GB10, Jetson) report no memory of their own.
- A warning about a corrupted infoROM comes on standard output, before rows that are good.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase

from facts.values import FactValue

_FIELDS = "index,name,uuid,memory.total,memory.free,driver_version"
_MORE = "compute_cap,mig.mode.current,ecc.mode.current,power.limit"
_SMI = "timeout 60 nvidia-smi --format=csv,noheader,nounits --query-"
_PROCESS, _CUDA = "process: ", "cuda: "

GPU_QUERY = (
    "if command -v nvidia-smi >/dev/null 2>&1; then "
    f"gpus=$({_SMI}gpu={_FIELDS},{_MORE} 2>&1); status=$?; "
    "case \"$gpus\" in *'is not a valid field'*) "
    f"gpus=$({_SMI}gpu={_FIELDS} 2>&1); status=$?;; esac; "
    '[ -z "$gpus" ] || printf "%s\\n" "$gpus"; '
    # The rest only where the driver answered: a hanging one must not cost three time limits.
    'if [ "$status" != 0 ]; then echo "nvidia-smi exited $status"; else '
    f"{_SMI}compute-apps=gpu_uuid,pid,process_name,used_gpu_memory 2>/dev/null | "
    "while IFS= read -r line; do "
    f'case $line in GPU-*|MIG-*) printf "{_PROCESS}%s\\n" "$line";; esac; done; '
    "timeout 60 nvidia-smi --version 2>/dev/null | while IFS= read -r line; do "
    f"case $line in 'CUDA Version'*|'CUDA UMD '*) echo \"{_CUDA}${{line##*: }}\";; esac; done; "
    "fi; fi"
)
"""POSIX shell that prints one CSV row a GPU, one line a process that computes and the highest CUDA
version; nothing without nvidia-smi. It always exits 0."""

_UNREPORTED = re.compile(r"\[.*\]|N/A|ERR!|")
_EXITED = re.compile(r"nvidia-smi exited (\d+)")
_NO_DEVICE = "No devices were found"
MISMATCH = "the driver was upgraded under the running kernel module"
"""What a driver means that says ``Driver/library version mismatch``."""

MISMATCH_REMEDY = (
    "reboot the host, or end what uses its GPUs and load the modules anew "
    "(modprobe -r nvidia_uvm nvidia_drm nvidia_modeset nvidia; modprobe nvidia); then hold the "
    "driver's packages back from unattended upgrades"
)

_REMEDIES = {
    "Driver/library version mismatch": f"{MISMATCH}: {MISMATCH_REMEDY}",
    "couldn't communicate with the NVIDIA driver": (
        "the kernel module isn't loaded: reinstall the driver for the running kernel "
        "(dkms status, dmesg | grep -i nvidia), then reboot"
    ),
    "GPU is lost": "the GPU fell off the bus: reboot the host, then look at power and cooling",
    "Unable to determine the device handle": (
        "that GPU answers no more: power the host off and on, then look at power and cooling"
    ),
    "nvidia-smi exited 124": "nvidia-smi gave no answer for 60 s: see dmesg for Xid errors, reboot",
}


class GpuError(FactProcessError):
    """``nvidia-smi`` is there and can't be made sense of; the message says what mends it.

    pyinfra contains this one exception type: the host fails, the others go on.
    """


@dataclass(frozen=True)
class GpuProcess(FactValue):
    """A process that computes on a GPU. ``memory`` is MiB; None where the driver doesn't tell."""

    pid: int
    name: str
    memory: int | None = None


@dataclass(frozen=True)
class Gpu(FactValue):
    """One GPU.

    + index: as CUDA counts with ``CUDA_DEVICE_ORDER=PCI_BUS_ID``
    + uuid: ``GPU-...``, good for ``CUDA_VISIBLE_DEVICES``
    + memory_total, memory_free: MiB; None where the board shares the system's memory
    + compute_capability: such as ``8.9``; None where the driver doesn't tell
    + driver: version of the driver, such as ``580.65.06``
    + mig, ecc: whether the mode is on; None where the board has none or the driver doesn't tell
    + power_limit: watts
    + cuda: highest CUDA version that the driver runs, such as ``13.0``; None before driver 515
    + processes: what computes on it
    """

    index: int
    name: str
    uuid: str
    memory_total: int | None
    memory_free: int | None
    compute_capability: str | None
    driver: str
    mig: bool | None = None
    ecc: bool | None = None
    power_limit: float | None = None
    cuda: str | None = None
    processes: tuple[GpuProcess, ...] = ()

    @property
    def architecture(self) -> str | None:
        """The capability as CMake's ``CMAKE_CUDA_ARCHITECTURES`` wants it, such as ``89``."""
        return self.compute_capability and self.compute_capability.replace(".", "")


def parse_gpus(lines: Iterable[str]) -> tuple[Gpu, ...]:
    """What :data:`GPU_QUERY` printed, as GPUs in the driver's order; empty without any.

    Raises :class:`GpuError` for whatever is neither a row, nor a warning, nor "no devices".
    """
    said = [line.strip() for line in lines if line.strip()]
    text = [line for line in said if not line.startswith((_PROCESS, _CUDA))]
    rows = [line for line in text if not line.startswith("WARNING:") and not _EXITED.match(line)]
    if not rows and len(rows) == len(text):
        return ()
    if any(_NO_DEVICE in line for line in rows):
        return ()
    for sign, remedy in _REMEDIES.items():
        if any(sign in line for line in text):
            raise GpuError(f"nvidia-smi: {_joined(text)} ({remedy})")
    if not rows:
        raise GpuError(f"nvidia-smi: {_joined(text)} (run nvidia-smi on the host to see why)")
    cuda = next((line.removeprefix(_CUDA) for line in said if line.startswith(_CUDA)), "")
    processes = [_parse_process(line) for line in said if line.startswith(_PROCESS)]
    return tuple(
        replace(
            gpu,
            cuda=cuda if re.fullmatch(r"\d+\.\d+", cuda) else None,
            processes=tuple(process for uuid, process in processes if uuid == gpu.uuid),
        )
        for gpu in map(_parse_row, rows)
    )


def gpus_or_error(lines: Iterable[str]) -> tuple[tuple[Gpu, ...], str]:
    """GPUs, or why there are none: for what can do without them."""
    try:
        return parse_gpus(lines), ""
    except GpuError as error:
        return (), str(error)


def _joined(text: list[str]) -> str:
    return "; ".join(line.rstrip(".") for line in text)


def _parse_row(row: str) -> Gpu:
    values = [value.strip() for value in row.split(",")]
    if len(values) not in (6, 7, 10) or not values[0].isdecimal() or not values[2]:
        raise GpuError(f"nvidia-smi: not a row of values: {row!r} (run nvidia-smi on the host)")
    index, name, uuid, total, free, driver = values[:6]
    capability, mig, ecc, limit = [*values[6:], "", "", "", ""][:4]
    return Gpu(
        index=int(index),
        name=name,
        uuid=uuid,
        memory_total=_mebibytes(total, row),
        memory_free=_mebibytes(free, row),
        compute_capability=_capability(capability, row),
        driver=driver,
        mig=_mode(mig, row),
        ecc=_mode(ecc, row),
        power_limit=_watts(limit, row),
    )


def _parse_process(line: str) -> tuple[str, GpuProcess]:
    """The GPU's UUID and the process; a name may hold commas."""
    values = [value.strip() for value in line.removeprefix(_PROCESS).split(",")]
    if len(values) < 4 or not values[1].isdecimal():
        raise GpuError(f"nvidia-smi: not a process: {line!r} (run nvidia-smi on the host)")
    uuid, pid, *name, memory = values
    return uuid, GpuProcess(int(pid), ", ".join(name), _mebibytes(memory, line))


def _mode(value: str, row: str) -> bool | None:
    if _UNREPORTED.fullmatch(value):
        return None
    if value not in ("Enabled", "Disabled"):
        raise GpuError(f"nvidia-smi: {value!r} is neither on nor off in {row!r}")
    return value == "Enabled"


def _watts(value: str, row: str) -> float | None:
    if _UNREPORTED.fullmatch(value):
        return None
    if not re.fullmatch(r"\d+(\.\d+)?", value):
        raise GpuError(f"nvidia-smi: {value!r} is no number of watts in {row!r}")
    return float(value)


def _mebibytes(value: str, row: str) -> int | None:
    if _UNREPORTED.fullmatch(value):
        return None
    if not value.isdecimal():
        raise GpuError(f"nvidia-smi: {value!r} is no number of MiB in {row!r}")
    return int(value)


def _capability(value: str, row: str) -> str | None:
    if _UNREPORTED.fullmatch(value):
        return None
    if not re.fullmatch(r"\d+\.\d+", value):
        raise GpuError(f"nvidia-smi: {value!r} is no compute capability in {row!r}")
    return value


class Gpus(FactBase[tuple[Gpu, ...]]):
    """The host's NVIDIA GPUs, in the driver's order; empty without nvidia-smi or devices.

    .. code:: shell

        pyinfra HOST fact facts.gpu.Gpus
    """

    default = tuple

    def command(self) -> str:
        """The query; it needs no root."""
        return GPU_QUERY

    def process(self, output: Iterable[str]) -> tuple[Gpu, ...]:
        """See :func:`parse_gpus`."""
        return parse_gpus(output)
