"""The scheduled drift check, on the one host that the fleet file calls its controller.

Owns there ``/opt/llamaherd``, the account and the units ``llamaherd-drift``, and in
``/etc/llamaherd`` the fleet file, its lock, ``known_hosts`` (other hosts' lines survive) and
``publish``. ``drift.env`` is the administrator's own: made once, never changed. Does nothing on
any other host, and gives the check no access to one: docs/drift.md says how.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pyinfra import logger
from pyinfra.api import FunctionCommand, StringCommand, deploy
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.common.changes import Change, record
from deploys.common.files import ManagedFile, is_current, read_states, write_files
from deploys.common.jobs import give_up, remote, run_job
from deploys.common.operations import (
    Commands,
    HostError,
    UnknownStateError,
    current_host,
    host_operation,
    host_settings,
    read,
)
from deploys.common.shell import operand, script_word, word
from deploys.drift_timer.known_hosts import host_name, merged, parse_known_hosts
from deploys.drift_timer.program import (
    CURRENT,
    PYTHON,
    ProgramError,
    directory,
    install_job,
    link_command,
    marker,
    source_digest,
    source_files,
)
from deploys.drift_timer.units import (
    FLEET,
    KNOWN_HOSTS,
    OWN,
    OWN_CONTENT,
    UnitError,
    account_file,
    fleet_files,
    publish_file,
    unit_files,
)
from facts.drift_timer import ACCOUNT, KEY, SERVICE, STATE, TIMER, DriftTimer, DriftTimerState
from facts.files import FileState
from inventories.groups import KNOWN_HOSTS_VARIABLE
from inventories.lock import lock_path
from inventories.settings import DriftTimerSettings


@deploy("Drift timer")
def drift_timer(settings: DriftTimerSettings | None = None) -> None:
    """Check the fleet for drift on a schedule, from this host.

    + settings: default to the host's own; without any, nothing is done
    """
    settings = settings or host_settings().drift_timer
    if settings is not None:
        scheduled(name="Schedule the drift check", settings=settings)


@host_operation
def scheduled(settings: DriftTimerSettings) -> Commands:
    """Install llamaherd, the fleet file, a key, the service and its timer.

    + settings: of the check
    """
    try:
        digest = source_digest(source_files())
        units = unit_files(settings, digest)
    except (ProgramError, UnitError) as error:
        raise HostError(str(error)) from error
    state = read(DriftTimer, marker=marker(digest), link=CURRENT)
    fixed = (*_fleet(settings), publish_file(), *units)
    states = read_states((account_file(), *fixed, _known_hosts("")), also=[OWN])
    known = _known_hosts(_known_hosts_text(settings, states))
    yield from _account(state, states)
    yield from _program(digest, state)
    yield from _schedule_is_valid(settings, units[1], states)
    yield from write_files((*fixed, known), states)
    yield from _own_file(states)
    yield from _key(state)
    yield from _units(units, state, states)


def _fleet(settings: DriftTimerSettings) -> tuple[ManagedFile, ...]:
    path = Path(settings.fleet)
    try:
        return fleet_files(
            path.read_text(encoding="utf-8"), lock_path(path).read_text(encoding="utf-8")
        )
    except OSError as error:
        raise UnknownStateError(
            f"cannot read {error.filename}: {error.strerror}: the check needs the fleet file and "
            "its lock"
        ) from error


def _known_hosts(text: str) -> ManagedFile:
    return ManagedFile(KNOWN_HOSTS, text)


def _known_hosts_text(settings: DriftTimerSettings, states: Mapping[str, FileState]) -> str:
    """The host's file with what this machine knows of the fleet's hosts added."""
    state = states.get(KNOWN_HOSTS)
    before = b"" if state is None or state.content is None else state.content
    return merged(before.decode(errors="replace"), known_keys(settings))


def known_keys(settings: DriftTimerSettings) -> dict[str, frozenset[str]]:
    """The keys of the fleet's hosts that this machine knows, by their names in known_hosts."""
    files = {
        host: os.environ.get(KNOWN_HOSTS_VARIABLE) or host.known_hosts or "~/.ssh/known_hosts"
        for host in settings.hosts
    }
    parsed = {name: parse_known_hosts(_text(name)) for name in set(files.values())}
    named = {host: host_name(host.hostname, host.port) for host in files}
    return {named[host]: parsed[file].keys(named[host]) for host, file in files.items()}


