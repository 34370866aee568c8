"""Which hosts of which fleet a command works on: the arguments, and the fleet behind them.

Loaded, locked, and narrowed to what ``--limit`` names: the same for every command that asks hosts.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, check_lock, read_lock
from llamaherd.arguments import CommandError
from schemas.problems import ProblemsError
from schemas.validate import did_you_mean

DAY = 86400


@dataclass(frozen=True)
class Chosen:
    """A fleet with its current lock, and the names of the hosts to work on, in its order."""

    fleet: Fleet
    lock: Lock
    names: tuple[str, ...]


def add_limit_argument(parser: argparse.ArgumentParser, doing: str) -> None:
    """Add ``--limit HOST``, which may be given more than once.

    + doing: what the command does to a host, such as ``check``
    """
    parser.add_argument(
        "--limit",
        metavar="HOST",
        action="append",
        default=[],
        help=f"{doing} only this host or group (may be given more than once)",
    )


def add_timeout_argument(
    parser: argparse.ArgumentParser,
    default: int,
    more: str = "",
    *,
    what: str = "seconds a host may take, connecting included",
    most: int = DAY,
) -> None:
    """Add ``--timeout SECONDS``.

    + default: seconds
    + more: said after the default
    + what: what may take so long
    + most: how many may be given
    """
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds_up_to(most),
        default=default,
        help=f"{what} (default %(default)s){more}",
    )


def _seconds_up_to(most: int) -> Callable[[str], int]:
    """A type of argument: a whole number of seconds from 1 on."""

    def parse(text: str) -> int:
        if not text.isdigit() or not 0 < int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 1 to {most}")
        return int(text)

    return parse


def load_chosen(path: Path, limit: Sequence[str]) -> Chosen:
    """The fleet, its lock, and the hosts that ``--limit`` names; all of them without any.

    Raises CommandError for a fleet without hosts and for names that it doesn't have, ProblemsError
    where fleet or lock isn't current.
    """
    fleet = load_fleet(path)
    lock = read_lock(path)
    if not fleet.hosts:
        raise CommandError(f"{path}: the fleet has no host; add one under hosts:")
    problems = check_lock(fleet, lock)
    if problems or lock is None:
        raise ProblemsError(problems)
    names, unknown = chosen_hosts(fleet, limit)
    if unknown:
        raise CommandError("; ".join(unknown))
    return Chosen(fleet, lock, tuple(names))


def chosen_hosts(fleet: Fleet, limit: Sequence[str]) -> tuple[list[str], list[str]]:
    """Names of the hosts to ask, and what is wrong with the limits."""
    if not limit:
        return list(fleet.hosts), []
    chosen: set[str] = set()
    problems = []
    for name in limit:
        if name in fleet.hosts:
            chosen.add(name)
        elif fleet.groups.get(name):
            chosen.update(fleet.groups[name])
        else:
            known = [*fleet.hosts, *fleet.groups]
            near = did_you_mean(name, known, known_as="its hosts and groups")
            problems.append(f"--limit {name}: the fleet {fleet.path} has no such host{near}")
    return [name for name in fleet.hosts if name in chosen], problems
