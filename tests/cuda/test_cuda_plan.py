"""What the component does on hosts in several states, on pyinfra's fake connector."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from cuda_settings import EXISTING, NVIDIA_REPO, WHEELS
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.context import ctx_state
from test_cuda_providers import in_order

from deploys.cuda import cuda, wheels
from inventories.settings import CudaSettings

SYSTEM = """@@llamaherd:os
ID=debian
VERSION_ID="12"
@@llamaherd:machine
x86_64
2
0
@@llamaherd:disk
/opt 100000000000"""


class Run:
    """One converge of one fake host: what it was sent, and how it ended."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, settings: CudaSettings, answer: Sequence[str]
    ) -> None:
        self.commands: list[str] = []
        respond = FakeConnector.run_shell_command

        def record(connector: FakeConnector, command: Any, *args: Any, **options: Any) -> Any:
            self.commands.append(str(command))
            return respond(connector, command, *args, **options)

        monkeypatch.setattr(FakeConnector, "run_shell_command", record)
        data = {
            "fake_delay": 0,
            "fake_delay_jitter": 0,
            "fake_responses": {
                "@@llamaherd:toolkits": list(answer),
                "@@llamaherd:machine": SYSTEM.splitlines(),
                "systemctl show": ["@@llamaherd:state", "inactive", "@@llamaherd:status", "0"],
            },
        }
        state = State(Inventory(([("@fake", data)], {})), Config())
        with ctx_state.use(state):
            connect_all(state)
            state.set_stage(StateStage.Prepare)
            add_deploy(state, cuda, settings)
            self.operations = len(state.get_op_order())
            self.prepared = len(self.commands)
            state.set_stage(StateStage.Execute)
            state.is_executing = True
            try:
                run_ops(state)
            except Exception as error:  # pyinfra ends a run in which no host is left
                assert "No hosts remaining" in str(error)  # noqa: PT017
        self.failed = bool(state.results[next(iter(state.inventory))].error_ops)

    @property
    def jobs(self) -> int:
        """How many transient units were started."""
        return sum("systemd-run" in command for command in self.commands)


@pytest.fixture
def converge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Converge a host that answers the toolkit fact with these lines."""
    return lambda settings, answer=("@@llamaherd:toolkits",): Run(monkeypatch, settings, answer)


def toolkit(root: str, version: str = "13.0.88", manifest: str = "-") -> list[str]:
    return ["@@llamaherd:toolkits", f"{version} {root}", manifest]


def repository_in_order() -> list[str]:
    state = in_order()
    return [
        *toolkit(str(NVIDIA_REPO.root)),
        "@@llamaherd:packages",
        *(f"installed {name} {version}" for name, version in state.packages.items()),
        "@@llamaherd:files",
        *(f"{sha256}  {path}" for path, sha256 in state.files.items()),
        "@@llamaherd:sources",
        *state.sources,
    ]


def test_a_cpu_host_gets_no_operation(converge: Any) -> None:
    run = converge(CudaSettings("none"))
    assert (run.operations, run.commands) == (0, [])


def test_a_toolkit_that_is_there_is_taken_as_it_is(converge: Any) -> None:
    run = converge(EXISTING, toolkit("/usr/local/cuda-12.8", "12.8.93"))
    assert not run.failed
    assert run.jobs == 0


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (["@@llamaherd:toolkits"], "there is no /usr/local/cuda-12.8/bin/nvcc"),
        (toolkit("/usr/local/cuda-12.8", "-"), "does not run on this host"),
    ],
)
def test_a_toolkit_that_is_not_there_fails_with_the_setting_to_mend(
    converge: Any, caplog: pytest.LogCaptureFixture, answer: list[str], message: str
) -> None:
    with caplog.at_level(logging.ERROR, logger="pyinfra"):
        run = converge(EXISTING, answer)
    assert run.failed
    assert message in caplog.text
    assert "cuda.path" in caplog.text


def test_wheels_that_are_installed_cost_one_operation_and_one_command(converge: Any) -> None:
    answer = toolkit(str(WHEELS.root), manifest=json.dumps(wheels.manifest(WHEELS)))
    run = converge(WHEELS, answer)
    assert not run.failed
    assert (run.operations, run.prepared, run.jobs) == (1, 1, 0)


@pytest.mark.parametrize("manifest", ["-", "{}", '{"layout": 0}'])
def test_wheels_of_another_manifest_are_installed_by_one_job(converge: Any, manifest: str) -> None:
    run = converge(WHEELS, toolkit(str(WHEELS.root), manifest=manifest))
    assert not run.failed
    assert run.jobs == 1


def test_a_repository_host_in_order_costs_one_operation_and_no_job(converge: Any) -> None:
    run = converge(NVIDIA_REPO, repository_in_order())
    assert not run.failed
    # The second command is what the host is, which a whole converge has asked before.
    assert (run.operations, run.prepared, run.jobs) == (1, 2, 0)


def test_a_repository_host_with_another_version_gets_one_job(converge: Any) -> None:
    answer = [line.replace("13.0.88-1", "13.0.99-1") for line in repository_in_order()]
    run = converge(NVIDIA_REPO, answer)
    assert not run.failed
    assert run.jobs == 1
