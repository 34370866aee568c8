"""llama-server instances on a host: their units, their processes, and whether both still agree.

One remote command answers for all servers. What a process was started with is read from the
process itself (``/proc``), never from what we wrote: so a run that died between writing a unit
and restarting it is seen.
"""

from __future__ import annotations

import base64
import binascii
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.sections import SECTION, split_sections
from facts.values import FactValue, listed

UNITS = "/etc/systemd/system"
MARK = "# Managed by llamaherd"
CONFIG_VARIABLE = "LLAMAHERD_CONFIG"
RELEASES = "/var/lib/llamaherd/releases"


def unit_name(server: str) -> str:
    """Name of a server's unit."""
    return f"llama-server@{server}.service"


@dataclass(frozen=True)
class ServerState(FactValue):
    """One unit and its process.

    + load, active, sub, enabled: as ``systemctl show`` says: ``LoadState``, ``ActiveState``,
      ``SubState``, ``UnitFileState`` (empty without a unit file)
    + pid: of the main process; 0 when there is none
    + restarts: how often systemd restarted it by itself
    + needs_reload: the unit on disk isn't the one systemd knows
    + drop_ins: paths of the administrator's own additions
    + executable: what the process runs; ends in `` (deleted)`` when that file is gone
    + config: the configuration hash that the process was started with; empty when it has none
    + key_current: False when the process runs with another API key than the file holds
    + arguments: what the process was started with, the program first; empty when unknown
    + newer_drop_ins: those of the drop-ins that are younger than the process
    + model_current: False when a model file that the process has mapped was replaced since
    + stale_credentials: files handed to the process that are others now, by the credential's name
    + missing_credentials: paths of files that it should be handed and that aren't there
    + release, previous: names of the release that was kept last, because it answered, and of the
      one before it; empty without one
    + age: seconds since the process was started; None when there is none
    + replaced_libraries: NVIDIA's libraries (of the driver, of a toolkit) that the process has
      mapped and that are other files now, or gone: upgraded under it
    """

    name: str
    load: str = "not-found"
    active: str = "inactive"
    sub: str = "dead"
    enabled: str = ""
    pid: int = 0
    restarts: int = 0
    needs_reload: bool = False
    drop_ins: tuple[str, ...] = ()
    executable: str = ""
    config: str = ""
    key_current: bool = True
    arguments: tuple[str, ...] = ()
    newer_drop_ins: tuple[str, ...] = ()
    model_current: bool = True
    stale_credentials: tuple[str, ...] = ()
    missing_credentials: tuple[str, ...] = ()
    release: str = ""
    previous: str = ""
    age: int | None = None
    replaced_libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServersState(FactValue):
    """All servers asked for, and the units of ours that nobody asked for.

    + account: whether the system account of the servers exists
    + options: long options that a build's llama-server knows, by build path; from its manifest.
      A build that isn't there is absent
    + others: names of servers whose unit carries our mark and wasn't asked for
    """

    account: bool = False
    servers: Mapping[str, ServerState] = field(default_factory=dict)
    options: Mapping[str, frozenset[str]] = field(default_factory=dict)
    others: tuple[str, ...] = ()


_PROPERTIES = (
    "LoadState,ActiveState,SubState,UnitFileState,MainPID,NRestarts,NeedDaemonReload,DropInPaths,"
    "ExecMainStartTimestampMonotonic"
)

# The driver's and the toolkit's. Others (libc, OpenSSL) get security updates that no server need
# be interrupted for at once.
_LIBRARIES = (
    r"/(lib(cuda|cublas|nvidia-|nvrtc|nvJitLink|nvToolsExt|nccl|GLX_nvidia|EGL_nvidia)[^/]*|"
    r"(usr/local|opt)/cuda[^ ]*/[^/]*)\.so"
)

_SCRIPT = r"""
look() {
  unit="llama-server@$1.service"
  echo "@SECTION@server $1"
  # Asked once: each question to systemd takes longer than most of the rest together.
  shown=$(systemctl show -p @PROPERTIES@ -- "$unit")
  printf '%s\n' "$shown"
  pid=0 known=' ' began=0
  while IFS= read -r line; do
    case $line in
      MainPID=*) pid=${line#*=} ;;
      DropInPaths=*) known=" ${line#*=} " ;;
      ExecMainStartTimestampMonotonic=*) began=${line#*=} ;;
    esac
  done <<end
$shown
end
  for path in @UNITS@/"$unit.d"/*.conf @UNITS@/llama-server@.service.d/*.conf; do
    # systemd tells of no directory that is younger than its last reload.
    [ ! -f "$path" ] || [ ! -s "$path" ] || case $known in
      *"/${path##*/} "*) ;;
      *) echo NeedDaemonReload=yes ;;
    esac
  done
  for kept in Release=current Previous=previous; do
    folder=@RELEASES@/$1/${kept#*=}
    [ ! -e "$folder/unit" ] || echo "${kept%=*}=$(readlink -- "$folder")"
  done
  [ "${pid:-0}" != 0 ] || return 0
  echo "Executable=$(readlink "/proc/$pid/exe")"
  echo "Arguments=$(base64 -w 0 < "/proc/$pid/cmdline" 2>/dev/null)"
  read -r up _ < /proc/uptime
  age=$((${up%.*} - began / 1000000))
  echo "Age=$age"
  # systemd makes this link anew at each start: times of files alone are compared, which a clock
  # that was set since doesn't part. What is from the future would be newer than every start.
  now=$(date +%s) started=$(stat -c %Y "/run/systemd/units/invocation:$unit" 2>/dev/null)
  for path in $known; do
    changed=$(stat -c %Y -- "$path")
    # A second of grace: times are read in whole seconds.
    [ "$changed" -le $((${started:-$((now - age))} + 1)) ] || [ "$changed" -gt $((now + 1)) ] ||
      echo "Newer=$path"
  done
  tr '\0' '\n' < "/proc/$pid/environ" 2>/dev/null | sed -n 's/^@VARIABLE@=/Config=/p'
  # A router's models are in processes of their own, below it.
  group=/sys/fs/cgroup$(sed -n 's/^0:://p' "/proc/$pid/cgroup" 2>/dev/null)
  maps="/proc/$pid/maps $(sed 's|.*|/proc/&/maps|' "$group/cgroup.procs" 2>/dev/null)"
  sed -nE -e 's#.*[.]gguf \(deleted\)$#ModelCurrent=no#p' \
    -e 's#^[^/]*(/.*@LIBRARIES@.*) \(deleted\)$#Replaced=\1#p' $maps 2>/dev/null | sort -u
  key=/etc/llama-server/$1/api-key running=/run/credentials/$unit/api-key
  { [ -e "$key" ] || [ -e "$running" ]; } || return 0
  cmp -s -- "$key" "$running" || echo KeyCurrent=no
}
credential() {
  running=/run/credentials/llama-server@$1.service/$2
  if [ ! -e "$3" ]; then echo "Missing=$3"
  elif [ -e "$running" ] && ! cmp -s -- "$3" "$running"; then echo "Stale=$2"; fi
}
echo @SECTION@account; id -u llama-server 2>/dev/null
echo @SECTION@units; grep -ls '^@MARK@' @UNITS@/llama-server@*.service 2>/dev/null
"""


