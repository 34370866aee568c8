"""The start of a server: watched until its model answers, or told with the server's last words."""

from __future__ import annotations

from dataclasses import dataclass

import gevent
from pyinfra import logger
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import ConnectError
from pyinfra.api.host import Host
from pyinfra.api.state import State

from deploys.common.jobs import remote
from deploys.common.progress import DISPLAY, Track, human_seconds
from deploys.common.shell import operand, script_word
from deploys.common.summary import record_failure
from facts.servers import unit_name

LOG_LINES = 20


@dataclass(frozen=True)
class Start:
    """One look at a start: whether systemd's job still runs, and what the unit is now."""

    job: bool
    active: str
    sub: str
    result: str

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        return self.sub in ("auto-restart", "failed") or not self.job


def parse_start(lines: list[str]) -> Start:
    """The output of ``systemctl show -p Job,ActiveState,SubState,Result``."""
    values = dict(line.split("=", 1) for line in lines if "=" in line)
    return Start(
        job=values.get("Job", "0") not in ("", "0"),
        active=values.get("ActiveState", ""),
        sub=values.get("SubState", ""),
        result=values.get("Result", ""),
    )


def watch_start(state: State, host: Host, name: str, timeout: int) -> bool:
    """Wait for the end of the start job; on failure show the server's own last words."""
    unit = operand(unit_name(name))
    show = StringCommand(f"systemctl show -p Job,ActiveState,SubState,Result -- {unit}")
    track = Track()
    began = track.clock()
    try:
        while True:
            start = parse_start(remote(state, host, show).stdout_lines)
            if start.over:
                return _judge(state, host, name, start, timeout)
            waited = human_seconds(track.clock() - began)
            DISPLAY.show(host.name, f"starting {unit}", f"loading the model, {waited}")
            gevent.sleep(1)
    except ConnectError as error:
        logger.error(f"{host.print_prefix}{unit}: {error}")
        record_failure(host.name, f"lost the connection while {unit} was starting: run again")
        return False
    finally:
        DISPLAY.finish(host.name)


def _judge(state: State, host: Host, name: str, start: Start, timeout: int) -> bool:
    if start.active == "active":
        return True
    unit = unit_name(name)
    for line in remote(state, host, _last_words(unit)).stdout_lines:
        logger.error(f"{host.print_prefix}  {line}")
    why = f"{unit} did not start ({start.result}): its last log lines are above"
    if start.result == "timeout":
        why = (
            f"{unit} did not answer within {timeout} s: its last log lines are above; "
            f"if it was still loading, raise servers.{name}.ready_timeout"
        )
    record_failure(host.name, why)
    logger.error(f"{host.print_prefix}{why}")
    return False


def _last_words(unit: str) -> StringCommand:
    """The log of the unit's latest start, and not of what ran before it: systemd's and its own."""
    script = (
        f"start=$(systemctl show -P InvocationID -- {operand(unit)}); "
        f"journalctl -n {LOG_LINES} --no-pager -o cat "
        '_SYSTEMD_INVOCATION_ID="$start" + INVOCATION_ID="$start"'
    )
    return StringCommand(f"sh -c {script_word(script)}")
