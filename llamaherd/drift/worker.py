"""A process that checks some of a fleet's hosts: a job on standard input, results as they come.

Each line on standard output is one JSON document: ``{"host": {...}}`` for a host that is done, all
fields of its :class:`~llamaherd.drift.report.HostReport`, or ``{"hashed": [files, bytes]}``. Ends
when its parent has gone.
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
import llamaherd.runner  # noqa: F401  # isort: skip

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llamaherd.drift.check import check_targets
from llamaherd.drift.report import HostReport
from llamaherd.drift.targets import from_job


def main() -> int:
    """Check what standard input names."""
    # What a library prints must not get between the results.
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    targets, options, directory = from_job(json.loads(sys.stdin.read()))

    def say(document: dict[str, Any]) -> None:
        print(json.dumps(document, separators=(",", ":")), file=results, flush=True)

    def done(report: HostReport) -> None:
        say({"host": asdict(report)})

    def hashed(files: int, size: int) -> None:
        say({"hashed": [files, size]})

    try:
        check_targets(targets, options, Path(directory), done, hashed)
    except BrokenPipeError:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
