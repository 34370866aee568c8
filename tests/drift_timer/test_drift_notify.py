"""A change of state is told once, to a real web server or a real program, and never leaks."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from drift_support import fleet_at, report

from llamaherd.drift.history import reports_directory
from llamaherd.drift.notify import NOTE, NotifyError, conclude, notification, post, run, state_of
from llamaherd.drift.report import DriftReport, HostState
from schemas.validate import load_schema

TOKEN = "a-token-in-a-path"


@dataclass
class Hook:
    """A web server that notes what is posted, and answers as it is told."""

    address: str
    status: int = 204
    location: str = ""
    got: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            assert self.headers["Content-Type"] == "application/json"
            found.got.append(json.loads(body))
            found.paths.append(self.path)
            self.send_response(found.status)
            if found.location:
                self.send_header("Location", found.location)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found = Hook(f"http://127.0.0.1:{server.server_port}/hooks/{TOKEN}")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@dataclass
class Checks:
    """Checks of one fleet, one after the other."""

    directory: Path
    drift: str
    warnings: list[str] = field(default_factory=list)
    count: int = 0

    def check(self, **states: HostState) -> DriftReport:
        self.count += 1
        found = report(self.count, **states)
        fleet = fleet_at(self.directory, self.drift)
        conclude(fleet, found, notify=True, warn=self.warnings.append)
        return found


@pytest.fixture
def checks(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> Checks:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return Checks(tmp_path, f"{{on_drift: {{webhook: '{hook.address}'}}}}")


def test_a_first_check_that_finds_all_in_order_tells_nobody(checks: Checks, hook: Hook) -> None:
    checks.check(gpu_01="ok")
    assert hook.got == []


def test_a_first_check_that_finds_drift_tells(checks: Checks, hook: Hook) -> None:
    checks.check(gpu_01="drift", gpu_02="ok")
    (message,) = hook.got
    assert (message["state"], message["previous"]) == ("drift", "ok")
    assert message["changed"] == [{"host": "gpu-01", "before": "ok", "after": "drift"}]
    assert message["text"] == "llamaherd: fleet.yaml: drift on 1 of 2 (gpu-01 drift)"


def test_a_state_that_stays_is_told_once(checks: Checks, hook: Hook) -> None:
    for _ in range(4):
        checks.check(gpu_01="drift")
    assert len(hook.got) == 1


def test_healing_is_told_once(checks: Checks, hook: Hook) -> None:
    for state in ("drift", "ok", "ok"):
        checks.check(gpu_01=state)  # type: ignore[arg-type]
    assert [message["state"] for message in hook.got] == ["drift", "ok"]
    assert hook.got[1]["text"] == "llamaherd: fleet.yaml: in order, 1 host (gpu-01 healed)"
    assert hook.got[1]["failures"] == []


def test_another_host_that_drifts_is_told_too(checks: Checks, hook: Hook) -> None:
    checks.check(gpu_01="drift", gpu_02="ok")
    checks.check(gpu_01="drift", gpu_02="drift")
    assert len(hook.got) == 2
    assert hook.got[1]["changed"] == [{"host": "gpu-02", "before": "ok", "after": "drift"}]


def test_a_host_out_of_reach_is_told(checks: Checks, hook: Hook) -> None:
    checks.check(gpu_01="ok", gpu_02="unreachable")
    assert hook.got[0]["state"] == "error"
    assert hook.got[0]["failures"] == [
        {"host": "gpu-02", "state": "unreachable", "message": "cannot connect"}
    ]


def test_a_host_that_left_the_fleet_is_told_as_gone(checks: Checks, hook: Hook) -> None:
    checks.check(gpu_01="drift", gpu_02="ok")
    checks.check(gpu_02="ok")
    assert hook.got[1]["changed"] == [{"host": "gpu-01", "before": "drift", "after": None}]
    assert "gpu-01 gone" in hook.got[1]["text"]


def test_without_notify_nobody_is_told(checks: Checks, hook: Hook) -> None:
    fleet = fleet_at(checks.directory, checks.drift)
    conclude(fleet, report(gpu_01="drift"))
    assert hook.got == []


def test_a_notification_that_fails_is_a_warning_and_told_by_the_next_check(
    checks: Checks, hook: Hook
) -> None:
    hook.status = 500
    checks.check(gpu_01="drift")
    assert checks.warnings == [
        "on_drift: webhook at 127.0.0.1: HTTP 500; the next check tries again"
    ]
    hook.status = 200
    checks.check(gpu_01="drift")
    checks.check(gpu_01="drift")
    assert len(hook.got) == 2
    assert len(checks.warnings) == 1


def test_a_failed_notification_does_not_cost_the_report(checks: Checks, hook: Hook) -> None:
    hook.status = 404
    checks.check(gpu_01="drift")
    directory = reports_directory(checks.directory / "fleet.yaml")
    assert len(list(directory.glob("2026*.json"))) == 1


@pytest.mark.parametrize("note", ["", "{", "[]", '{"state": "drift"}', '{"hosts": 7}'])
def test_a_damaged_note_counts_as_never_told(checks: Checks, hook: Hook, note: str) -> None:
    checks.check(gpu_01="drift")
    directory = reports_directory(checks.directory / "fleet.yaml")
    (directory / NOTE).write_text(note)
    checks.check(gpu_01="drift")
    assert len(hook.got) == 2


def test_a_redirect_is_refused_rather_than_followed_with_a_get(hook: Hook) -> None:
    hook.status, hook.location = 302, "/elsewhere"
    with pytest.raises(NotifyError, match="HTTP 302; name the address that it leads to"):
        post(hook.address, {})
    assert len(hook.paths) == 1


def test_a_web_server_that_never_answers_ends_at_the_time_limit() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}/{TOKEN}"
        with pytest.raises(NotifyError, match=r"no answer within 0\.2 s"):
            post(address, {}, timeout=0.2)


def test_no_warning_shows_the_address_of_a_webhook() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for address in (f"http://127.0.0.1:{port}/{TOKEN}?key={TOKEN}", f"http://[{TOKEN}/"):
        with pytest.raises(NotifyError) as refused:
            post(address, {}, timeout=1)
        assert TOKEN not in str(refused.value)


def test_an_address_may_be_a_secret(
    checks: Checks, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEAM_WEBHOOK", hook.address)
    (checks.directory / "hook").write_text(hook.address + "\n")
    for drift in ("{env: TEAM_WEBHOOK}", "{file: hook}", "{command: [cat, hook]}"):
        checks.drift = f"{{on_drift: {{webhook: {drift}}}}}"
        state: HostState = "ok" if hook.got and hook.got[-1]["state"] == "drift" else "drift"
        checks.check(gpu_01=state)
    assert len(hook.got) == 3
    assert checks.warnings == []


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "TEAM_WEBHOOK: it is not set"), ("ftp://x", "is not an http:// or https:// address")],
)
def test_a_secret_that_is_no_address_is_a_warning(
    checks: Checks, monkeypatch: pytest.MonkeyPatch, value: str | None, words: str
) -> None:
    monkeypatch.delenv("TEAM_WEBHOOK", raising=False)
    if value is not None:
        monkeypatch.setenv("TEAM_WEBHOOK", value)
    checks.drift = "{on_drift: {webhook: {env: TEAM_WEBHOOK}}}"
    checks.check(gpu_01="drift")
    assert len(checks.warnings) == 1
    assert words in checks.warnings[0]


def test_a_command_gets_the_message_on_its_standard_input(checks: Checks) -> None:
    checks.drift = "{on_drift: {command: [sh, -c, 'cat > told.json; echo not shown']}}"
    checks.check(gpu_01="drift")
    told = json.loads((checks.directory / "told.json").read_text())
    assert told["state"] == "drift"
    assert checks.warnings == []


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("false",), "command false: it exited 1"),
        (("/nonexistent/tell",), "command /nonexistent/tell: No such file or directory"),
        (("sleep", "30"), "command sleep: not done within 0.2 s"),
    ],
)
def test_a_command_that_fails_says_how(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    with pytest.raises(NotifyError) as refused:
        run(command, {"text": "x" * 100_000}, tmp_path, timeout=0.2)
    assert str(refused.value) == words


def test_a_command_that_reads_nothing_is_no_failure(tmp_path: Path) -> None:
    run(("true",), {"text": "x" * 1_000_000}, tmp_path)


def test_a_message_holds_no_diff_and_is_what_its_schema_says() -> None:
    schema = load_schema("drift.notification.schema.json")
    jsonschema.Draft202012Validator.check_schema(schema)
    hosts: dict[str, HostState] = {f"gpu_{n:03}": "drift" for n in range(200)}
    told = state_of(report(gpu_001="unreachable", old="drift"))
    message = json.loads(json.dumps(notification(report(**hosts), told)))
    jsonschema.validate(message, schema)
    assert "the-line-of-a-diff" not in json.dumps(message)
    assert len(message["failures"]) == 50
    assert message["more_failures"] == 150
    assert len(message["text"]) < 400
    for example in schema["examples"]:
        jsonschema.validate(example, schema)