def _text(name: str) -> str:
    try:
        return Path(name).expanduser().read_text(encoding="utf-8", errors="replace")
    except OSError:
        # No file, no keys: the check itself says which host it doesn't know.
        return ""


def _account(state: DriftTimerState, states: Mapping[str, FileState]) -> Commands:
    # First of all: the group must be there for the files that it may read.
    yield from write_files([account_file()], states)
    if not state.account:
        record(Change("declared", ACCOUNT, "the account is missing"))
        yield "systemd-sysusers /etc/sysusers.d/llamaherd-drift.conf"


def _program(digest: str, state: DriftTimerState) -> Commands:
    if not state.installed:
        yield from _install(digest, state)
    elif state.current == digest:
        current_host().noop(f"{directory(digest)} is whole")
        return
    # For people: the unit names the directory itself.
    record(Change("declared", CURRENT, f"leads to {state.current or 'nothing'}, not to {digest}"))
    yield link_command(digest)


def _install(digest: str, state: DriftTimerState) -> Commands:
    if state.python and tuple(map(int, state.python.split("."))) < PYTHON:
        needed = ".".join(map(str, PYTHON))
        raise HostError(
            f"the controller's Python is {state.python} and llamaherd needs {needed}: "
            "set controller: true on a host with Debian 12, Ubuntu 24.04 or newer"
        )
    record(Change("declared", directory(digest), "this version of llamaherd is not installed"))
    yield from run_job(install_job(digest))


def _schedule_is_valid(
    settings: DriftTimerSettings, timer: ManagedFile, states: Mapping[str, FileState]
) -> Commands:
    """systemd's own opinion, before the timer is written."""
    if not is_current(timer, states.get(timer.path)):
        yield f"systemd-analyze calendar -- {operand(settings.schedule)} >/dev/null"


def _own_file(states: Mapping[str, FileState]) -> Commands:
    if OWN in states:
        return
    file = ManagedFile(OWN, OWN_CONTENT, mode="600")
    yield from write_files([file], states)


def _key(state: DriftTimerState) -> Commands:
    if state.key:
        return
    record(Change("declared", KEY, "the check has no SSH key"))
    own = f"-o {ACCOUNT} -g {ACCOUNT}"
    comment = word(f"llamaherd-drift@{current_host().name}")
    script = (
        f"set -eu; install -d -m 700 {own} {STATE} {STATE}/.ssh; rm -f -- {KEY} {KEY}.pub; "
        f"runuser -u {ACCOUNT} -- ssh-keygen -q -t ed25519 -N '' -C {comment} -f {KEY}"
    )
    yield f"sh -c {script_word(script)}"
    yield FunctionCommand(_announce, (), {})


def _announce(state: State, host: Host) -> bool:
    """Show the public key: nobody else can let the check in."""
    try:
        public = remote(state, host, StringCommand("cat", f"{KEY}.pub")).stdout.strip()
    except ConnectError as error:
        return give_up(host, f"the drift check's key was not read ({error}): run again")
    logger.info(
        f"{host.print_prefix}the drift check's key; add it to the authorized_keys of the account "
        f"that {FLEET} logs in as, on every host: {public}"
    )
    return True


def _units(
    units: tuple[ManagedFile, ...], state: DriftTimerState, states: Mapping[str, FileState]
) -> Commands:
    stale = {unit.path for unit in units if not is_current(unit, states.get(unit.path))}
    timer = state.unit(TIMER)
    for name in (TIMER, SERVICE):
        if state.unit(name).load == "masked":
            raise HostError(f"{name} is masked: run systemctl unmask {name}")
    if stale or timer.needs_reload or state.unit(SERVICE).needs_reload:
        if not stale:
            record(Change("running", TIMER, "systemd doesn't know its units as they are now"))
        yield "systemctl daemon-reload"
    if timer.enabled != "enabled":
        record(Change("declared", TIMER, f"it is {timer.enabled or 'not enabled'}"))
        yield f"systemctl enable --quiet -- {TIMER}"
    if timer.active != "active":
        record(Change("running", TIMER, f"it is {timer.active}"))
    if timer.active == "active" and units[1].path not in stale:
        current_host().noop(f"{TIMER} waits for its next time")
        return
    yield f"systemctl restart -- {TIMER}"
