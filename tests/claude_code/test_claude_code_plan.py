"""What a converge costs and does for Claude Code, on a fake connector."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import pytest
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.context import ctx_state

from deploys.claude_code import claude_code
from deploys.claude_code.config import user_settings
from inventories.settings import (
    ClaudeCodeSettings,
    HostSettings,
    SecretReference,
    SshSettings,
    to_data,
)

KEY = "generated-key"
SETTINGS = ClaudeCodeSettings(
    ("dev",),
    "gpu/coder",
    "http://127.0.0.1:8888",
    "glm",
    16384,
    api_key=SecretReference(env="CODER_KEY"),
)
PATH = "/home/dev/.claude/settings.json"


def host(text: str | None, key: str | None) -> list[str]:
    """What a host answers whose user has these files."""

    def line(path: str, mode: str, content: bytes, shown: bool) -> str:
        encoded = base64.b64encode(content).decode() if shown else "-"
        return f"file {mode} dev dev {hashlib.sha256(content).hexdigest()} {encoded} {path}"

    lines = ["@@llamaherd:user dev", "dev:x:1000:1000::/home/dev:/bin/sh", "home"]
    lines.append(f"settings {PATH}")
    if text is not None:
        lines.append(line(PATH, "644", text.encode(), True))
    if key is not None:
        lines.append(line("/home/dev/.claude/llamaherd.key", "600", f"{key}\n".encode(), False))
    return lines


def converge(
    monkeypatch: pytest.MonkeyPatch, answer: list[str], settings: ClaudeCodeSettings | None
) -> tuple[int, list[str], list[str]]:
    """Number of operations, commands, and what went to their standard input."""
    monkeypatch.setenv("CODER_KEY", KEY)
    commands: list[str] = []
    inputs: list[str] = []
    plain = FakeConnector.run_shell_command

    def record(connector: FakeConnector, command: Any, *args: Any, **arguments: Any) -> Any:
        commands.append(str(command))
        inputs.append(str(arguments.get("_stdin") or ""))
        return plain(connector, command, *args, **arguments)

    monkeypatch.setattr(FakeConnector, "run_shell_command", record)
    mine = HostSettings("@fake", SshSettings("@fake"), claude_code=settings)
    data = {
        "fake_delay": 0,
        "fake_delay_jitter": 0,
        "fake_responses": {"getent passwd": answer},
        "fleet": to_data(mine),
    }
    state = State(Inventory(([("@fake", data)], {})), Config())
    with ctx_state.use(state):
        connect_all(state)
        state.set_stage(StateStage.Prepare)
        add_deploy(state, claude_code)
        operations = len(state.get_op_order())
        prepared = len(commands)
        state.set_stage(StateStage.Execute)
        state.is_executing = True
        run_ops(state)
    # Facts are asked again in the second phase only where something is done.
    return operations, commands[:prepared] + [c for c in commands if "mktemp" in c], inputs


def test_a_host_without_it_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert converge(monkeypatch, [], None)[:2] == (0, [])


def test_a_host_in_order_costs_one_operation_and_one_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answer = host(user_settings("", SETTINGS, PATH), KEY)
    operations, commands, _ = converge(monkeypatch, answer, SETTINGS)
    assert (operations, len(commands)) == (1, 1)


def test_the_key_comes_before_what_refers_to_it_and_travels_on_standard_input(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    operations, commands, inputs = converge(monkeypatch, host(None, None), SETTINGS)
    writes = [command for command in commands if "mktemp" in command]
    assert operations == 1
    assert ["llamaherd.key" in write for write in writes] == [True, False]
    assert all("runuser -u dev" in write for write in writes)
    assert not any(KEY in command for command in commands)
    assert any(base64.b64encode(f"{KEY}\n".encode()).decode() in text for text in inputs)


def test_an_older_key_is_replaced_and_the_settings_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = host(user_settings("", SETTINGS, PATH), "older")
    _, commands, _ = converge(monkeypatch, answer, SETTINGS)
    assert ["llamaherd.key" in c for c in commands if "mktemp" in c] == [True]
