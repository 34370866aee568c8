"""What processes of llama-servers hold of a host's GPUs. One remote command for all servers.

A router's models are in processes of their own, in its control group, so all of the group's count.
In a container nvidia-smi sees no processes: then an open memory device tells that there is one.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.gpu import GPU_QUERY, Gpu, gpus_or_error
from facts.sections import SECTION, split_sections
from facts.servers import unit_name
from facts.values import FactValue


@dataclass(frozen=True)
class ServerProcesses(FactValue):
    """The processes of one server.

    + pids: the main process first; empty where there is none
    + device: whether one of them has the driver's memory device open
    """

    pids: tuple[int, ...] = ()
    device: bool = False


@dataclass(frozen=True)
class ServerGpusState(FactValue):
    """The host's GPUs with what computes on them, and each server's processes.

    + error: why the GPUs can't be asked, with what mends it; empty where they can
    """

    gpus: tuple[Gpu, ...] = ()
    error: str = ""
    servers: Mapping[str, ServerProcesses] = field(default_factory=dict)


_SERVER = """
echo "{section}server "{name}
pid=$(systemctl show -P MainPID -- {unit} 2>/dev/null)
if [ "${{pid:-0}}" != 0 ]; then
  group=$(sed -n 's/^0:://p' "/proc/$pid/cgroup" 2>/dev/null)
  for each in $pid $([ -z "$group" ] || cat "/sys/fs/cgroup$group/cgroup.procs" 2>/dev/null); do
    echo "$each"
    ls -l "/proc/$each/fd" 2>/dev/null | grep -q /dev/nvidia-uvm && echo device
  done
fi
"""


class ServerGpus(FactBase[ServerGpusState]):
    """Which GPUs the processes of these servers hold, and how much of them.

    + servers: names
    """

    def command(self, servers: Sequence[str]) -> str:
        script = [f"echo {SECTION}gpus; {GPU_QUERY}"]
        for name in servers:
            words = {"name": shlex.quote(name), "unit": shlex.quote(unit_name(name))}
            script.append(_SERVER.format(section=SECTION, **words))
        return f"sh -c {shlex.quote(chr(10).join([*script, 'true']))}"

    @staticmethod
    def default() -> ServerGpusState:
        return ServerGpusState()

    def process(self, output: list[str]) -> ServerGpusState:
        return parse_server_gpus(output)


def parse_server_gpus(output: Sequence[str]) -> ServerGpusState:
    """The command's lines as a value; FactProcessError for output that makes no sense."""
    sections = split_sections(output)
    if "gpus" not in sections:
        raise FactProcessError(f"cannot make sense of the answer {list(output[:1])!r}")
    gpus, error = gpus_or_error(sections["gpus"])
    servers = {
        title.partition(" ")[2]: _processes(lines)
        for title, lines in sections.items()
        if title.startswith("server ")
    }
    return ServerGpusState(gpus, error, servers)


def _processes(lines: Sequence[str]) -> ServerProcesses:
    pids = dict.fromkeys(int(line) for line in lines if line.strip().isdecimal())
    return ServerProcesses(tuple(pids), "device" in lines)
