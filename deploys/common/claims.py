"""One converge of a host at a time: who changes it holds a claim, and the next one waits.

The claim is the kernel's (flock(1) on the host), held by a small shell at the end of an SSH channel
of the run's own. It goes with whatever holds it: a controller that ends closes the channel; one
that vanishes stops sending beats, and the shell gives up after SILENCE seconds. So a dead
holder's claim blocks nobody for long, and there is nothing to clean up, after a reboot either.

Taken before the first change of a run on a host and not before: a run that finds nothing to do
needs none. What is long (jobs) goes on without it, and a second run attaches to it.

Who held it last stays noted beside it. A run whose connection was cut, and which comes back, claims
the host again, and goes on only where nobody else was there meanwhile: else all that it has read
and decided is of before.
"""

from __future__ import annotations

import functools
import getpass
import os
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from weakref import WeakKeyDictionary

import gevent
from pyinfra import logger
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.connectors.util import make_unix_command_for_host

from deploys.common.progress import DISPLAY
from deploys.common.rights import as_running_operation
from deploys.common.shell import script_word, word

FOLDER = "/run/llamaherd"
SILENCE = 120
"""Seconds without a beat after which a holder counts as gone."""

BEAT = 15

# Each line that is said while waiting also notices a controller that has gone: nobody reads it.
_HOLD = """set -eu
install -d -m 755 {folder}
exec 9>>{folder}/converge.lock
until flock -n 9; do
  # Ours, from before the connection was cut: it can't know that nobody will beat for it again.
  if [ "$(sed -n 2p {folder}/converge.run 2>/dev/null)" = {run} ]; then
    kill "$(sed -n 1p {folder}/converge.run)" 2>/dev/null || :
    sleep 0.1 9>&-
    continue
  fi
  echo "held $(cat {folder}/converge 2>/dev/null)"
  sleep 1 9>&-
done
before=
if [ -e {folder}/converge.last ] && [ "$(sed -n 1p {folder}/converge.last)" != {run} ]; then
  before=$(sed -n 2p {folder}/converge.last)
fi
printf '%s\\n' {run} {who} > {folder}/converge.last
echo {who} > {folder}/converge
printf '%s\\n' $$ {run} > {folder}/converge.run
echo "claimed $before"
while beat=$(timeout {silence} head -n 1 9>&-) && [ -n "$beat" ]; do :; done
rm -f {folder}/converge {folder}/converge.run
"""


class ClaimError(Exception):
    """The host can't be claimed; the message holds its last words."""


class OvertakenError(ConnectError):
    """Somebody else worked on the host while this run was cut off from it; the message says who."""

    def __init__(self, who: str) -> None:
        super().__init__(f"{who} worked on this host meanwhile: run again")


@dataclass(frozen=True)
class Taken:
    """How a claim was taken.

    + waited: whether somebody else held it first
    + before: who held it last, where that was another run; empty where none did since the boot
    """

    waited: bool = False
    before: str = ""


@dataclass
class _Claim:
    channel: Any
    beats: gevent.Greenlet[..., None]


_claims: WeakKeyDictionary[Host, _Claim] = WeakKeyDictionary()


def hold_script(who: str, run: str, folder: str = FOLDER, silence: int = SILENCE) -> str:
    """The shell that waits for the claim, says so, and holds it for as long as beats come.

    + who: as :func:`holder` says it
    + run: this run of this host and no other: a claim that it has there already is replaced
    + folder: where the lock lies; gone after a reboot, as its holder is
    + silence: seconds without a beat after which it gives up
    """
    return _HOLD.format(folder=word(folder), who=word(who), run=word(run), silence=silence)


@functools.cache
def holder() -> str:
    """Who this run is, for whoever waits: account, machine, process, since when it claims hosts."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return f"{getpass.getuser()}@{socket.gethostname()}, process {os.getpid()}, since {since}"


def claim(host: Host, tell: Callable[[str], None] | None = None) -> bool:
    """Hold the host's claim from now to the end of this run; True when that took waiting.

    After a wait nothing that was read before may be relied on. Says who holds it meanwhile. Does
    nothing for a connector without channels of its own (``@fake``, ``@local``).

    + tell: called with the holder while it waits; by default people are told

    Raises :class:`ClaimError` where the host's shell can't hold one, and :class:`OvertakenError`
    where this run held it, lost it, and somebody else has had it since.
    """
    held = _claims.get(host)
    if held is not None and not held.channel.closed:
        return False
    client = getattr(host.connector, "client", None)
    if client is None:
        return False
    command = make_unix_command_for_host(
        host.state,
        host,
        StringCommand(f"sh -c {script_word(hold_script(holder(), _run(host)))}"),
        **as_running_operation(host),
    )
    stdin, stdout, stderr = client.exec_command(command.get_raw_value())
    told = tell or (lambda text: _tell(host, text))
    try:
        taken = await_claim(stdout, _overtaken if held is not None else told)
        if taken is not None and held is not None and taken.before:
            _overtaken(taken.before)
    except BaseException:
        # It must hold nothing, nor wait for it.
        stdout.channel.close()
        raise
    finally:
        DISPLAY.finish(host.name)
    if taken is None:
        words = " ".join(stderr.read().decode(errors="replace").split())
        raise ClaimError(f"could not claim the host for this run: {words or 'no word why'}")
    _claims[host] = _Claim(stdout.channel, gevent.spawn(_beat, stdin))
    return taken.waited


def keep_claim(host: Host) -> None:
    """Take the claim again where this run had it and lost it with the connection.

    Raises as :func:`claim` does.
    """
    if host in _claims:
        claim(host)


def _overtaken(who: str) -> None:
    raise OvertakenError(who)


def _run(host: Host) -> str:
    """This run's one claim of a host; two names of one machine are two hosts, and wait in turn."""
    return f"{holder()}, for {host.name}"


def await_claim(lines: Iterable[str], tell: Callable[[str], None]) -> Taken | None:
    """Read what :func:`hold_script` says until the claim is held; None where it never is.

    + tell: called with every other holder's name, at each line that names it
    """
    waited = False
    for line in lines:
        kind, _, rest = line.strip().partition(" ")
        if kind == "claimed":
            return Taken(waited, rest)
        if kind == "held":
            waited = True
            tell(rest or "another run")
    return None


_told: WeakKeyDictionary[Host, str] = WeakKeyDictionary()


def _tell(host: Host, who: str) -> None:
    """Once for each holder as a line that stays; a terminal's moving line beyond that."""
    if _told.get(host) != who:
        _told[host] = who
        logger.warning(f"{host.print_prefix}another converge works here ({who}): waiting for it")
    DISPLAY.show(host.name, "waiting for another converge", who)


def _beat(stdin: Any) -> None:
    """Tell the host's shell that this run lives; ends with the channel."""
    while not stdin.channel.closed:
        try:
            stdin.write("beat\n")
            stdin.flush()
        except OSError:
            return
        gevent.sleep(BEAT)
