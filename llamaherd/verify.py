"""``llamaherd verify``: ask every live server and every OpenCode what they really are.

"pyinfra exited 0" is not success; a live answer is. Each host is asked over SSH, where its servers
listen; nothing is changed there. One host's failure hides no other's result. The judging itself is
pure and lives in :mod:`llamaherd.verification`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inventories.fleet import Fleet, load_fleet
from inventories.lock import Lock, check_lock, read_lock
from inventories.resolve import UnlockedError, resolve_host
from inventories.secrets import SecretError
from inventories.settings import HostSettings, ServerSettings
from llamaherd.arguments import (
    DEFAULT_FLEET,
    CommandError,
    Subparsers,
    add_fleet_argument,
    add_json_argument,
    fleet_path,
)
from llamaherd.hosts import add_limit_argument, add_timeout_argument, chosen_hosts
from llamaherd.tables import WIDTH, table
from llamaherd.verification import (
    Finding,
    claude_code_differences,
    client_name,
    endpoint,
    judge_claude_code,
    judge_gpu,
    judge_opencode,
    judge_served,
    judge_server,
    on_gpu,
)
from schemas.problems import ProblemsError

if TYPE_CHECKING:
    from pyinfra.api.host import Host

    from facts.live import Answer

COMPLETION_SECONDS = 120
# What each question may take on the host, a little more than the limits in facts/live.py.
_CONNECT, _REQUEST, _OPENCODE, _GPU = 30, 12, 65, 185


@dataclass(frozen=True)
class HostReport:
    """One host: whether it was reached, and everything found."""

    name: str
    reached: bool
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether every finding is well."""
        return all(finding.ok for finding in self.findings)


