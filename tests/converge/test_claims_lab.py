"""What a converge claims of a host. Two at once, and dead ones: tests/faults/two_faults.py."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.lab


def test_a_converge_with_nothing_to_do_claims_nothing(site) -> None:
    site.ssh("rm -f /run/llamaherd/converge.lock")
    assert site.converge().returncode == 0
    assert site.ssh("ls /run/llamaherd/converge.lock") == ""
