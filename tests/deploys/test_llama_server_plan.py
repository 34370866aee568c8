"""What a converge does to servers in several states, carried out on a fake connector."""

import base64
import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.context import ctx_state

from deploys.common.files import ManagedFile
from deploys.common.operations import HostError
from deploys.llama_cpp.build import Machine, plan_build
from deploys.llama_server import in_turn, llama_server
from deploys.llama_server.files import account_file, server_files
from deploys.llama_server.instance import Instance
from deploys.llama_server.unit import config_hash, render_unit
from facts.system import Listener
from inventories.settings import (
    Artifact,
    CudaSettings,
    GitSource,
    HostSettings,
    LlamaCppSettings,
    ModelSettings,
    ServerSettings,
    SshSettings,
)

COMMIT = "0c1e570" + "0" * 33
LLAMA_CPP = LlamaCppSettings(GitSource("https://example.org/llama.cpp", COMMIT), 8146, COMMIT)
MODEL = ModelSettings("glm", "GLM", "/models/glm", (Artifact("m.gguf", 1, "a" * 64, url="x"),))
SERVER = ServerSettings("coder", "glm", 8888, 8192)
HOST = HostSettings(
    name="gpu-01",
    ssh=SshSettings("gpu-01"),
    cuda=CudaSettings("none"),
    llama_cpp=LLAMA_CPP,
    models=(MODEL,),
    servers=(SERVER,),
)
BUILD = plan_build(LLAMA_CPP, CudaSettings("none"), Machine("debian12", "x86_64", "EPYC"))
INSTANCE = Instance(SERVER, MODEL, BUILD.server, frozenset(), gpu=False)
SYSTEM = """@@llamaherd:os
ID=debian
VERSION_ID=12
@@llamaherd:machine
x86_64
2
0
@@llamaherd:cpu
EPYC
@@llamaherd:listeners
"""


LIBCUDA = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"
# As nvidia-smi says it: tests/facts/gpu/cases/driver-library-mismatch.json.
MISMATCH = "@@llamaherd:gpus\nFailed to initialize NVML: Driver/library version mismatch\n"


@dataclass(frozen=True)
class OnHost:
    """What the fake host answers: its unit and process, and its files."""

    load: str = "loaded"
    active: str = "active"
    enabled: str = "enabled"
    reload: bool = False
    model_current: bool = True
    account: bool = True
    config: str = config_hash(render_unit(INSTANCE))
    release: str = config_hash(render_unit(INSTANCE))
    executable: str = BUILD.server
    others: tuple[str, ...] = ()
    listeners: str = ""
    files: tuple[ManagedFile, ...] = (account_file(), *server_files(INSTANCE))
    ends_with: int = 0
    extra_files: tuple[str, ...] = field(default=())
    more: tuple[str, ...] = ()

    def servers(self) -> list[str]:
        lines = ["@@llamaherd:account", *(["998"] if self.account else []), "@@llamaherd:units"]
        lines += [f"/etc/systemd/system/llama-server@{name}.service" for name in self.others]
        lines += [
            "@@llamaherd:server coder",
            f"LoadState={self.load}",
            f"ActiveState={self.active}",
            "SubState=running",
            f"UnitFileState={self.enabled}",
            "MainPID=814",
            f"NeedDaemonReload={'yes' if self.reload else 'no'}",
            f"Executable={self.executable}",
            f"Config={self.config}",
            f"ModelCurrent={'yes' if self.model_current else 'no'}",
            f"Release={self.release}",
            *self.more,
        ]
        return lines

    def states(self) -> list[str]:
        lines = []
        for file in self.files:
            content = file.content.encode()
            lines.append(
                f"file {file.mode} {file.user} {file.group} "
                f"{hashlib.sha256(content).hexdigest()} {base64.b64encode(content).decode()} "
                f"{file.path}"
            )
        return lines + [f"file 600 root root {'b' * 64} - {path}" for path in self.extra_files]


@dataclass
class Run:
    """One converge: the commands that were sent, the releases' files, and whether the host failed.

    + staged: what the jobs were given, by file name
    """

    commands: list[str]
    staged: dict[str, str]
    failed: bool

    def has(self, text: str) -> bool:
        return any(text in command for command in self.commands)

    @property
    def changed(self) -> bool:
        return any(
            self.has(word)
            for word in ("mktemp", "systemd-run", "systemctl enable", "rm -f", "rm -rf")
        )

    @property
    def restarts(self) -> bool:
        return "action=restart\n" in self.staged.get("script", "")


