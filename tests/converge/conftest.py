"""One lab host, converged once with a fleet of its own, for every test below."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from converge_support import FLEET, Site, converged


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host on which one converge has gone well."""
    with converged(FLEET, tmp_path_factory.mktemp("fleet"), "box") as site:
        yield site
