"""Hosts are reached one beside the other, and the trouble of one is only its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import textwrap
import time
from typing import Any

import pytest

# In a process of its own: importing the runner patches the standard library for gevent.
PROLOGUE = """
import json, sys
from llamaherd.runner import RemoteError, Result, ask, run_on_hosts
import gevent
from pyinfra.api.facts import FactBase

class Say(FactBase[str]):
    def command(self, words):
        return words
    def process(self, output):
        return " ".join(output)

def report(results):
    print(json.dumps([[r.host, r.value, r.error, r.connected] for r in results]))
"""


def run(code: str) -> list[list[Any]]:
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    answer: list[list[Any]] = json.loads(done.stdout)
    return answer


def test_a_function_asks_a_real_host() -> None:
    assert run(
        """
        report(run_on_hosts([("@local", {})], lambda host: ask(host, Say, words="echo a; echo b"),
                            seconds=lambda _: 20))
        """
    ) == [["@local", "a b", "", True]]


def test_one_hosts_trouble_leaves_the_others_alone() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    results = run(
        f"""
        hosts = [("gone", {{"ssh_hostname": "127.0.0.1", "ssh_port": {port}}}), ("@local", {{}})]
        report(run_on_hosts(hosts, lambda host: ask(host, Say, words="echo fine"),
                            seconds=lambda _: 20))
        """
    )
    assert results[1] == ["@local", "fine", "", True]
    name, value, error, connected = results[0]
    assert (name, value, connected) == ("gone", None, False)
    assert error.startswith("cannot connect: ")
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("function", "error"),
    [
        ("ask(host, Say, words='echo oops >&2; exit 3')", "oops"),
        ("ask(host, Say, words='exit 3')", "Say: the command failed without a word"),
        ("1 / 0", "division by zero"),
    ],
)
def test_what_goes_wrong_on_a_host_is_its_result(function: str, error: str) -> None:
    results = run(
        f"""
        report(run_on_hosts([("@local", {{}})], lambda host: {function}, seconds=lambda _: 20))
        """
    )
    assert results == [["@local", None, error, True]]


def test_a_host_that_never_answers_is_given_up() -> None:
    started = time.monotonic()
    results = run(
        """
        report(run_on_hosts([("@local", {})], lambda host: gevent.sleep(60),
                            seconds=lambda _: 1))
        """
    )
    assert time.monotonic() - started < 30
    assert results == [["@local", None, "no answer within 1 s", True]]
