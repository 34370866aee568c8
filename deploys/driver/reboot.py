"""Reboots a host whose driver waits for it: one host of the run at a time, and waits for it.

pyinfra works on hosts in parallel, each in a greenlet of its own. A semaphore of this process spans
a reboot and the wait for the driver's answer, so a run never has two hosts down at once. A host
that doesn't come back keeps the others from being rebooted: a driver that breaks one of them may
break them all. Two runs at the same time, from two machines, know nothing of each other.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field

import gevent
from gevent.lock import BoundedSemaphore
from paramiko import SSHException
from pyinfra import logger
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError, FactProcessError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.common.files import ManagedFile, write_command
from deploys.common.operations import forget_system
from deploys.common.progress import DISPLAY, human_seconds
from deploys.common.rights import as_running_operation
from deploys.common.summary import record_failure
from facts.driver import NOTE, Driver, DriverState, parse_driver

BACK_SECONDS = 900
"""How long a host may take to come back: servers with much memory test it at length."""
ANSWER_SECONDS = 120
"""How long the driver may take to answer once the host is back."""


@dataclass
class _Turn:
    """Whose turn it is; ``stuck`` is the host that didn't come back."""

    semaphore: BoundedSemaphore = field(default_factory=lambda: BoundedSemaphore(1))
    stuck: str = ""


TURN = _Turn()


def needed(state: DriverState, version: str) -> str:
    """Why a host has to be rebooted for this driver; empty when it runs it."""
    if state.running == version:
        return ""
    if state.running:
        return f"reboot needed: driver {state.running} runs, {version} is installed"
    why = "nouveau is loaded" if state.nouveau else state.error
    return f"reboot needed: driver {version} is installed and doesn't run ({why})"


def in_vain(state: DriverState, version: str) -> bool:
    """Whether the host was rebooted already since this driver was installed."""
    return state.noted_version == version and state.noted_boot not in ("", state.boot)


IN_VAIN_REMEDY = (
    "the host was rebooted since and it still doesn't run: see dkms status, "
    "dmesg | grep -i nvidia, and whether secure boot is on"
)


def settle(state: State, host: Host, version: str, allowed: bool) -> bool:
    """See to it that the installed driver runs; runs in the host's own greenlet."""
    found = _ask(host)
    if found is None:
        return _fail(host, "the host doesn't answer")
    reason = needed(found, version)
    if not reason:
        forget_system(host)
        return True
    if in_vain(found, version):
        return _fail(host, f"driver {version} doesn't run ({found.error}): {IN_VAIN_REMEDY}")
    if not allowed:
        return _fail(host, f"{reason}: reboot the host, or set driver.reboot to allowed")
    with TURN.semaphore:
        if TURN.stuck:
            return _fail(host, f"{reason}: not rebooted, for {TURN.stuck} didn't come back")
        return _reboot(host, version, found, reason)


def _reboot(host: Host, version: str, before: DriverState, reason: str) -> bool:
    logger.info(f"{host.print_prefix}{reason}: rebooting, one host at a time")
    # A driver that we didn't install gets one reboot as well, and no more.
    if _run(host, note_command(version, before.boot)) is None:
        return _fail(host, f"{reason}: not rebooted, for {NOTE} can't be written: mend that")
    _run(host, StringCommand("systemctl reboot"))
    started = back = time.monotonic()
    returned = False
    try:
        while True:
            gevent.sleep(2)
            found = _ask(host, reconnect=True)
            now = time.monotonic()
            if found is not None and found.boot != before.boot:
                back, returned = (back, True) if returned else (now, True)
                if found.running == version:
                    forget_system(host)
                    return True
                if now - back > ANSWER_SECONDS:
                    TURN.stuck = host.name
                    return _fail(
                        host,
                        f"driver {version} doesn't run after the reboot ({found.error}): "
                        "see dkms status and dmesg | grep -i nvidia",
                    )
            elif now - started > BACK_SECONDS:
                TURN.stuck = host.name
                return _fail(
                    host,
                    f"the host didn't come back within {human_seconds(BACK_SECONDS)} of its "
                    "reboot: look at its console",
                )
            DISPLAY.show(host.name, "waiting for the reboot", human_seconds(now - started))
    finally:
        DISPLAY.finish(host.name)


def note_command(version: str, boot: str) -> StringCommand:
    """One command that notes for which driver, and in which boot, a host is rebooted.

    On the disk before the reboot: a note that got lost in it would allow another one, without end.
    """
    note = f'{{"version": "{version}", "boot": "{boot}"}}\n'
    return write_command(ManagedFile(NOTE, note))


def _ask(host: Host, *, reconnect: bool = False) -> DriverState | None:
    """The driver's state; None where the host gives no answer now."""
    if reconnect:
        host.disconnect()
        try:
            host.connect(show_errors=False, raise_exceptions=True)
        except (ConnectError, SSHException, OSError, EOFError):
            return None
    lines = _run(host, StringCommand(Driver().command()))
    if lines is None:
        return None
    try:
        return parse_driver(lines)
    except FactProcessError:
        return None


def _run(host: Host, command: StringCommand) -> list[str] | None:
    arguments = as_running_operation(host) | dict(command.connector_arguments)
    with contextlib.suppress(SSHException, OSError, EOFError):
        done, output = host.run_shell_command(command, _timeout=90, **arguments)
        if done:
            return list(output.stdout_lines)
    return None


def _fail(host: Host, message: str) -> bool:
    record_failure(host.name, message)
    logger.error(f"{host.print_prefix}{message}")
    return False
