"""Lab hosts for tests, and the order of the whole suite: what needs a lab runs last."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
LAB = REPOSITORY / "molecule" / "lab"
sys.path.insert(0, str(LAB))

from lab import Lab, lab_host  # noqa: E402  (the lab's modules are scripts, not a package)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Fast tests first; a slip in one of them is seen before minutes of lab."""
    items.sort(key=lambda item: item.get_closest_marker("lab") is not None)


@pytest.fixture(scope="session")
def lab_name() -> Callable[[str], str]:
    """Lab names that no other run in this checkout uses."""
    token = secrets.token_hex(3)
    return lambda purpose: f"{purpose}-{token}"


@pytest.fixture(scope="session")
def run_lab() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Call ``lab.py`` as a user would; returns its result, whatever its exit code."""

    def run(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(LAB / "lab.py"), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=timeout, env=os.environ
        )

    return run


@pytest.fixture(scope="module")
def bookworm(lab_name: Callable[[str], str]) -> Iterator[Lab]:
    """A Debian 12 lab host for the tests of one module."""
    with lab_host(lab_name("test")) as lab:
        yield lab
