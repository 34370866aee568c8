"""One lab host with a server of each kind, converged once for every test below."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "converge"))
from converge_support import LAB, PROJECT, Site
from servers_lab_support import FLEET, lay_certificate


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host on which one converge has gone well."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host, serve_hub

    with lab_host(f"servers-{secrets.token_hex(3)}") as lab:
        key = f"test-{secrets.token_hex(16)}"
        environment = dict(os.environ) | {"HF_ENDPOINT": serve_hub(lab), "TEST_API_KEY": key}
        fleet = tmp_path_factory.mktemp("fleet") / "box.yaml"
        fleet.write_text(FLEET.format(project=PROJECT, alias=lab.alias, ssh_config=lab.ssh_config))
        site = Site(lab, fleet, environment, key)
        lay_certificate(site)
        locked = site.run("llamaherd", "lock", str(fleet))
        assert locked.returncode == 0, locked.stderr
        result = site.converge()
        assert result.returncode == 0, (result.stdout + result.stderr)[-3000:]
        yield site
