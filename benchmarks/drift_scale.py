"""How a drift check grows with the fleet: 1, 10, 100 and 1,000 simulated hosts in order.

    python benchmarks/drift_scale.py [HOSTS ...] [--write]

Every host is pyinfra's ``@fake``: a command takes 20 ms and brings what a host with one server and
OpenCode would answer. Settings, workers and judging are the real ones. Prints seconds, peak memory
(resident memory of all processes together) and what a host cost. Exit status 1 when 1,000 hosts
take more than 60 s or 1 GB on this machine (meant: 2 cores), or when a host isn't found in order.
``--write`` renews the table of docs/performance.md.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

import document  # noqa: E402
from fake_host import SETTINGS, FakeHost  # noqa: E402

from llamaherd.drift.pool import check_in_processes, process_count  # noqa: E402
from llamaherd.drift.report import HostReport  # noqa: E402
from llamaherd.drift.targets import Options, Target  # noqa: E402

SIZES = (1, 10, 100, 1000)
BUDGET_SECONDS, BUDGET_BYTES, BUDGET_HOSTS = 60.0, 1_000_000_000, 1000
DELAY = 0.02


def targets(count: int) -> list[Target]:
    """So many hosts of one kind."""
    responses = FakeHost().responses()
    data = {"fake_delay": DELAY, "fake_delay_jitter": 0, "fake_responses": responses}
    return [
        Target(replace(SETTINGS, name=f"gpu-{number:04}"), data, f"@fake/gpu-{number:04}")
        for number in range(count)
    ]


class Memory:
    """Peak of the resident memory of this process and all below it, sampled."""

    def __init__(self) -> None:
        self.peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.1):
            self.peak = max(self.peak, sum(map(resident, family(os.getpid()))))


def family(process: int) -> list[int]:
    """A process and everything below it."""
    found = [process]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found += map(int, children.read_text().split())
            except OSError:
                continue
    return found


def resident(process: int) -> int:
    """Resident bytes; 0 for a process that is gone."""
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def check(count: int) -> tuple[float, int, list[HostReport]]:
    """Seconds, peak bytes and the reports of one check."""
    hosts = targets(count)
    with Memory() as memory:
        started = time.monotonic()
        reports = check_in_processes(hosts, Options(), ROOT)
        return time.monotonic() - started, memory.peak, reports


def main() -> int:
    """Measure each size; the budget decides the exit status."""
    sizes = [int(word) for word in sys.argv[1:] if word != "--write"] or list(SIZES)
    failed, rows = False, []
    print(f"{'hosts':>6} {'processes':>9} {'seconds':>8} {'peak':>8}  a host")
    for size in sizes:
        seconds, peak, reports = check(size)
        wrong = [report for report in reports if report.state != "ok"]
        for report in wrong[:3]:
            print(f"{report.name}: {report.state}: {report.error} {report.findings}")
        cost = f"{reports[0].commands} commands, {reports[0].operations} operations"
        print(f"{size:6} {process_count(size):9} {seconds:8.2f} {peak / 1e6:5.0f} MB  {cost}")
        rows.append(
            [f"{size:,}", str(process_count(size)), f"{seconds:.1f}", f"{peak / 1e6:.0f} MB"]
        )
        over = size == BUDGET_HOSTS and (seconds > BUDGET_SECONDS or peak > BUDGET_BYTES)
        failed = failed or over or bool(wrong)
    if "--write" in sys.argv:
        heads = ("hosts", "processes", "seconds", "peak memory")
        document.write("drift_scale", document.table(heads, rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
