"""What :class:`facts.onboarding.Onboarding` answers with: a box as it is before we touch it.

Pure data. Every field has a value that stands for "the box doesn't say", so that a bare box, one
without root's rights and one without a GPU are all reported in the same form.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from facts.cuda import Toolkit
from facts.found_models import FoundModel
from facts.gpu import Gpu
from facts.system import Listener
from facts.values import FactValue

Speed = Literal["nvme", "ssd", "hdd", "network", "memory", "unknown"]
Sudo = Literal["root", "passwordless", "password", "none"]


@dataclass(frozen=True)
class Machine(FactValue):
    """The box and its system.

    + vendor, model: as its DMI tables say; empty where there are none
    + virtualization: as ``systemd-detect-virt`` says, such as kvm; empty on bare metal
    + cpu, cores, architecture: processor model, processors a job may use, ``uname -m``
    + memory_total, memory_available: bytes
    + distribution, version_id, title: of os-release, such as debian, 12, "Debian GNU/Linux 12"
    + packages: what installs them here: apt, dnf, or nothing that we know
    + libc: such as ``glibc 2.36``
    + compiler: such as ``gcc 12.2.0``; empty without one
    + systemd: major version; 0 where systemd isn't running the box
    + secure_boot: None where the firmware doesn't say
    + reboot: why the box waits for a reboot; empty where it doesn't
    """

    hostname: str = ""
    vendor: str = ""
    model: str = ""
    virtualization: str = ""
    cpu: str = ""
    cores: int = 1
    architecture: str = ""
    memory_total: int = 0
    memory_available: int = 0
    kernel: str = ""
    distribution: str = ""
    version_id: str = ""
    title: str = ""
    packages: str = ""
    libc: str = ""
    compiler: str = ""
    systemd: int = 0
    secure_boot: bool | None = None
    reboot: str = ""


@dataclass(frozen=True)
class Disk(FactValue):
    """A whole disk. ``size`` in bytes; ``model`` may be empty."""

    device: str
    size: int
    speed: Speed = "unknown"
    model: str = ""


@dataclass(frozen=True)
class Space(FactValue):
    """Room where we put things.

    + path: what was asked for, such as ``/var/lib``
    + mount, filesystem, device: what it lies on; ``speed`` is the device's
    + total, free: bytes, free for those without root's rights
    """

    path: str
    mount: str
    filesystem: str
    device: str
    total: int
    free: int
    speed: Speed = "unknown"


@dataclass(frozen=True)
class PciGpu(FactValue):
    """An NVIDIA display controller on the PCI bus, whatever any driver says of it.

    + address: such as ``0000:01:00.0``, lower case
    + device_id: four hex digits, such as ``2684``
    + name: as lspci knows it; empty where lspci isn't there
    + driver: kernel driver bound to it, such as nvidia, nouveau, vfio-pci; empty without one
    + enabled: False where the kernel has switched the device off or it answers no more
    """

    address: str
    device_id: str
    name: str = ""
    driver: str = ""
    enabled: bool = True


@dataclass(frozen=True)
class Driver(FactValue):
    """NVIDIA's driver, or what stands in its place.

    + loaded: version of the kernel module that runs; empty when none does
    + open_module: whether that module is the open one; None when unknown
    + installed: version of the module on disk for the running kernel; empty without one
    + userland: version of the driver's libraries; empty without nvidia-smi
    + cuda: highest CUDA it runs, such as ``13.0``; empty when it doesn't say
    + nouveau: whether the nouveau module is loaded
    + error: why nvidia-smi can't be made sense of; empty where it can
    + xids: the kernel's latest Xid complaints, as lines of its log (needs root)
    + messages: the kernel's other words about NVIDIA that explain a refusal (needs root)
    """

    loaded: str = ""
    open_module: bool | None = None
    installed: str = ""
    userland: str = ""
    cuda: str = ""
    nouveau: bool = False
    error: str = ""
    xids: tuple[str, ...] = ()
    messages: tuple[str, ...] = ()


@dataclass(frozen=True)
class Card(FactValue):
    """What the driver says of one GPU beyond its model and memory.

    + uuid: joins it to its Gpu
    + address: on the PCI bus, lower case with a four-digit domain; empty when unknown
    + mig: whether it is split into MIG instances
    + used: MiB in use; None when unknown
    """

    uuid: str
    address: str = ""
    mig: bool = False
    used: int | None = None


@dataclass(frozen=True)
class Program(FactValue):
    """Inference software that is there already.

    + kind: ollama, llama.cpp, vllm, lm-studio, container ...
    + path: the program, what Python was given to run, or a container's name
    + version: empty when it doesn't say; of a container its image
    + unit: its systemd unit, if any; ``active`` whether it runs
    """

    kind: str
    path: str
    version: str = ""
    unit: str = ""
    active: bool = False


@dataclass(frozen=True)
class Access(FactValue):
    """How the box is reached, and with which rights.

    + user: the account that was logged in with
    + sudo: what it may do
    + permit_root, password_login: ``sshd -T``'s words on them; empty when unknown (needs root)
    """

    user: str = ""
    sudo: Sudo = "none"
    permit_root: str = ""
    password_login: str = ""


@dataclass(frozen=True)
class Clock(FactValue):
    """The box's clock.

    + offset: seconds that it is ahead of the controller's; None when not measured
    + synchronized: as ``timedatectl`` says; None when it doesn't
    + zone: such as ``Europe/Berlin``
    """

    offset: float | None = None
    synchronized: bool | None = None
    zone: str = ""


@dataclass(frozen=True)
class HubAnswer(FactValue):
    """How the box reaches the model hub.

    + endpoint: empty when it wasn't asked
    + reached: whether it answered at all; ``error`` says why not
    + bytes_per_second: None when not measured
    """

    endpoint: str = ""
    reached: bool = False
    error: str = ""
    bytes_per_second: int | None = None


@dataclass(frozen=True)
class Onboarded(FactValue):
    """What of llamaherd is on the box already: units and builds by name."""

    servers: tuple[str, ...] = ()
    builds: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probe(FactValue):
    """Everything that one look at a box tells."""

    machine: Machine = field(default_factory=Machine)
    disks: tuple[Disk, ...] = ()
    space: tuple[Space, ...] = ()
    pci: tuple[PciGpu, ...] = ()
    gpus: tuple[Gpu, ...] = ()
    cards: tuple[Card, ...] = ()
    driver: Driver = field(default_factory=Driver)
    toolkits: tuple[Toolkit, ...] = ()
    programs: tuple[Program, ...] = ()
    models: tuple[FoundModel, ...] = ()
    listeners: tuple[Listener, ...] = ()
    access: Access = field(default_factory=Access)
    clock: Clock = field(default_factory=Clock)
    hub: HubAnswer = field(default_factory=HubAnswer)
    onboarded: Onboarded = field(default_factory=Onboarded)
