"""The shell that holds a claim: real shells and a real lock, on this machine."""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest
from pyinfra.api import StringCommand
from pyinfra.api.host import Host

from deploys.common import claims, jobs, operations
from deploys.common.claims import OvertakenError, Taken, await_claim, claim, hold_script, holder


class Shells:
    """Shells that claim one folder; ended with the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: list[subprocess.Popen[str]] = []

    def start(self, who: str, silence: int = 60, run: str = "") -> subprocess.Popen[str]:
        script = hold_script(who, run or f"{who}'s {len(self.running)}", str(self.folder), silence)
        shell = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.running.append(shell)
        return shell

    def end(self) -> None:
        for shell in self.running:
            shell.kill()
            shell.wait()
            out(shell).close()


@pytest.fixture
def shells(tmp_path: Path) -> Iterator[Shells]:
    found = Shells(tmp_path / "o'claims")
    yield found
    found.end()


def out(shell: subprocess.Popen[str]) -> IO[str]:
    assert shell.stdout is not None
    return shell.stdout


def let_go(shell: subprocess.Popen[str]) -> None:
    assert shell.stdin is not None
    shell.stdin.close()


def test_the_first_holds_it_at_once_and_the_second_hears_who(shells: Shells) -> None:
    first = shells.start("ops@laptop, since noon")
    assert await_claim(out(first), pytest.fail) == Taken()

    second = shells.start("ops@desk")
    assert out(second).readline() == "held ops@laptop, since noon\n"
    let_go(first)

    # It may say once more that it waits, by then for nobody.
    assert await_claim(out(second), lambda _: None) is not None
    assert (shells.folder / "converge").read_text() == "ops@desk\n"


def test_a_holder_that_died_blocks_nobody(shells: Shells) -> None:
    first = shells.start("ops@laptop")
    await_claim(out(first), pytest.fail)
    first.kill()
    first.wait()
    let_go(first)

    assert await_claim(out(shells.start("ops@desk")), lambda _: None) is not None


def test_a_holder_that_says_nothing_any_more_gives_up(shells: Shells) -> None:
    first = shells.start("ops@laptop", silence=1)
    await_claim(out(first), pytest.fail)

    # Its channel stays open, as that of a laptop that went to sleep.
    assert await_claim(out(shells.start("ops@desk")), lambda _: None) is not None
    assert first.wait() == 0


def test_beats_keep_it(shells: Shells) -> None:
    first = shells.start("ops@laptop", silence=2)
    await_claim(out(first), pytest.fail)
    assert first.stdin is not None
    second = shells.start("ops@desk")
    for _ in range(4):
        first.stdin.write("beat\n")
        first.stdin.flush()
        assert out(second).readline() == "held ops@laptop\n"


def test_who_waits_and_is_gone_holds_nothing(shells: Shells) -> None:
    first = shells.start("ops@laptop")
    await_claim(out(first), pytest.fail)
    second = shells.start("ops@desk")
    assert out(second).readline().startswith("held")
    out(second).close()

    assert second.wait() != 0
    assert (shells.folder / "converge").read_text() == "ops@laptop\n"


def test_a_run_that_comes_back_takes_its_own_claim_over_at_once(shells: Shells) -> None:
    first = shells.start("ops@laptop", run="laptop's run")
    await_claim(out(first), pytest.fail)

    # Its channel stays open, as after a cut that the host hasn't noticed.
    again = shells.start("ops@laptop", run="laptop's run")
    assert await_claim(out(again), pytest.fail) == Taken()
    assert first.wait() < 0
    second = shells.start("ops@desk")
    assert out(second).readline() == "held ops@laptop\n"
    let_go(again)
    assert again.wait() == 0
    assert await_claim(out(second), lambda _: None) is not None


def test_who_held_it_last_is_told_to_the_next_and_nobody_is_told_of_itself(shells: Shells) -> None:
    for who, run, before in (
        ("ops@laptop", "laptop's run", ""),
        ("ops@laptop", "laptop's run", ""),
        ("ops@desk", "desk's run", "ops@laptop"),
        ("ops@laptop", "laptop's run", "ops@desk"),
    ):
        shell = shells.start(who, run=run)
        assert await_claim(out(shell), pytest.fail) == Taken(before=before)
        let_go(shell)
        assert shell.wait() == 0


class Line:
    """A host's connection, to this machine: what paramiko's client does, as far as claims go."""

    def __init__(self, shells: Shells) -> None:
        self.shells = shells
        self.closed = False
        self.shell: subprocess.Popen[str] | None = None

    def exec_command(self, command: str) -> tuple[Any, Any, Any]:
        self.closed = False
        self.shell = self.shells.start(holder(), run=command)
        stdout = SimpleNamespace(channel=self)
        return SimpleNamespace(channel=self), Words(out(self.shell), stdout), io.BytesIO()

    def close(self) -> None:
        """The line breaks, and the host's shell has noticed."""
        assert self.shell is not None
        self.closed = True
        self.shell.kill()
        self.shell.wait()


