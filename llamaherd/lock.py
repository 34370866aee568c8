"""``llamaherd lock``: turn the fleet's names into facts, and write them down.

Keeps every pin that still answers what the fleet asks, asks the outside world for the others, drops
what is no longer asked for. All or nothing: with any failure, every one is reported and the lock
file stays as it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from inventories.fleet import Fleet, load_fleet
from inventories.lock import (
    KINDS,
    Kind,
    Lock,
    Pin,
    Request,
    check_builds,
    check_lock,
    find_pin,
    hub_request,
    hub_sections,
    lock_path,
    pin_summary,
    position_of,
    read_lock,
    requests_of,
    write_lock,
)
from inventories.pinning import PinError, World, resolve
from inventories.resolve import hub_token as hub_token_reference
from inventories.secrets import SecretError, resolve_secret
from inventories.settings import SecretReference
from llamaherd.arguments import (
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
    problem_document,
)
from llamaherd.tables import table
from schemas.problems import Position, Problem, ProblemsError
from schemas.validate import did_you_mean

Status = Literal["kept", "new", "moved", "dropped"]


@dataclass(frozen=True)
class Change:
    """What became of one pin. ``old`` and ``new`` say what it resolved to, ``-`` for nothing."""

    kind: Kind
    name: str
    status: Status
    old: str
    new: str


class Outcome:
    """What a run found out: the changes in order, and whether the file was written."""

    def __init__(self, fleet: Path) -> None:
        self.fleet = fleet
        self.written = False
        self.changes: list[Change] = []
        self.problems: list[Problem] = []

    def document(self) -> dict[str, Any]:
        """The report, as ``schemas/lock.report.schema.json`` describes it."""
        return {
            "ok": not self.problems,
            "fleet": str(self.fleet),
            "lock": str(lock_path(self.fleet)),
            "written": self.written,
            "pins": [asdict(change) for change in self.changes],
            "problems": [problem_document(problem) for problem in self.problems],
        }


def add_parser(subparsers: Subparsers) -> None:
    """Add ``lock`` to the command line."""
    parser = subparsers.add_parser(
        "lock",
        help="resolve names and pin them in the lock file",
        description="Resolve models, llama.cpp refs, OpenCode and CUDA to exact revisions with "
        "checksums, in FLEET.lock.yaml beside the fleet file. Pins that are still current stay.",
    )
    add_fleet_argument(parser)
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--update",
        metavar="NAME",
        action="append",
        default=[],
        help="ask anew for one pin: a model, a llama.cpp ref, opencode, a CUDA version; "
        "or all (may be given more than once)",
    )
    mode.add_argument(
        "--check", action="store_true", help="ask nothing, write nothing; exit 1 unless current"
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd lock``; 0 when the lock is current now, else 1."""
    path = fleet_path(args)
    outcome = Outcome(path)
    try:
        fleet = load_fleet(path)
        lock = read_lock(path)
        if args.check:
            outcome.problems += check_lock(fleet, lock)
            outcome.changes += [_kept(request, lock) for request in _current(fleet, lock)]
        else:
            _relock(fleet, lock or Lock(), args.update, outcome)
    except ProblemsError as error:
        outcome.problems += error.problems
    if args.json:
        print(json.dumps(outcome.document(), indent=2))
    else:
        _print(outcome, checked=args.check)
    return 1 if outcome.problems else 0


def lock_fleet(fleet: Fleet, update: Iterable[str] = ()) -> Outcome:
    """Bring a fleet's lock file up to date, as ``llamaherd lock`` does; nothing is printed.

    + fleet: need not be what lies at its path yet
    + update: names of pins to ask for anew

    With any of the outcome's ``problems``, nothing was written.
    """
    outcome = Outcome(fleet.path)
    try:
        _relock(fleet, read_lock(fleet.path) or Lock(), update, outcome)
    except ProblemsError as error:
        outcome.problems += error.problems
    return outcome


def _current(fleet: Fleet, lock: Lock | None) -> list[Request]:
    return [r for r in requests_of(fleet) if lock is not None and find_pin(lock, r) is not None]


def _kept(request: Request, lock: Lock | None) -> Change:
    summary = pin_summary(find_pin(lock or Lock(), request))
    return Change(request.kind, request.name, "kept", summary, summary)


