"""One lab host with a server of each kind, converged once for every test below."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from converge_support import Site, converged
from servers_lab_support import FLEET, lay_certificate


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host on which one converge has gone well."""
    folder = tmp_path_factory.mktemp("fleet")
    with converged(FLEET, folder, "servers", before=lay_certificate) as site:
        yield site
