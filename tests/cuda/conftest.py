"""A lab host for each module of the CUDA component's lab tests."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cuda_support import Converge, Outcome, converge_with

from inventories.settings import CudaSettings

LAB = str(Path(__file__).resolve().parents[2] / "molecule" / "lab")


@pytest.fixture(scope="module")
def host() -> Iterator[Any]:
    """A Debian 12 host of this test module's own."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host

    with lab_host(f"cuda-{secrets.token_hex(3)}") as lab:
        yield lab


@pytest.fixture
def converge(host: Any, tmp_path: Path) -> Converge:
    """Run the component on the host: ``converge(settings, user="ops")``."""

    def run(settings: CudaSettings, user: str = "root", *options: str) -> Outcome:
        return converge_with(host, tmp_path, settings, user, *options)

    return run