def converge(
    monkeypatch: pytest.MonkeyPatch, state_of_host: OnHost, settings: HostSettings = HOST
) -> Run:
    commands: list[str] = []
    staged: dict[str, str] = {}
    answer = FakeConnector.run_shell_command

    def record(connector: FakeConnector, command: Any, *args: Any, **arguments: Any) -> Any:
        commands.append(str(command))
        for line in arguments.get("_stdin") or ():
            name, _, content = line.partition(" ")
            if "systemd-run" in str(command):
                staged[name.removeprefix("secret.")] = base64.b64decode(content).decode()
        return answer(connector, command, *args, **arguments)

    monkeypatch.setattr(FakeConnector, "run_shell_command", record)
    data = {
        "fake_delay": 0,
        "fake_delay_jitter": 0,
        "fake_responses": {
            "@@llamaherd:machine": (SYSTEM + state_of_host.listeners).splitlines(),
            "@@llamaherd:account": state_of_host.servers(),
            "look()": state_of_host.states(),
            "@@llamaherd:status": [
                "@@llamaherd:state",
                "inactive",
                "@@llamaherd:status",
                str(state_of_host.ends_with),
                "@@llamaherd:probe",
            ],
        },
    }
    state = State(Inventory(([("@fake/gpu-01", data)], {})), Config())
    with ctx_state.use(state):
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        add_deploy(state, llama_server, settings)
        state.set_stage(StateStage.Execute)
        commands.clear()
        state.is_executing = True
        try:
            run_ops(state)
        except Exception as error:  # pyinfra ends a run in which no host is left
            assert "No hosts remaining" in str(error)  # noqa: PT017
    results = state.results[next(iter(state.inventory))]
    return Run(commands, staged, bool(results.error_ops))


def test_a_server_in_order_costs_two_commands_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = converge(monkeypatch, OnHost())
    assert not run.changed
    assert len(run.commands) == 2


def test_a_bare_host_gets_account_files_and_a_started_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bare = OnHost(
        load="not-found",
        active="inactive",
        enabled="",
        account=False,
        config="",
        executable="",
        release="",
        files=(),
    )
    run = converge(monkeypatch, bare)
    order = [
        "llama-server.conf.llamaherd-XXXXXXXX",
        "systemd-sysusers",
        "systemd-run",
        "@@llamaherd:status",
    ]
    places = [next(i for i, c in enumerate(run.commands) if text in c) for text in order]
    assert places == sorted(places)
    assert not run.failed
    assert run.restarts
    assert run.staged["unit"] == render_unit(INSTANCE)
    assert run.staged["uses"].splitlines() == [BUILD.path, "/models/glm/m.gguf"]
    assert run.staged["etc.wait-ready"] == server_files(INSTANCE)[1].content


