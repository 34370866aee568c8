"""What a host is: distribution, processor, memory, libc, GPUs, ports in use. One remote command.

Read once a run (``deploys.common.operations.system``): nothing that our deploys do changes it,
but for the ports, which only preflight looks at, before anything changes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.gpu import GPU_QUERY, Gpu, gpus_or_error
from facts.sections import SECTION, split_sections
from facts.values import FactValue

# Where we put things; free space is asked of the nearest existing parent.
PATHS = ("/opt", "/var/lib")
# Models often have a disk of their own; the distribution's packages go to the last two.
DISKS = (*PATHS, "/var/lib/llamaherd/models", "/usr", "/var/cache")


@dataclass(frozen=True)
class Listener(FactValue):
    """A TCP port that something listens on. ``process`` and ``unit`` are empty when unknown."""

    port: int
    process: str = ""
    unit: str = ""


@dataclass(frozen=True)
class SystemState(FactValue):
    """What a host is.

    + distribution, version_id: ``ID`` and ``VERSION_ID`` of os-release, such as debian, 12
    + architecture: as ``uname -m`` says it
    + cores: processors that a job may use
    + cpu: the processor's model name
    + amx: whether it has tiles of 8 bit integers (Intel's AMX; flag ``amx_int8``)
    + memory_total, memory_available: bytes
    + glibc: such as ``2.36``; empty where libc is another
    + compiler: version of the C compiler that ``cc`` starts, such as ``12.2.0``; empty without one
    + systemd: major version, 0 where systemd isn't running the host
    + disk_free: bytes by path of DISKS
    + mounts: the file system that each of these paths lies on, by its mount point
    + there: bytes by path of what a converge brings and need not bring again: model files, parts of
      them, uploads, manifests of builds and programs, compilers, work folders of builds (with all
      that is in them)
    + root: whether the command ran with root's rights
    + masked: units of servers that somebody has masked
    + repositories: names of dnf's repositories that are enabled; empty where there is no dnf
    + toolkits: nvcc's version by root, of the CUDA toolkits asked for; empty where none runs
    + missing: of what was asked for, what isn't there: ``account dev``, ``group www``,
      ``file /etc/ssl/key.pem``
    + gpu_error: why nvidia-smi can't be made sense of, with its remedy; empty where it can
    """

    distribution: str = ""
    version_id: str = ""
    like: tuple[str, ...] = ()
    architecture: str = ""
    cores: int = 1
    cpu: str = ""
    amx: bool = False
    memory_total: int = 0
    memory_available: int = 0
    glibc: str = ""
    compiler: str = ""
    systemd: int = 0
    root: bool = False
    disk_free: Mapping[str, int] = field(default_factory=dict)
    mounts: Mapping[str, str] = field(default_factory=dict)
    there: Mapping[str, int] = field(default_factory=dict)
    gpus: tuple[Gpu, ...] = ()
    gpu_error: str = ""
    listeners: tuple[Listener, ...] = ()
    masked: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    toolkits: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def platform(self) -> str:
        """Distribution as vendors name it: ``debian12``, ``ubuntu2404``, ``rhel9``."""
        if self.distribution == "ubuntu":
            return "ubuntu" + self.version_id.replace(".", "")
        if self.distribution in ("rhel", "rocky", "almalinux", "centos"):
            return "rhel" + self.version_id.split(".")[0]
        return self.distribution + self.version_id


_LISTENERS = r"""
if command -v ss >/dev/null 2>&1; then
  ss -Hltnp 2>/dev/null | while read -r _ _ _ local _ users; do
    pid= name= unit=
    case $users in *pid=*) pid=${users##*pid=} pid=${pid%%[!0-9]*} ;; esac
    case $users in 'users:(("'*) name=${users#*\"} name=${name%%\"*} ;; esac
    # Where the cgroup hierarchies are mixed, each line names the unit: one is enough.
    [ -z "$pid" ] || [ ! -r "/proc/$pid/cgroup" ] || while [ -z "$unit" ] && read -r group; do
      case $group in */*.service*) group=${group%.service*} unit=${group##*/}.service ;; esac
    done < "/proc/$pid/cgroup"
    echo "${local##*:} ${pid:+$name[$pid]} $unit"
  done
