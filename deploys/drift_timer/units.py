"""The scheduled check's files on its host. Pure."""

from __future__ import annotations

import re
from pathlib import Path

from deploys.common.files import ManagedFile
from deploys.common.shell import WordError
from deploys.common.systemd import template, unit_word
from deploys.drift_timer.program import executable
from facts.drift_timer import ACCOUNT, KEY, SERVICE, STATE, TIMER
from facts.servers import MARK, UNITS
from inventories.settings import DriftTimerSettings

SETTINGS = "/etc/llamaherd"
FLEET = f"{SETTINGS}/fleet.yaml"
LOCK = f"{SETTINGS}/fleet.lock.yaml"
KNOWN_HOSTS = f"{SETTINGS}/known_hosts"
OWN = f"{SETTINGS}/drift.env"
PUBLISH = f"{SETTINGS}/publish"
SYSUSERS = "/etc/sysusers.d/llamaherd-drift.conf"
# systemd.time(7); what none of its expressions needs is refused, so nothing else gets in.
_SCHEDULE = re.compile(r"[A-Za-z0-9*][A-Za-z0-9*.,:/~ +_-]*")

OWN_CONTENT = """\
# Yours: no converge changes this file once it is there. Root alone reads it.
# The secrets that the fleet file refers to with {env: NAME}, a line each:
#OFFICE_API_KEY=...
# Another SSH key than the generated one; the account llamaherd-drift must be able to read it:
#LLAMAHERD_SSH_KEY=/etc/llamaherd/keys/fleet
"""


class UnitError(ValueError):
    """These settings make no unit; the message names the setting to change."""


def _template(name: str, **values: object) -> str:
    return template(Path(__file__).with_name(name)).substitute(mark=MARK, account=ACCOUNT, **values)


def _published(settings: DriftTimerSettings) -> list[tuple[str, str, str]]:
    """Option, the check's own file, and where it ends up, of each file that a check writes."""
    files = (
        ("--html", "drift.html", settings.html),
        ("--prometheus", "drift.prom", settings.prometheus),
    )
    return [(option, f"{STATE}/{name}", place) for option, name, place in files if place]


def arguments(settings: DriftTimerSettings) -> list[str]:
    """What ``llamaherd`` is called with."""
    result = ["drift", FLEET]
    if settings.timeout is not None:
        result += ["--timeout", str(settings.timeout)]
    if settings.deep_share is not None:
        result += ["--deep-share", settings.deep_share]
    for option, own, _ in _published(settings):
        result += [option, own]
    return [*result, "--notify"] if settings.notify else result


def render_service(settings: DriftTimerSettings, digest: str) -> str:
    """The service. Raises :class:`UnitError`."""
    published = _published(settings)
    own = " ".join(path for _, path, _ in published)
    try:
        after = [
            f"ExecStopPost=+/bin/sh {PUBLISH} {path} {unit_word(place)}"
            for _, path, place in published
        ]
        command = " ".join(map(unit_word, [executable(digest), *arguments(settings)]))
    except WordError as error:
        raise UnitError(f"drift: {error}") from None
    text = _template(
        SERVICE,
        state=STATE,
        settings=SETTINGS,
        key=KEY,
        # What an earlier check wrote must not pass for what a failed one found.
        before=f"ExecStartPre=/bin/rm -f {own}" if own else "",
        command=command,
        after="\n".join(after),
    )
    return re.sub(r"\n\n+(?=\S)", "\n\n", text).replace("\n\nExecStart=", "\nExecStart=")


def render_timer(settings: DriftTimerSettings) -> str:
    """The timer. Raises :class:`UnitError`."""
    if not _SCHEDULE.fullmatch(settings.schedule):
        raise UnitError(
            f"drift.schedule: {settings.schedule!r} is no systemd calendar expression: "
            "write one such as daily or Mon..Fri 06:00"
        )
    return _template(TIMER, schedule=settings.schedule, delay=settings.randomized_delay)


def account_file() -> ManagedFile:
    """The declaration of the check's account, for systemd-sysusers."""
    return ManagedFile(SYSUSERS, f'{MARK}\nu {ACCOUNT} - "llamaherd drift" {STATE}\n')


def unit_files(settings: DriftTimerSettings, digest: str) -> tuple[ManagedFile, ...]:
    """The two units."""
    return (
        ManagedFile(f"{UNITS}/{SERVICE}", render_service(settings, digest)),
        ManagedFile(f"{UNITS}/{TIMER}", render_timer(settings)),
    )


def fleet_files(fleet: str, lock: str) -> tuple[ManagedFile, ...]:
    """The fleet file and its lock. An address in them may hold a token: not for everyone."""
    return tuple(
        ManagedFile(path, content, mode="640", group=ACCOUNT)
        for path, content in ((FLEET, fleet), (LOCK, lock))
    )


def publish_file() -> ManagedFile:
    """The script that brings a check's files to where the fleet file wants them."""
    return ManagedFile(PUBLISH, _template("publish.sh"), mode="600")
