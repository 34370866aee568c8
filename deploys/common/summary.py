"""The last lines of a run: which hosts failed, at what, and what to do.

pyinfra prints a failure where it happens, which on a fleet is far above the end. The summary
repeats each one, once, when the process ends. Where preflight stopped a host, its answers come
first, a line a host.
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import pyinfra
from pyinfra.api.host import Host
from pyinfra.api.operation import OperationMeta
from pyinfra.api.state import BaseStateCallback, State
from pyinfra.context import ctx_state


@dataclass(frozen=True)
class Failure:
    """One host that failed: at which operation, and why (may be empty when pyinfra printed it).

    + reasons: one by one, where there are several
    """

    host: str
    operation: str
    reason: str
    reasons: tuple[str, ...] = ()


_reasons: dict[str, tuple[str, ...]] = {}
_failures: dict[str, Failure] = {}
_outputs: dict[str, OperationMeta] = {}
_verdicts: dict[str, Mapping[str, bool]] = {}


def record_failure(host: str, *reasons: str) -> None:
    """Remember why a host failed; the callback below pairs it with the operation."""
    _reasons[host] = reasons


def record_verdict(host: str, areas: Mapping[str, bool]) -> None:
    """Remember what preflight says of a host: whether each area is in order."""
    _verdicts[host] = dict(areas)


class FailureSummary(BaseStateCallback):
    """Collects each host's first failure."""

    @staticmethod
    def host_connect_error(state: State, host: Host, error: Exception) -> None:
        reason = str(error.args[0]) if error.args else str(error)
        _failures.setdefault(host.name, Failure(host.name, "connect", reason))

    @staticmethod
    def operation_host_error(
        state: State, host: Host, op_hash: str, retry_count: int = 0, max_retries: int = 0
    ) -> None:
        name = ", ".join(sorted(state.get_op_meta(op_hash).names))
        # pyinfra keeps a command's output only after this callback.
        _outputs[host.name] = state.get_op_data_for_host(host, op_hash).operation_meta
        reasons = _reasons.get(host.name) or _lost(host)
        _failures.setdefault(host.name, Failure(host.name, name, "; ".join(reasons), reasons))


def _lost(host: Host) -> tuple[str, ...]:
    """The reason of a failure that nobody has told one of, where the connection has broken."""
    client = getattr(host.connector, "client", None)
    transport = None if client is None else client.get_transport()
    if transport is None or transport.is_active():
        return ()
    return ("lost the connection: run again",)


def failures() -> tuple[Failure, ...]:
    """Every host's first failure so far; without a reason of ours, the command's last words."""
    return tuple(f if f.reason else replace(f, reason=_said(f.host)) for f in _failures.values())


def _said(host: str) -> str:
    meta = _outputs.get(host)
    words = last_words(meta.stderr_lines) if meta is not None and meta.is_complete() else ""
    return words or "see its output above"


def last_words(lines: Iterable[str]) -> str:
    """The last line of what a command said on standard error that says anything."""
    return next((line.strip() for line in reversed(list(lines)) if line.strip()), "")


def render(failed: tuple[Failure, ...], hosts: int) -> str:
    """The summary as text; empty when nothing failed. ``hosts`` is how many the run had."""
    if not failed:
        return ""
    noun = "host" if len(failed) == 1 else "hosts"
    others = "; the others went on" if hosts > len(failed) else ""
    lines = [f"--> {len(failed)} {noun} failed{others}:"]
    for failure in failed:
        lines += _lines(failure)
    return "\n".join(lines)


def _lines(failure: Failure) -> list[str]:
    head = f"    {failure.host}: {failure.operation}:"
    if len(failure.reasons) < 2:
        return [f"{head} {failure.reason}"]
    return [head, *(f"        {reason}" for reason in failure.reasons)]


def render_verdicts(verdicts: Mapping[str, Mapping[str, bool]]) -> str:
    """Preflight's answers as a table of the hosts that it stops; empty where it stops none.

    + verdicts: by host, whether each area is in order
    """
    stopped = {host: areas for host, areas in verdicts.items() if not all(areas.values())}
    if not stopped:
        return ""
    areas = list(next(iter(stopped.values())))
    rows = [["HOST", *(area.upper() for area in areas)]]
    rows += [
        [host, *("ok" if answers.get(area) else "NO" for area in areas)]
        for host, answers in stopped.items()
    ]
    lines = ["--> preflight:", *(f"    {line}" for line in _columns(rows))]
    others = len(verdicts) - len(stopped)
    if others:
        lines.append(f"    {others} other{'s are' if others > 1 else ' is'} in order")
    return "\n".join(lines)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def summarise_failures() -> None:
    """Print the summary when this run of pyinfra's command line ends."""
    if not pyinfra.is_cli or FailureSummary in _installed:
        return
    _installed.add(FailureSummary)
    state = ctx_state.get()
    state.add_callback_handler(FailureSummary())
    for host in state.failed_hosts:
        _failures.setdefault(host.name, Failure(host.name, "connect", unreachable(host)))
    atexit.register(_print, len(list(state.inventory)))


def unreachable(host: Host) -> str:
    """What is said of a host that pyinfra couldn't connect to.

    It connects before it loads our code, so the reason itself can't be had here.
    """
    address = host.data.get("ssh_hostname") or host.name
    user = host.data.get("ssh_user")
    target = f"{user}@{address}" if user else address
    return f"could not connect to {target} (the reason is above); does ssh {target} work?"


_installed: set[type[FailureSummary]] = set()


def _print(hosts: int) -> None:
    for text in (render_verdicts(_verdicts), render(failures(), hosts)):
        if text:
            print(text, file=sys.stderr)
