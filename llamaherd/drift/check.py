"""Judges hosts: what a converge would do there, and what runs there, without changing anything.

The declared plane is made by the very deploys that a converge runs: ``deploy.py`` is carried out
for each host, and every operation's generator is exhausted once. The commands that it yields are
never run; the facts that it reads are, once each. What the operations record on the way
(:mod:`deploys.common.changes`) are the findings.

Upstream behaviour relied on (pyinfra 3.10): a State with ``check_for_changes=False`` doesn't touch
an operation's generator; ``State.set_op_data_for_host`` is called for each operation with its
``command_generator``, while ``Host.current_deploy_name`` says which deploy it belongs to.
"""

from __future__ import annotations

# First of all: it patches the standard library for gevent.
import llamaherd.runner  # noqa: F401  # isort: skip

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import CodeType
from typing import Any, cast

from pyinfra.api import QuoteString, State, StringCommand
from pyinfra.api.arguments import CONNECTOR_ARGUMENT_KEYS, pop_global_arguments
from pyinfra.api.exceptions import FactProcessError
from pyinfra.api.facts import FactBase
from pyinfra.api.host import Host
from pyinfra.api.state import StateOperationHostData

import deploys
from deploys.common.changes import Change, listen, refusal
from deploys.common.operations import (
    HostError,
    UnknownStateError,
    read_through,
    use_settings,
)
from facts.drift import Running, RunningState
from facts.gpu import MISMATCH, MISMATCH_REMEDY
from facts.live import Endpoint
from facts.servers import LlamaServers, ServersState, ServerState, unit_name
from facts.system import System, SystemState
from inventories.groups import connection_data
from inventories.secrets import SecretError, resolve_secret
from inventories.settings import HostSettings, ServerSettings
from llamaherd.drift.deep import Progress, deep_findings
from llamaherd.drift.report import COMPONENTS, Finding, HostReport, PreflightRow, host_state
from llamaherd.drift.targets import Options, Target
from llamaherd.plan.preflight import preflight_rows
from llamaherd.runner import RemoteError, Result, run_on_hosts
from llamaherd.verification import endpoint, judge_server

# A server that was started again by systemd within this many seconds counts as crashing.
CRASH_SECONDS = 900

# Names of deploys whose component isn't spelled like them.
_COMPONENTS = {"CUDA toolkit": "cuda", "NVIDIA driver": "driver"}


def component_of(deploy: str) -> str:
    """The component that a deploy brings, by the deploy's name; ``preflight`` for a stranger's."""
    name = "".join(c if c.isalnum() else "_" for c in deploy.casefold())
    component = _COMPONENTS.get(deploy, name)
    return component if component in COMPONENTS else "preflight"


@dataclass(frozen=True)
class _Operation:
    deploy: str
    label: str
    commands: Callable[[], Iterator[Any]]


class _State(State):
    """pyinfra's state, which remembers each host's operations with the deploy that made them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.operations: dict[Host, list[_Operation]] = {}
        super().__init__(*args, **kwargs)

    def set_op_data_for_host(
        self, host: Host, op_hash: str, op_data: StateOperationHostData
    ) -> None:
        """Keep the generator instead of pyinfra's own records, which nobody reads here."""
        deploy = (host.current_deploy_name or "").partition(" | ")[0]
        label = str(cast(Any, op_data.global_arguments).get("name") or deploy)
        self.operations.setdefault(host, []).append(
            _Operation(deploy, label, op_data.command_generator)
        )


def check_targets(
    targets: Sequence[Target],
    options: Options,
    directory: Path,
    done: Callable[[HostReport], None] = lambda _: None,
    progress: Progress = lambda *_: None,
) -> list[HostReport]:
    """Judge these hosts in this process, one beside the other.

    + directory: the fleet file's folder, for secrets
    + done: called with each report as it comes
    + progress: told of bytes that were hashed
    """
    checks: dict[str, _Check] = {}
    entries = []
    reports: dict[str, HostReport] = {}
    for target in targets:
        try:
            entries.append((target.name, _data(target, directory)))
            checks[target.name] = _Check(target, options, directory, progress)
        except SecretError as error:
            reports[target.name] = HostReport(target.settings.name, "error", error=str(error))
            done(reports[target.name])

    def conclude(result: Result[None]) -> None:
        reports[result.host] = checks[result.host].report(result)
        done(reports[result.host])

    if entries:
        run_on_hosts(
            entries,
            lambda host: checks[host.name].judge(host),
            seconds=lambda name: options.seconds(checks[name].target.settings),
            done=conclude,
            state_class=_State,
        )
    return [reports[target.name] for target in targets]


def _data(target: Target, directory: Path) -> dict[str, Any]:
    data = connection_data(target.settings, directory) | dict(target.data)
    if data.pop("_sudo_password", None) is not None:
        # pyinfra would put a helper program below /tmp; ours travels on standard input.
        data.pop("_sudo", None)
    return data


