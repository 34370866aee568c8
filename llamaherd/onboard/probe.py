"""Reaches a box and looks at it; changes nothing there.

Addresses are resolved by ``ssh -G``, so that aliases, ports, keys and jump hosts of the ssh
configuration count. The greeting (host key, offered ways to log in) costs one connection and no
login; a box whose host key isn't known is never logged in to. The look itself goes through pyinfra
as every converge does, so that what works here works there.
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent, which paramiko then uses.
from llamaherd.runner import CONNECT_SECONDS, RemoteError, Result, ask, run_on_hosts  # isort: skip

import base64
import hashlib
import re
import shlex
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import paramiko
from gevent.pool import Pool

from facts.onboarding import Now, Onboarding
from facts.onboarding_hub import Bandwidth
from facts.onboarding_values import HubAnswer, Probe
from llamaherd.arguments import CommandError
from llamaherd.onboard.report import Contact, HostKey, Target

if TYPE_CHECKING:
    from pyinfra.api.host import Host

LOOK_SECONDS = 120
PASSWORD_REFUSED = "neither key nor password: "
"""Begins the error of a contact that both were tried on."""
KNOWN_HOSTS = "~/.ssh/known_hosts"
_GREETERS = 20


@dataclass(frozen=True)
class BandwidthQuestion:
    """Which hub the box is asked about: ``endpoint`` for the report, ``url`` of a large file."""

    endpoint: str
    url: str


@dataclass(frozen=True)
class Look:
    """What one look needs beyond the target: a password that works, if any, and the question."""

    password: str | None = None
    bandwidth: BandwidthQuestion | None = None


# Targets


_GIVEN = re.compile(
    r"(?:ssh://)?(?:(?P<user>[^@\s]+)@)?(?:\[(?P<six>[0-9a-fA-F:.%\w]+)\]|(?P<host>[^:@\s\[\]]+))"
    r"(?::(?P<port>\d+))?/?"
)


def resolve_target(
    given: str, *, config_file: Path | None = None, key: Path | None = None
) -> Target:
    """What ssh makes of ``given``: ``[USER@]HOST[:PORT]``, an alias, ``[ADDRESS]:PORT`` for IPv6.

    Raises :class:`CommandError` for what is no target, and where ssh isn't installed.
    """
    match = _GIVEN.fullmatch(given)
    if match is None or given.startswith("-"):
        raise CommandError(f"{given!r} is no target: USER@HOST, HOST:PORT or an alias of ssh's")
    host = match["six"] or match["host"]
    command = ["ssh", "-G"]
    command += ["-F", str(config_file)] if config_file else []
    command += ["-p", match["port"]] if match["port"] else []
    command += ["-l", match["user"]] if match["user"] else []
    values = _ssh([*command, "--", host], given)
    hostname = values.get("hostname", [host])[0]
    known = values.get("userknownhostsfile", [KNOWN_HOSTS])[0].split()[0]
    proxy = values.get("proxyjump", values.get("proxycommand", [""]))[0]
    return Target(
        given=given,
        hostname=hostname,
        user=values.get("user", ["root"])[0],
        port=int(values.get("port", ["22"])[0]),
        alias=host if host != hostname else "",
        config_file=str(config_file.resolve()) if config_file else None,
        known_hosts=str(Path(known).expanduser()),
        key=str(key.resolve()) if key else None,
        proxy="" if proxy == "none" else proxy,
    )


def identities(target: Target) -> list[Path]:
    """Private keys that ssh would try for the target and that exist."""
    if target.key:
        return [Path(target.key)]
    command = ["ssh", "-G", *(["-F", target.config_file] if target.config_file else [])]
    values = _ssh([*command, "--", target.alias or target.hostname], target.given)
    paths = [Path(name).expanduser() for name in values.get("identityfile", [])]
    return [path for path in paths if path.is_file()]


def _ssh(command: Sequence[str], given: str) -> dict[str, list[str]]:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except FileNotFoundError:
        raise CommandError("ssh isn't installed here: install OpenSSH's client") from None
    except subprocess.TimeoutExpired:
        raise CommandError(f"{given}: `ssh -G` gave no answer: see the ssh configuration") from None
    if done.returncode != 0:
        raise CommandError(f"{given}: {done.stderr.strip() or 'ssh -G failed'}")
    values: dict[str, list[str]] = {}
    for line in done.stdout.splitlines():
        name, _, value = line.partition(" ")
        values.setdefault(name, []).append(value)
    return values


# The greeting


def greet(target: Target) -> Contact:
    """Host key and offered ways to log in, without logging in. Never raises for the box's sake."""
    try:
        connection = _connect(target)
    except OSError as error:
        return Contact(error=_words(error))
    transport = paramiko.Transport(connection)
    try:
        transport.banner_timeout = CONNECT_SECONDS
        known = _recorded(target)
        _prefer(transport, list(known))
        transport.start_client(timeout=CONNECT_SECONDS)
        key = transport.get_remote_server_key()
        return Contact(host_key=_judge(key, known), methods=_methods(transport, target.user))
    except (paramiko.SSHException, OSError, EOFError) as error:
        return Contact(error=_words(error))
    finally:
        transport.close()


def greet_all(targets: Sequence[Target]) -> list[Contact]:
    """:func:`greet` for several boxes at once, in their order."""
    return list(Pool(_GREETERS).map(greet, targets))


def server_key(target: Target) -> paramiko.PKey:
    """The box's host key itself; raises OSError or SSHException."""
    transport = paramiko.Transport(_connect(target))
    try:
        _prefer(transport, list(_recorded(target)))
        transport.start_client(timeout=CONNECT_SECONDS)
        return transport.get_remote_server_key()
    finally:
        transport.close()


