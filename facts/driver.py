"""Which NVIDIA driver runs, and what llamaherd noted when it installed one. One command."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass

from pyinfra.api import FactBase
from pyinfra.api.exceptions import FactProcessError

from facts.sections import SECTION, split_sections
from facts.values import FactValue

NOTE = "/var/lib/llamaherd/driver.json"


@dataclass(frozen=True)
class DriverState(FactValue):
    """The driver as it runs.

    + running: version that ``nvidia-smi`` answers with; empty when it doesn't answer
    + error: what it says instead, on one line
    + boot: the kernel's boot id
    + noted_version, noted_boot: what was installed last, and in which boot; empty for nothing
    + nouveau: whether the kernel has that driver loaded
    """

    running: str = ""
    error: str = ""
    boot: str = ""
    noted_version: str = ""
    noted_boot: str = ""
    nouveau: bool = False


_SCRIPT = f"""
echo {SECTION}boot; cat /proc/sys/kernel/random/boot_id
echo {SECTION}smi
timeout 60 nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>&1
echo {SECTION}status $?
echo {SECTION}note; cat {NOTE} 2>/dev/null
echo {SECTION}modules; [ -d /sys/module/nouveau ] && echo nouveau
true
"""


class Driver(FactBase[DriverState]):
    """The driver as it runs, and the note about the one that llamaherd installed.

    .. code:: shell

        pyinfra HOST fact facts.driver.Driver
    """

    def command(self) -> str:
        return f"sh -c {shlex.quote(_SCRIPT)}"

    @staticmethod
    def default() -> DriverState:
        return DriverState()

    def process(self, output: list[str]) -> DriverState:
        return parse_driver(output)


def parse_driver(output: list[str]) -> DriverState:
    """The command's lines as a value; FactProcessError for a host that tells no boot id."""
    sections = split_sections(output)
    boot = "".join(sections.get("boot", [])).strip()
    if not boot:
        raise FactProcessError("the host doesn't say its boot id")
    said = [line.strip() for line in sections.get("smi", []) if line.strip()]
    answered = "status 0" in sections and bool(said)
    versions = [line for line in said if line[:1].isdigit()]
    note = _note("".join(sections.get("note", [])))
    return DriverState(
        running=versions[0] if answered and versions else "",
        error="" if answered and versions else "; ".join(said) or "there is no nvidia-smi",
        boot=boot,
        noted_version=note.get("version", ""),
        noted_boot=note.get("boot", ""),
        nouveau="nouveau" in sections.get("modules", []),
    )


def _note(text: str) -> dict[str, str]:
    """An unreadable note counts as none: then a reboot may be done once too often."""
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return {k: str(v) for k, v in value.items()} if isinstance(value, dict) else {}
