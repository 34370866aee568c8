"""``llamaherd onboard --write``: the entry of a box goes into the fleet file.

First the difference is shown, then it is asked for (on a terminal, or ``--yes``), then written.
The new file is validated as a whole before anything is touched. The lock gets the pins that are
missing first and the fleet file is replaced last, at once: a lock that can't be made leaves the
fleet file as it was, and a run cut off in between leaves a lock that knows a little too much.
"""

from __future__ import annotations

import difflib
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inventories.atomic import replace_file
from inventories.editing import EditError, add_group, add_host, add_model
from inventories.fleet import Fleet, fleet_of
from inventories.lock import lock_path
from llamaherd.arguments import CommandError
from llamaherd.lock import lock_fleet
from llamaherd.onboard.propose import Proposal, cuda_for, host_name, propose_entry
from llamaherd.onboard.report import Report
from llamaherd.tables import WIDTH
from schemas.document import Document, parse_document
from schemas.problems import ProblemsError

Say = Callable[[str], None]

_NEW_FLEET = """\
# A fleet of GPU hosts. Every key: docs/reference.md; a longer one: inventories/example.yaml.
version: 1

defaults:
  cuda: {cuda}
  llama_cpp: {{ref: b8146}}

hosts:
"""


def new_fleet(report: Report) -> bytes:
    """What the first box of all is written into: its kind of toolkit, and the lowest build of
    llama.cpp that a server should be."""
    cuda = cuda_for(report)
    words = ", ".join(
        f'{key}: "{v}"' if v[:1].isdigit() else f"{key}: {v}" for key, v in cuda.items()
    )
    return _NEW_FLEET.format(cuda=f"{{{words}}}").encode()


@dataclass(frozen=True)
class Plan:
    """An entry that could be written.

    + before, after: the whole fleet file; equal when there is nothing to write; ``before`` is empty
      where there is no file yet
    + fleet: what ``after`` says
    """

    path: Path
    proposal: Proposal
    before: bytes
    after: bytes
    fleet: Fleet

    @property
    def diff(self) -> str:
        """The unified difference, without a newline at the end; empty where there is none."""
        lines = difflib.unified_diff(
            _lines(self.before), _lines(self.after), str(self.path), str(self.path), lineterm=""
        )
        return "\n".join(lines)


@dataclass(frozen=True)
class Written:
    """What became of a plan.

    + written: whether the fleet file has the entry now by this run
    + pins: the pins that the lock got, as ``kind name``
    """

    plan: Plan
    written: bool
    pins: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The box's name in the fleet."""
        return self.plan.proposal.name

    @property
    def in_fleet(self) -> bool:
        """Whether the fleet has the box, by this run or before it."""
        return self.written or bool(self.plan.proposal.existing)

    def document(self) -> dict[str, Any]:
        """The ``written`` of a report."""
        proposal = self.plan.proposal
        return {
            "fleet": str(self.plan.path),
            "host": proposal.name,
            "groups": list(proposal.groups),
            "new_group": proposal.new_group or None,
            "new_model": proposal.new_model or None,
            "existing": bool(proposal.existing),
            "written": self.written,
            "diff": self.plan.diff,
            "pins": list(self.pins),
            "notes": list(proposal.notes),
        }


def plan_entry(report: Report, path: Path) -> Plan:
    """What writing the box into the fleet file, or into a new one, would do; nothing is written.

    Raises :class:`CommandError` when the box wasn't reached or the file can't be edited, and
    :class:`ProblemsError` when the file isn't valid, before or with the entry.
    """
    if not report.reached:
        why = report.contact.error or "it wasn't reached"
        raise CommandError(f"{report.target.label}: no entry without a look at the box: {why}")
    before = _before(path)
    start = before or new_fleet(report)
    fleet, document = _load(report, start, path)
    proposal = propose_entry(report, fleet, document)
    if proposal.existing:
        return Plan(path, proposal, before, before, fleet)
    try:
        after = _edited(start.decode("utf-8"), proposal).encode()
    except EditError as error:
        raise CommandError(f"{path}: {error}") from None
    return Plan(path, proposal, before, after, fleet_of(parse_document(after, str(path)), path))