def test_a_server_that_no_converge_has_checked_is_asked_and_left_running(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = converge(monkeypatch, OnHost(release=""))
    assert "action=keep\n" in run.staged["script"]
    assert not run.restarts


@pytest.mark.parametrize(
    "found",
    [
        OnHost(active="inactive"),
        OnHost(active="failed"),
        OnHost(config="0" * 16),
        OnHost(config=""),
        OnHost(executable=f"{BUILD.server} (deleted)"),
        OnHost(executable="/usr/local/bin/llama-server"),
        OnHost(reload=True),
        OnHost(model_current=False),
        OnHost(more=("Stale=tls-certificate",)),
        OnHost(more=(f"Replaced={LIBCUDA}",)),
    ],
    ids=[
        "stopped",
        "failed",
        "stale",
        "by hand",
        "deleted",
        "other binary",
        "not reloaded",
        "other model file",
        "renewed certificate",
        "driver's library upgraded",
    ],
)
def test_a_process_that_is_not_what_is_declared_is_restarted(
    monkeypatch: pytest.MonkeyPatch, found: OnHost
) -> None:
    run = converge(monkeypatch, found)
    assert run.restarts
    assert not run.has("mktemp")


def test_a_server_that_still_loads_as_declared_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = converge(monkeypatch, OnHost(active="activating"))
    assert "action=keep\n" in run.staged["script"]
    assert converge(monkeypatch, OnHost(active="activating", config="other")).restarts


def moved(name: str, port: int) -> Instance:
    return replace(INSTANCE, server=replace(INSTANCE.server, name=name, port=port))


def held(**ports: int) -> list[Listener]:
    return [Listener(port, unit=f"llama-server@{name}.service") for name, port in ports.items()]


def test_who_leaves_a_port_goes_before_who_wants_it() -> None:
    first, second, third = moved("a", 8889), moved("b", 8890), moved("c", 9000)
    turn = in_turn([first, second, third], held(a=8888, b=8889, c=9000))
    assert [each.server.name for each in turn] == ["b", "c", "a"]


def test_servers_that_exchange_their_ports_are_told_how_to() -> None:
    with pytest.raises(HostError, match="servers a, b wait for each other's ports: give one"):
        in_turn([moved("a", 8889), moved("b", 8888)], held(a=8888, b=8889))


def test_no_process_is_restarted_into_a_driver_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Vulkan: preflight asks no CUDA of such a host. What runs with the old library goes on.
    host = OnHost(more=(f"Replaced={LIBCUDA}",), listeners=MISMATCH)
    assert not converge(monkeypatch, host).changed


def test_an_edited_unit_is_written_back_and_reloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    edited = ManagedFile("/etc/systemd/system/llama-server@coder.service", "[Service]\n")
    files = (account_file(), edited, *server_files(INSTANCE)[1:])
    run = converge(monkeypatch, OnHost(files=files))
    assert run.has("llama-server@coder.service.llamaherd-XXXXXXXX")
    assert run.has("systemctl daemon-reload")


def test_a_server_that_is_declared_no_longer_is_stopped_and_removed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = converge(monkeypatch, OnHost(others=("old",)))
    assert run.has("systemctl disable --now -- llama-server@old.service")
    folders = run.has(
        "rm -rf -- /etc/llama-server/old /var/lib/llamaherd/releases/old "
        "/var/lib/llama-server/old/slots /var/lib/llama-server/old/cuda"
    )
    assert folders
    # By the unit a run that comes after a cut finds the rest.
    assert run.has("llamaherd-trial-old.service /etc/systemd/system/llama-server@old.service")
    assert not run.staged


def test_a_key_does_not_outlive_its_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    run = converge(monkeypatch, OnHost(extra_files=("/etc/llama-server/coder/api-key",)))
    assert run.has("rm -f -- /etc/llama-server/coder/api-key")


def test_a_masked_unit_is_left_to_its_administrator(monkeypatch: pytest.MonkeyPatch) -> None:
    run = converge(monkeypatch, OnHost(load="masked", active="inactive"))
    assert run.failed
    assert not run.changed


def test_a_stranger_on_the_port_stops_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = converge(
        monkeypatch, OnHost(active="inactive", files=(), listeners="8888 nginx[7] nginx.service\n")
    )
    assert run.failed
    assert not run.changed


def test_a_server_that_does_not_start_fails_with_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    run = converge(monkeypatch, OnHost(active="inactive", ends_with=1))
    assert run.failed
    assert run.has("cd /var/lib/llamaherd/jobs/server-coder-")


def test_extra_arguments_that_collide_fail_this_host_before_a_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = replace(SERVER, extra_args=("--port", "1"))
    run = converge(monkeypatch, OnHost(), replace(HOST, servers=(server,)))
    assert run.failed
    assert not run.changed


def test_a_missing_certificate_stops_before_anything_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = ("Missing=/etc/ssl/llama/cert.pem",)
    run = converge(monkeypatch, OnHost(active="inactive", files=(), more=gone))
    assert run.failed
    assert not run.changed


def test_what_must_not_outlive_its_setting_is_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = "/etc/llama-server/coder"
    left = tuple(f"{folder}/{name}" for name in ("models.ini", "slots", "chat-template.jinja"))
    run = converge(monkeypatch, OnHost(extra_files=left))
    assert all(run.has(f"rm -f -- {path}") for path in left)
    assert not run.staged
