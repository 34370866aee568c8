"""Checks hosts in processes of their own, several for a large fleet.

The processes are what keeps a check from hanging: whatever becomes of one, it is ended in time, and
the hosts that it had not told about are reported as not judged.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from llamaherd.drift.report import HostReport, host_from_document
from llamaherd.drift.targets import Options, Target, to_job

HOSTS_A_PROCESS = 25
AT_ONCE = 50
"""Hosts that one process works on at once, as :mod:`llamaherd.runner` does."""

STARTING = 60
"""Seconds that a process may take beyond its hosts' own limits."""

WORKER = (sys.executable, "-m", "llamaherd.drift.worker")


def process_count(hosts: int, cores: int | None = None) -> int:
    """How many processes check so many hosts."""
    available = cores or len(os.sched_getaffinity(0))
    return max(1, min(available, hosts // HOSTS_A_PROCESS + 1))


@dataclass
class Tally:
    """How far a check is."""

    hosts: int
    done: int = 0
    files: int = 0
    files_done: int = 0
    bytes: int = 0
    bytes_done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, hosts: int = 0, files: int = 0, size: int = 0) -> None:
        """Count what is done."""
        with self._lock:
            self.done += hosts
            self.files_done += files
            self.bytes_done += size


def check_in_processes(
    targets: Sequence[Target],
    options: Options,
    directory: Path,
    processes: int | None = None,
    step: Callable[[Tally], None] = lambda _: None,
    worker: Sequence[str] = WORKER,
    environment: Mapping[str, str] = os.environ,
) -> list[HostReport]:
    """Judge hosts; reports in the given order, one for each, whatever happens.

    + directory: the fleet file's folder
    + processes: how many; None by the number of hosts and cores
    + step: told how far the check is, now and then
    + worker: the command that checks a job
    """
    if not targets:
        return []
    count = min(processes or process_count(len(targets)), len(targets))
    chosen = [file for t in targets for _, file in options.chosen(t.settings)]
    tally = Tally(len(targets), files=len(chosen), bytes=sum(file.size for file in chosen))
    step(tally)
    workers = [
        _Worker(targets[number::count], options, directory, worker, environment, tally)
        for number in range(count)
    ]
    try:
        for each in workers:
            each.start()
        while any(each.busy() for each in workers):
            step(tally)
    finally:
        for each in workers:
            each.end()
    reports = {name: report for each in workers for name, report in each.reports().items()}
    return [reports[target.settings.name] for target in targets]


class _Worker:
    """One process, and the thread that reads what it says."""

    def __init__(
        self,
        targets: Sequence[Target],
        options: Options,
        directory: Path,
        command: Sequence[str],
        environment: Mapping[str, str],
        tally: Tally,
    ) -> None:
        self._targets = targets
        self._job = to_job(targets, options, str(directory))
        self._command = command
        self._environment = environment
        self._tally = tally
        self._found: dict[str, HostReport] = {}
        self._expired = False
        longest = max(options.seconds(target.settings) for target in targets)
        self._limit = STARTING + -(-len(targets) // AT_ONCE) * longest
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._timer = threading.Timer(self._limit, self._expire)

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={**self._environment, "PYTHONPATH": _python_path(self._environment)},
        )
        self._timer.daemon = True
        self._timer.start()
        self._reader.start()

    def busy(self) -> bool:
        """Whether it still works; waits a moment before it says so."""
        self._reader.join(0.2)
        return self._reader.is_alive()

    def _expire(self) -> None:
        self._expired = True
        if self._process is not None:
            self._process.kill()

    def _read(self) -> None:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        # A process that died has closed its end; what it said before still counts.
        with contextlib.suppress(OSError):
            process.stdin.write(json.dumps(self._job).encode())
            process.stdin.close()
        self._job = {}
        for line in process.stdout:
            self._take(line)
        process.wait()

    def _take(self, line: bytes) -> None:
        try:
            document: dict[str, Any] = json.loads(line)
        except ValueError:
            return
        if "host" in document:
            report = host_from_document(document["host"])
            self._found[report.name] = report
            self._tally.add(hosts=1)
        elif "hashed" in document:
            self._tally.add(files=document["hashed"][0], size=document["hashed"][1])

    def end(self) -> None:
        """End the process, if it still runs, and wait for what it said."""
        self._timer.cancel()
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.kill()
        if self._reader.ident is not None:
            self._reader.join()
        self._process.wait()

    def reports(self) -> dict[str, HostReport]:
        """A report for each of its hosts, an error for those that it never told about."""
        missing = [t.settings.name for t in self._targets if t.settings.name not in self._found]
        why = self._why() if missing else ""
        return {**self._found, **{name: HostReport(name, "error", error=why) for name in missing}}

    def _why(self) -> str:
        if self._expired:
            return f"the process that checked it was not done after {self._limit:.0f} s: run again"
        status = self._process.returncode if self._process is not None else None
        how = f"was killed by signal {-status}" if status and status < 0 else f"exited {status}"
        self._errors.seek(0)
        lines = self._errors.read()[-4000:].decode(errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        return f"the process that checked it {how}{said}"


def _python_path(environment: Mapping[str, str]) -> str:
    """So that a worker finds this very package, installed or not."""
    here = str(Path(__file__).parent.parent.parent)
    before = environment.get("PYTHONPATH")
    return f"{here}{os.pathsep}{before}" if before else here