def write_entry(
    report: Report,
    path: Path,
    *,
    yes: bool = False,
    say: Say = print,
    ask: Callable[[str], str] | None = None,
) -> Written:
    """Show the difference, ask, lock, write. A box that is in the fleet already is only told.

    + yes: don't ask
    + say: where lines for people go
    + ask: puts the question; None: on the terminal, and refused where there is none

    Raises what :func:`plan_entry` does, :class:`CommandError` without a terminal to ask on, and
    :class:`ProblemsError` when the lock can't be made; the fleet file is as it was then.
    """
    plan = plan_entry(report, path)
    say_why(plan, say)
    if plan.proposal.existing:
        return Written(plan, written=False)
    say(plan.diff)
    if not yes and not _agreed(plan, ask):
        say(f"{path}: nothing was written")
        return Written(plan, written=False)
    return carry_out(plan, say)


def say_why(plan: Plan, say: Say) -> None:
    """The reasons for the entry, and what isn't known."""
    for note in plan.proposal.notes:
        say(textwrap.fill(note, WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def carry_out(plan: Plan, say: Say = print) -> Written:
    """Lock what is missing, then replace the fleet file; both or neither."""
    lock = lock_path(plan.path)
    locked = _read(lock) if lock.exists() else None
    outcome = lock_fleet(plan.fleet)
    if outcome.problems:
        say(f"{plan.path}: as it was: what the entry needs can't be locked")
        raise ProblemsError(outcome.problems)
    try:
        if _before(plan.path) != plan.before:
            raise CommandError(f"{plan.path} was changed meanwhile; nothing was written: run again")
        _replace(plan.path, plan.after)
    except BaseException:
        _restore(lock, locked)
        raise
    pins = tuple(f"{c.kind} {c.name}" for c in outcome.changes if c.status in ("new", "moved"))
    say(f"{plan.path}: host {plan.proposal.name} written")
    say(f"{lock}: {', '.join(pins) if pins else 'up to date'}")
    return Written(plan, written=True, pins=pins)


def _agreed(plan: Plan, ask: Callable[[str], str] | None) -> bool:
    if ask is None:
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            raise CommandError(
                f"{plan.path}: nothing was written: there is no terminal to ask on; add --yes"
            )
        ask = _on_terminal
    return ask(f"Write this to {plan.path}? [y/N] ").strip().lower() in ("y", "yes")


def _on_terminal(question: str) -> str:
    """Ask on standard error: standard output may be a document that somebody reads."""
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline()


def _edited(text: str, proposal: Proposal) -> str:
    if proposal.new_model:
        text = add_model(text, proposal.new_model, proposal.model_entry)
    if proposal.new_group:
        text = add_group(text, proposal.new_group, proposal.group_entry)
    return add_host(text, proposal.name, proposal.entry)


def _load(report: Report, content: bytes, path: Path) -> tuple[Fleet, Document]:
    """The fleet and its document. A file that lacks nothing but hosts is a fleet without any."""
    document = parse_document(content, str(path))
    root = document.root
    if root is None or root.kind != "mapping" or document.problems:
        raise ProblemsError(document.problems)
    hosts = root.get("hosts")
    if hosts is not None and hosts.kind != "null" and hosts.value:
        return fleet_of(document, path), document
    bare: Mapping[str, Any] = {"ssh": {"hostname": report.target.hostname}}
    try:
        text = add_host(content.decode("utf-8"), host_name(report, ()), bare)
    except EditError as error:
        raise CommandError(f"{path}: {error}") from None
    whole = parse_document(text.encode(), str(path))
    return replace(fleet_of(whole, path), hosts={}), document


def _lines(content: bytes) -> list[str]:
    return content.decode("utf-8").splitlines()


def _before(path: Path) -> bytes:
    """The fleet file; nothing where there is none yet."""
    return _read(path) if path.exists() else b""


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandError(f"{path} can't be read: {error.strerror}") from None


def _replace(path: Path, content: bytes) -> None:
    """Put the content in place at once, with the mode that the file had; links are followed."""
    try:
        replace_file(path, content)
    except OSError as error:
        raise CommandError(f"{path} can't be written: {error.strerror}") from None


def _restore(lock: Path, content: bytes | None) -> None:
    """Give the lock back what it was."""
    if content is None:
        lock.unlink(missing_ok=True)
    elif lock.read_bytes() != content:
        _replace(lock, content)
