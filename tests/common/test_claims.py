"""The shell that holds a claim: real shells and a real lock, on this machine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from deploys.common.claims import await_claim, hold_script, holder


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
    assert await_claim(out(first), pytest.fail) is False

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
    assert await_claim(out(again), pytest.fail) is False
    assert first.wait() < 0
    second = shells.start("ops@desk")
    assert out(second).readline() == "held ops@laptop\n"
    let_go(again)
    assert again.wait() == 0
    assert await_claim(out(second), lambda _: None) is not None


def test_no_word_of_a_claim_is_no_claim() -> None:
    assert await_claim(["sudo: a password is required\n"], pytest.fail) is None


def test_a_holder_is_told_by_account_machine_process_and_time() -> None:
    assert " process " in holder()
    assert " since 20" in holder()
    assert "@" in holder()
    assert holder() is holder()  # a later claim of the same run is known as its own