def _connect(target: Target) -> socket.socket | paramiko.ProxyCommand:
    if not target.proxy:
        return socket.create_connection((target.hostname, target.port), CONNECT_SECONDS)
    if " " in target.proxy:
        # A proxy command; ssh -G has left its placeholders in.
        command = target.proxy.replace("%h", target.hostname).replace("%p", str(target.port))
        return paramiko.ProxyCommand(command)
    *before, last = target.proxy.split(",")
    words = ["ssh", *(["-F", target.config_file] if target.config_file else [])]
    words += ["-J", ",".join(before)] if before else []
    words += ["-o", "BatchMode=yes", "-W", f"[{target.hostname}]:{target.port}", f"ssh://{last}"]
    return paramiko.ProxyCommand(shlex.join(words))


def fingerprint(key: paramiko.PKey) -> str:
    """As ``ssh-keygen -l`` prints it."""
    digest = hashlib.sha256(key.asbytes()).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def recorded_name(target: Target) -> str:
    """The box's name in a known_hosts file."""
    return target.hostname if target.port == 22 else f"[{target.hostname}]:{target.port}"


def _recorded(target: Target) -> Mapping[str, paramiko.PKey]:
    """Keys that known_hosts has for the box, by their kind."""
    keys = paramiko.HostKeys()
    path = Path(target.known_hosts or KNOWN_HOSTS).expanduser()
    if path.is_file():
        keys.load(str(path))
    return dict(keys.lookup(recorded_name(target)) or {})


def _prefer(transport: paramiko.Transport, kinds: Sequence[str]) -> None:
    """Ask for the kind of key that is recorded: else a box with several looks changed."""
    options = transport.get_security_options()
    wanted = list(kinds) or ["ssh-ed25519"]
    first = [kind for kind in options.key_types if any(kind == name for name in wanted)]
    options.key_types = (*first, *(kind for kind in options.key_types if kind not in first))


def _judge(key: paramiko.PKey, known: Mapping[str, paramiko.PKey]) -> HostKey:
    recorded = known.get(key.get_name())
    if recorded is None:
        # Another kind of key is on record: the box lost that one, or somebody else answers.
        state = "changed" if known else "unknown"
    else:
        state = "known" if recorded == key else "changed"
    return HostKey(key.get_name(), fingerprint(key), state)  # type: ignore[arg-type]


def _methods(transport: paramiko.Transport, user: str) -> tuple[str, ...]:
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return tuple(error.allowed_types)
    except paramiko.SSHException:
        return ()
    return ("none",)


def _words(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer within {CONNECT_SECONDS} s"
    if isinstance(error, socket.gaierror):
        return f"the name does not resolve ({error.strerror})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


# The look


def look_at(
    targets: Sequence[Target], contacts: Sequence[Contact], look: Look
) -> list[tuple[Contact, Probe | None]]:
    """Look at every box whose host key is known: with keys, then with the password, if given.

    Results in the given order; a box that isn't reached has its reason in the contact.
    """
    results = list(zip(contacts, [None] * len(targets), strict=True))
    found: list[tuple[Contact, Probe | None]] = list(results)
    for login, password in (("key", None), ("password", look.password)):
        if login == "password" and password is None:
            break
        waiting = [
            index
            for index, (contact, probe) in enumerate(found)
            if probe is None and contact.host_key is not None and contact.host_key.state == "known"
        ]
        for index, result in zip(waiting, _look(targets, waiting, password, look), strict=True):
            contact = found[index][0]
            if result.value is not None:
                found[index] = (replace(contact, login=login, error=""), result.value)  # type: ignore[arg-type]
            else:
                refused = PASSWORD_REFUSED if login == "password" and not result.connected else ""
                found[index] = (replace(contact, error=refused + result.error), None)
    return found


def _look(
    targets: Sequence[Target], waiting: Sequence[int], password: str | None, look: Look
) -> list[Result[Probe]]:
    if not waiting:
        return []
    hosts = [(str(index), connection(targets[index], password)) for index in waiting]
    return run_on_hosts(
        hosts, lambda host: _ask(host, look.bandwidth), seconds=lambda _: LOOK_SECONDS
    )


def connection(target: Target, password: str | None = None) -> dict[str, Any]:
    """pyinfra's data for a login with the target's own rights, never with sudo."""
    data = {
        "ssh_hostname": target.hostname,
        "ssh_user": target.user,
        "ssh_port": target.port,
        "ssh_key": target.key,
        "ssh_known_hosts_file": target.known_hosts,
        "ssh_config_file": target.config_file,
        "ssh_password": password,
        "ssh_strict_host_key_checking": "yes",
    }
    if target.alias:
        # The alias brings its key and its jump host along.
        data["ssh_hostname"] = target.alias
    if password is not None:
        data |= {"ssh_allow_agent": False, "ssh_look_for_keys": False, "ssh_key": None}
    return {key: value for key, value in data.items() if value is not None}


def _ask(host: Host, question: BandwidthQuestion | None) -> Probe:
    before = time.time()
    now = ask(host, Now)
    # The answer is as old as half of the way there and back.
    offset = round(now - (before + time.time()) / 2, 2)
    probe = ask(host, Onboarding)
    hub = HubAnswer()
    if question is not None:
        try:
            hub = ask(host, Bandwidth, endpoint=question.endpoint, url=question.url)
        except RemoteError as error:
            hub = HubAnswer(question.endpoint, error=str(error))
    return replace(probe, clock=replace(probe.clock, offset=offset), hub=hub)
