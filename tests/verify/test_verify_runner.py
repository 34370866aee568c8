"""Hosts are reached one beside the other, and the trouble of one is only its own."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

# In a process of its own: importing the runner patches the standard library for gevent.
SCRIPT = """
import json, sys, time
from llamaherd.runner import ask, run_on_hosts
import gevent
from pyinfra.api.facts import FactBase

class Say(FactBase[str]):
    def command(self, words):
        return words
    def process(self, output):
        return " ".join(output)

LOCAL = ("@local", {})
GONE = ("gone", {"ssh_hostname": "127.0.0.1", "ssh_port": int(sys.argv[1])})

def said(hosts, function, seconds=20):
    results = run_on_hosts(hosts, function, seconds=lambda _: seconds)
    return [[r.host, r.value, r.error, r.connected] for r in results]

print(json.dumps({
    "answer": said([LOCAL], lambda host: ask(host, Say, words="echo a; echo b")),
    "gone": said([GONE, LOCAL], lambda host: ask(host, Say, words="echo fine")),
    "complaint": said([LOCAL], lambda host: ask(host, Say, words="echo oops >&2; exit 3")),
    "silence": said([LOCAL], lambda host: ask(host, Say, words="exit 3")),
    "bug": said([LOCAL], lambda host: 1 / 0),
    "endless": said([LOCAL], lambda host: gevent.sleep(60), seconds=1),
}))
"""


@pytest.fixture(scope="module")
def results() -> dict[str, list[list[Any]]]:
    """What each of the script's runs on this very machine brought."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(port)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    answer: dict[str, list[list[Any]]] = json.loads(done.stdout)
    return answer


def test_a_function_asks_a_real_host(results: dict[str, list[list[Any]]]) -> None:
    assert results["answer"] == [["@local", "a b", "", True]]


def test_a_host_that_is_gone_leaves_the_others_alone(results: dict[str, list[list[Any]]]) -> None:
    gone, local = results["gone"]
    assert local == ["@local", "fine", "", True]
    name, value, error, connected = gone
    assert (name, value, connected) == ("gone", None, False)
    assert error.startswith("cannot connect: ")
    assert "\x1b" not in error


@pytest.mark.parametrize(
    ("run", "error"),
    [
        ("complaint", "oops"),
        ("silence", "Say: the command failed without a word"),
        ("bug", "division by zero"),
        ("endless", "no answer within 1 s"),
    ],
)
def test_what_goes_wrong_on_a_host_is_its_result(
    results: dict[str, list[list[Any]]], run: str, error: str
) -> None:
    assert results[run] == [["@local", None, error, True]]
