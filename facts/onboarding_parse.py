"""What :class:`facts.onboarding.Onboarding` printed, as a value. Pure.

Upstream behaviour relied on: see :mod:`facts.onboarding`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from pyinfra.api.exceptions import FactProcessError

from facts.cuda import parse_cuda
from facts.found_models import parse_found
from facts.onboarding_values import (
    Access,
    Card,
    Clock,
    Disk,
    Driver,
    Machine,
    Onboarded,
    PciGpu,
    Probe,
    Program,
    Space,
    Speed,
    Sudo,
)
from facts.sections import split_sections
from facts.system import PATHS, SystemState, parse_system

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "fuse.sshfs"}
_MEMORY = {"tmpfs", "ramfs"}
_SUDOERS = {"sudo", "wheel", "admin"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def parse_probe(output: list[str]) -> Probe:
    """The command's lines as a value; FactProcessError for output that makes no sense."""
    # What a box says ends on somebody's terminal: it may not steer that.
    output = [_CONTROL.sub("", line) for line in output]
    sections = split_sections(output)
    system = parse_system(output)
    box = _pairs(sections.get("box", []))
    disks = tuple(_disks(sections.get("disks", [])))
    try:
        return Probe(
            machine=_machine(system, box, sections),
            disks=disks,
            space=tuple(_spaces(sections)),
            pci=_pci(sections.get("pci", []), sections.get("lspci", [])),
            gpus=system.gpus,
            cards=tuple(_cards(sections.get("cards", []))),
            driver=_driver(sections, system),
            toolkits=tuple(parse_cuda(output).toolkits.values()),
            programs=tuple(_programs(sections.get("programs", []))),
            models=parse_found(sections),
            listeners=system.listeners,
            access=_access(sections),
            clock=_clock(box),
            onboarded=_onboarded(sections.get("onboarded", [])),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise FactProcessError(f"cannot make sense of what the box says it is: {error}") from error


def _pairs(lines: Iterable[str]) -> dict[str, str]:
    found = (line.partition("=") for line in lines if "=" in line)
    return {key: value.strip() for key, _, value in found}


def _machine(
    system: SystemState, box: Mapping[str, str], sections: Mapping[str, list[str]]
) -> Machine:
    release = {k: v.strip("\"'") for k, v in _pairs(sections.get("os", [])).items()}
    virtual = box.get("virtualization", "")
    compiler = box.get("compiler", "")
    name = "clang" if "clang" in box.get("compiler_name", "").lower() else "gcc"
    secure = box.get("secure_boot", "")
    return Machine(
        hostname=box.get("hostname", ""),
        vendor=_known(box.get("vendor", "")),
        model=_known(box.get("model", "")) or box.get("tree", ""),
        virtualization="" if virtual == "none" else virtual,
        cpu=system.cpu,
        cores=system.cores,
        architecture=system.architecture,
        memory_total=system.memory_total,
        memory_available=system.memory_available,
        kernel=box.get("kernel", ""),
        distribution=system.distribution,
        version_id=system.version_id,
        title=release.get("PRETTY_NAME", ""),
        packages=_packages({system.distribution, *system.like}),
        libc=f"glibc {system.glibc}" if system.glibc else box.get("musl", "").split(" (")[0],
        compiler=f"{name} {compiler}" if compiler else "",
        systemd=system.systemd,
        secure_boot=None if not secure else secure == "1",
        reboot=_reboot(box, virtual),
    )


def _packages(family: set[str]) -> str:
    """As :func:`deploys.packages.require_supported` tells them apart."""
    return "apt" if "debian" in family else "dnf" if "rhel" in family else ""


# What makers leave in their DMI tables when they leave them empty.
_PLACEHOLDERS = {"to be filled by o.e.m.", "system manufacturer", "system product name", "default"}


def _known(text: str) -> str:
    return "" if text.lower().startswith(tuple(_PLACEHOLDERS)) else text


def _reboot(box: Mapping[str, str], virtual: str) -> str:
    if box.get("reboot_asked"):
        packages = box.get("reboot", "")
        return "upgraded packages ask for it" + (f": {packages}" if packages else "")
    # A container has its host's kernel: modules of it are not its own to keep.
    if box.get("modules") and virtual not in ("systemd-nspawn", "lxc", "docker", "podman"):
        return f"kernel {box.get('kernel')} runs, but only {box['modules']} is installed"
    return ""


_QUOTED = re.compile(r'([A-Z:-]+)="([^"]*)"')


def _lsblk(line: str) -> dict[str, str]:
    return dict(_QUOTED.findall(line))


def _speed(values: Mapping[str, str]) -> Speed:
    if values.get("TRAN") == "nvme" or values.get("NAME", "").startswith("nvme"):
        return "nvme"
    # A virtual machine's disks say that they rotate, whatever they lie on.
    if values.get("TRAN") == "virtio" or values.get("NAME", "").startswith(("vd", "xvd")):
        return "unknown"
    return {"1": "hdd", "0": "ssd"}.get(values.get("ROTA", ""), "unknown")  # type: ignore[return-value]


def _disks(lines: Iterable[str]) -> Iterator[Disk]:
    for values in map(_lsblk, lines):
        # Boot helpers of virtual machines and empty card readers are no disks to put models on.
        if values.get("TYPE") != "disk" or int(values.get("SIZE") or 0) < 1024**3:
            continue
        yield Disk(
            values["NAME"], int(values["SIZE"]), _speed(values), values.get("MODEL", "").strip()
        )


def _spaces(sections: Mapping[str, list[str]]) -> Iterator[Space]:
    for path in PATHS:
        lines = sections.get(f"space:{path}", [])
        if not lines:
            continue
        device, filesystem, total, _, free, _, mount = lines[0].split(None, 6)
        speeds = [_speed(_lsblk(line)) for line in lines[1:]]
        yield Space(
            path, mount, filesystem, device, int(total), int(free), _space_speed(filesystem, speeds)
        )


def _space_speed(filesystem: str, speeds: Sequence[Speed]) -> Speed:
    if filesystem in _NETWORK:
        return "network"
    if filesystem in _MEMORY:
        return "memory"
    # A stack of devices is as slow as its slowest; an unknown layer in it says nothing.
    slowest: tuple[Speed, ...] = ("hdd", "ssd", "nvme")
    if "nvme" in speeds and "hdd" not in speeds:
        return "nvme"
    return next((speed for speed in slowest if speed in speeds), "unknown")


_LSPCI = re.compile(
    r"(?P<address>\S+) [^:]*\[03\w\w\]: (?:NVIDIA Corporation )?(?P<name>.*?) ?"
    r"\[10de:(?P<id>\w{4})\](?: \(rev (?P<rev>\w\w)\))?"
)


def _pci(lines: Sequence[str], lspci: Sequence[str]) -> tuple[PciGpu, ...]:
    """sysfs first; lspci adds names, and is enough alone."""
    found: dict[str, PciGpu] = {}
    for line in lines:
        address, device, driver, alive = line.split()
        device_id = device.removeprefix("0x")
        found[address] = PciGpu(address, device_id, "", driver[:-1], alive != "ffff")
    current = ""
    for line in lspci:
        match = _LSPCI.match(line)
        if match:
            current = match["address"].lower()
            gone = match["rev"] == "ff"
            known = found.get(current)
            found[current] = PciGpu(
                current,
                match["id"],
                match["name"].strip(),
                known.driver if known else "",
                not gone and (known.enabled if known else True),
            )
        elif not line.startswith(("\t", " ")):
            current = ""
        elif current and "Kernel driver in use:" in line:
            gpu = found[current]
            driver = line.split(":", 1)[1].strip()
            found[current] = PciGpu(current, gpu.device_id, gpu.name, driver, gpu.enabled)
    return tuple(found[address] for address in sorted(found))


def _cards(lines: Iterable[str]) -> Iterator[Card]:
    for line in lines:
        values = [value.strip() for value in line.split(",")]
        if len(values) != 4 or not values[0].startswith("GPU-"):
            continue
        uuid, address, mig, used = values
        # nvidia-smi counts domains with eight digits, the kernel with four.
        domain, _, rest = address.lower().partition(":")
        yield Card(
            uuid,
            f"{domain[-4:]}:{rest}" if rest else "",
            mig == "Enabled",
            int(used) if used.isdecimal() else None,
        )


_MODULE = re.compile(r"Kernel Module(?P<open> for \S+)?\s+(?P<version>\d[\d.]+)")


def _driver(sections: Mapping[str, list[str]], system: SystemState) -> Driver:
    words = "\n".join(sections.get("module", []))
    module = _MODULE.search(words)
    installed = sections.get("modinfo", [])
    version = installed[0] if installed and installed[0][:1].isdigit() else ""
    smi = "\n".join(sections.get("smi", []))
    # Driver 610 calls it "CUDA UMD Version", and names no driver's version beside it.
    versions = dict(re.findall(r"(Driver|CUDA)(?: UMD)? Version: *([\d.]+)", smi))
    kernel = kernel_records(sections.get("kernel", []))
    open_module = "Open Kernel Module" in words if module else _license(installed)
    return Driver(
        loaded=module["version"] if module else "",
        open_module=open_module,
        installed=version,
        userland=versions.get("Driver") or next((gpu.driver for gpu in system.gpus), ""),
        cuda=versions.get("CUDA", ""),
        nouveau="loaded" in sections.get("nouveau", []),
        error=system.gpu_error,
        xids=tuple(record for record in kernel if "Xid" in record)[-5:],
        messages=tuple(dict.fromkeys(x for x in kernel if "Xid" not in x))[-MESSAGES:],
    )


def _license(installed: Sequence[str]) -> bool | None:
    return None if len(installed) < 2 else "GPL" in installed[1]


MESSAGES = 20
"""Records of the kernel's log that are reported at most, each once, the latest."""

_STAMP = re.compile(r"\[[^\]]*\d\] *")


def kernel_records(lines: Sequence[str]) -> list[str]:
    """``dmesg``'s lines as records without their times: the driver's own span several lines.

    dmesg (util-linux) prints a record's further lines below the first, indented and without a time.
    """
    timed = any(_STAMP.match(line) for line in lines)
    records: list[str] = []
    for line in lines:
        stamp = _STAMP.match(line)
        text = line[stamp.end() :] if stamp else line.strip()
        if records and stamp is None and (timed or line[:1] in " \t"):
            records[-1] += " " + text.removeprefix("NVRM:").strip()
        else:
            records.append(text.strip())
    return records


_NUMBER = re.compile(r"\d[\w.+-]*")
_KINDS = {
    "llama-server": "llama.cpp",
    "lms": "lm-studio",
    "llmster": "lm-studio",
    "lm-studio": "lm-studio",
    "text-generation-launcher": "text-generation-inference",
}


def _programs(lines: Iterable[str]) -> Iterator[Program]:
    """What is installed and what runs in containers, each once; then what runs beside those."""
    found: dict[tuple[str, str], Program] = {}
    for line in lines:
        kind, path, words, unit, active = [*line.split("|"), "", "", "", ""][:5]
        if kind == "process":
            _running(found, path, words, unit)
            continue
        version = _NUMBER.search(words) if kind != "container" else None
        version_text = words if kind == "container" else (version[0] if version else "")
        name = _KINDS.get(kind, kind)
        found[name, path] = Program(name, path, version_text, unit, active == "active")
    yield from found.values()


def _running(found: dict[tuple[str, str], Program], exe: str, word: str, unit: str) -> None:
    """Note a process: of a program that is known already, or of one of its own."""
    base = word.rsplit("/", 1)[-1]
    module, _, rest = base.partition(".")
    name = module.lower() if rest and module in ("vllm", "sglang") else base.lower()
    name = next((kind for start, kind in _KINDS.items() if name.startswith(start)), name)
    # Python's own path says nothing.
    path = word if "/python" in exe or not exe else exe
    for key, program in found.items():
        same = unit and program.unit == unit
        if program.kind == name and (same or program.path in (path, word)):
            found[key] = replace(program, unit=program.unit or unit, active=True)
            return
    found[name, path] = Program(name, path, "", unit, True)


def _access(sections: Mapping[str, list[str]]) -> Access:
    user, sudo, groups = [*sections.get("access", []), "", "none", ""][:3]
    sshd = dict(line.split(" ", 1) for line in sections.get("sshd", []) if " " in line)
    return Access(
        user=user,
        sudo=_rights(sudo, groups),
        permit_root=sshd.get("permitrootlogin", ""),
        password_login=sshd.get("passwordauthentication", ""),
    )


def _rights(sudo: str, groups: str) -> Sudo:
    if sudo == "root" or sudo == "passwordless":
        return sudo  # type: ignore[return-value]
    return "password" if _SUDOERS & set(groups.split()) else "none"


def _clock(box: Mapping[str, str]) -> Clock:
    synchronized = box.get("NTPSynchronized", "")
    return Clock(
        synchronized=None if not synchronized else synchronized == "yes",
        zone=box.get("Timezone", ""),
    )


def _onboarded(lines: Iterable[str]) -> Onboarded:
    words = [line.split(" ", 1) for line in lines]
    servers = [name for kind, name in words if kind == "server"]
    builds = [name for kind, name in words if kind == "build"]
    return Onboarded(
        tuple(name.removeprefix("llama-server@").removesuffix(".service") for name in servers),
        tuple(builds),
    )
