"""Everything of ours that takes room on a host, and everything that may still need it.

One remote command, for :mod:`deploys.prune`: what lies below our folders, which releases and unit
files name it, which processes have it in use, which jobs run. It answers for the host itself, too
(:class:`facts.system.SystemState`), for that decides which build is declared there. Links are told
and never followed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.llama_cpp import BUILDS
from facts.opencode import COMMAND, ROOT
from facts.sections import SECTION, split_sections
from facts.servers import RELEASES
from facts.system import SCRIPT, SystemState, parse_system
from facts.values import FactValue

MODELS = "/var/lib/llamaherd/models"
UPLOADS = "/var/lib/llamaherd/uploads"
PLACES = (BUILDS, ROOT, MODELS, UPLOADS)
"""Where we put what takes room; CUDA's toolkits and packages are left alone."""

_USE = re.compile(rf"(.*?):((?:{'|'.join(map(re.escape, PLACES))})/.*)")

INCOMING = f"{ROOT}/.incoming"
_RECORDS = "/.verified/"
# Where systemd's and the servers' files are: a stopped server needs what they name.
_NAMED_IN = "/etc/systemd/system /run/systemd/system /etc/llama-server"


@dataclass(frozen=True)
class Entry(FactValue):
    """A file, a folder or a link.

    + kind: as find(1) says it: ``f``, ``d``, ``l`` ...
    + size: bytes that it says it has; ``taken`` what it takes on the disk
    + links: names of the same file, on this file system
    + mtime: seconds since 1970
    + inode: its number
    + owner: its user's number
    """

    kind: str
    size: int
    taken: int
    links: int
    mtime: int
    inode: int
    owner: int


@dataclass(frozen=True)
class Holdings(FactValue):
    """What lies there, and who needs it.

    + system: what the host is
    + entries: everything below PLACES by path, but for what is in scratch folders
    + scratch: bytes by path of work folders of builds and of OpenCode's incoming archives
    + notes: text by path of manifests and of records of verification
    + releases: by ``<server> <current|previous|next>``, the paths that it uses; None for one whose
      list can't be read
    + uses: paths below PLACES with who has them in use: a process, a unit file; cut off at the
      first white space of a path
    + command: where OpenCode's command leads to; empty without one
    + jobs: names of our jobs that run now; None where systemd doesn't tell
    """

    system: SystemState
    entries: Mapping[str, Entry] = field(default_factory=dict)
    scratch: Mapping[str, int] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    releases: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    uses: tuple[tuple[str, str], ...] = ()
    command: str = ""
    jobs: tuple[str, ...] | None = None

    def note(self, path: str) -> Mapping[str, Any]:
        """A manifest or a record; empty where there is none, or none that can be read."""
        try:
            value = json.loads(self.notes.get(path, ""))
        except ValueError:
            return {}
        return value if isinstance(value, dict) else {}


_WORD = "|".join(place.replace(".", "[.]") for place in PLACES)
# Up to white space or a quotation mark: a line may name several paths.
_REST = '[^][:space:]"[]*'

USES = rf"""
in_use() {{
  find /proc/[0-9]*/exe /proc/[0-9]*/cwd /proc/[0-9]*/fd -maxdepth 1 -type l -printf '%p:%l\n'
  grep -aHoE '({_WORD})/{_REST}' /proc/[0-9]*/maps
  grep -azHoE '({_WORD})/{_REST}' /proc/[0-9]*/cmdline | tr '\0' '\n'
  grep -rHoE '({_WORD})/{_REST}' {_NAMED_IN}
}}
# This command's own text names patterns, and no path.
in_use 2>/dev/null | grep -E ':({_WORD})/' | grep -vE '^/proc/[0-9]+/cmdline:.*[*]' | sort -u
"""
"""POSIX shell that prints ``WHO:PATH`` for whatever is in use below PLACES. What it is told on its
own command line it would find there: paths have to come another way."""

JOBS = (
    "systemctl list-units --plain --no-legend --no-pager"
    " --state=active,activating,deactivating,reloading 'llamaherd-*.service'"
)
"""Shell that prints a line a job that runs, and fails where systemd doesn't answer."""

