"""pyinfra's door: the fleet as pyinfra's groups and host data, or one clean error.

``/inventory.py`` calls :func:`pyinfra_groups`. Everything that can be wrong with fleet, lock and
secrets is found here, before any host is reached, and raised as pyinfra's ``InventoryError``: one
message, exit status 1. (Upstream facts: pyinfra 3.10, pyinfra_cli/inventory.py, cli.py, main.py.)
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from types import FrameType
from typing import Any

import click
import gevent
from pyinfra.api.exceptions import InventoryError

from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, check_lock, position_of, read_lock
from inventories.resolve import UnlockedError, resolve_host
from inventories.secrets import Secret, SecretError, resolve_secret
from inventories.settings import HostSettings, SecretReference, SshSettings, to_data
from inventories.sizing.declared import check_memory
from inventories.transport import ON_STANDARD_INPUT, prompt_transport, sudo_transport
from schemas.problems import ProblemsError

DEFAULT_FLEET = "inventories/fleet.yaml"
HIDDEN = Secret("********")
KEY_VARIABLE = "LLAMAHERD_SSH_KEY"
KNOWN_HOSTS_VARIABLE = "LLAMAHERD_KNOWN_HOSTS"
INTERRUPTED = 128 + signal.SIGINT

Groups = dict[str, Any]


class FleetError(InventoryError):
    """What is wrong with fleet, lock or secrets; pyinfra prints the message and exits 1."""

    @property
    def __traceback__(self) -> None:  # type: ignore[override]
        """None: else pyinfra puts the file and line of our own source in front of the message."""
        return None


def pyinfra_groups(fleet_path: Path | None = None) -> Groups:
    """pyinfra's groups: ``all`` with every host's data, and the fleet's own groups by name.

    + fleet_path: the fleet file; None for ``$FLEET``, then ``inventories/fleet.yaml``

    Raises :class:`FleetError` with every problem found; zero hosts are one.
    """
    _tame_command_line()
    path = fleet_path or Path(os.environ.get("FLEET") or DEFAULT_FLEET)
    fleet, lock = _load(path)
    _refuse_unknown_hosts(fleet)
    hosts, failures = [], []
    for name in fleet.hosts:
        try:
            settings = resolve_host(fleet, lock, name)
            hosts.append((name, host_data(settings, path.parent, hide=_only_prints())))
        except (SecretError, UnlockedError) as error:
            where = position_of(fleet, ("hosts", name))
            failures.append(f"{where}: hosts.{name}: {error}")
    if failures:
        raise FleetError(_lines(failures))
    groups: Groups = {group: list(names) for group, names in fleet.groups.items()}
    return groups | {"all": hosts}


def _load(path: Path) -> tuple[Fleet, Lock]:
    """Fleet and lock, checked against each other."""
    if not path.is_file():
        raise FleetError(
            f"there is no fleet file {path}; set FLEET to one, or copy inventories/example.yaml "
            f"to {DEFAULT_FLEET}"
        )
    try:
        fleet = load_fleet(path)
        lock = read_lock(path)
    except ProblemsError as error:
        raise FleetError(_lines(error.problems)) from None
    if not fleet.hosts:
        raise FleetError(f"{path}: the fleet has no host; add one under hosts:")
    problems = check_lock(fleet, lock) or check_memory(fleet, lock)
    if problems or lock is None:
        raise FleetError(_lines(problems))
    return fleet, lock


def _lines(problems: Iterable[object]) -> str:
    """One message: a single problem on pyinfra's own line, several below it."""
    lines = [str(problem) for problem in problems]
    return lines[0] if len(lines) == 1 else "\n".join(["", *lines])


def host_data(settings: HostSettings, directory: Path, *, hide: bool = False) -> dict[str, Any]:
    """What pyinfra is told about a host: ``fleet`` (JSON-friendly), and how to connect.

    + directory: the fleet file's folder, where secrets are looked up from
    + hide: asterisks in place of the passwords of connection and sudo

    Raises :class:`inventories.secrets.SecretError`.
    """
    return {"fleet": to_data(settings)} | connection_data(settings, directory, hide=hide)


