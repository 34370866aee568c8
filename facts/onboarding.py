"""A box before it is in the fleet: all that one remote command can tell, with or without root.

Nothing is changed on the box and nothing is needed there but a POSIX shell: each tool that is
missing leaves its own answer out. Where the login may use sudo without a password, the same script
runs with root's rights, because the kernel's log, sshd's settings and other users' model caches
are root's to read. The values are :mod:`facts.onboarding_values`; what follows from them is
:mod:`llamaherd.onboard.diagnosis`.

Upstream behaviour relied on: sysfs and procfs as the kernel documents them
(``Documentation/ABI/testing/sysfs-bus-pci``); ``/proc/driver/nvidia/version`` and the words of
``nvidia-smi`` (NVIDIA's driver README); a device that left the bus reads as all ones, which lspci
shows as ``rev ff``; Ollama's ``manifests``/``blobs`` layout (its ``docs/import.md`` and
``server/manifest.go``); the hub cache's ``models--*/snapshots`` layout (``huggingface_hub``'s
"Understand caching").
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.cuda import CudaToolkits, parse_cuda
from facts.onboarding_values import (
    Access,
    Card,
    Clock,
    Disk,
    Driver,
    FoundModel,
    HubAnswer,
    Machine,
    Onboarded,
    PciGpu,
    Probe,
    Program,
    Space,
    Speed,
    Sudo,
)
from facts.sections import SECTION, split_sections
from facts.system import PATHS, System, SystemState, parse_system

MODEL_LIMIT = 200
"""Model files that are reported at most; a box with more is somebody's archive."""
BANDWIDTH_BYTES = 8 * 1024**2
BANDWIDTH_SECONDS = 3