def _relock(fleet: Fleet, lock: Lock, update: Iterable[str], outcome: Outcome) -> None:
    """Resolve what has to be, and write the lock, unless anything failed."""
    requests = requests_of(fleet)
    moving = _named(requests, update, outcome)
    if outcome.problems:
        return
    progress = ProgressLine()
    world = World(
        directory=fleet.path.absolute().parent,
        hub_token=hub_token(fleet),
        tick=progress.show,
    )
    pins: dict[Kind, dict[str, Pin]] = {kind: {} for kind in KINDS}
    for number, request in enumerate(requests, 1):
        old = find_pin(lock, request)
        pin = None if request in moving else old
        if pin is None:
            progress.prefix = f"[{number}/{len(requests)}] {request.label}: "
            pin = _ask(fleet, request, world, outcome)
        if pin is not None:
            pins[request.kind][request.name] = pin
            before = old or lock.pins(request.kind).get(request.name)
            outcome.changes.append(_change(request, before, pin))
    progress.clear()
    outcome.changes += _dropped(lock, pins)
    if not outcome.problems:
        found = Lock(**pins)  # type: ignore[arg-type]
        outcome.problems += check_builds(fleet, found)
        if not outcome.problems:
            _write(fleet, found, outcome)


def _ask(fleet: Fleet, request: Request, world: World, outcome: Outcome) -> Pin | None:
    try:
        return resolve(request, world)
    except PinError as error:
        where = position_of(fleet, request.path)
        outcome.problems.append(Problem(where, ".".join(request.path), str(error)))
    return None


def _write(fleet: Fleet, lock: Lock, outcome: Outcome) -> None:
    try:
        outcome.written = write_lock(fleet.path, lock)
    except OSError as error:
        where = Position(str(lock_path(fleet.path)), 1, 1)
        outcome.problems.append(Problem(where, "", f"can't be written: {error.strerror}"))


def _change(request: Request, old: Pin | None, new: Pin) -> Change:
    status: Status = "new" if old is None else "kept" if old == new else "moved"
    return Change(request.kind, request.name, status, pin_summary(old), pin_summary(new))


def _dropped(lock: Lock, pins: Mapping[Kind, Mapping[str, Pin]]) -> list[Change]:
    return [
        Change(kind, name, "dropped", pin_summary(pin), "-")
        for kind in KINDS
        for name, pin in sorted(lock.pins(kind).items())
        if name not in pins[kind]
    ]


def _named(requests: tuple[Request, ...], names: Iterable[str], outcome: Outcome) -> list[Request]:
    """The requests that ``--update`` names; an unknown name is a problem."""
    moving: list[Request] = []
    for name in names:
        found = [request for request in requests if name in _names(request)]
        moving += found
        if not found:
            known = {known for request in requests for known in _names(request)}
            near = did_you_mean(name, known, known_as="its pins")
            message = f"--update {name}: the fleet has no such pin{near}"
            outcome.problems.append(Problem(Position(str(outcome.fleet), 1, 1), "", message))
    return moving


def _names(request: Request) -> set[str]:
    """What ``--update`` may call a request."""
    names = {"all", request.kind, request.name, f"{request.kind}.{request.name}"}
    return names | {str(request.body[key]) for key in ("ref", "version") if key in request.body}


def hub_token(fleet: Fleet) -> Callable[[Mapping[str, Any]], str | None]:
    """Gives the token for what a request asks of a hub, and asks for each secret once."""

    @cache
    def resolved(reference: SecretReference) -> str:
        try:
            return resolve_secret(reference, fleet.path.absolute().parent)
        except SecretError as error:
            raise PinError(f"hub.token: {error}") from None

    def token(wanted: Mapping[str, Any]) -> str | None:
        asking = (hub for hub in hub_sections(fleet) if hub_request(fleet, hub) == wanted)
        reference = hub_token_reference(fleet, next(asking, None))
        return None if reference is None else resolved(reference)

    return token


class ProgressLine:
    """One line on the terminal that is written over; silent where stderr is no terminal."""

    def __init__(self) -> None:
        self.prefix = ""
        self._shown = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Say what goes on now."""
        if self._shown:
            width = shutil.get_terminal_size().columns - 1
            line = (self.prefix + text)[:width]
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Leave nothing behind."""
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print(outcome: Outcome, *, checked: bool) -> None:
    for problem in outcome.problems:
        print(problem, file=sys.stderr)
    if outcome.problems and not checked:
        print("Nothing was written.", file=sys.stderr)
        return
    if outcome.changes:
        rows = [(c.kind, c.name, c.old, c.new, c.status) for c in outcome.changes]
        print(table(rows, headers=("KIND", "NAME", "WAS", "IS", "")))
    place = lock_path(outcome.fleet)
    if not outcome.problems:
        print(f"{place}: {'written' if outcome.written else 'up to date'}")
