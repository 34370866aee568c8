"""What runs on a host, held against nothing yet: one remote command for a drift check.

Asks every server who it is (:mod:`facts.live`, without a completion), whether its process holds
the GPU, and what of the host waits for a reboot. Nothing is changed, nothing is judged.

Upstream behaviour relied on: a process with a CUDA context keeps ``/dev/nvidia-uvm`` open;
``/proc/driver/nvidia/version`` names the loaded kernel module, the target of ``libnvidia-ml.so.1``
the library's version; Debian's and Ubuntu's packages leave ``/run/reboot-required``.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase

from facts.live import ASK, Endpoint, LiveServerState, identity_script, parse_live_server
from facts.sections import SECTION, split_sections
from facts.servers import unit_name
from facts.values import FactValue

_SERVER = "@@server "
_PID = re.compile(r"[0-9]{1,10}")
_VERSION = re.compile(r"\b(\d+\.\d+(?:\.\d+)?)\b")


@dataclass(frozen=True)
class RunningState(FactValue):
    """What runs.

    + reboot: None where none is pending, else the packages that want it (may be empty)
    + kernel_module, library: versions of NVIDIA's; empty where there is none
    + gpu_pids: processes that compute on a GPU, as nvidia-smi tells; None where it wasn't asked
      or gave no answer
    + on_gpu: names of servers whose process holds a GPU's memory device
    + live: each server's answers by name
    """

    reboot: tuple[str, ...] | None = None
    kernel_module: str = ""
    library: str = ""
    gpu_pids: tuple[int, ...] | None = None
    on_gpu: frozenset[str] = frozenset()
    live: Mapping[str, LiveServerState] = field(default_factory=dict)


_HOST = f"""
echo {SECTION}reboot
if [ -e /run/reboot-required ]; then echo pending; cat /run/reboot-required.pkgs 2>/dev/null; fi
echo {SECTION}module; head -n 1 /proc/driver/nvidia/version 2>/dev/null
echo {SECTION}library
ldconfig -p 2>/dev/null | sed -n 's/.*libnvidia-ml[.]so[.]1 .*=> //p' | head -n 1 |
  while read -r path; do readlink -f "$path"; done
"""

_GPU = f"""
echo {SECTION}computing
timeout 30 nvidia-smi --query-compute-apps=pid --format=csv,noheader 2>/dev/null && echo answered
"""


class Running(FactBase[RunningState]):
    """What runs on the host.

    + servers: where each server to ask listens
    + gpu: ask nvidia-smi who computes
    """

    def command(self, servers: Sequence[Endpoint], gpu: bool = False) -> str:
        script = [ASK, _HOST]
        if gpu:
            script.append(_GPU)
        for endpoint in servers:
            name = endpoint.server
            script.append(f"echo {shlex.quote(f'{_SERVER}{name}')}")
            if gpu:
                script.append(
                    # A router's models are in processes of their own, in its control group.
                    f"pid=$(systemctl show -P MainPID -- {shlex.quote(unit_name(name))})\n"
                    'group=$(sed -n "s/^0:://p" "/proc/${pid:-0}/cgroup" 2>/dev/null)\n'
                    'for each in ${pid:-0} $(cat "/sys/fs/cgroup$group/cgroup.procs"); do '
                    'ls -l "/proc/$each/fd"; done 2>/dev/null | grep -q /dev/nvidia-uvm && '
                    f"{{ echo {SECTION}gpu; echo yes; }}"
                )
            script.append(f"({identity_script(endpoint)})")
        script.append("true")
        return f"sh -c {shlex.quote(chr(10).join(script))}"

    @staticmethod
    def default() -> RunningState:
        return RunningState()

    def process(self, output: list[str]) -> RunningState:
        return parse_running(output)


def parse_running(output: Sequence[str]) -> RunningState:
    """The command's lines as a value; FactProcessError for an answer that makes no sense."""
    parts: list[tuple[str, list[str]]] = [("", [])]
    for line in output:
        if line.startswith(_SERVER):
            parts.append((line.removeprefix(_SERVER), []))
        else:
            parts[-1][1].append(line)
    host = split_sections(parts[0][1])
    servers = {name: split_sections(lines) for name, lines in parts[1:]}
    computing = host.get("computing", [])
    reboot = [line.strip() for line in host.get("reboot", [])]
    return RunningState(
        reboot=tuple(sorted(set(reboot[1:]))) if reboot else None,
        kernel_module=_version(host.get("module", [])),
        library=_version(host.get("library", [])),
        gpu_pids=(
            tuple(int(line) for line in computing if _PID.fullmatch(line.strip()))
            if "answered" in computing
            else None
        ),
        on_gpu=frozenset(name for name, sections in servers.items() if "gpu" in sections),
        live={name: parse_live_server(lines) for name, lines in parts[1:]},
    )


def _version(lines: Sequence[str]) -> str:
    """The first thing in a line that looks like a driver's version, such as 580.65.06."""
    match = _VERSION.search(lines[0].rpartition("/")[2].replace(".so.", " ")) if lines else None
    return match[1] if match else ""


class FileHashes(FactBase[Mapping[str, str]]):
    """SHA-256 of big files, at the lowest priority of processor and disk; absent ones are left out.

    + paths: absolute
    + seconds: how long all of them together may take on the host
    """

    def command(self, paths: Sequence[str], seconds: int) -> str:
        idle = "ionice -c 3" if paths else ""
        script = (
            f"idle=; ionice -c 3 true 2>/dev/null && idle={shlex.quote(idle)}\n"
            f"exec nice -n 19 $idle timeout {int(seconds)} sha256sum -- {shlex.join(paths)}"
        )
        return f"sh -c {shlex.quote(script)} 2>/dev/null || test $? -ne 124"

    @staticmethod
    def default() -> Mapping[str, str]:
        return {}

    def process(self, output: list[str]) -> Mapping[str, str]:
        rows = (line.split("  ", 1) for line in output)
        return {row[1]: row[0] for row in rows if len(row) == 2}
