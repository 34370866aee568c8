"""``llamaherd show``: the effective settings of a host, and where each was written.

Secrets are shown as the references that they are; none is resolved.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from inventories.fleet import Fleet, FleetHost, load_fleet
from llamaherd.arguments import (
    CommandError,
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
)
from llamaherd.tables import table
from schemas.problems import Position
from schemas.validate import did_you_mean

DEFAULT = "(default)"


def add_parser(subparsers: Subparsers) -> None:
    """Add ``show`` to the command line."""
    parser = subparsers.add_parser(
        "show",
        help="print the effective settings of a host",
        description="Print the settings of a host as they come out of defaults, groups, the host "
        "and the built-in defaults. Secrets are shown as references.",
    )
    parser.add_argument("host", metavar="HOST", help="name of a host of the fleet file")
    add_fleet_argument(parser)
    parser.add_argument(
        "--origin", action="store_true", help="print where each value was written as well"
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Exit status 0; an unknown host is a :class:`CommandError`, a bad file a ProblemsError."""
    path = fleet_path(args)
    fleet = load_fleet(path)
    host = fleet.hosts.get(args.host)
    if host is None:
        hint = did_you_mean(args.host, fleet.hosts, known_as="its hosts")
        raise CommandError(f"{path} has no host {args.host}{hint}")
    if args.json:
        print(json.dumps(report(fleet, host), indent=2))
    else:
        _print(path, host, origin=args.origin)
    return 0


def report(fleet: Fleet, host: FleetHost) -> dict[str, Any]:
    """What ``--json`` prints; ``schemas/show.report.schema.json`` describes it."""
    return {
        "ok": True,
        "fleet": str(fleet.path),
        "host": host.name,
        "groups": list(host.groups),
        "settings": [
            {
                "path": list(where),
                "value": value,
                "origin": None
                if origin is None
                else {"file": origin.file, "line": origin.line, "column": origin.column},
            }
            for where, value, origin in settings(host)
        ],
    }


def settings(host: FleetHost) -> Iterator[tuple[tuple[str, ...], Any, Position | None]]:
    """Path, value and origin of every setting; a list is one setting."""
    for where, value in leaves(host.values):
        yield where, value, host.origins.get(where)


def leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Everything that is not a mapping with entries, by path."""
    if isinstance(value, Mapping) and value:
        for key, child in value.items():
            yield from leaves(child, (*path, key))
    elif path:
        yield path, value


def shown(value: Any) -> str:
    """A value on one line, as the fleet file would have it."""
    if isinstance(value, str) and value and value.isprintable() and value == value.strip():
        return value
    return json.dumps(value, ensure_ascii=False)


def _print(path: Path, host: FleetHost, *, origin: bool) -> None:
    groups = f", groups {', '.join(host.groups)}" if host.groups else ""
    print(f"{host.name} in {path}{groups}")
    rows = []
    for where, value, position in settings(host):
        row = [".".join(where), shown(value)]
        if origin:
            row.append(f"{path.name}:{position.line}" if position else DEFAULT)
        rows.append(row)
    print(table(rows, ("SETTING", "VALUE", "ORIGIN") if origin else ("SETTING", "VALUE")))