_NETWORK = {"nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "lustre", "9p", "fuse.sshfs"}
_MEMORY = {"tmpfs", "ramfs"}
_SUDOERS = {"sudo", "wheel", "admin"}

# Runs what follows as root where that needs no password, else as the login.
_WRAPPER = """
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/local/cuda/bin
LC_ALL=C; export PATH LC_ALL
login=$(id -un); groups=$(id -Gn); sudo=none; as=
if [ "$(id -u)" = 0 ]; then sudo=root
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
  sudo=passwordless; as="sudo -n"
fi
exec $as env PATH="$PATH" LC_ALL=C sh -c "$1" look "$login" "$sudo" "$groups"
"""

_MACHINE = f"""
echo {SECTION}access; echo "$1"; echo "$2"; echo "$3"
echo {SECTION}sshd
sshd -T 2>/dev/null | grep -E '^(permitrootlogin|passwordauthentication) '
echo {SECTION}box
echo "hostname=$(hostname 2>/dev/null || cat "$proc/sys/kernel/hostname")"
echo "kernel=$(uname -r)"
echo "vendor=$(cat "$sys/class/dmi/id/sys_vendor" 2>/dev/null)"
echo "model=$(cat "$sys/class/dmi/id/product_name" 2>/dev/null)"
echo "tree=$(tr -d '\\0' 2>/dev/null < "$proc/device-tree/model")"
echo "virtualization=$(systemd-detect-virt 2>/dev/null)"
echo "musl=$(ldd --version 2>&1 | grep -i musl | head -n 1)"
echo "compiler=$(cc -dumpfullversion -dumpversion 2>/dev/null)"
echo "compiler_name=$(cc --version 2>/dev/null | head -n 1)"
for variable in "$sys"/firmware/efi/efivars/SecureBoot-*; do
  [ -e "$variable" ] && echo "secure_boot=$(od -An -tu1 -j4 -N1 "$variable" 2>/dev/null)"
done
[ -e /run/reboot-required ] && echo "reboot=$(sort -u /run/reboot-required.pkgs 2>/dev/null |
  tr '\\n' ' ')" && echo reboot_asked=yes
[ -d /lib/modules ] && [ ! -d "/lib/modules/$(uname -r)" ] &&
  echo "modules=$(ls /lib/modules | tr '\\n' ' ')"
timedatectl show -p NTPSynchronized -p Timezone 2>/dev/null
"""

_STORAGE = f"""
echo {SECTION}disks
lsblk -dbnP -e 7,11 -o NAME,SIZE,ROTA,TRAN,TYPE,MODEL 2>/dev/null
for path in {" ".join(PATHS)}; do
  at=$path; while [ ! -e "$at" ]; do at=$(dirname "$at"); done
  echo {SECTION}space:$path; df -PTB1 "$at" 2>/dev/null | tail -n 1
  device=$(df -P "$at" 2>/dev/null | tail -n 1 | cut -d ' ' -f 1)
  case $device in /dev/*) lsblk -nsP -o NAME,ROTA,TRAN "$device" 2>/dev/null ;; esac
done
"""

_PCI = f"""
echo {SECTION}pci
for device in "$sys"/bus/pci/devices/*; do
  [ "$(cat "$device/vendor" 2>/dev/null)" = 0x10de ] || continue
  case $(cat "$device/class") in 0x03*) ;; *) continue ;; esac
  driver=$(readlink "$device/driver" 2>/dev/null)
  alive=$(od -An -tx1 -N2 "$device/config" 2>/dev/null | tr -d ' ')
  echo "${{device##*/}} $(cat "$device/device") ${{driver##*/}}- ${{alive:-unread}}"
done
echo {SECTION}lspci; lspci -Dnnk -d 10de: 2>/dev/null
"""

_DRIVER = f"""
echo {SECTION}module; cat "$proc/driver/nvidia/version" 2>/dev/null
echo {SECTION}modinfo; modinfo -F version nvidia 2>/dev/null | head -n 1
modinfo -F license nvidia 2>/dev/null | head -n 1
echo {SECTION}nouveau; [ -d "$sys/module/nouveau" ] && echo loaded
if command -v nvidia-smi >/dev/null 2>&1; then
  # Both only where the first one answers: a hanging driver must not cost three time limits.
  cards=$(timeout 20 nvidia-smi --format=csv,noheader,nounits \
    --query-gpu=uuid,pci.bus_id,mig.mode.current,memory.used 2>&1) && {{
    echo {SECTION}cards; echo "$cards"
    echo {SECTION}smi
    timeout 20 nvidia-smi 2>/dev/null | grep -oE '(Driver|CUDA) Version: *[0-9.]+' | sort -u
  }}
fi
echo {SECTION}kernel
signed='[Nn]vidia.*(ignature|verification|rejected)|Lockdown'
dmesg 2>/dev/null | grep -E "NVRM|Xid|nouveau|$signed" | grep -v 'loading NVIDIA' | tail -n 30
"""

_SOFTWARE = f"""
show() {{ # kind, path, version, unit
  active=; [ -z "$4" ] || active=$(systemctl is-active "$4" 2>/dev/null)
  echo "$1|$2|$3|$4|$active"
}}
echo {SECTION}programs
for program in ollama llama-server vllm lms; do
  path=$(command -v "$program" 2>/dev/null) || continue
  version=$(timeout 5 "$program" --version 2>&1 </dev/null | grep -i version | tail -n 1)
  unit=; [ -z "$(systemctl cat "$program.service" 2>/dev/null)" ] || unit=$program.service
  show "$program" "$path" "$version" "$unit"
done
if command -v docker >/dev/null 2>&1; then
  timeout 5 docker ps --format '{{{{.Image}}}}|{{{{.Names}}}}' 2>/dev/null |
    grep -E 'ollama|vllm|llama|sglang|text-generation|localai|tritonserver' |
    while IFS='|' read -r image name; do echo "container|$name|$image||active"; done
fi
homes="/root /home/* /usr/share/ollama /var/lib/ollama"
echo {SECTION}ollama
asked=$(systemctl show ollama.service -p Environment 2>/dev/null |
  sed -n 's/.*OLLAMA_MODELS=\\([^ "]*\\).*/\\1/p')
for store in $asked $(for home in $homes; do echo "$home/.ollama/models"; done); do
  [ -d "$store/manifests" ] || continue
  find "$store/manifests" -type f 2>/dev/null | head -n {MODEL_LIMIT} | while read -r manifest; do
    echo "$store"; echo "${{manifest#$store/manifests/}}"; tr -d '\\n' < "$manifest"; echo
  done
done
echo {SECTION}models
list() {{ # source, folder, depth
  [ -d "$2" ] || return 0
  timeout 10 find "$2" -maxdepth "$3" -name '*.gguf' 2>/dev/null | head -n {MODEL_LIMIT} |
    while read -r file; do
      size=$(stat -L -c %s "$file" 2>/dev/null) || continue
      echo "$1|$size|$2|$file|$(readlink "$file")"
    done
}}
for home in $homes; do
  list llama.cpp "$home/.cache/llama.cpp" 2
  list hub "$home/.cache/huggingface/hub" 6
  list lm-studio "$home/.lmstudio/models" 4
  list lm-studio "$home/.cache/lm-studio/models" 4
  list file "$home/models" 4
done
for folder in /models /srv/models /opt/models /data/models; do list file "$folder" 4; done
list llamaherd /var/lib/llamaherd/models 4
echo {SECTION}onboarded
for unit in /etc/systemd/system/llama-server@*.service; do
  grep -q '^# Managed by llamaherd' "$unit" 2>/dev/null && echo "server ${{unit##*/}}"
done
for build in /opt/llama.cpp/*; do
  [ -f "$build/manifest.json" ] && echo "build ${{build##*/}}"
done
"""

_CUDA = CudaToolkits().command()


class Onboarding(FactBase[Probe]):
    """All that one look at a box tells; see :class:`facts.onboarding_values.Probe`.

    .. code:: shell

        pyinfra HOST fact facts.onboarding.Onboarding
    """

    def command(self, sys: str = "/sys", proc: str = "/proc") -> str:
        """One script.

        + sys, proc: roots of sysfs and procfs, for boxes that are stand-ins
        """
        roots = f"sys={shlex.quote(sys)}; proc={shlex.quote(proc)}; cd /"
        parts = (_MACHINE, _STORAGE, _PCI, _DRIVER, _SOFTWARE)
        script = "\n".join([roots, *parts, System().command(), _CUDA, "true"])
        return f"sh -c {shlex.quote(_WRAPPER)} look {shlex.quote(script)}"

    @staticmethod
    def default() -> Probe:
        """A box that says nothing."""
        return Probe()

    def process(self, output: list[str]) -> Probe:
        """See :func:`parse_probe`."""
        return parse_probe(output)


class Now(FactBase[float]):
    """The box's clock, in seconds since the epoch."""

    def command(self) -> str:
        """One word; without GNU's nanoseconds, whole seconds."""
        return "date +%s.%N | tr -d N"

    def process(self, output: list[str]) -> float:
        """FactProcessError for anything but a number."""
        try:
            return float(output[-1].rstrip("."))
        except (IndexError, ValueError) as error:
            raise FactProcessError(f"the box's clock says {output!r}, which is no time") from error


class Bandwidth(FactBase[HubAnswer]):
    """How fast the box reads from the model hub: a few MB, a few seconds, thrown away."""

    def command(self, endpoint: str, url: str) -> str:
        """Needs curl on the box; says so where there is none.

        + endpoint: what is reported; ``url``: a large file behind it
        """
        form = "%{http_code} %{size_download} %{time_total} %{time_starttransfer}"
        options = (
            f"-sSL -o /dev/null --connect-timeout {BANDWIDTH_SECONDS} "
            f"--max-time {2 * BANDWIDTH_SECONDS} -r 0-{BANDWIDTH_BYTES - 1}"
        )
        script = (
            f"echo {SECTION}hub; echo {shlex.quote(endpoint)}; "
            "command -v curl >/dev/null || { echo no-curl; exit 0; }; "
            f"curl {options} -w {shlex.quote(form)} {shlex.quote(url)} 2>&1; true"
        )
        return f"sh -c {shlex.quote(script)}"

    def process(self, output: list[str]) -> HubAnswer:
        """See :func:`parse_bandwidth`."""
        return parse_bandwidth(output)


_CURL = re.compile(r"(\d{3}) (\d+) ([\d.]+) ([\d.]+)$")


def parse_bandwidth(output: Sequence[str]) -> HubAnswer:
    """What :class:`Bandwidth` printed; a hub that doesn't answer is an answer, not an error."""
    endpoint, *lines = split_sections(output).get("hub", [""])
    text = "\n".join(lines)
    if "no-curl" in lines:
        return HubAnswer(endpoint, error="there is no curl on the box to ask it with")
    match = _CURL.search(text)
    if match is None:
        return HubAnswer(endpoint, error=_curl_words(text) or "no answer")
    status, size = match[1], int(match[2])
    seconds = float(match[3]) - float(match[4])
    if status not in ("200", "206"):
        words = _curl_words(text[: match.start()]) or f"it answered {status}"
        return HubAnswer(endpoint, reached=status != "000", error=words)
    # A file shorter than a packet or two says nothing about the line.
    speed = int(size / seconds) if size >= 65536 and seconds > 0 else None
    return HubAnswer(endpoint, reached=True, bytes_per_second=speed)


def _curl_words(text: str) -> str:
    found = re.findall(r"curl: \(\d+\) (.+)", text)
    return found[-1].strip() if found else ""


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
            models=_models(sections),
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
        libc=f"glibc {system.glibc}" if system.glibc else box.get("musl", "").split(" (")[0],
        compiler=f"{name} {compiler}" if compiler else "",
        systemd=system.systemd,
        secure_boot=None if not secure else secure == "1",
        reboot=_reboot(box, virtual),
    )


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
    versions = dict(re.findall(r"(Driver|CUDA) Version: *([\d.]+)", smi))
    kernel = [_without_time(line) for line in sections.get("kernel", [])]
    open_module = "Open Kernel Module" in words if module else _license(installed)
    return Driver(
        loaded=module["version"] if module else "",
        open_module=open_module,
        installed=version,
        userland=versions.get("Driver") or next((gpu.driver for gpu in system.gpus), ""),
        cuda=versions.get("CUDA", ""),
        nouveau="loaded" in sections.get("nouveau", []),
        error=system.gpu_error,
        xids=tuple(line for line in kernel if "Xid" in line)[-5:],
        messages=tuple(dict.fromkeys(line for line in kernel if "Xid" not in line))[-10:],
    )


