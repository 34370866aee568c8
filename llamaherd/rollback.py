"""``llamaherd rollback``: a server's previous release serves again, until the next converge.

A job on the host does it (:mod:`deploys.llama_server.release`): it goes on when this machine
doesn't. The fleet file is not changed: a converge brings what it declares.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inventories.fleet import load_fleet
from inventories.lock import check_lock, read_lock
from inventories.resolve import resolve_host
from inventories.secrets import SecretError
from inventories.settings import HostSettings, ServerSettings
from llamaherd.arguments import (
    CommandError,
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
)
from schemas.problems import ProblemsError
from schemas.validate import did_you_mean

if TYPE_CHECKING:
    from pyinfra.api.host import Host

# What starting two releases may take beside their own readiness times.
_MORE_SECONDS = 300


@dataclass(frozen=True)
class Rollback:
    """What became of one server.

    + release: name of the release that serves now, or served last; empty where there is none
    + previous: the other one that the host keeps
    + message: what was done, or why it was not
    + lines: the last log lines where it was not
    """

    host: str
    server: str
    ok: bool
    release: str
    previous: str
    message: str
    lines: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The report, as ``schemas/rollback.report.schema.json`` describes it."""
        return asdict(self)


def add_parser(subparsers: Subparsers) -> None:
    """Add ``rollback`` to the command line."""
    parser = subparsers.add_parser(
        "rollback",
        help="have a server's previous release serve again",
        description="Put the previous release of a server in force: its build, model, arguments "
        "and files. The two releases are swapped, so a second rollback undoes the first. The fleet "
        "file stays: the next converge brings what it declares.",
    )
    parser.add_argument("host", metavar="HOST", help="name of a host of the fleet file")
    parser.add_argument("server", metavar="SERVER", help="name of a server of that host")
    add_fleet_argument(parser)
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd rollback``; 0 when the previous release serves, else 1."""
    path = fleet_path(args)
    settings = _settings(path, args.host)
    done = roll_back(path, settings, _server(settings, args.server))
    if args.json:
        print(json.dumps(done.document(), indent=2))
    elif done.ok:
        print(f"{done.host}: {done.message}")
        print("The fleet file is as it was: the next converge brings what it declares.")
    if not done.ok:
        for line in done.lines:
            print(f"  {line}", file=sys.stderr)
        print(f"{done.host}: {done.message}", file=sys.stderr)
    return 0 if done.ok else 1


def _settings(path: Path, name: str) -> HostSettings:
    fleet, lock = load_fleet(path), read_lock(path)
    if name not in fleet.hosts:
        hint = did_you_mean(name, fleet.hosts, known_as="its hosts")
        raise CommandError(f"{path} has no host {name}{hint}")
    problems = check_lock(fleet, lock)
    if problems or lock is None:
        raise ProblemsError(problems)
    return resolve_host(fleet, lock, name)


def _server(settings: HostSettings, name: str) -> ServerSettings:
    servers = {server.name: server for server in settings.servers}
    if name not in servers:
        hint = did_you_mean(name, servers, known_as="its servers")
        raise CommandError(f"{settings.name} has no server {name}{hint}")
    return servers[name]


def roll_back(path: Path, settings: HostSettings, server: ServerSettings) -> Rollback:
    """Connect to the host and have the server's previous release serve.

    + path: the fleet file; secrets' files count from its folder

    Raises :class:`CommandError` where the host can't be asked.
    """
    # Loading pyinfra takes long, and the runner must come first: it patches the standard library.
    from llamaherd.runner import run_on_hosts  # isort: skip
    from inventories.groups import host_data

    try:
        data = host_data(settings, path.absolute().parent)
    except SecretError as error:
        raise CommandError(f"{settings.name}: {error}") from error
    (result,) = run_on_hosts(
        [(settings.name, data)],
        lambda host: _on_host(host, server.name),
        seconds=lambda _: 2 * server.ready_timeout + _MORE_SECONDS,
    )
    if result.value is None:
        raise CommandError(f"{settings.name}: {result.error}")
    return result.value


def _on_host(host: Host, server: str) -> Rollback:
    from deploys.common.claims import claim
    from deploys.common.jobs import carry_out
    from deploys.llama_server.release import rollback_job
    from facts.servers import LlamaServers
    from llamaherd.runner import ask

    claim(host, lambda who: _wait(host.name, who))
    ended = carry_out(host.state, host, rollback_job(server))
    kept = ask(host, LlamaServers, names=[server]).servers[server]
    message = ended.message or "; ".join(ended.lines)
    lines = () if ended.ok else ended.lines
    return Rollback(host.name, server, ended.ok, kept.release, kept.previous, message, lines)


def _wait(host: str, who: str) -> None:
    print(f"{host}: another converge works here ({who}): waiting for it", file=sys.stderr)
