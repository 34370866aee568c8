"""Tells a team that the fleet's state changed: once, and not at every check.

What was told last is noted beside the reports, and compared with the new report: the fleet's
state, and which hosts are not in order. A notification that fails leaves the note as it was, so
the next check tells again. A failure is a warning and never changes what the check found.

What is told holds neither diffs nor secrets. The address of a webhook is taken for a secret: of it
only the host is ever shown.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from inventories.fleet import Fleet
from inventories.resolve import secret_reference
from inventories.secrets import SecretError, resolve_secret
from llamaherd.drift.history import (
    HostChange,
    Warn,
    change_text,
    changes,
    reports_directory,
    save_report,
    warn_on_stderr,
    write_atomically,
)
from llamaherd.drift.report import VERSION, DriftReport, failures

TIMEOUT = 10
"""Seconds that a webhook may take."""

COMMAND_TIMEOUT = 60
"""Seconds that a command may take; what it started by then is its own affair."""

MAX_FAILURES = 50
"""What is wrong beyond this many is only counted."""

NOTE = "notified.json"


class NotifyError(Exception):
    """A notification did not arrive; the message says where it should have and why not."""


def conclude(
    fleet: Fleet, report: DriftReport, *, notify: bool = False, warn: Warn = warn_on_stderr
) -> None:
    """What a check does with its report in the end: keep it, and tell of a change.

    + notify: call the fleet's ``on_drift``, if it has one
    + warn: told what could not be done; nothing is raised for that
    """
    directory = reports_directory(fleet.path)
    try:
        save_report(report, directory, fleet.drift["keep"])
        if notify and fleet.drift.get("on_drift"):
            tell(fleet, report, directory)
    except NotifyError as error:
        warn(f"on_drift: {error}; the next check tries again")
    except OSError as error:
        warn(f"the report is not kept: {error.filename or directory}: {error.strerror}")


def tell(fleet: Fleet, report: DriftReport, directory: Path) -> bool:
    """Call ``on_drift`` when the state is another than the one that was told last.

    + directory: of the reports; holds the note of what was told

    Returns whether it was called. Raises :class:`NotifyError`, and OSError for the note.
    """
    told = read_note(directory)
    state = state_of(report)
    if state == told:
        return False
    message = notification(report, told)
    on_drift = fleet.drift["on_drift"]
    if "webhook" in on_drift:
        post(_address(on_drift["webhook"], fleet.path.parent), message)
    else:
        run(tuple(on_drift["command"]), message, fleet.path.parent)
    write_atomically(directory / NOTE, json.dumps(state) + "\n")
    return True


def state_of(report: DriftReport) -> dict[str, Any]:
    """What counts as the state: the fleet's, and that of each host that isn't in order."""
    hosts = {host.name: host.state for host in report.hosts if host.state != "ok"}
    return {"state": report.state, "hosts": hosts}


def read_note(directory: Path) -> dict[str, Any]:
    """What was told last. Nothing yet, or a damaged note, counts as a fleet in order."""
    try:
        note = json.loads((directory / NOTE).read_text(encoding="utf-8"))
        return {"state": str(note["state"]), "hosts": dict(note["hosts"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"state": "ok", "hosts": {}}


def notification(report: DriftReport, told: Mapping[str, Any]) -> dict[str, Any]:
    """What is sent; ``schemas/drift.notification.schema.json`` describes it.

    + told: the state before, as :func:`state_of` makes it
    """
    after = {host.name: host.state for host in report.hosts}
    # A host that nobody told of was in order, or isn't of the fleet any more.
    before = {name: told["hosts"].get(name, "ok") for name in (*after, *told["hosts"])}
    changed = changes(before, after)
    wrong = failures(report)
    return {
        "version": VERSION,
        "fleet": report.fleet,
        "started": report.started,
        "state": report.state,
        "previous": told["state"],
        "changed": [{"host": c.host, "before": c.before, "after": c.after} for c in changed],
        "text": text(report, changed),
        "failures": wrong[:MAX_FAILURES],
        "more_failures": max(0, len(wrong) - MAX_FAILURES),
    }


def text(report: DriftReport, changed: tuple[HostChange, ...]) -> str:
    """The notification as a line for people."""
    total = len(report.hosts)
    wrong = sum(host.state != "ok" for host in report.hosts)
    judged = {
        "ok": f"in order, {total} host{'' if total == 1 else 's'}",
        "drift": f"drift on {wrong} of {total}",
        "error": f"{wrong} of {total} not in order, not every host could be judged",
    }[report.state]
    listed = ", ".join(map(change_text, changed[:10]))
    more = f" and {len(changed) - 10:,} more" if len(changed) > 10 else ""
    return f"llamaherd: {report.fleet}: {judged}" + (f" ({listed}{more})" if listed else "")


def _address(webhook: str | Mapping[str, Any], directory: Path) -> str:
    if isinstance(webhook, str):
        return webhook
    reference = secret_reference(webhook)
    if reference is None:
        raise NotifyError("the webhook has no address")  # validation forbids it
    try:
        address = str(resolve_secret(reference, directory))
    except SecretError as error:
        raise NotifyError(str(error)) from None
    if not address.startswith(("http://", "https://")):
        raise NotifyError("the webhook's secret is not an http:// or https:// address")
    return address


def post(address: str, message: Mapping[str, Any], timeout: float = TIMEOUT) -> None:
    """POST a message as JSON; :class:`NotifyError` for any answer but a 2xx.

    A redirect is refused: requests would follow it with a GET, which tells nobody anything.
    """
    place = "?"
    # Takes a fifth of a second to load, and most checks tell nobody anything.
    import requests

    try:
        place = urlsplit(address).hostname or place
        answer = requests.post(address, json=message, timeout=timeout, allow_redirects=False)
    except (requests.RequestException, ValueError) as error:
        # Its own text would show the address.
        raise NotifyError(f"webhook at {place}: {_reason(error, timeout)}") from None
    if not 200 <= answer.status_code < 300:
        hint = "; name the address that it leads to" if answer.is_redirect else ""
        raise NotifyError(f"webhook at {place}: HTTP {answer.status_code}{hint}")


def _reason(error: Exception, timeout: float) -> str:
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "its certificate isn't trusted (REQUESTS_CA_BUNDLE names your own authority's)"
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer within {timeout:g} s"
    if isinstance(error, requests.exceptions.ConnectionError):
        return "can't connect"
    return type(error).__name__


def run(
    command: tuple[str, ...],
    message: Mapping[str, Any],
    directory: Path,
    timeout: float = COMMAND_TIMEOUT,
) -> None:
    """Run a program with the message on its standard input; :class:`NotifyError` unless it exits 0.

    + directory: where it runs. Its standard output is dropped, its errors go where ours go.
    """
    name = command[0]
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            input=json.dumps(message).encode(),
            stdout=subprocess.DEVNULL,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotifyError(f"command {name}: not done within {timeout:g} s") from None
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise NotifyError(f"command {name}: {why}") from None
    if done.returncode != 0:
        raise NotifyError(f"command {name}: it exited {done.returncode}")
