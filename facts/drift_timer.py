"""The scheduled drift check on its host: program, account, key, units."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyinfra.api import FactBase

from facts.sections import SECTION, split_sections
from facts.values import FactValue

ACCOUNT = "llamaherd-drift"
TIMER = "llamaherd-drift.timer"
SERVICE = "llamaherd-drift.service"
STATE = "/var/lib/llamaherd-drift"
KEY = f"{STATE}/.ssh/id_ed25519"


@dataclass(frozen=True)
class UnitState(FactValue):
    """A unit as ``systemctl show`` says it; ``enabled`` is empty without a unit file."""

    load: str = "not-found"
    active: str = "inactive"
    enabled: str = ""
    needs_reload: bool = False


@dataclass(frozen=True)
class DriftTimerState(FactValue):
    """What is there of the scheduled check.

    + installed: the program asked for is there, whole
    + current: where the link ``current`` beside it leads to; empty without one
    + python: version of the host's ``python3``, such as ``3.11``; empty without one, and when the
      program is installed (nobody needs to know then)
    """

    installed: bool = False
    current: str = ""
    python: str = ""
    account: bool = False
    key: bool = False
    units: Mapping[str, UnitState] = field(default_factory=dict)

    def unit(self, name: str) -> UnitState:
        """The state of a unit; one that nobody knows is ``not-found``."""
        return self.units.get(name, UnitState())


_SCRIPT = r"""
echo @SECTION@account; id -u @ACCOUNT@ 2>/dev/null
echo @SECTION@key; [ ! -s @KEY@ ] || echo yes
for unit in @UNITS@; do
  echo "@SECTION@unit $unit"
  systemctl show -p LoadState,ActiveState,UnitFileState,NeedDaemonReload -- "$unit"
  known=" $(systemctl show -P DropInPaths -- "$unit") "
  for path in /etc/systemd/system/"$unit.d"/*.conf; do
    # systemd tells of no directory that is younger than its last reload.
    [ ! -f "$path" ] || [ ! -s "$path" ] || case $known in
      *" $path "*) ;;
      *) echo NeedDaemonReload=yes ;;
    esac
  done
done
echo @SECTION@current; readlink -- @LINK@
echo @SECTION@installed
if [ -e @MARKER@ ]; then echo yes; exit 0; fi
echo @SECTION@python
python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null
true"""


class DriftTimer(FactBase[DriftTimerState]):
    """State of the scheduled check, in one command.

    + marker: file that a whole installation of the wanted program has
    + link: what leads to the installation that is in use
    """

    def command(self, marker: str, link: str) -> str:
        script = (
            _SCRIPT.replace("@SECTION@", SECTION)
            .replace("@ACCOUNT@", ACCOUNT)
            .replace("@KEY@", KEY)
            .replace("@UNITS@", f"{TIMER} {SERVICE}")
            .replace("@MARKER@", shlex.quote(marker))
            .replace("@LINK@", shlex.quote(link))
        )
        return f"sh -c {shlex.quote(script)}"

    @staticmethod
    def default() -> DriftTimerState:
        return DriftTimerState()

    def process(self, output: list[str]) -> DriftTimerState:
        return parse_drift_timer(output)


def parse_drift_timer(output: list[str]) -> DriftTimerState:
    """The command's lines as a value."""
    sections = split_sections(output)
    units = {
        title.removeprefix("unit "): _unit(lines)
        for title, lines in sections.items()
        if title.startswith("unit ")
    }
    return DriftTimerState(
        installed=bool(sections.get("installed")),
        current="".join(sections.get("current", [])).strip(),
        python="".join(sections.get("python", [])).strip(),
        account=bool(sections.get("account")),
        key=bool(sections.get("key")),
        units=units,
    )


def _unit(lines: list[str]) -> UnitState:
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return UnitState(
        load=values.get("LoadState", "not-found"),
        active=values.get("ActiveState", "inactive"),
        enabled=values.get("UnitFileState", ""),
        needs_reload=values.get("NeedDaemonReload") == "yes",
    )