_SCRIPT = rf"""
echo {SECTION}entries
find {" ".join(PLACES)} -mindepth 1 \
  \( -path '{BUILDS}/.work-*' -o -path '{INCOMING}/*' \) -prune -o \
  -printf '%y %s %k %n %T@ %i %U %p\n' 2>/dev/null
echo {SECTION}scratch
du -sB1 -- {BUILDS}/.work-* {INCOMING}/* 2>/dev/null
echo {SECTION}notes
for note in {BUILDS}/*/manifest.json {ROOT}/*/manifest.json; do
  [ ! -f "$note" ] || [ -L "$note" ] || {{ printf '%s\t' "$note"; tr -d '\n\t' < "$note"; echo; }}
done
find {MODELS} -type f -path '*{_RECORDS}*.json' 2>/dev/null | while IFS= read -r note; do
  printf '%s\t' "$note"; tr -d '\n\t' < "$note"; echo
done
echo {SECTION}releases
for release in {RELEASES}/*/current {RELEASES}/*/previous {RELEASES}/*/next; do
  [ -e "$release" ] || [ -L "$release" ] || continue
  echo "release ${{release#{RELEASES}/}}"
  cat -- "$release/uses" 2>/dev/null || echo unreadable
done
echo {SECTION}uses
{USES}
echo {SECTION}command; readlink -f -- {COMMAND} 2>/dev/null
echo {SECTION}running; {JOBS} 2>/dev/null && echo answered
true
"""


class HostHoldings(FactBase[Holdings]):
    """What of ours takes room on the host, and who needs it; wants root's rights."""

    def command(self) -> str:
        return f"sh -c {shlex.quote(SCRIPT + _SCRIPT)}"

    @staticmethod
    def default() -> Holdings:
        return Holdings(SystemState())

    def process(self, output: list[str]) -> Holdings:
        return parse_holdings(output)


def parse_holdings(output: list[str]) -> Holdings:
    """The command's lines as a value; FactProcessError for output that makes no sense."""
    system = parse_system(output)
    sections = split_sections(output)
    try:
        entries = dict(map(_entry, sections["entries"]))
        scratch = dict(map(_scratch, sections["scratch"]))
        notes = dict(_pair(line) for line in sections["notes"])
        uses = tuple(_use(line) for line in sections["uses"])
        running = sections["running"]
    except (KeyError, ValueError) as error:
        raise FactProcessError(f"cannot make sense of what lies on the host: {error}") from error
    answered = running[-1:] == ["answered"]
    return Holdings(
        system=system,
        entries=entries,
        scratch=scratch,
        notes=notes,
        releases=dict(_releases(sections.get("releases", []))),
        uses=uses,
        command="".join(sections.get("command", [])).strip(),
        jobs=tuple(_jobs(running[:-1])) if answered else None,
    )


def _entry(line: str) -> tuple[str, Entry]:
    kind, size, kibibytes, links, mtime, inode, owner, path = line.split(" ", 7)
    if not path.startswith("/"):
        raise ValueError(f"{line!r} names no file")
    seconds = int(mtime.partition(".")[0])
    taken = int(kibibytes) * 1024
    return path, Entry(kind, int(size), taken, int(links), seconds, int(inode), int(owner))


def _scratch(line: str) -> tuple[str, int]:
    size, _, path = line.partition("\t")
    return path, int(size)


def _pair(line: str) -> tuple[str, str]:
    path, separator, text = line.partition("\t")
    if not separator:
        raise ValueError(f"{line!r} is no note")
    return path, text


def _use(line: str) -> tuple[str, str]:
    """The path, and who uses it: ``process 814``, or a unit file's path."""
    match = _USE.fullmatch(line)
    if match is None:
        raise ValueError(f"{line!r} tells of no use")
    who, path = match.groups()
    process = who.removeprefix("/proc/").partition("/")[0] if who.startswith("/proc/") else ""
    return path, f"process {process}" if process else who


def _releases(lines: list[str]) -> Iterator[tuple[str, tuple[str, ...] | None]]:
    name, paths = "", []
    for line in [*lines, "release "]:
        if not line.startswith("release "):
            paths.append(line)
            continue
        if name:
            server, _, kind = name.rpartition("/")
            readable = bool(paths) and all(path.startswith("/") for path in paths)
            yield f"{server} {kind}", tuple(paths) if readable else None
        name, paths = line.removeprefix("release "), []


def _jobs(lines: list[str]) -> Iterator[str]:
    """The units' names; the scheduled check changes nothing, and is no job."""
    for line in lines:
        name = line.split()[0] if line.split() else ""
        if name.endswith(".service") and name != "llamaherd-drift.service":
            yield name.removesuffix(".service")