class _Check:
    """The check of one host."""

    def __init__(
        self, target: Target, options: Options, directory: Path, progress: Progress
    ) -> None:
        self.target = target
        self.options = options
        self.directory = directory
        self.progress = progress
        self.changes: dict[Finding, None] = {}
        self.errors: dict[str, None] = {}
        self.facts: dict[type, Any] = {}
        self.commands = 0
        self.operations = 0
        self.preflight: tuple[PreflightRow, ...] = ()
        self.started = time.monotonic()
        self._component = "preflight"
        self._told: set[tuple[str, str]] = set()
        self._rights: dict[str, Any] | None = None

    def report(self, result: Result[None]) -> HostReport:
        """What was found, whatever became of the connection."""
        findings = tuple(self.changes)
        if result.error:
            self.errors[result.error] = None
        state = host_state(findings)
        if self.errors:
            state = "error" if result.connected else "unreachable"
        return HostReport(
            name=self.target.settings.name,
            state=state,
            findings=findings,
            error="; ".join(self.errors),
            seconds=time.monotonic() - self.started,
            commands=self.commands,
            operations=self.operations,
            preflight=self.preflight,
        )

    def judge(self, host: Host) -> None:
        """Everything about a connected host; findings are kept as they come."""
        settings = self.target.settings
        use_settings(host, settings)
        listen(host, self.add)
        ask = partial(self.ask, host)
        read_through(host, ask)
        exec(_deploy_code(), {"__file__": "deploy.py", "__name__": "deploy"})
        for operation in cast(_State, host.state).operations.pop(host, []):
            self._exhaust(operation)
            if self.errors and System not in self.facts:
                return
        if self.options.plan:
            self._preflight()
            return
        self._judge_running(host)
        if self.options.deep:
            self._hash(settings, ask)

    def _preflight(self) -> None:
        facts: SystemState = self.facts.get(System, SystemState())
        self.preflight = preflight_rows(self.target.settings, facts)

    def _hash(self, settings: HostSettings, ask: Callable[..., Any]) -> None:
        try:
            for change in deep_findings(settings, self.options, ask, self.facts, self.progress):
                self.add(change)
        except UnknownStateError as error:
            self.errors[str(error)] = None

    def _exhaust(self, operation: _Operation) -> None:
        self.operations += 1
        self._component = component_of(operation.deploy)
        before = len(self.changes)
        commands = 0
        try:
            for _ in operation.commands():
                commands += 1
        except UnknownStateError as error:
            self.errors[str(error)] = None
        except HostError as error:
            for change in error.changes or (refusal(str(error), operation.label),):
                # What stops one operation may stop the next ones too: it is told once.
                if (change.summary, change.remedy) not in self._told:
                    self._told.add((change.summary, change.remedy))
                    self.add(change, stops=True)
        except Exception as error:  # a defect in one operation must not hide what the others find
            self.errors[f"{operation.label}: {type(error).__name__}: {error}"] = None
        if commands and len(self.changes) == before:
            noun = "command" if commands == 1 else "commands"
            self.add(Change("declared", operation.label, f"converge would run {commands} {noun}"))

    def add(self, change: Change, *, stops: bool = False) -> None:
        """Keep a difference, once.

        + stops: whether a converge stops there
        """
        component = change.component or self._component
        finding = Finding(
            change.plane,
            component,
            change.subject,
            change.summary,
            change.diff,
            change.remedy,
            stops,
            change.fetch,
            change.compile_seconds,
        )
        self.changes.setdefault(finding)

    def ask(self, host: Host, fact: type[FactBase[Any]], *args: Any, **kwargs: Any) -> Any:
        """A fact's value by one remote command; UnknownStateError when it can't be had."""
        question = fact()
        # Facts type `command` as they like; the base class doesn't declare it.
        command: Callable[..., str] = cast(Any, question).command
        self.commands += 1
        try:
            value = question.process(self._run(host, command(*args, **kwargs)))
        except (RemoteError, FactProcessError, OSError, EOFError) as error:
            raise UnknownStateError(f"{fact.__name__}: {error}") from error
        self.facts[fact] = value
        return value

    def _run(self, host: Host, command: str) -> list[str]:
        if self._rights is None:
            rights, _ = pop_global_arguments(host.state, host, {})
            self._rights = {k: v for k, v in rights.items() if k in CONNECTOR_ARGUMENT_KEYS}
        text, more = self._as_root(command)
        succeeded, output = host.run_shell_command(
            text, print_output=False, print_input=False, **(self._rights | more)
        )
        if not succeeded:
            last = [line for line in output.stderr_lines if line.strip()][-3:]
            raise RemoteError("; ".join(last) or "the command failed without a word")
        return list(output.stdout_lines)

    def _as_root(self, command: str) -> tuple[StringCommand, dict[str, Any]]:
        reference = self.target.settings.ssh.sudo_password
        if reference is None:
            return StringCommand(command), {}
        password = resolve_password(reference, self.directory)
        sudo = StringCommand("sudo", "-S", "-k", "-H", "-p", "''", "sh", "-c", QuoteString(command))
        return sudo, {"_stdin": [password]}

    # The running plane, but for what the operations themselves have found -----------------------

    def _judge_running(self, host: Host) -> None:
        settings = self.target.settings
        gpu = bool(settings.toolkits)
        system: SystemState = self.facts.get(System, SystemState())
        servers: ServersState = self.facts.get(LlamaServers, ServersState())
        places = [Endpoint(**endpoint(server)) for server in settings.servers]
        try:
            running: RunningState = self.ask(host, Running, servers=places, gpu=gpu)
        except UnknownStateError as error:
            self.errors[str(error)] = None
            return
        self._component = "preflight"
        for change in host_changes(running, system):
            self.add(change)
        self._component = "llama_server"
        for server in settings.servers:
            state = servers.servers.get(server.name)
            if state is None:
                continue
            for change in process_changes(server, state):
                self.add(change)
            on_cuda = "cuda" in settings.backends_of(server)
            for change in gpu_changes(server, state, running, system) if on_cuda else ():
                self.add(change)
            self._judge_live(server, running)

    def _judge_live(self, server: ServerSettings, running: RunningState) -> None:
        """The live server's own words, unless they only tell again what is found already."""
        subjects = {f.subject for f in self.changes if f.plane == "running"}
        stranger = f"port {server.port}" in subjects
        live = running.live.get(server.name)
        if live is None or (unit_name(server.name) in subjects and not stranger):
            return
        for found in judge_server(self.target.settings, server, live):
            if found.ok or (stranger and found.check == "health"):
                continue
            summary = f"{found.check}: {found.detail}"
            self.add(Change("running", unit_name(server.name), summary, remedy=found.remedy))


