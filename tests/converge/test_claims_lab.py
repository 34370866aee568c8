"""Two converges of one host at once, and what a dead one leaves."""

from __future__ import annotations

import re
import signal
import time

import pytest

pytestmark = pytest.mark.lab

WAITING = r"another converge works here \(\S+@\S+, process \d+, since \S+\): waiting for it"


def test_of_two_converges_at_once_one_works_and_the_other_waits(site) -> None:
    site.ssh("systemctl stop llama-server@coder; rm -rf /opt/opencode")
    before = site.ssh("date +%s")

    both = [site.start_converge(site.fleet) for _ in range(2)]
    texts = [process.communicate()[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], texts
    assert len(re.findall(WAITING, "".join(texts))) >= 1, texts
    started = site.ssh(
        f"journalctl -o cat --no-pager _PID=1 --since @{before} | grep '^Started ' | sort"
    )
    assert len(re.findall(r"^Started llamaherd-opencode-", started, re.M)) == 1
    assert len(re.findall(r"^Started llama-server@coder", started, re.M)) == 1


def test_a_dead_converges_claim_blocks_nobody(site) -> None:
    site.ssh("systemctl stop llama-server@coder; rm -rf /opt/opencode")
    process = site.start_converge(site.fleet)
    try:
        deadline = time.monotonic() + 120
        while not site.ssh("cat /run/llamaherd/converge"):
            assert time.monotonic() < deadline
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()

    result = site.converge()

    assert result.returncode == 0, result.stdout + result.stderr


def test_a_converge_with_nothing_to_do_claims_nothing(site) -> None:
    site.ssh("rm -f /run/llamaherd/converge.lock")
    assert site.converge().returncode == 0
    assert site.ssh("ls /run/llamaherd/converge.lock") == ""
