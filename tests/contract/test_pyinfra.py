"""What we rely on of pyinfra's insides. When one of these fails, a new pyinfra changed it."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
from pyinfra.api import (
    Config,
    FactBase,
    FunctionCommand,
    Inventory,
    State,
    StringCommand,
    operation,
)
from pyinfra.api.arguments import auth_argument_meta
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operation import add_op
from pyinfra.api.operations import run_ops
from pyinfra.api.state import BaseStateCallback, StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.connectors.ssh import SSHConnector
from pyinfra.connectors.util import write_stdin
from pyinfra.context import ctx_host, ctx_state

from deploys.common.operations import Commands, HostError, host_operation, host_settings, read


class Broken(FactBase[str]):
    """A fact whose command fails."""

    def command(self) -> str:
        return "broken-command"

    @staticmethod
    def default() -> str:
        return "the default"


@pytest.fixture
def state() -> Iterator[State]:
    data: dict[str, Any] = {
        "fake_delay": 0,
        "fake_delay_jitter": 0,
        "fake_responses": {"broken-command": {"success": False, "stderr": "no"}},
    }
    inventory = Inventory(([("@fake/one", data | {"first": True}), ("@fake/two", data)], {}))
    state = State(inventory, Config(), check_for_changes=False)
    with ctx_state.use(state):
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        yield state


def execute(state: State) -> None:
    state.set_stage(StateStage.Execute)
    run_ops(state)


def failed(state: State) -> set[str]:
    return {host.name for host in state.failed_hosts}


@operation()
def raises_on_one() -> Iterator[str]:
    yield "true"
    if ctx_state.get().is_executing and ctx_host.get().data.get("first"):
        raise RuntimeError("boom")


@host_operation
def refuses_on_one() -> Commands:
    if ctx_host.get().data.get("first"):
        raise HostError("one can't: mend it")
    yield "true"


@host_operation
def reads_a_broken_fact() -> Commands:
    if ctx_host.get().data.get("first"):
        read(Broken)
    yield "never-on-one"


def test_an_exception_in_an_operation_ends_the_run_for_every_host(state: State) -> None:
    add_op(state, raises_on_one)
    with pytest.raises(RuntimeError, match="boom"):
        execute(state)


def test_a_host_error_of_ours_fails_that_host_alone(state: State) -> None:
    add_op(state, refuses_on_one)
    execute(state)
    assert failed(state) == {"@fake/one"}


def test_a_failed_fact_gives_its_default_and_marks_the_host(state: State) -> None:
    one = state.inventory.get_host("@fake/one")
    with ctx_host.use(one):
        assert one.get_fact(Broken) == "the default"
    assert failed(state) == {"@fake/one"}


def test_read_stops_the_operation_where_pyinfra_would_go_on(state: State) -> None:
    sent: list[str] = []
    for host in state.inventory:
        connector = host.connector
        assert isinstance(connector, FakeConnector)
        connector.executed_commands = sent
    add_op(state, reads_a_broken_fact)
    execute(state)
    assert sent.count("never-on-one") == 1
    assert failed(state) == {"@fake/one"}


def test_standard_input_reaches_the_host_and_no_log() -> None:
    command = StringCommand("cat > key", _stdin="s3cret")
    assert command.connector_arguments["_stdin"] == "s3cret"
    assert "s3cret" not in str(command) + repr(command) + command.get_raw_value()


def test_standard_input_is_written_line_by_line_with_an_end_of_line() -> None:
    class Buffer:
        data = b""

        def write(self, data: bytes) -> None:
            self.data += data

        def close(self) -> None:
            pass

    buffer = Buffer()
    write_stdin(["a", "b\n"], buffer)
    assert buffer.data == b"a\nb\n"


def test_a_function_command_sees_the_operations_own_rights(state: State) -> None:
    seen: dict[str, Any] = {}

    def look(state: State, host: Any) -> bool:
        seen.update(host.current_op_global_arguments)
        return True

    @operation()
    def looks() -> Iterator[FunctionCommand]:
        yield FunctionCommand(look, (), {})

    add_op(state, looks, _sudo=True)
    execute(state)
    assert seen["_sudo"] is True
    assert set(auth_argument_meta) <= set(seen)


def test_a_function_command_that_returns_false_fails_its_host(state: State) -> None:
    @operation()
    def refuses() -> Iterator[FunctionCommand]:
        yield FunctionCommand(lambda state, host: not host.data.get("first"), (), {})

    add_op(state, refuses)
    execute(state)
    assert failed(state) == {"@fake/one"}


def test_callbacks_tell_of_a_failed_operation(state: State) -> None:
    told = []

    class Teller(BaseStateCallback):
        @staticmethod
        def operation_host_error(
            state: State, host: Any, op_hash: str, retry_count: int = 0, max_retries: int = 0
        ) -> None:
            told.append((host.name, sorted(state.get_op_meta(op_hash).names)))

    state.add_callback_handler(Teller())
    add_op(state, refuses_on_one, name="Refuse")
    execute(state)
    assert told == [("@fake/one", ["Refuse"])]


def test_uploads_have_an_sftp_connection_to_go_on_with() -> None:
    assert callable(SSHConnector.get_file_transfer_connection)
    assert "SFTPClient" in inspect.getsource(SSHConnector.get_file_transfer_connection)


def test_a_host_without_settings_is_told_how_to_give_them(state: State) -> None:
    with pytest.raises(Exception, match=r"use llamaherd's inventory\.py, or pass settings"):
        add_deploy(state, lambda: host_settings())
