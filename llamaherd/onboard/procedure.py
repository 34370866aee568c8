"""What ``llamaherd onboard`` does in order: resolve, greet, look, diagnose, tell."""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
from llamaherd.onboard.greeting import greet_all  # isort: skip

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from inventories.fleet import DEFAULT_HUB, Fleet, fleet_of
from inventories.lock import Lock, read_lock
from llamaherd.arguments import DEFAULT_FLEET, CommandError
from llamaherd.fit import render as render_answer
from llamaherd.onboard.adoption import Wanted, adoptable, wanted_files
from llamaherd.onboard.converge import converge_host
from llamaherd.onboard.diagnosis import Expectations, diagnose
from llamaherd.onboard.first_contact import (
    Say,
    Trust,
    Wishes,
    ask_on_terminal,
    carry_out,
    check_wishes,
    password_of,
    trust_host_key,
)
from llamaherd.onboard.probe import BandwidthQuestion, Look, look_at
from llamaherd.onboard.report import Contact, Finding, Report, Step, Target
from llamaherd.onboard.serves import fits_of, serves_of
from llamaherd.onboard.table import render, summary
from llamaherd.onboard.target import resolve_target
from llamaherd.onboard.write import plan_entry, say_why, write_entry
from schemas.document import read_document
from schemas.problems import ProblemsError

# The recipe's own model: what is measured is the way to a file that the box would fetch.
MEASURED = "unsloth/GLM-4.7-Flash-GGUF/resolve/main/GLM-4.7-Flash-UD-Q4_K_XL.gguf"


def onboard(args: argparse.Namespace) -> list[Report]:
    """Look at every target; print for people unless ``--json``.

    Raises :class:`CommandError` for wrong usage, :class:`ProblemsError` for a fleet file that
    isn't valid; a box's own trouble is a finding of its report.
    """
    words = _targets(args)
    _check(args)
    fleet = _fleet(args.fleet, may_be_new=args.write)
    lock = read_lock(fleet.path) if fleet is not None else None
    files = wanted_files(fleet, lock)
    config, key = _file(args.ssh_config), _file(args.key)
    targets = [resolve_target(word, config_file=config, key=key) for word in words]
    password = password_of(args.password, Path.cwd()) if args.password else None
    say = _say_aside if args.json else print
    approached = _approach(args, targets, password, say)
    look = Look(password, None if args.no_bandwidth else _question(fleet, lock))
    looks = look_at(
        [box.looked_at for box in approached], [box.contact for box in approached], look
    )
    reports = []
    for box, (contact, probe) in zip(approached, looks, strict=True):
        findings = diagnose(box.target, contact, probe, expectations(fleet, box.target, files))
        serves, note = serves_of(probe, fleet)
        report = Report(
            *(box.target, contact, probe, box.steps, (*box.trouble, *findings), serves, note),
            fits=fits_of(probe, fleet) if args.json or args.all_fits else (),
            adoptable=adoptable(probe.models, files) if probe is not None else (),
        )
        if not args.json:
            shown = "\n\n".join((render(report), *map(render_answer, report.fits)))
            print(shown, end="\n\n" if len(targets) > 1 else "\n", flush=True)
        reports.append(_write(args, report, say) if args.write else report)
    if len(targets) > 1 and not args.json:
        print(summary(reports))
    return reports


@dataclass(frozen=True)
class _Box:
    """A box after the first contact.

    + target: as the report names it; ``looked_at`` has a known_hosts of its own in a dry run
    + trouble: steps that failed, as findings
    """

    target: Target
    looked_at: Target
    contact: Contact
    steps: tuple[Step, ...] = ()
    trouble: tuple[Finding, ...] = ()

    @property
    def known(self) -> bool:
        """Whether its host key is."""
        return self.contact.host_key is not None and self.contact.host_key.state == "known"


def _approach(
    args: argparse.Namespace, targets: Sequence[Target], password: str | None, say: Say
) -> list[_Box]:
    """Greet all at once, then take each box's steps one box after the other: they may ask."""
    trust = Trust(tuple(args.fingerprint), ask_on_terminal(), args.dry)
    wishes = Wishes(args.install_key, args.create_user)
    # All keys first: pyinfra reads a known_hosts file once, and would miss those that come later.
    boxes = [
        _Box(target, *trust_host_key(target, greeted, trust, say))
        for target, greeted in zip(targets, greet_all(targets), strict=True)
    ]
    if not wishes.any:
        return boxes
    return [_left(box, wishes, password, args.dry, say) if box.known else box for box in boxes]


def _left(box: _Box, wishes: Wishes, password: str | None, dry: bool, say: Say) -> _Box:
    """The box with our key and the deploy user, or with the reason why not."""
    try:
        after, steps = carry_out(box.looked_at, wishes, password, dry=dry, say=say)
    except CommandError as error:
        remedy = "log in by hand with the same user to see why"
        finding = Finding("contact.step-failed", "blocker", str(error), remedy)
        return replace(box, trouble=(finding,))
    return replace(
        box,
        target=replace(box.target, user=after.user),
        looked_at=after,
        steps=(*box.steps, *steps),
    )


