"""Targets as ssh understands them: ``ssh -G`` resolves aliases, ports, keys and jump hosts."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from llamaherd.arguments import CommandError
from llamaherd.onboard.report import Target

KNOWN_HOSTS = "~/.ssh/known_hosts"

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


def ssh_command(target: Target) -> str:
    """What a person would type to get there."""
    words = ["ssh", *(["-F", target.config_file] if target.config_file else [])]
    words += ["-p", str(target.port)] if target.port != 22 else []
    return shlex.join([*words, f"{target.user}@{target.alias or target.hostname}"])
