"""What a converge does on hosts in several states, planned and carried out on a fake connector."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from opencode_support import KEY, RECORDED, SETTINGS
from pyinfra.api import Config, Inventory, State
from pyinfra.api.connect import connect_all
from pyinfra.api.deploy import add_deploy
from pyinfra.api.operations import run_ops
from pyinfra.api.state import StateStage
from pyinfra.connectors.fake import FakeConnector
from pyinfra.context import ctx_state

from deploys.common.files import ManagedFile
from deploys.opencode import opencode
from deploys.opencode.check import acceptance
from deploys.opencode.config import system_config, user_config
from facts.opencode import parse_opencode
from inventories.settings import OpenCodeSettings, SecretReference

SYSTEM = """@@llamaherd:machine
x86_64
2
0
"""


def said(config: object = None, error: str = "") -> list[str]:
    """What the host answers to the question how OpenCode resolves for its user."""
    text = "" if config is None else json.dumps(config)
    answer = f"{text}\n@@exit {0 if config is not None else 1}"
    encoded = [base64.b64encode(part.encode()).decode() for part in (answer, error)]
    return [
        "@@user dev",
        "@@llamaherd:config",
        encoded[0],
        "@@llamaherd:error",
        encoded[1],
    ]


RESOLVED = {
    **json.loads(system_config(SETTINGS)),
    **json.loads(user_config("", SETTINGS, "opencode.json")),
}


class Run:
    """One converge of one fake host: the commands it was sent, and how it ended."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        output: str,
        settings: Any,
        resolved: list[str] | None = None,
    ) -> None:
        self.commands: list[str] = []
        self.inputs: list[str] = []
        answer = FakeConnector.run_shell_command

        def record(connector: FakeConnector, command: Any, *args: Any, **arguments: Any) -> Any:
            self.commands.append(str(command))
            self.inputs.append(str(arguments.get("_stdin")))
            return answer(connector, command, *args, **arguments)

        monkeypatch.setattr(FakeConnector, "run_shell_command", record)
        data = {
            "fake_delay": 0,
            "fake_delay_jitter": 0,
            "fake_responses": {
                "@@user ": resolved or said(RESOLVED),
                "@@llamaherd:manifest": output.splitlines(),
                "@@llamaherd:machine": SYSTEM.splitlines(),
                "systemctl show": ["@@llamaherd:state", "inactive", "@@llamaherd:status", "0"],
            },
        }
        state = State(Inventory(([("@fake", data)], {})), Config())
        with ctx_state.use(state):
            connect_all(state)
            state.set_stage(StateStage.Prepare)
            add_deploy(state, opencode, settings)
            self.facts = len(self.commands)
            self.operations = len(state.get_op_order())
            state.set_stage(StateStage.Execute)
            state.is_executing = True
            try:
                run_ops(state)
            except Exception as error:  # pyinfra ends a run in which no host is left
                assert "No hosts remaining" in str(error)  # noqa: PT017
        results = state.results[next(iter(state.inventory))]
        self.failed = bool(results.error_ops)

    @property
    def changes(self) -> list[str]:
        """Commands that change something, by a word that names each."""
        marks = {
            "new=$(mktemp": "write",
            "systemd-run": "job",
            "ln -sfn": "link",
            "debug config": "check",
            " -- rm -f -- /home": "remove",
        }
        return [mark for c in self.commands for text, mark in marks.items() if text in c]


@pytest.fixture
def converge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Converge a host that answers with a recorded output."""
    monkeypatch.setenv("CODER_KEY", "generated-key")

    def run(name: str, settings: OpenCodeSettings = SETTINGS, **changes: str) -> Run:
        text = (RECORDED / f"{name}.txt").read_text()
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return Run(monkeypatch, text, settings)

    return run


def in_order(tmp: str, accepted: str | None = None) -> str:
    """The recorded host with the hash of this test's key, and what OpenCode took last."""
    before = next(line.split()[4] for line in tmp.splitlines() if line.endswith(KEY))
    text = tmp.replace(before, hashlib.sha256(b"generated-key\n").hexdigest())
    user = parse_opencode(text.splitlines()).users["dev"]
    assert user.config is not None
    assert user.config.content is not None
    files = [
        ManagedFile(f"{user.home}/{KEY}", "generated-key\n", as_user="dev"),
        ManagedFile(user.config_path, user.config.content.decode(), as_user="dev"),
    ]
    note = acceptance(SETTINGS, "dev", files) if accepted is None else accepted
    passwd = next(line for line in text.splitlines() if line.startswith("dev:"))
    return text.replace(passwd, f"{passwd}\naccepted {note}")


def test_the_system_configuration_comes_before_the_binary_and_users_last(converge: Any) -> None:
    run = converge("absent")
    assert not run.failed
    assert run.changes == ["write", "job", "link", "write", "write", "check", "write"]
    writes = [command for command in run.commands if "new=$(mktemp" in command]
    assert "/etc/opencode/opencode.json" in writes[0]
    assert "runuser -u dev" in writes[1]
    assert KEY in writes[1]
    assert "/home/dev/.config/opencode/opencode.json" in writes[2]


def test_a_host_in_order_costs_one_operation_and_two_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_KEY", "generated-key")
    run = Run(monkeypatch, in_order((RECORDED / "installed.txt").read_text()), SETTINGS)
    assert not run.failed
    assert run.changes == []
    assert run.operations == 1
    assert run.facts == 2


def test_the_key_travels_on_standard_input_only(converge: Any) -> None:
    run = converge("absent")
    assert not any("generated-key" in command for command in run.commands)
    assert any("Z2VuZXJhdGVkLWtleQo=" in text for text in run.inputs)