def _write(args: argparse.Namespace, report: Report, say: Say) -> Report:
    """The report with what ``--write`` and ``--converge`` did; blockers keep a box out."""
    path = args.fleet or Path(os.environ.get("FLEET") or DEFAULT_FLEET)
    if not report.ok:
        say(f"{report.target.label}: not written: mend what blocks it, then run this again")
        return report
    try:
        return _written(args, report, path, say)
    except (CommandError, ProblemsError) as error:
        # The other boxes are still to be written.
        return _with(report, "fleet.not-written", str(error), f"llamaherd validate {path}")


def _written(args: argparse.Namespace, report: Report, path: Path, say: Say) -> Report:
    if args.dry:
        plan = plan_entry(report, path)
        say_why(plan, say)
        say(plan.diff or f"{path}: has this box already")
        return report
    written = write_entry(report, path, yes=args.yes, say=say)
    report = replace(report, written=written.document())
    if not (args.converge and written.in_fleet):
        return report
    outcome = converge_host(path, written.name, say=say)
    report = replace(report, written={**written.document(), "converge": outcome.document()})
    if outcome.ok:
        return report
    again = f"FLEET={path} pyinfra inventory.py deploy.py --limit {written.name}; llamaherd verify"
    failed = "converged, but not all answers are well" if outcome.report else "didn't converge"
    return _with(report, "fleet.not-converged", f"{written.name} {failed}", again)


def _with(report: Report, name: str, message: str, remedy: str) -> Report:
    finding = Finding(name, "blocker", message, remedy)
    return replace(report, findings=(finding, *report.findings))


def _check(args: argparse.Namespace) -> None:
    """Options that contradict each other."""
    check_wishes(Wishes(args.install_key, args.create_user))
    if args.converge and not args.write:
        raise CommandError("--converge goes with --write: a host converges from its entry")
    if args.json and args.write and not (args.yes or args.dry):
        raise CommandError("--json with --write asks nobody: add --yes, or --dry to see the entry")


def _say_aside(text: str) -> None:
    """With ``--json``, standard output is the document's."""
    print(text, file=sys.stderr, flush=True)


def expectations(
    fleet: Fleet | None, target: Target, files: tuple[Wanted, ...] = ()
) -> Expectations:
    """What the fleet would want of this box: the ports of its servers, and its name if it is in."""
    name = _known_as(fleet, target) if fleet is not None else ""
    if fleet is None or not name:
        return Expectations(files=files)
    servers = fleet.hosts[name].values["servers"]
    ports = {int(values["port"]): server for server, values in servers.items()}
    return Expectations(ports, declared=True, host=name, files=files)


def _known_as(fleet: Fleet, target: Target) -> str:
    """The box's name in the fleet file, by the address that ssh would use; empty when unknown."""
    wanted = {target.hostname, target.alias} - {""}
    for host in fleet.hosts.values():
        ssh = host.values["ssh"]
        same_port = (ssh.get("port") or target.port) == target.port
        if same_port and (ssh.get("hostname") or host.name) in wanted:
            return host.name
    return ""


def _targets(args: argparse.Namespace) -> list[str]:
    words = list(args.targets)
    if args.list is not None:
        try:
            lines = args.list.read_text("utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            message = f"--list {args.list}: {reason or error}; one target a line"
            raise CommandError(message) from None
        words += [line.split("#")[0].strip() for line in lines]
    unique = list(dict.fromkeys(word for word in words if word))
    if not unique:
        raise CommandError("name a box: llamaherd onboard USER@HOST, or --list FILE")
    return unique


def _fleet(path: Path | None, *, may_be_new: bool) -> Fleet | None:
    """The fleet, when there is one: a first box has none yet, or one without hosts."""
    named = path or (Path(os.environ["FLEET"]) if os.environ.get("FLEET") else None)
    if named is not None and not named.is_file() and not may_be_new:
        raise CommandError(f"there is no fleet file {named}: name another one with --fleet")
    file = named or Path(DEFAULT_FLEET)
    if not file.is_file():
        return None
    document = read_document(file)
    hosts = document.root.get("hosts") if document.root is not None else None
    if not document.problems and (hosts is None or not hosts.value):
        return None
    return fleet_of(document, file)


def _file(path: Path | None) -> Path | None:
    """A file named on the command line; it must be there."""
    if path is not None and not path.expanduser().is_file():
        raise CommandError(f"there is no file {path}")
    return path.expanduser() if path else None


def _question(fleet: Fleet | None, lock: Lock | None) -> BandwidthQuestion:
    """A large file that the box would fetch: the fleet's own largest, else the recipe's."""
    own = fleet.hub.get("endpoint") if fleet else None
    endpoint = str(own or os.environ.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/")
    pins = lock.models.values() if lock is not None else ()
    # A mirror has the files of its fleet, and perhaps no others.
    files = [file for pin in pins if pin.revision for file in pin.files if file.url]
    largest = max(files, key=lambda file: file.size, default=None)
    url = largest.url if largest is not None and largest.url else f"{endpoint}/{MEASURED}"
    return BandwidthQuestion(endpoint, url)
