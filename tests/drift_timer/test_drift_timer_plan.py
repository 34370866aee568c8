"""What a converge does to the controller host in several states, on a fake connector."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from drift_support import fleet_at
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.context import ctx_state

from deploys.common.files import ManagedFile
from deploys.drift_timer import drift_timer
from deploys.drift_timer.program import source_digest, source_files
from deploys.drift_timer.units import (
    KNOWN_HOSTS,
    OWN,
    OWN_CONTENT,
    account_file,
    fleet_files,
    publish_file,
    unit_files,
)
from deploys.packages import wanted
from facts.drift_timer import SERVICE, TIMER, parse_drift_timer
from inventories.fleet import Fleet, load_fleet
from inventories.groups import host_data
from inventories.lock import Lock
from inventories.resolve import resolve_host
from inventories.settings import (
    DriftTimerSettings,
    HostSettings,
    KnownHost,
    SshSettings,
    from_data,
    to_data,
)

DIGEST = source_digest(source_files())
LOCK = "version: 1\n"


@dataclass(frozen=True)
class OnHost:
    """What the fake host answers."""

    files: tuple[ManagedFile, ...]
    account: bool = True
    key: bool = True
    installed: bool = True
    current: str = DIGEST
    python: str = ""
    load: str = "loaded"
    active: str = "active"
    enabled: str = "enabled"
    reload: bool = False
    service_load: str = "loaded"

    def without(self, path: str) -> OnHost:
        return replace(self, files=tuple(file for file in self.files if file.path != path))

    def state(self) -> list[str]:
        yes = {True: ["yes"], False: []}
        lines = ["@@llamaherd:account", *yes[self.account], "@@llamaherd:key", *yes[self.key]]
        for unit in (TIMER, SERVICE):
            lines += [
                f"@@llamaherd:unit {unit}",
                f"LoadState={self.load if unit == TIMER else self.service_load}",
                f"ActiveState={self.active}",
                f"UnitFileState={self.enabled}",
                f"NeedDaemonReload={'yes' if self.reload else 'no'}",
            ]
        lines += ["@@llamaherd:current", self.current]
        lines += ["@@llamaherd:installed", *yes[self.installed]]
        return lines if self.installed else [*lines, "@@llamaherd:python", self.python]

    def states(self) -> list[str]:
        lines = []
        for file in self.files:
            content = file.content.encode()
            lines.append(
                f"file {file.mode} {file.user} {file.group} {hashlib.sha256(content).hexdigest()} "
                f"{base64.b64encode(content).decode() or '='} {file.path}"
            )
        return lines


@dataclass
class Run:
    """One converge: the commands that were sent, and whether the host failed."""

    commands: list[str]
    failed: bool
    operations: int

    def place(self, text: str) -> int:
        return next(i for i, command in enumerate(self.commands) if text in command)

    def has(self, text: str) -> bool:
        return any(text in command for command in self.commands)


@pytest.fixture
def settings(tmp_path: Path) -> DriftTimerSettings:
    fleet_at(tmp_path)
    (tmp_path / "fleet.lock.yaml").write_text(LOCK)
    (tmp_path / "known").write_text("10.0.0.11 ssh-ed25519 AAAA\n")
    known = KnownHost("10.0.0.11", None, str(tmp_path / "known"))
    return DriftTimerSettings(str(tmp_path / "fleet.yaml"), (known,))


def in_order(settings: DriftTimerSettings) -> OnHost:
    return OnHost(
        (
            account_file(),
            *fleet_files(Path(settings.fleet).read_text(), LOCK),
            publish_file(),
            *unit_files(settings, DIGEST),
            ManagedFile(KNOWN_HOSTS, "10.0.0.11 ssh-ed25519 AAAA\nmine ssh-rsa M\n"),
            ManagedFile(OWN, "SECRET=changed by its owner\n", mode="400"),
        )
    )


def converge(
    monkeypatch: pytest.MonkeyPatch, host: OnHost, settings: DriftTimerSettings | None
) -> Run:
    commands: list[str] = []
    answer = FakeConnector.run_shell_command

    def record(connector: FakeConnector, command: Any, *args: Any, **arguments: Any) -> Any:
        commands.append(str(command))
        return answer(connector, command, *args, **arguments)

    monkeypatch.setattr(FakeConnector, "run_shell_command", record)
    bare = HostSettings("gpu-01", SshSettings("gpu-01"))
    data = {
        "fake_delay": 0,
        "fake_delay_jitter": 0,
        "fleet": to_data(bare),
        "fake_responses": {
            "@@llamaherd:installed": host.state(),
            "look()": host.states(),
            "@@llamaherd:state": ["@@llamaherd:state", "inactive", "@@llamaherd:status", "0"],
        },
    }
    state = State(Inventory(([("@fake/gpu-01", data)], {})), Config())
    with ctx_state.use(state):
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        add_deploy(state, drift_timer, settings)
        state.set_stage(StateStage.Execute)
        commands.clear()
        state.is_executing = True
        try:
            run_ops(state)
        except Exception as error:  # pyinfra ends a run in which no host is left
            assert "No hosts remaining" in str(error)  # noqa: PT017
    fake = next(iter(state.inventory))
    return Run(commands, bool(state.results[fake].error_ops), len(state.ops[fake]))


def test_a_controller_in_order_costs_one_operation_and_two_commands(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    run = converge(monkeypatch, in_order(settings), settings)
    assert run.operations == 1
    assert len(run.commands) == 2
    assert not run.failed


def test_any_other_host_costs_nothing(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    run = converge(monkeypatch, in_order(settings), None)
    assert (run.operations, run.commands) == (0, [])


def test_a_bare_host_gets_everything_in_an_order_that_works(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    bare = OnHost(
        (),
        account=False,
        key=False,
        installed=False,
        python="3.11",
        load="not-found",
        active="inactive",
        enabled="",
    )
    run = converge(monkeypatch, bare, settings)
    order = [
        "llamaherd-drift.conf.llamaherd-XXXXXXXX",
        "systemd-sysusers",
        f"systemd-run --quiet --unit=llamaherd-drift-{DIGEST}",
        "ln -sfn",
        "systemd-analyze calendar",
        "/etc/llamaherd/fleet.yaml.llamaherd-XXXXXXXX",
        "/etc/llamaherd/known_hosts.llamaherd-XXXXXXXX",
        "/etc/llamaherd/drift.env.llamaherd-XXXXXXXX",
        "ssh-keygen",
        "systemctl daemon-reload",
        "systemctl enable",
        "systemctl restart",
    ]
    places = [run.place(text) for text in order]
    assert places == sorted(places)
    assert not run.failed


def test_the_administrators_own_file_is_never_touched(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    files = (ManagedFile(OWN, OWN_CONTENT + "A=b\n", mode="640"),)
    run = converge(monkeypatch, OnHost(files), settings)
    assert run.has("fleet.yaml.llamaherd-XXXXXXXX")
    assert not run.has("drift.env.llamaherd-XXXXXXXX")


@pytest.mark.parametrize(
    ("change", "command"),
    [
        ({"active": "inactive"}, f"systemctl restart -- {TIMER}"),
        ({"active": "failed"}, f"systemctl restart -- {TIMER}"),
        ({"enabled": "disabled"}, f"systemctl enable --quiet -- {TIMER}"),
        ({"reload": True}, "systemctl daemon-reload"),
        ({"key": False}, "ssh-keygen"),
        ({"account": False}, "systemd-sysusers"),
        ({"installed": False, "python": "3.12"}, "systemd-run"),
        ({"current": "0123"}, f"ln -sfn -- {DIGEST} /opt/llamaherd/current.new"),
    ],
)
def test_what_is_off_is_mended_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
    settings: DriftTimerSettings,
    change: dict[str, Any],
    command: str,
) -> None:
    run = converge(monkeypatch, replace(in_order(settings), **change), settings)
    assert run.has(command)
    assert not run.failed
    assert not run.has(".llamaherd-XXXXXXXX")


def test_a_changed_fleet_file_is_brought_along_without_a_restart(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    host = in_order(settings)
    path = Path(settings.fleet)
    path.write_text(path.read_text() + "# more\n")
    run = converge(monkeypatch, host, settings)
    assert run.has("/etc/llamaherd/fleet.yaml.llamaherd-XXXXXXXX")
    assert len(run.commands) == 3


def test_another_schedule_is_checked_by_systemd_and_takes_effect(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    run = converge(monkeypatch, in_order(settings), replace(settings, schedule="hourly"))
    order = [
        "systemd-analyze calendar -- hourly",
        f"{TIMER}.llamaherd-XXX",
        "daemon-reload",
        "restart",
    ]
    places = [run.place(text) for text in order]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "change",
    [
        {"installed": False, "python": "3.10"},
        {"load": "masked", "active": "inactive", "enabled": "masked"},
        {"service_load": "masked"},
    ],
)
def test_what_cannot_work_fails_this_host(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings, change: dict[str, Any]
) -> None:
    run = converge(monkeypatch, replace(in_order(settings), **change), settings)
    assert run.failed
    assert not run.has("systemctl restart")


def test_a_fleet_file_that_is_gone_fails_this_host(
    monkeypatch: pytest.MonkeyPatch, settings: DriftTimerSettings
) -> None:
    host = in_order(settings)
    Path(settings.fleet).unlink()
    assert converge(monkeypatch, host, settings).failed


def load(directory: Path, text: str) -> Fleet:
    path = directory / "fleet.yaml"
    path.write_text(text)
    return load_fleet(path)


FLEET = """\
version: 1
drift:
  schedule: hourly
  timeout: 60
  prometheus: /srv/llamaherd.prom
  on_drift: {command: [tell]}
