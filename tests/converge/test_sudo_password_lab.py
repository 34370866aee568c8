"""A host reached as a user whose sudo asks for a password, which a secret reference names.

Models alone are converged: what is tested is the way there, and the whole takes a build.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from converge_support import FLEET, LAB, PROJECT, Site, changed

pytestmark = pytest.mark.lab

USER = "asker"


@pytest.fixture(scope="module")
def asking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A host with such a user, and a fleet that knows where the password is."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host, serve_hub

    with lab_host(f"asker-{secrets.token_hex(3)}") as lab:
        word = secrets.token_urlsafe(16)
        lab.run(
            f"useradd --create-home --groups sudo {USER}; echo '{USER}:{word}' | chpasswd; "
            f"install -d -m 700 -o {USER} /home/{USER}/.ssh; "
            f"install -m 600 -o {USER} ~ops/.ssh/authorized_keys /home/{USER}/.ssh/"
        )
        folder = tmp_path_factory.mktemp("asking")
        (folder / "word").write_text(word + "\n")
        text = FLEET.format(project=PROJECT, alias=lab.alias, ssh_config=lab.ssh_config)
        text = text.replace("user: ops", f"user: {USER}, sudo_password: {{file: word}}")
        (folder / "box.yaml").write_text(text)
        environment = dict(os.environ) | {"HF_ENDPOINT": serve_hub(lab), "TEST_API_KEY": "x"}
        site = Site(lab, folder / "box.yaml", environment, word)
        locked = site.run("llamaherd", "lock", str(site.fleet))
        assert locked.returncode == 0, locked.stderr
        yield site


def _converge(site: Site) -> list[str]:
    done = site.run("pyinfra", "inventory.py", "deploys.models.models", "-y", "--json")
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert site.key not in done.stdout + done.stderr
    return changed(done)


def test_sudo_gets_the_password_and_nobody_else_does(asking: Site) -> None:
    refused = asking.lab.run(f"su {USER} -c 'sudo -kn true'", check=False)
    assert refused.returncode != 0, "sudo asks for nothing, so this test tests nothing"
    assert _converge(asking) != []
    owner = asking.ssh("stat -c '%U %s' $(find /var/lib/llamaherd/models -name '*.gguf')")
    assert owner == "root 98362432"
    assert _converge(asking) == [], "the second converge does nothing"
    assert (
        asking.ssh(f"grep -rlF -- '{asking.key}' /tmp /var/log /home /etc /var/lib/llamaherd") == ""
    )


def test_a_wrong_password_is_that_hosts_trouble_and_is_said(asking: Site) -> None:
    word = Path(asking.fleet.parent / "word")
    word.write_text("wrong\n")
    try:
        done = asking.run("llamaherd", "drift", str(asking.fleet))
    finally:
        word.write_text(asking.key + "\n")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "box" in done.stdout + done.stderr
    assert "password" in (done.stdout + done.stderr).lower()
