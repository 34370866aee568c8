"""A converge that is repeated, cut off, or meets an unreachable host."""

from __future__ import annotations

import json
import re
import signal
import time

import pytest
from converge_support import changed

pytestmark = pytest.mark.lab

# The budget (docs/performance.md) of a host in order with one server, OpenCode and Claude Code.
MOST_COMMANDS = 15
MOST_OPERATIONS = 12


def test_a_second_converge_does_nothing_within_the_budget(site) -> None:
    result = site.converge("-vv")
    text = result.stdout + result.stderr
    assert result.returncode == 0
    operations = re.findall(r"--> Starting operation", text)
    commands = re.findall(r"^\s*\[box\] >>> ", text, re.MULTILINE)
    assert "Success" not in text.partition("--> Results")[0]
    assert 0 < len(operations) <= MOST_OPERATIONS
    assert 0 < len(commands) <= MOST_COMMANDS


def test_a_dry_run_of_a_host_in_order_finds_no_change(site) -> None:
    result = site.run("pyinfra", "inventory.py", "deploy.py", "--dry", "--json")
    assert result.returncode == 0, result.stderr
    plan = json.loads(result.stdout)["plan"]
    assert len(plan) > 4
    assert [step["name"] for step in plan if step["hosts_with_change"]] == []


def test_the_server_and_opencode_are_verified(site) -> None:
    result = site.run("llamaherd", "verify", str(site.fleet))
    assert result.returncode == 0, result.stdout + result.stderr


def test_an_unreachable_host_is_named_and_the_others_go_on(site) -> None:
    host = "  box:\n"
    gone = "  gone:\n    ssh: {hostname: 127.0.0.1, port: 9}\n  box:\n"
    fleet = site.variant("with-gone", (host, gone))
    result = site.converge(fleet=fleet)
    text = result.stdout + result.stderr
    assert result.returncode == 1
    assert re.search(r"1 host failed; the others went on:\n\s+gone: connect: ", text)
    assert re.search(r"\[box\] .*No changes", text)


def test_a_killed_controller_leaves_the_build_running_and_the_next_run_attaches(site) -> None:
    # Another set of targets is another build; ccache has compiled nearly all of it before.
    targets = "[llama-server, llama-gguf-split]"
    fleet = site.variant("cut", ("targets: [llama-server]", f"targets: {targets}"))
    process = site.start_converge(fleet)
    unit = "llamaherd-llama.cpp-build-*"
    try:
        invocation = _wait_for(
            lambda: site.ssh(f"systemctl show -P InvocationID '{unit}' | grep . | head -n 1")
        )
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert site.ssh(f"systemctl list-units --plain --no-legend '{unit}'")
    result = site.converge(fleet=fleet)
    assert result.returncode == 0, result.stdout + result.stderr
    runs = site.ssh(f"journalctl -o cat --no-pager -u '{unit}' _PID=1 | grep -c ^Started")
    assert invocation
    assert len(site.ssh("ls -d /opt/llama.cpp/b*").splitlines()) == 2
    assert int(runs) == 2  # the first converge's, and this one: the second run started none
    assert site.converge("--json", fleet=fleet).returncode == 0
    back = site.converge("--json")
    assert changed(back) == ["llama-server | Run the servers"]


def test_ctrl_c_exits_130_and_says_that_jobs_go_on(site) -> None:
    another_build = ("ccache: true", 'ccache: true\n    cmake: {CTRL_C: "1"}')
    fleet = site.variant("interrupted", another_build)
    process = site.start_converge(fleet)
    _wait_for(lambda: site.ssh("systemctl list-units --plain --no-legend 'llamaherd-*'"))
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "attach" in output
    assert "Traceback" not in output


def _wait_for(look, seconds: float = 240) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := look():
            return str(found)
        time.sleep(0.3)
    raise AssertionError("it never came")
