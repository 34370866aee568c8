"""Molecule's scenarios, each run whole: create, converge, idempotence, verify, destroy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).parents[2]
SCENARIOS = sorted(path.parent.name for path in PROJECT.glob("molecule/*/molecule.yml"))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_scenario(scenario: str, capfd: pytest.CaptureFixture[str]) -> None:
    molecule = Path(sys.executable).with_name("molecule")
    # It takes minutes and says what it does: that is for the person who waits, as it happens.
    with capfd.disabled():
        print(flush=True)
        result = subprocess.run([str(molecule), "test", "-s", scenario], cwd=PROJECT, check=False)
    assert result.returncode == 0
