"""Arguments that several commands share, and what they mean."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

from schemas.problems import Problem

DEFAULT_FLEET = "inventories/fleet.yaml"
FLEET_HELP = f"fleet file; default: $FLEET, then {DEFAULT_FLEET}"

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What :func:`llamaherd.cli.main` hands to each command's ``add_parser``."""


class CommandError(Exception):
    """A command cannot go on. ``str()`` is one line: what is wrong, and what would mend it."""


def problem_document(problem: Problem) -> dict[str, Any]:
    """A problem as every report prints it."""
    return {
        "file": problem.position.file,
        "line": problem.position.line,
        "column": problem.position.column,
        "path": problem.path,
        "message": problem.message,
    }


def add_fleet_argument(parser: argparse.ArgumentParser) -> None:
    """Add the optional positional ``FLEET``."""
    parser.add_argument("fleet", nargs="?", metavar="FLEET", help=FLEET_HELP)


def add_json_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def fleet_path(args: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> Path:
    """The fleet file that a command works on: ``FLEET``, else ``$FLEET``, else the default.

    + args: what :func:`add_fleet_argument` parsed

    Raises :class:`CommandError` when it is not a file.
    """
    named: str | None = args.fleet
    path = Path(named or environ.get("FLEET") or DEFAULT_FLEET)
    if path.is_file():
        return path
    if path.is_dir():
        raise CommandError(f"{path} is a directory; name the fleet file in it")
    remedy = "name another one"
    if not named:
        remedy = "name one, or set FLEET" if not environ.get("FLEET") else "set FLEET to another"
        remedy += "; inventories/example.yaml is one to copy"
    raise CommandError(f"there is no fleet file {path}: {remedy}")