class LlamaServers(FactBase[ServersState]):
    """State of the given servers, of our other units, and what given builds can do.

    + names: servers to ask about; a server without a unit answers ``not-found``
    + builds: paths of builds whose options are wanted
    + credentials: by server, the files that systemd hands it beside its key: path by name
    """

    def command(
        self,
        names: Sequence[str],
        builds: Sequence[str] = (),
        credentials: Mapping[str, Mapping[str, str]] | None = None,
    ) -> str:
        script = (
            _SCRIPT.replace("@SECTION@", SECTION)
            .replace("@PROPERTIES@", _PROPERTIES)
            .replace("@VARIABLE@", CONFIG_VARIABLE)
            .replace("@MARK@", MARK)
            .replace("@UNITS@", UNITS)
            .replace("@RELEASES@", RELEASES)
            .replace("@LIBRARIES@", _LIBRARIES)
        )
        for name in listed(names):
            script += f"look {shlex.quote(name)}\n"
            for credential, path in (credentials or {}).get(name, {}).items():
                script += f"credential {shlex.join((name, credential, path))}\n"
        for build in listed(builds):
            manifest = shlex.quote(f"{build}/manifest.json")
            script += f"echo {shlex.quote(f'{SECTION}options {build}')}\n"
            script += f"""sed -n 's/.*"options": "\\([^"]*\\)".*/\\1/p' {manifest} 2>/dev/null\n"""
        return f"sh -c {shlex.quote(script + 'true')}"

    @staticmethod
    def default() -> ServersState:
        return ServersState()

    def process(self, output: list[str]) -> ServersState:
        return parse_servers(output)


def parse_servers(output: list[str]) -> ServersState:
    """The command's lines as a value; FactProcessError when systemd's answer isn't understood."""
    servers = {}
    options = {}
    others: list[str] = []
    account = False
    for title, lines in split_sections(output).items():
        kind, _, name = title.partition(" ")
        if kind == "server":
            servers[name] = _server(name, lines)
        elif kind == "options":
            if lines:
                options[name] = frozenset(" ".join(lines).split())
        elif kind == "account":
            account = bool(lines)
        elif kind == "units":
            others = [
                line.rpartition("llama-server@")[2].removesuffix(".service") for line in lines
            ]
    unasked = tuple(sorted(set(others) - set(servers)))
    return ServersState(account, servers, options, unasked)


def _server(name: str, lines: list[str]) -> ServerState:
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    try:
        return ServerState(
            name=name,
            load=values["LoadState"],
            active=values["ActiveState"],
            sub=values["SubState"],
            enabled=values.get("UnitFileState", ""),
            pid=int(values.get("MainPID", "0")),
            restarts=int(values.get("NRestarts", "0")),
            needs_reload=values.get("NeedDaemonReload") == "yes",
            drop_ins=tuple(values.get("DropInPaths", "").split()),
            executable=values.get("Executable", ""),
            config=values.get("Config", ""),
            key_current=values.get("KeyCurrent") != "no",
            arguments=_arguments(values.get("Arguments", "")),
            newer_drop_ins=_all("Newer", lines),
            stale_credentials=_all("Stale", lines),
            missing_credentials=_all("Missing", lines),
            model_current=values.get("ModelCurrent") != "no",
            release=values.get("Release", ""),
            previous=values.get("Previous", ""),
            age=int(values["Age"]) if values.get("Age") else None,
            replaced_libraries=_all("Replaced", lines),
        )
    except (KeyError, ValueError, binascii.Error) as error:
        raise FactProcessError(f"cannot read the state of {unit_name(name)}: {error}") from error


def _all(name: str, lines: list[str]) -> tuple[str, ...]:
    """Every value of a name that may come several times."""
    return tuple(line.removeprefix(f"{name}=") for line in lines if line.startswith(f"{name}="))


def _arguments(encoded: str) -> tuple[str, ...]:
    """A process's ``cmdline``; empty for a process that is gone again."""
    text = base64.b64decode(encoded, validate=True).decode(errors="replace")
    return tuple(text.removesuffix("\0").split("\0")) if text else ()