def test_a_binary_that_is_cut_off_is_installed_again(converge: Any) -> None:
    assert "job" in converge("installed", **{"\n185354368\n": "\n100\n"}).changes


def test_another_artifact_of_the_same_version_is_installed(converge: Any) -> None:
    artifacts = {"x86_64": dataclasses.replace(SETTINGS.artifacts["x86_64"], sha256="0" * 64)}
    settings = dataclasses.replace(SETTINGS, artifacts=artifacts)
    assert "job" in converge("installed", settings).changes


def test_a_run_that_died_before_the_link_is_healed(converge: Any) -> None:
    changes = converge("installed", **{"/opt/opencode/1.18.33/run\n": "/opt/opencode/1.17.0/run\n"})
    assert "link" in changes.changes
    assert "job" not in changes.changes


def test_nothing_is_changed_where_a_user_is_missing(converge: Any) -> None:
    run = converge("absent", dataclasses.replace(SETTINGS, users=("dev", "ghost")))
    assert run.failed
    assert run.changes == []


def test_nothing_is_changed_where_a_configuration_is_broken(converge: Any) -> None:
    run = converge("broken")
    assert run.failed
    assert run.changes == []


def test_nothing_is_changed_where_a_user_may_not_read_the_own_configuration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lines = (RECORDED / "broken.txt").read_text().splitlines()
    unreadable = [
        f"file 600 root root - - {line.split()[-1]}" if _is_config(line) else line for line in lines
    ]
    assert unreadable != lines
    run = Run(monkeypatch, "\n".join(unreadable), SETTINGS)
    assert run.failed
    assert run.changes == []


def _is_config(line: str) -> bool:
    return line.startswith("file ") and line.endswith("/dotfiles/oc.json")


def test_nothing_is_changed_without_an_artifact_for_the_processor(converge: Any) -> None:
    run = converge("absent", dataclasses.replace(SETTINGS, artifacts={}))
    assert run.failed
    assert run.changes == []


def test_a_missing_secret_fails_the_host_before_anything_changes(
    converge: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    provider = dataclasses.replace(
        SETTINGS.providers[0], api_key=SecretReference(file=str(tmp_path / "none"))
    )
    run = converge("absent", dataclasses.replace(SETTINGS, providers=(provider,)))
    assert run.failed
    assert run.changes == []


def test_a_host_in_order_is_not_asked_how_it_resolves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_KEY", "generated-key")
    run = Run(monkeypatch, in_order((RECORDED / "installed.txt").read_text()), SETTINGS)
    assert not any("debug config" in command for command in run.commands)


def test_a_changed_system_configuration_is_checked_for_every_user(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CODER_KEY", "generated-key")
    settings = dataclasses.replace(SETTINGS, instructions=("/etc/rules.md",))
    run = Run(monkeypatch, in_order((RECORDED / "installed.txt").read_text()), settings)
    assert not run.failed
    assert run.changes == ["write", "check", "write"]
    assert "/var/lib/llamaherd/opencode/dev" in run.commands[-1]


@pytest.mark.parametrize("noted", ["", "0" * 64], ids=["nothing noted", "another noted"])
def test_what_opencode_wasnt_asked_about_is_asked_though_all_files_are_as_they_should_be(
    monkeypatch: pytest.MonkeyPatch, noted: str
) -> None:
    """As after a run that was killed between the write and the question."""
    monkeypatch.setenv("CODER_KEY", "generated-key")
    text = in_order((RECORDED / "installed.txt").read_text(), noted)
    run = Run(monkeypatch, text, SETTINGS)
    assert (run.failed, run.changes) == (False, ["check", "write"])
    wanted = parse_opencode(in_order((RECORDED / "installed.txt").read_text()).splitlines())
    assert base64.b64decode(run.inputs[-1]).decode().strip() == wanted.users["dev"].accepted

    refused = Run(monkeypatch, text, SETTINGS, said(error="Error: bad file reference"))
    assert (refused.failed, refused.changes) == (True, ["check"])


def test_the_note_follows_version_system_file_key_and_the_users_file() -> None:
    files = [ManagedFile("/home/dev/a", "1", as_user="dev")]
    others = [ManagedFile("/home/eva/a", "1", as_user="eva")]
    note = acceptance(SETTINGS, "dev", files)
    assert acceptance(SETTINGS, "dev", [*files, *others]) == note
    changed = {
        acceptance(dataclasses.replace(SETTINGS, version="1.18.34"), "dev", files),
        acceptance(dataclasses.replace(SETTINGS, instructions=("/x.md",)), "dev", files),
        acceptance(SETTINGS, "dev", [dataclasses.replace(files[0], content="2")]),
        note,
    }
    assert len(changed) == 4


def test_what_opencode_does_not_take_is_put_back_and_fails_the_host(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CODER_KEY", "generated-key")
    text = in_order((RECORDED / "installed.txt").read_text())
    settings = dataclasses.replace(
        SETTINGS,
        providers=(
            dataclasses.replace(SETTINGS.providers[0], base_url="http://127.0.0.1:9999/v1"),
        ),
    )
    run = Run(monkeypatch, text, settings, said(error="Error: bad file reference"))
    assert run.failed
    assert run.changes == ["write", "check", "write"]
    assert "does not take dev's configuration: bad file reference: mend it" in caplog.text
    new, back = [base64.b64decode(text) for text in run.inputs if text.startswith("ewo")]
    assert b"9999" in new
    assert b"8888" in back


def test_a_new_file_that_opencode_does_not_take_goes_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CODER_KEY", "generated-key")
    wrong = said({**RESOLVED, "small_model": "cloud/small"})
    run = Run(monkeypatch, (RECORDED / "absent.txt").read_text(), SETTINGS, wrong)
    assert run.failed
    assert run.changes[-2:] == ["check", "remove"]
