"""``make demo``: the whole job, and nothing left of it however it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import demo
import machines
import pytest

SCRIPT = Path(demo.__file__)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0 s"), (59.94, "59.9 s"), (60, "1:00"), (581.9, "9:41")]
)
def test_times_read_as_people_write_them(seconds: float, text: str) -> None:
    assert demo.clock(seconds) == text


def test_stage_times_are_kept_of_failed_stages_too(capsys: pytest.CaptureFixture[str]) -> None:
    stages = demo.Stages(total=2)
    with stages.stage("First"):
        pass
    with pytest.raises(ValueError, match="no"), stages.stage("Second, longer"):
        raise ValueError("no")
    assert "=== 2/2  Second, longer" in capsys.readouterr().out
    assert [line.split("  ")[1] for line in stages.table().splitlines()] == [
        "First",
        "Second, longer",
        "in all",
    ]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the demo as make does; ended in order if the test stops early."""
    if (machines.STATE / "demo").exists():
        pytest.skip("a demo host is up: `make demo-clean` removes it")
    started = []

    def starter(**environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(SCRIPT)],
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield starter
    for process in started:
        if process.poll() is None:
            process.terminate()
            process.wait(120)


def nothing_is_left() -> bool:
    """No state, no process and no interface of the demo's host."""
    identity = machines.identity_of("demo")
    processes = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True)
    return (
        not (machines.STATE / "demo").exists()
        and not Path("/sys/class/net", f"br-lab-{identity}").exists()
        and identity not in processes.stdout
        and not any(demo.FLEET in text for text in environments())
    )


def environments() -> Iterator[str]:
    """The environment of every process: the demo's children carry the name of its fleet file."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            yield path.read_text(errors="replace")


@pytest.mark.lab
def test_the_demo_does_the_whole_job(start: Start) -> None:
    process = start()
    output, _ = process.communicate(timeout=3000)
    assert process.returncode == 0, output
    assert " 0 changed anything" in output
    assert "=== 8/8" in output
    assert nothing_is_left()


@pytest.mark.lab
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_cut_off_in_the_middle_of_a_converge_leaves_nothing(
    start: Start, number: signal.Signals
) -> None:
    process = start()
    assert process.stdout is not None
    output = ""
    for line in process.stdout:
        output += line
        if "Starting operation: Packages" in line:
            process.send_signal(number)
    process.wait(120)
    assert process.returncode not in (0, 1), output
    assert "Traceback" not in output
    assert nothing_is_left()


@pytest.mark.lab
def test_a_demo_that_fails_leaves_nothing_and_says_which_stage(start: Start) -> None:
    # The lock asks a registry where nobody listens.
    process = start(NPM_CONFIG_REGISTRY="http://127.0.0.1:9/")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "=== 4/8" in output
    assert "=== 5/8" not in output
    assert "demo: llamaherd exited with 1" in output
    assert nothing_is_left()
