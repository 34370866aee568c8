"""What ``llamaherd onboard`` does in order: resolve, greet, look, diagnose, tell."""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
from llamaherd.onboard.probe import (  # isort: skip
    BandwidthQuestion,
    Look,
    greet_all,
    look_at,
    resolve_target,
)

import argparse
import os
from pathlib import Path

from inventories.fleet import DEFAULT_HUB, Fleet, load_fleet
from llamaherd.arguments import DEFAULT_FLEET, CommandError
from llamaherd.onboard.diagnosis import Expectations, diagnose
from llamaherd.onboard.report import Report, Target
from llamaherd.onboard.table import render, summary

# The recipe's own model: what is measured is the way to a file that the box would fetch.
MEASURED = "unsloth/GLM-4.7-Flash-GGUF/resolve/main/GLM-4.7-Flash-UD-Q4_K_XL.gguf"


def onboard(args: argparse.Namespace) -> list[Report]:
    """Look at every target; print for people unless ``--json``."""
    words = _targets(args)
    fleet = _fleet(args.fleet)
    targets = [
        resolve_target(word, config_file=_file(args.ssh_config), key=_file(args.key))
        for word in words
    ]
    look = Look(bandwidth=None if args.no_bandwidth else _question(fleet))
    contacts = greet_all(targets)
    reports = []
    for target, (contact, found) in zip(targets, look_at(targets, contacts, look), strict=True):
        findings = diagnose(target, contact, found, expectations(fleet, target))
        report = Report(target, contact, found, findings)
        reports.append(report)
        if not args.json:
            print(render(report), end="\n\n" if len(targets) > 1 else "\n", flush=True)
    if len(targets) > 1 and not args.json:
        print(summary(reports))
    return reports


def expectations(fleet: Fleet | None, target: Target) -> Expectations:
    """What the fleet would want of this box: the ports of its servers, and its name if it is in."""
    if fleet is None:
        return Expectations()
    name = _known_as(fleet, target)
    if not name:
        return Expectations()
    servers = fleet.hosts[name].values["servers"]
    ports = {int(values["port"]): server for server, values in servers.items()}
    return Expectations(ports, declared=True, host=name)


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
            raise CommandError(f"--list {args.list}: {error}; one target a line") from None
        words += [line.split("#")[0].strip() for line in lines]
    unique = list(dict.fromkeys(word for word in words if word))
    if not unique:
        raise CommandError("name a box: llamaherd onboard USER@HOST, or --list FILE")
    return unique


def _fleet(path: Path | None) -> Fleet | None:
    """The fleet, when there is one: a first box has none yet."""
    named = path or (Path(os.environ["FLEET"]) if os.environ.get("FLEET") else None)
    if named is None:
        default = Path(DEFAULT_FLEET)
        return load_fleet(default) if default.is_file() else None
    if not named.is_file():
        raise CommandError(f"there is no fleet file {named}: name another one with --fleet")
    return load_fleet(named)


def _file(path: Path | None) -> Path | None:
    """A file named on the command line; it must be there."""
    if path is not None and not path.expanduser().is_file():
        raise CommandError(f"there is no file {path}")
    return path.expanduser() if path else None


def _question(fleet: Fleet | None) -> BandwidthQuestion:
    """A large file of the hub that the box would fetch from."""
    own = fleet.hub.get("endpoint") if fleet else None
    endpoint = str(own or os.environ.get("HF_ENDPOINT") or DEFAULT_HUB).rstrip("/")
    return BandwidthQuestion(endpoint, f"{endpoint}/{MEASURED}")
