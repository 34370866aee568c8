"""``llamaherd onboard --converge``: makes one host of the fleet true, then asks its servers.

The very command that a person would type does the work, in a process of its own: pyinfra's command
line keeps global state, and its output streams as it comes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import inventories
from llamaherd.arguments import CommandError
from llamaherd.verify import COMPLETION_SECONDS, Report, render, verify


@dataclass(frozen=True)
class Converged:
    """What became of a converge.

    + status: pyinfra's exit status; ``report`` is None unless that is 0
    """

    name: str
    status: int
    report: Report | None = None

    @property
    def ok(self) -> bool:
        """Whether the host is converged, and every live answer is well."""
        return self.status == 0 and self.report is not None and self.report.ok

    def document(self) -> dict[str, Any]:
        """For a report: what happened, and ``verify``'s own document."""
        verified = self.report.document() if self.report is not None else None
        return {"host": self.name, "ok": self.ok, "status": self.status, "verify": verified}


def converge_command(name: str) -> list[str]:
    """What converges one host, run where ``inventory.py`` lies."""
    command = [sys.executable, "-m", "pyinfra", "inventory.py", "deploy.py"]
    return [*command, "-y", "--limit", name]


def converge_host(
    path: Path,
    name: str,
    *,
    timeout: int = COMPLETION_SECONDS,
    say: Callable[[str], None] = print,
    environ: Mapping[str, str] = os.environ,
) -> Converged:
    """Converge and verify one host of a locked fleet file.

    + timeout: seconds that verifying one completion may take
    + say: where lines for people go; pyinfra's own go to standard error

    Raises :class:`CommandError` when the deploy isn't there. An interrupt ends pyinfra, too,
    and goes on as KeyboardInterrupt: what runs on the host goes on there, and the next run heals.
    """
    say(f"{name}: converging")
    done = subprocess.run(
        converge_command(name),
        cwd=_project(),
        env={**environ, "FLEET": str(path.absolute())},
        stdin=subprocess.DEVNULL,
        # Standard output may be a document that somebody reads.
        stdout=sys.stderr.fileno(),
        check=False,
    )
    if done.returncode != 0:
        say(f"{name}: pyinfra exited {done.returncode}: see above; then, to go on:")
        say(f"  FLEET={path} pyinfra inventory.py deploy.py -y --limit {name}")
        return Converged(name, done.returncode)
    report = verify(path, [name], timeout)
    for problem in report.problems:
        say(problem)
    if not report.problems:
        say(render(report))
    return Converged(name, 0, report)


def _project() -> Path:
    """Where ``inventory.py`` and ``deploy.py`` lie: beside the packages."""
    folder = Path(str(inventories.__file__)).resolve().parent.parent
    for name in ("inventory.py", "deploy.py"):
        if not (folder / name).is_file():
            raise CommandError(f"{name} is missing in {folder}: install llamaherd again, whole")
    return folder