defaults:
  ssh: {known_hosts: keys/known_hosts}
hosts:
  gpu-01: {controller: true}
  gpu-02: {ssh: {hostname: 10.0.0.12, port: 2222}}
"""


def test_the_fleet_file_gives_its_controller_the_settings_and_no_other_host(tmp_path: Path) -> None:
    fleet = load(tmp_path, FLEET)
    controller, other = (resolve_host(fleet, Lock(), name) for name in fleet.hosts)
    keys = str(tmp_path / "keys/known_hosts")
    assert controller.drift_timer == DriftTimerSettings(
        str(tmp_path / "fleet.yaml"),
        (KnownHost("gpu-01", None, keys), KnownHost("10.0.0.12", 2222, keys)),
        schedule="hourly",
        timeout=60,
        prometheus="/srv/llamaherd.prom",
        notify=True,
    )
    assert other.drift_timer is None
    assert from_data(HostSettings, to_data(controller)) == controller
    assert {"python3-venv", "openssh-client"} <= set(wanted(controller))
    assert "python3-venv" not in wanted(other)


def test_a_controller_without_drift_settings_gets_the_defaults_of_the_schema(
    tmp_path: Path,
) -> None:
    fleet = load(tmp_path, "version: 1\nhosts: {gpu-01: {controller: true}}\n")
    found = resolve_host(fleet, Lock(), "gpu-01").drift_timer
    assert found == DriftTimerSettings(str(tmp_path / "fleet.yaml"), (KnownHost("gpu-01"),))
    assert fleet.drift["keep"] == 30


def test_an_answer_without_sections_is_a_host_without_anything() -> None:
    state = parse_drift_timer([])
    assert (state.installed, state.account, state.key) == (False, False, False)
    assert state.unit(TIMER).load == "not-found"


def test_a_bare_host_says_that_nothing_is_there() -> None:
    recorded = Path(__file__).parent / "recorded/debian12-bare.txt"
    state = parse_drift_timer(recorded.read_text().splitlines())
    assert (state.installed, state.account, state.key, state.current) == (False, False, False, "")
    assert state.python == "", "a minimal Debian has no python3: python3-venv brings it"
    assert set(state.units) == {TIMER, SERVICE}
    assert not state.unit(TIMER).needs_reload


def test_another_machine_reaches_every_host_with_its_own_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fleet = load(tmp_path, FLEET.replace("{known_hosts:", "{key: keys/mine, known_hosts:"))
    settings = resolve_host(fleet, Lock(), "gpu-02")
    assert host_data(settings, tmp_path)["ssh_key"] == str(tmp_path / "keys/mine")
    monkeypatch.setenv("LLAMAHERD_SSH_KEY", "/its/own")
    monkeypatch.setenv("LLAMAHERD_KNOWN_HOSTS", "/its/known_hosts")
    data = host_data(settings, tmp_path)
    assert (data["ssh_key"], data["ssh_known_hosts_file"]) == ("/its/own", "/its/known_hosts")
