"""Logs in to a box and looks at it; changes nothing there.

A box whose host key isn't known is never logged in to. The look goes through pyinfra as every
converge does, so that what works here works there.
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent, which paramiko then uses.
from llamaherd.runner import RemoteError, Result, ask, run_on_hosts  # isort: skip

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from facts.onboarding import Now, Onboarding
from facts.onboarding_hub import Bandwidth
from facts.onboarding_values import HubAnswer, Probe
from inventories.transport import prompt_transport
from llamaherd.onboard.report import Contact, Target

if TYPE_CHECKING:
    from pyinfra.api.host import Host

LOOK_SECONDS = 120
PASSWORD_REFUSED = "neither key nor password: "
"""Begins the error of a contact that both were tried on."""


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
        "ssh_paramiko_connect_kwargs": {"transport_factory": prompt_transport},
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
