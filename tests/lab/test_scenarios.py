"""Molecule's scenarios, each run whole: create, converge, idempotence, verify, destroy."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).parents[2]
MOLECULE = str(Path(sys.executable).with_name("molecule"))
# `make molecule-cuda` runs this one: nvcc alone takes half an hour of two processors.
SLOW = {"cuda"}
SCENARIOS = sorted({path.parent.name for path in PROJECT.glob("molecule/*/molecule.yml")} - SLOW)
GRACE_SECONDS = 30


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, capfd: pytest.CaptureFixture[str]) -> None:
    # It takes minutes and says what it does: that is for the person who waits, as it happens.
    with capfd.disabled():
        print(flush=True)
        process = subprocess.Popen(
            [MOLECULE, "test", "-s", scenario], cwd=PROJECT, start_new_session=True
        )
        try:
            process.wait()
        except BaseException:
            end(process)
            # Interrupted, Molecule itself leaves its hosts up.
            subprocess.run([MOLECULE, "destroy", "-s", scenario], cwd=PROJECT, check=False)
            raise
    assert process.returncode == 0


def end(process: subprocess.Popen[bytes]) -> None:
    """End Molecule and all that it started."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
            return