fi
"""

SCRIPT = f"""
cd /
echo {SECTION}os; cat /etc/os-release 2>/dev/null
echo {SECTION}machine; uname -m; nproc; id -u
echo {SECTION}cpu; sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1
echo {SECTION}amx; grep -m 1 -ow amx_int8 /proc/cpuinfo
echo {SECTION}memory; cat /proc/meminfo | sed -n '/^Mem/p'
echo {SECTION}glibc; getconf GNU_LIBC_VERSION 2>/dev/null
echo {SECTION}compiler; cc -dumpfullversion -dumpversion 2>/dev/null
echo {SECTION}systemd; [ -d /run/systemd/system ] && systemctl --version | head -n 1
echo {SECTION}disk
places= looked=
for path in {" ".join(DISKS)}; do
  at=$path; while [ ! -e "$at" ]; do at=${{at%/*}}; at=${{at:-/}}; done
  places="$places $path=$at"
  case " $looked " in *" $at "*) ;; *) looked="$looked $at" ;; esac
done
df -B1 --output=avail,file,target -- $looked | while read -r free at target; do
  for place in $places; do
    [ "${{place#*=}}" != "$at" ] || echo "${{place%%=*}} $free $target"
  done
done
echo {SECTION}there
find -H /var/lib/llamaherd/models /var/lib/llamaherd/uploads -type f ! -path '*/.verified/*' \
  -printf '%s %p\n' 2>/dev/null
stat -c '%s %n' -- /opt/llama.cpp/*/manifest.json /opt/opencode/*/manifest.json \
  /opt/cuda/*/manifest.json /usr/local/cuda*/bin/nvcc /usr/bin/nvcc /usr/bin/glslc \
  /usr/local/bin/glslc /usr/bin/ninja /usr/bin/rg /usr/bin/ccache 2>/dev/null
du -sB1 -- /opt/llama.cpp/.work-* 2>/dev/null | tr '\t' ' '
echo {SECTION}gpus; {GPU_QUERY}
echo {SECTION}listeners
{_LISTENERS}
echo {SECTION}masked
for unit in /etc/systemd/system/llama-server@*.service; do
  [ ! -L "$unit" ] || [ "$(readlink -- "$unit")" != /dev/null ] || echo "${{unit##*/}}"
done
echo {SECTION}repositories
[ ! -d /etc/yum.repos.d ] || grep -hE '^ *([[]|enabled *=)' /etc/yum.repos.d/*.repo 2>/dev/null
true
"""
"""POSIX shell that says what the host is; :mod:`facts.holdings` asks it, too."""


class System(FactBase[SystemState]):
    """What the host is; every field has a sensible value where the host doesn't say.

    + toolkits: roots of CUDA toolkits whose version is wanted
    + accounts, groups: names that should be there
    + files: absolute paths that should be there
    """

    def command(
        self,
        toolkits: Sequence[str] = (),
        accounts: Sequence[str] = (),
        groups: Sequence[str] = (),
        files: Sequence[str] = (),
    ) -> str:
        lines = [SCRIPT, f"echo {SECTION}asked"]
        for root in toolkits:
            lines.append(f"version=$({shlex.quote(f'{root}/bin/nvcc')} --version 2>/dev/null |")
            lines.append("  sed -n 's/.*release .*, V//p')")
            lines.append(f'echo "toolkit ${{version:--}}" {shlex.quote(root)}')
        lines += list(_missing("account", "getent passwd", accounts))
        lines += list(_missing("group", "getent group", groups))
        lines += list(_missing("file", "[ -e", files, " ]"))
        return f"sh -c {shlex.quote(chr(10).join([*lines, 'true']))}"

    @staticmethod
    def default() -> SystemState:
        return SystemState()

    def process(self, output: list[str]) -> SystemState:
        return parse_system(output)


def _missing(what: str, test: str, names: Sequence[str], end: str = "") -> Iterator[str]:
    """Lines that tell which of these aren't there, as far as the host knows."""
    for name in names:
        quoted = shlex.quote(name)
        yield f"{test} {quoted}{end} >/dev/null || echo {what} {quoted}"


def parse_system(output: list[str]) -> SystemState:
    """The command's lines as a value; FactProcessError for output that makes no sense."""
    sections = split_sections(output)
    release = _key_values(sections.get("os", []), "=")
    memory = _key_values(sections.get("memory", []), ":")
    gpus, gpu_error = gpus_or_error(sections.get("gpus", []))
    disk = [line.split(maxsplit=2) for line in sections.get("disk", [])]
    asked = sections.get("asked", [])
    try:
        architecture, cores, uid = sections["machine"]
        return SystemState(
            distribution=release.get("ID", ""),
            version_id=release.get("VERSION_ID", ""),
            like=tuple(release.get("ID_LIKE", "").split()),
            architecture=architecture,
            cores=int(cores),
            cpu=" ".join(sections.get("cpu", [])[:1]),
            amx=bool(sections.get("amx")),
            memory_total=_kibibytes(memory.get("MemTotal", "0 kB")),
            memory_available=_kibibytes(memory.get("MemAvailable", "0 kB")),
            glibc=" ".join(sections.get("glibc", [])).removeprefix("glibc "),
            compiler=" ".join(sections.get("compiler", [])[:1]).strip(),
            systemd=_systemd_version(sections.get("systemd", [])),
            root=uid == "0",
            disk_free={row[0]: int(row[1]) for row in disk},
            mounts={row[0]: row[2] for row in disk if len(row) > 2},
            there=_there(sections.get("there", [])),
            gpus=gpus,
            gpu_error=gpu_error,
            listeners=tuple(
                sorted(_listeners(sections.get("listeners", [])), key=lambda x: x.port)
            ),
            masked=tuple(sections.get("masked", [])),
            repositories=_repositories(sections.get("repositories", [])),
            toolkits=dict(_toolkits(asked)),
            missing=tuple(line for line in asked if not line.startswith("toolkit ")),
        )
    except (KeyError, ValueError, IndexError) as error:
        raise FactProcessError(f"cannot make sense of what the host says it is: {error}") from error


def _there(lines: list[str]) -> dict[str, int]:
    """Bytes by path; a stranger's file name may hold anything, and none of ours is odd."""
    rows = (line.split(" ", 1) for line in lines)
    return {row[1]: int(row[0]) for row in rows if len(row) == 2 and row[0].isdecimal()}


def _repositories(lines: list[str]) -> tuple[str, ...]:
    """Sections of dnf's files, but for those that say that they aren't enabled."""
    found: dict[str, None] = {}
    name = ""
    for line in lines:
        if title := re.match(r" *\[([^\]]+)\]", line):
            name = title[1]
            found[name] = None
        elif re.match(r" *enabled *= *(0|no|false|off)\b", line, re.IGNORECASE):
            found.pop(name, None)
    return tuple(found)


def _toolkits(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Root and version; an empty one where no nvcc runs."""
    for line in lines:
        kind, _, rest = line.partition(" ")
        version, _, root = rest.partition(" ")
        if kind == "toolkit" and root:
            yield root, "" if version == "-" else version


def _key_values(lines: list[str], separator: str) -> dict[str, str]:
    pairs = (line.partition(separator) for line in lines if separator in line)
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def _kibibytes(text: str) -> int:
    return int(text.split()[0]) * 1024


def _systemd_version(lines: list[str]) -> int:
    return int(lines[0].split()[1]) if lines else 0


def _listeners(lines: list[str]) -> set[Listener]:
    found = set()
    for line in lines:
        port, _, rest = line.partition(" ")
        process, _, unit = rest.partition(" ")
        found.add(Listener(int(port), process.strip(), unit.strip()))
    return found