def _license(installed: Sequence[str]) -> bool | None:
    return None if len(installed) < 2 else "GPL" in installed[1]


def _without_time(line: str) -> str:
    return re.sub(r"^\[[^]]*\]\s*", "", line).strip()


_NUMBER = re.compile(r"\d[\w.+-]*")


def _programs(lines: Iterable[str]) -> Iterator[Program]:
    for line in lines:
        kind, path, words, unit, active = [*line.split("|"), "", "", "", ""][:5]
        if kind == "container":
            yield Program(kind, path, words, "", True)
            continue
        version = _NUMBER.search(words)
        name = {"llama-server": "llama.cpp", "lms": "lm-studio"}.get(kind, kind)
        yield Program(name, path, version[0] if version else "", unit, active == "active")


def _models(sections: Mapping[str, list[str]]) -> tuple[FoundModel, ...]:
    found = [*_ollama(sections.get("ollama", [])), *_files(sections.get("models", []))]
    unique = {model.path + model.name: model for model in found}
    return tuple(sorted(unique.values(), key=lambda model: (model.source, model.name)))


def _ollama(lines: Sequence[str]) -> Iterator[FoundModel]:
    for store, manifest, text in zip(lines[::3], lines[1::3], lines[2::3], strict=False):
        for layer in _layers(text):
            digest = str(layer.get("digest", "")).removeprefix("sha256:")
            if layer.get("mediaType") != "application/vnd.ollama.image.model" or not digest:
                continue
            name = manifest.split("/", 1)[-1].removeprefix("library/")
            name = ":".join(name.rsplit("/", 1))
            path = f"{store}/blobs/sha256-{digest}"
            yield FoundModel("ollama", name, path, int(layer.get("size", 0)), digest)


def _layers(text: str) -> list[dict[str, Any]]:
    """A manifest's layers; none where it is damaged, which is Ollama's to complain about."""
    try:
        layers = json.loads(text)["layers"]
        return [layer for layer in layers if isinstance(layer, dict)]
    except (ValueError, KeyError, TypeError):
        return []


_SHA256 = re.compile(r"[0-9a-f]{64}")


def _files(lines: Iterable[str]) -> Iterator[FoundModel]:
    for line in lines:
        source, size, folder, path, link = [*line.split("|"), ""][:5]
        name = path.removeprefix(folder).lstrip("/")
        if source == "hub":
            # models--OWNER--NAME/snapshots/COMMIT/FILE
            repository, _, rest = name.partition("/snapshots/")
            if not rest:
                continue
            file = rest.partition("/")[2]
            name = repository.removeprefix("models--").replace("--", "/", 1) + "/" + file
        blob = link.rsplit("/", 1)[-1]
        sha256 = blob if _SHA256.fullmatch(blob) else ""
        yield FoundModel(source, name, path, int(size), sha256)


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