def connection_data(
    settings: HostSettings, directory: Path, *, hide: bool = False
) -> dict[str, Any]:
    """The part of :func:`host_data` that says how to connect."""
    data = _connection(settings.ssh)
    ssh = settings.ssh

    def given(reference: SecretReference) -> Secret:
        return HIDDEN if hide else _secret(reference, directory.resolve())

    # pyinfra reads these from host data; the references alone stay in ``fleet``.
    if ssh.password is not None:
        data["ssh_password"] = given(ssh.password)
    if ssh.sudo_password is not None:
        data["_sudo_password"] = ON_STANDARD_INPUT
        transport = sudo_transport(given(ssh.sudo_password))
        data["ssh_paramiko_connect_kwargs"] = {"transport_factory": transport}
    return data


def _connection(ssh: SshSettings) -> dict[str, Any]:
    """pyinfra's own keys. None is left out: pyinfra would take it for a value, and fail the run.

    A machine other than the one the fleet file was written on has files of its own: the two
    variables name them, for every host.
    """
    keys = {
        "ssh_hostname": ssh.hostname,
        "ssh_user": ssh.user,
        "ssh_port": ssh.port,
        "ssh_key": os.environ.get(KEY_VARIABLE) or ssh.key,
        "ssh_known_hosts_file": os.environ.get(KNOWN_HOSTS_VARIABLE) or ssh.known_hosts,
        "ssh_config_file": ssh.config_file,
        "ssh_strict_host_key_checking": ssh.host_key_checking,
        "ssh_paramiko_connect_kwargs": {"transport_factory": prompt_transport},
        "_sudo": True if ssh.user != "root" else None,
    }
    return {key: value for key, value in keys.items() if value is not None}


@cache
def _secret(reference: SecretReference, directory: Path) -> Secret:
    """Asked once a run: the same reference on many hosts is one question to a password manager."""
    return resolve_secret(reference, directory)


def _cli_options() -> Mapping[str, Any]:
    """The options of the pyinfra command that is loading us; empty outside its command line."""
    context = click.get_current_context(silent=True)
    if context is None or not {"inventory", "operations"} <= set(context.params):
        return {}
    return context.params


def _only_prints() -> bool:
    """Whether this run is ``debug-inventory``, which prints all host data and connects nowhere."""
    return tuple(_cli_options().get("operations") or ())[:1] == ("debug-inventory",)


def _refuse_unknown_hosts(fleet: Fleet) -> None:
    """A ``--limit`` without a match would be a run on no host that exits 0."""
    known = {"all", *fleet.groups, *fleet.hosts}
    for pattern in _cli_options().get("limit") or ():
        if pattern in known or any(fnmatch(name, pattern) for name in fleet.hosts):
            continue
        raise FleetError(
            f"--limit {pattern}: the fleet {fleet.path} has no such host or group; "
            f"its hosts: {', '.join(list(fleet.hosts)[:20])}"
        )


def _tame_command_line() -> None:
    """Under pyinfra's command line: Ctrl-C exits 130 (its own handler exits 0); no tracebacks."""
    options = _cli_options()
    if not options:
        return
    signal.signal(signal.SIGINT, _interrupted)
    if not options.get("debug_all"):
        # pyinfra says in one line what became of a connection; paramiko adds a traceback to it.
        logging.getLogger("paramiko").setLevel(logging.CRITICAL)


def _interrupted(_signal: int, _frame: FrameType | None) -> None:
    # A second Ctrl-C, while connections are being closed, ends it at once.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(
        "\nInterrupted. Builds and downloads that hosts have begun go on there; "
        "the next run attaches to them.",
        file=sys.stderr,
    )
    # The handler runs in whatever greenlet is current, and one that stands for a thread (each of
    # paramiko's connections has one) swallows SystemExit: so it is raised in the main one.
    main = gevent.get_hub().parent
    if main is None or gevent.getcurrent() is main:
        sys.exit(INTERRUPTED)
    gevent.kill(main, SystemExit(INTERRUPTED))