class Words:
    def __init__(self, lines: IO[str], more: Any) -> None:
        self.lines, self.channel = lines, more.channel

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)


class CutHost:
    """A host whose connection can break; ``asked`` counts the commands that reached it."""

    name = "gpu-01"
    print_prefix = ""
    state = None

    def __init__(self, shells: Shells) -> None:
        self.connector = SimpleNamespace(client=Line(shells))
        self.asked = 0
        self.cut: Callable[[], None] | None = None

    def run_shell_command(self, *_: Any, **__: Any) -> tuple[bool, Any]:
        self.asked += 1
        if self.cut is None:
            return True, SimpleNamespace(stdout_lines=["done"])
        cut, self.cut = self.cut, None
        cut()
        return False, None

    def connect(self, **_: Any) -> None: ...

    def disconnect(self) -> None: ...


@pytest.fixture
def host(shells: Shells, monkeypatch: pytest.MonkeyPatch) -> CutHost:
    monkeypatch.setattr(claims, "make_unix_command_for_host", lambda _, __, command: command)
    monkeypatch.setattr(claims, "hold_script", lambda who, run: run)
    monkeypatch.setattr(
        claims, "StringCommand", lambda _: SimpleNamespace(get_raw_value=lambda: "A")
    )
    monkeypatch.setattr(claims, "_beat", lambda _: None)
    for module in (claims, jobs):
        monkeypatch.setattr(module, "as_running_operation", lambda _: {})
    monkeypatch.setattr(jobs.gevent, "sleep", lambda _: None)
    host = CutHost(shells)
    assert claim(cast(Host, host)) is False
    return host


def another_run(shells: Shells, stays: bool = False) -> None:
    shell = shells.start("ops@desk", run="B")
    await_claim(out(shell), lambda _: None)
    if not stays:
        let_go(shell)
        shell.wait()


@pytest.mark.parametrize("stays", [False, True], ids=["and went", "and is there"])
def test_a_run_that_comes_back_after_somebody_else_came_goes_no_further(
    host: CutHost, shells: Shells, stays: bool
) -> None:
    host.connector.client.close()
    another_run(shells, stays)
    with pytest.raises(
        OvertakenError, match=r"^ops@desk worked on this host meanwhile: run again$"
    ):
        claim(cast(Host, host))


def test_its_next_operation_fails_the_host(
    host: CutHost, shells: Shells, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.connector.client.close()
    another_run(shells)
    monkeypatch.setattr(operations, "current_host", lambda: host)
    with pytest.raises(operations.HostError, match="worked on this host meanwhile"):
        operations._claim()


def test_a_run_that_comes_back_and_finds_nobody_goes_on(host: CutHost) -> None:
    host.connector.client.close()
    assert claim(cast(Host, host)) is False
    assert not host.connector.client.closed


def cut_and(shells: Shells, host: CutHost, then: Callable[[], None]) -> Callable[[], None]:
    def cut() -> None:
        host.connector.client.close()
        then()

    return cut


def test_a_command_is_sent_again_after_a_cut_with_the_claim(host: CutHost, shells: Shells) -> None:
    host.cut = cut_and(shells, host, lambda: None)
    jobs.remote(cast(Any, None), cast(Host, host), StringCommand("rm"))
    assert host.asked == 2
    assert not host.connector.client.closed


def test_a_command_is_not_sent_again_once_somebody_else_was_there(
    host: CutHost, shells: Shells
) -> None:
    host.cut = cut_and(shells, host, lambda: another_run(shells))
    with pytest.raises(OvertakenError):
        jobs.remote(cast(Any, None), cast(Host, host), StringCommand("rm"))
    assert host.asked == 1


def test_a_job_that_somebody_else_came_between_fails_its_host(
    host: CutHost, shells: Shells
) -> None:
    host.cut = cut_and(shells, host, lambda: another_run(shells))
    ended = jobs.follow(cast(Any, None), cast(Host, host), jobs.Job("x", "building", ""))
    assert not ended.ok
    assert ended.message == "building: ops@desk worked on this host meanwhile: run again"


def test_no_word_of_a_claim_is_no_claim() -> None:
    assert await_claim(["sudo: a password is required\n"], pytest.fail) is None


def test_a_holder_is_told_by_account_machine_process_and_time() -> None:
    assert " process " in holder()
    assert " since 20" in holder()
    assert "@" in holder()
    assert holder() is holder()  # a later claim of the same run is known as its own