@cache
def resolve_password(reference: Any, directory: Path) -> str:
    """Asked once a process."""
    return str(resolve_secret(reference, directory))


@cache
def _deploy_code() -> CodeType:
    path = deploy_file()
    return compile(path.read_text(encoding="utf-8"), str(path), "exec")


def deploy_file() -> Path:
    """The table of contents that converge runs: beside the package ``deploys``."""
    return Path(str(deploys.__file__)).parent.parent / "deploy.py"


def host_changes(running: RunningState, system: SystemState) -> list[Change]:
    """What of the host itself isn't what it should run."""
    found = []
    if running.reboot is not None:
        why = f" ({', '.join(running.reboot)})" if running.reboot else ""
        found.append(Change("running", "host", f"a reboot is pending{why}", remedy="reboot it"))
    module, library = running.kernel_module, running.library
    if module and library and module != library and not system.gpu_error:
        found.append(
            Change(
                "running",
                "NVIDIA driver",
                f"{MISMATCH}: kernel module {module}, library {library}",
                remedy=MISMATCH_REMEDY,
            )
        )
    return found


def process_changes(server: ServerSettings, state: ServerState) -> list[Change]:
    """A process that doesn't stay."""
    if not state.restarts:
        return []
    if state.age is not None and state.age <= CRASH_SECONDS:
        now = f"the last time {state.age} s ago"
    elif state.age is None and state.active in ("activating", "failed"):
        now = f"it is {state.active}"
    else:
        return []
    unit = unit_name(server.name)
    times = "once" if state.restarts == 1 else f"{state.restarts} times"
    summary = f"crashes: systemd restarted it {times}, {now}"
    return [Change("running", unit, summary, remedy=f"see journalctl -u {shlex.quote(unit)}")]


def gpu_changes(
    server: ServerSettings, state: ServerState, running: RunningState, system: SystemState
) -> list[Change]:
    """GPUs that a server should have and hasn't; a server that computes on the processor."""
    unit = unit_name(server.name)
    found = []
    known = {str(gpu.index) for gpu in system.gpus} | {gpu.uuid for gpu in system.gpus}
    for wanted in server.gpus or ():
        if system.gpus and not any(name == wanted or name.startswith(wanted) for name in known):
            found.append(
                Change(
                    "running",
                    unit,
                    f"GPU {wanted} is missing: nvidia-smi lists {len(system.gpus)}",
                    remedy=f"see dmesg for Xid errors, or change servers.{server.name}.gpus",
                )
            )
    computing = running.gpu_pids
    if server.models or any(served.sleep_idle_seconds for served in server.served):
        return found  # a router, and a server that sleeps, may hold no GPU at all
    if (
        server.gpus != ()
        and state.active == "active"
        and state.pid
        and computing is not None
        and state.pid not in computing
        and server.name not in running.on_gpu
    ):
        found.append(
            Change(
                "running",
                unit,
                "computes on the processor: its process is on no GPU",
                remedy=f"see journalctl -u {unit} for why CUDA did not start, then restart it",
            )
        )
    return found
