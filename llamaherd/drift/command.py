"""``llamaherd drift``: does the fleet still match its file? Changes nothing on any host.

Exits 0 when it does, 2 when it doesn't and every host could be judged, else 1. Never prompts,
never hangs: each host has a time limit, and one check of a fleet runs at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from deploys.common.progress import human_bytes
from inventories.fleet import Fleet
from inventories.lock import Lock
from inventories.resolve import UnlockedError, resolve_host
from inventories.settings import HostSettings
from llamaherd.arguments import (
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
)
from llamaherd.drift.history import (
    history_document,
    load_history,
    render_history,
    reports_directory,
)
from llamaherd.drift.pool import Tally, check_in_processes
from llamaherd.drift.report import DriftReport, Finding, HostReport, to_document
from llamaherd.drift.single import only_one
from llamaherd.drift.targets import TIMEOUT, Options, Share, Target, parse_share
from llamaherd.hosts import add_limit_argument, add_timeout_argument, load_chosen


def add_parser(subparsers: Subparsers) -> None:
    """Add ``drift`` to the command line."""
    parser = subparsers.add_parser(
        "drift",
        help="compare every host with the fleet file; change nothing",
        description="Compare every host with what is declared for it, and its processes with what "
        "they should run. Changes nothing. Exits 0 when all is in order, 2 when there is drift and "
        "every host could be judged, else 1.",
    )
    add_fleet_argument(parser)
    add_json_argument(parser)
    for name, what in (
        ("html", "write the report as one self-contained page"),
        ("prometheus", "write metrics for the node exporter's textfile collector"),
        ("junit", "write the report as JUnit XML, for pipelines"),
    ):
        parser.add_argument(f"--{name}", metavar="FILE", type=Path, help=what)
    add_limit_argument(parser, "check")
    add_timeout_argument(parser, TIMEOUT, "; with --deep, hashing comes on top")
    parser.add_argument("--processes", metavar="N", type=_count, help="check in so many processes")
    parser.add_argument("--deep", action="store_true", help="hash model files and programs anew")
    parser.add_argument(
        "--deep-share",
        metavar="K/N",
        type=_share,
        help="hash this share of them, another one each day; 1/7 covers all in a week",
    )
    parser.add_argument(
        "--upstream", action="store_true", help="ask too what is published beyond the lock file"
    )
    parser.add_argument(
        "--notify", action="store_true", help="call the fleet's on_drift when the state changed"
    )
    parser.add_argument(
        "--history", action="store_true", help="check nothing; show how the state moved"
    )
    parser.set_defaults(func=run)


def _count(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 256:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 to 256")
    return int(text)


def _share(text: str) -> Share:
    try:
        return parse_share(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd drift``; the report's own exit code, or 1 where a file can't be."""
    path = fleet_path(args)
    if args.history:
        _print_history(path, args.json)
        return 0
    reports = reports_directory(path)
    with only_one(reports.parents[1] / f"{reports.name}.lock", path):
        report = _check(path, args)
        unwritten = _write_files(report, args, reports)
        _print(report, args.json)
    for message in unwritten:
        print(message, file=sys.stderr)
    return 1 if unwritten else report.exit_code


def _check(path: Path, args: argparse.Namespace) -> DriftReport:
    chosen = load_chosen(path, args.limit)
    options = Options(
        timeout=args.timeout,
        deep=args.deep or args.deep_share is not None,
        share=args.deep_share,
    )
    report = check_fleet(
        chosen.fleet,
        chosen.lock,
        chosen.names,
        options,
        args.processes,
        upstream=args.upstream,
    )
    if not args.limit:
        # Part of a fleet is no state of the fleet: it is neither kept nor told.
        _conclude(chosen.fleet, report, notify=args.notify)
    return report


@dataclass
class _Clock:
    began: float
    started: str

    @classmethod
    def start(cls) -> _Clock:
        return cls(time.monotonic(), datetime.now(UTC).isoformat(timespec="seconds"))


def check_fleet(
    fleet: Fleet,
    lock: Lock,
    names: Sequence[str],
    options: Options,
    processes: int | None = None,
    *,
    upstream: bool = False,
) -> DriftReport:
    """Check these hosts of a fleet; progress goes to standard error where that is a terminal."""
    clock = _Clock.start()
    targets: list[Target] = []
    reports: dict[str, HostReport] = {}
    for name in names:
        settings = _settings(fleet, lock, name)
        if isinstance(settings, HostReport):
            reports[name] = settings
        else:
            targets.append(Target(settings))
    line = _Progress()
    checked = check_in_processes(
        targets,
        options,
        fleet.path.absolute().parent,
        processes,
        line.show,
        environment={**os.environ, "FLEET": str(fleet.path)},
    )
    line.clear()
    reports |= {report.name: report for report in checked}
    return DriftReport(
        fleet=str(fleet.path),
        started=clock.started,
        seconds=time.monotonic() - clock.began,
        hosts=tuple(reports[name] for name in names),
        upstream=_upstream(fleet, lock) if upstream else (),
    )


def _settings(fleet: Fleet, lock: Lock, name: str) -> HostSettings | HostReport:
    try:
        return resolve_host(fleet, lock, name)
    except UnlockedError as error:
        return HostReport(name, "error", error=str(error))


def _upstream(fleet: Fleet, lock: Lock) -> tuple[Finding, ...]:
    from inventories.pinning.web import World
    from llamaherd.drift.upstream import upstream_findings
    from llamaherd.lock import hub_token

    directory = fleet.path.absolute().parent
    return upstream_findings(fleet, lock, World(directory=directory, hub_token=hub_token(fleet)))


def _conclude(fleet: Fleet, report: DriftReport, *, notify: bool) -> None:
    from llamaherd.drift.notify import conclude

    conclude(fleet, report, notify=notify)


def _write_files(report: DriftReport, args: argparse.Namespace, reports: Path) -> list[str]:
    """Write what was asked for; messages about what could not be written."""
    from llamaherd.drift.files import write_atomically
    from llamaherd.drift.html import render_html
    from llamaherd.drift.junit import render_junit
    from llamaherd.drift.prometheus import render_prometheus

    makers: list[tuple[Path | None, Callable[[], str]]] = [
        (args.html, lambda: render_html(report, load_history(reports))),
        (args.prometheus, lambda: render_prometheus(report)),
        (args.junit, lambda: render_junit(report)),
    ]
    unwritten = []
    for path, render in makers:
        if path is None:
            continue
        try:
            write_atomically(path, render())
        except OSError as error:
            unwritten.append(f"{path}: can't be written: {error.strerror}")
    return unwritten


def _print(report: DriftReport, as_json: bool) -> None:
    if as_json:
        print(json.dumps(to_document(report), indent=2))
        return
    from llamaherd.drift.table import render_table

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 80
    print(render_table(report, colour=colour, width=width))


def _print_history(path: Path, as_json: bool) -> None:
    kept = load_history(reports_directory(path))
    if as_json:
        print(json.dumps(history_document(str(path), kept), indent=2))
    else:
        print(render_history(kept))


class _Progress:
    """How far the check is, on one line that is written over; silent without a terminal."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._began = time.monotonic()

    def show(self, tally: Tally) -> None:
        if not self._shown:
            return
        text = f"checking: {tally.done} of {tally.hosts} hosts"
        if tally.files:
            text += (
                f"; hashing: {tally.files_done} of {tally.files} files, "
                f"{human_bytes(tally.bytes_done)} of {human_bytes(tally.bytes)}"
            )
        line = f"{text}, {time.monotonic() - self._began:.0f} s"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{line[:width]}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