@dataclass(frozen=True)
class Report:
    """What a run found. ``problems`` are the fleet file's own; no host was asked then."""

    fleet: Path
    hosts: tuple[HostReport, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def failures(self) -> tuple[Finding, ...]:
        """Findings that are not well, over all hosts."""
        return tuple(f for host in self.hosts for f in host.findings if not f.ok)

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        return not self.failures and not self.problems

    def document(self) -> dict[str, Any]:
        """The report, as ``schemas/verify.report.schema.json`` describes it."""
        return {
            "ok": self.ok,
            "fleet": str(self.fleet),
            "hosts": [
                {
                    "name": host.name,
                    "ok": host.ok,
                    "reached": host.reached,
                    "checks": [asdict(finding) for finding in host.findings],
                }
                for host in self.hosts
            ],
            "failures": [asdict(finding) for finding in self.failures],
            "problems": list(self.problems),
        }


def add_parser(subparsers: Subparsers) -> None:
    """Add ``verify`` to the command line."""
    parser = subparsers.add_parser(
        "verify",
        help="ask every live server: health, build, model, context, one completion",
        description="Ask every server of the fleet for its health, build, model, context, one "
        "completion and its part of the GPU, and every OpenCode how its configuration resolves. "
        "Changes nothing. Exits 0 when all is well, else 1.",
    )
    add_fleet_argument(parser)
    add_limit_argument(parser, "ask")
    add_timeout_argument(
        parser, COMPLETION_SECONDS, what="seconds that a completion may take", most=3600
    )
    add_json_argument(parser)
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    """Carry out ``llamaherd verify``; 0 when all is well, else 1."""
    try:
        report = verify(fleet_path(args), args.limit, args.timeout)
    except CommandError as error:
        named = args.fleet or os.environ.get("FLEET") or DEFAULT_FLEET
        report = Report(Path(named), problems=(str(error),))
    if args.json:
        print(json.dumps(report.document(), indent=2))
    else:
        _print(report)
    return 0 if report.ok else 1


def verify(path: Path, limit: Sequence[str] = (), timeout: int = COMPLETION_SECONDS) -> Report:
    """Ask the fleet, or the hosts and groups that ``limit`` names."""
    try:
        fleet = load_fleet(path)
        lock = read_lock(path)
        problems = [str(problem) for problem in check_lock(fleet, lock)]
    except ProblemsError as error:
        return Report(path, problems=tuple(str(problem) for problem in error.problems))
    names, unknown = chosen_hosts(fleet, limit)
    problems += unknown
    if not fleet.hosts:
        problems.append(f"{path}: the fleet has no host; add one under hosts:")
    if problems or lock is None:
        return Report(path, problems=tuple(problems))
    return Report(path, hosts=tuple(_ask_hosts(fleet, lock, names, timeout)))


def _ask_hosts(fleet: Fleet, lock: Lock, names: Sequence[str], timeout: int) -> list[HostReport]:
    # Loading pyinfra takes long, and the runner must come first: it patches the standard library.
    import llamaherd.runner  # noqa: F401  # isort: skip
    from inventories.groups import host_data

    settings: dict[str, HostSettings] = {}
    entries: list[tuple[str, Mapping[str, Any]]] = []
    reports: dict[str, HostReport] = {}
    for name in names:
        try:
            settings[name] = resolve_host(fleet, lock, name)
            entries.append((name, host_data(settings[name], fleet.path.absolute().parent)))
        except (SecretError, UnlockedError) as error:
            said = Finding(name, "host", "secret", False, str(error), "give it, then run again")
            reports[name] = HostReport(name, False, (said,))
    progress = _Progress(len(entries))
    for report in ask_hosts(settings, entries, timeout, progress.step):
        reports[report.name] = report
    progress.clear()
    return [reports[name] for name in names]


def ask_hosts(
    settings: Mapping[str, HostSettings],
    entries: Sequence[tuple[str, Mapping[str, Any]]],
    timeout: int = COMPLETION_SECONDS,
    step: Callable[[], None] = lambda: None,
) -> list[HostReport]:
    """Connect to hosts and ask them everything that their settings declare.

    + settings: by host name
    + entries: names with pyinfra's host data
    + timeout: seconds that one completion may take
    + step: called when a host is done
    """
    if not entries:
        return []
    from llamaherd.runner import run_on_hosts

    found: dict[str, list[Finding]] = {name: [] for name, _ in entries}

    def examine(host: Host) -> None:
        _examine(host, settings[host.name], timeout, found[host.name])

    results = run_on_hosts(
        entries,
        examine,
        seconds=lambda name: host_seconds(settings[name], timeout),
        done=lambda _: step(),
    )
    reports = []
    for result in results:
        findings = found[result.host]
        if result.error:
            check = "answer" if result.connected else "connect"
            remedy = (
                "run again; if it stays so, look at the host's load and network"
                if result.connected
                else "is it on, and does `ssh` reach it with the fleet's ssh settings?"
            )
            findings.append(Finding(result.host, "host", check, False, result.error, remedy))
        elif not findings:
            findings.append(
                Finding(result.host, "host", "connect", True, "reached; nothing to verify")
            )
        reports.append(HostReport(result.host, result.connected, tuple(findings)))
    return reports


def host_seconds(settings: HostSettings, timeout: int) -> float:
    """How long a host may take in all, so that it never holds up the run for ever."""
    seconds = float(_CONNECT)
    for server in settings.servers:
        loading = server.ready_timeout if server.models else 0
        seconds += len(server.served) * (4 * _REQUEST + timeout + loading)
    if any(on_gpu(settings, server) for server in settings.servers):
        seconds += _GPU
    if settings.opencode is not None:
        one = _OPENCODE + len(settings.opencode.providers) * _REQUEST
        seconds += len(settings.opencode.users) * one
    if settings.claude_code is not None:
        seconds += len(settings.claude_code.users) * (_REQUEST + timeout)
    return seconds


def _examine(host: Host, settings: HostSettings, timeout: int, found: list[Finding]) -> None:
    """Ask one connected host; findings go into ``found`` as they come, so that none gets lost."""
    for server in settings.servers:
        question = partial(_ask_server, host, settings, server, timeout)
        found += _guarded(settings.name, f"server {server.name}", question)
    answer = [s for s in settings.servers if on_gpu(settings, s) and _answers(s, found)]
    if answer:
        found += _guarded(settings.name, "host", partial(_ask_gpus, host, settings, answer))
    if settings.opencode is not None and settings.opencode.users:
        found += _guarded(settings.name, "host", partial(_ask_opencode, host, settings))
    if settings.claude_code is not None and settings.claude_code.users:
        question = partial(_ask_claude_code, host, settings, timeout)
        found += _guarded(settings.name, "host", question)


def _guarded(host: str, subject: str, question: Callable[[], list[Finding]]) -> list[Finding]:
    """The question's findings; an answer that makes no sense is a finding too."""
    from pyinfra.api.exceptions import FactProcessError

    from llamaherd.runner import RemoteError

    try:
        return question()
    except (RemoteError, FactProcessError) as error:
        remedy = "run the same on the host by hand; is the SSH user allowed to use sudo?"
        return [Finding(host, subject, "answer", False, str(error), remedy)]


def _ask_server(
    host: Host, settings: HostSettings, server: ServerSettings, timeout: int
) -> list[Finding]:
    from facts.live import LiveServer
    from llamaherd.runner import ask

    certificate = {}
    if server.tls is not None:
        certificate = {"certificate": server.tls.certificate, "known_as": client_name(server)}
    findings: list[Finding] = []
    for served in server.served:
        live = ask(
            host,
            LiveServer,
            **endpoint(server),
            **certificate,
            model=served.model,
            timeout=timeout,
            router=server.ready_timeout if server.models else 0,
        )
        if not findings:
            findings += judge_server(settings, server, live)
        if server.models:
            findings += judge_served(settings, server, served, live)
    return findings


def _answers(server: ServerSettings, found: Sequence[Finding]) -> bool:
    """Whether a server was found to be well enough that its GPU is a question of its own."""
    checks = [f for f in found if f.subject == f"server {server.name}"]
    return any(f.check == "health" and f.ok for f in checks)


def _ask_gpus(
    host: Host, settings: HostSettings, servers: Sequence[ServerSettings]
) -> list[Finding]:
    """Asked after the completions: a router, or a server that slept, has its model loaded then."""
    from facts.server_gpus import ServerGpus
    from llamaherd.runner import ask

    state = ask(host, ServerGpus, servers=[server.name for server in servers])
    return [found for server in servers for found in judge_gpu(settings, server, state)]


def _ask_opencode(host: Host, settings: HostSettings) -> list[Finding]:
    from facts.live import LiveOpenCode
    from llamaherd.runner import ask

    assert settings.opencode is not None
    providers = {provider.id: provider.base_url for provider in settings.opencode.providers}
    users = ask(host, LiveOpenCode, users=settings.opencode.users, providers=providers)
    return judge_opencode(settings.name, settings.opencode, users)


def _ask_claude_code(host: Host, settings: HostSettings, timeout: int) -> list[Finding]:
    from facts.claude_code import ClaudeCode
    from facts.live import LiveMessages
    from llamaherd.runner import ask

    wanted = settings.claude_code
    assert wanted is not None
    users = ask(host, ClaudeCode, users=wanted.users)
    whole = [name for name, user in users.items() if not claude_code_differences(wanted, user)]
    answers: Mapping[str, Answer] = {}
    if whole:
        answers = ask(
            host,
            LiveMessages,
            users=whole,
            base_url=wanted.base_url,
            model=wanted.model,
            timeout=timeout,
        )
    return judge_claude_code(settings.name, wanted, users, answers)


class _Progress:
    """How many hosts are done, on one line that is written over; silent without a terminal."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done = 0
        self._shown = sys.stderr.isatty() and total > 0
        self._show()

    def step(self) -> None:
        self._done += 1
        self._show()

    def clear(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _show(self) -> None:
        if self._shown:
            text = f"asking: {self._done} of {self._total} hosts done"
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _print(report: Report) -> None:
    for problem in report.problems:
        print(problem, file=sys.stderr)
    if report.problems:
        return
    print(render(report))


def render(report: Report, width: int = WIDTH) -> str:
    """The report for a person: a table, then what is wrong and what to do, then one line."""
    headers = ("HOST", "WHAT", "CHECK", "STATE", "DETAIL")
    findings = [finding for host in report.hosts for finding in host.findings]
    rows = [
        (
            f.host,
            f.subject,
            f.check,
            "unknown" if f.unknown else "ok" if f.ok else "FAILED",
            "see below" if not f.ok else f.detail,
        )
        for f in findings
    ]
    lines = [table(rows, headers, width)]
    for failure in report.failures:
        lines += ["", f"{failure.host}: {failure.subject}: {failure.check}"]
        lines += _wrapped(failure.detail, width)
        lines += _wrapped(f"-> {failure.remedy}", width)
    return "\n".join([*lines, "", _summary(report)])


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, initial_indent="  ", subsequent_indent="  ")


def _summary(report: Report) -> str:
    checks = sum(len(host.findings) for host in report.hosts)
    asked = f"{_count(len(report.hosts), 'host')}, {_count(checks, 'check')}"
    unknown = sum(finding.unknown for host in report.hosts for finding in host.findings)
    if report.ok:
        return f"{asked}: all well" + (f" but {unknown} that nobody can tell" if unknown else "")
    failed = sum(not host.ok for host in report.hosts)
    return f"{asked}: {len(report.failures)} failed on {_count(failed, 'host')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
