"""``llamaherd validate``: every mistake in a fleet file, or a one-line summary."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, read_lock
from inventories.sizing.declared import check_memory
from llamaherd.arguments import (
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
    problem_document,
)
from schemas.problems import Problem, ProblemsError


def add_parser(subparsers: Subparsers) -> None:
    """Add ``validate`` to the command line."""
    parser = subparsers.add_parser(
        "validate",
        help="check a fleet file",
        description="Check a fleet file: every mistake with its line and column, or one line "
        "that sums the fleet up. Reads nothing but the file and the lock beside it: by what the "
        "lock and the catalogue know of models, servers that can't fit on the GPUs that a host "
        "declares (gpus) are mistakes, too.",
    )
    add_fleet_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0 for a valid file, 1 for any other."""
    path = fleet_path(args)
    fleet: Fleet | None = None
    problems: tuple[Problem, ...] = ()
    try:
        fleet = load_fleet(path)
        problems = tuple(check_memory(fleet, _lock(path)))
    except ProblemsError as error:
        problems = error.problems
    if problems:
        fleet = None
    if args.json:
        print(json.dumps(report(path, fleet, problems), indent=2))
    elif fleet is not None:
        print(f"{path}: valid: {summary(fleet)}")
    else:
        _complain(path, problems)
    return 0 if fleet is not None else 1


def _lock(path: Path) -> Lock | None:
    """The lock beside the file; `llamaherd lock --check` says what is wrong with a bad one."""
    try:
        return read_lock(path)
    except ProblemsError:
        return None


def report(path: Path, fleet: Fleet | None, problems: Sequence[Problem]) -> dict[str, Any]:
    """What ``--json`` prints; ``schemas/validate.report.schema.json`` describes it."""
    return {
        "ok": fleet is not None,
        "fleet": str(path),
        "counts": counts(fleet) if fleet is not None else None,
        "problems": [problem_document(problem) for problem in problems],
    }


def counts(fleet: Fleet) -> dict[str, int]:
    """How many of each thing a fleet has."""
    hosts = fleet.hosts.values()
    return {
        "hosts": len(fleet.hosts),
        "groups": len(fleet.groups),
        "models": len(fleet.models),
        "servers": sum(len(host.values["servers"]) for host in hosts),
        "opencode": sum("opencode" in host.values for host in hosts),
    }


def summary(fleet: Fleet) -> str:
    """A fleet in half a line, such as ``4 hosts, 1 model, 3 servers, 4 hosts with OpenCode``."""
    number = counts(fleet)
    return ", ".join(
        [
            _counted(number["hosts"], "host"),
            _counted(number["models"], "model"),
            _counted(number["servers"], "server"),
            f"{_counted(number['opencode'], 'host')} with OpenCode",
        ]
    )


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _complain(path: Path, problems: Sequence[Problem]) -> None:
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{path}: {_counted(len(problems), 'problem')}", file=sys.stderr)
