"""A real host that has the model already: the component alone, as any deploy.py would call it."""

from __future__ import annotations

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inventories.settings import MODELS_ROOT

ROOT = Path(__file__).resolve().parents[2]
HUB = ROOT / ".lab" / "hub" / "demo" / "SmolLM2-135M-Instruct-GGUF"
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"

sys.path.insert(0, str(ROOT / "molecule" / "lab"))

from lab import Lab, lab_host  # noqa: E402

pytestmark = pytest.mark.lab

DEPLOY = """\
from deploys.models import models
from inventories.settings import Artifact, ModelSettings

FILE = Artifact({name!r}, {size}, {sha256!r}, url="http://127.0.0.1:9/nowhere")
models([ModelSettings("smol", "SmolLM2", {directory!r}, (FILE,))])
"""


@pytest.fixture(scope="module")
def host() -> Iterator[Lab]:
    with lab_host(f"adopt-{secrets.token_hex(3)}", binds=(f"{HUB}:/mnt/hub",)) as lab:
        lab.run(
            "useradd --system --create-home --home-dir /usr/share/ollama ollama; mkdir -p /root"
        )
        yield lab


def converge(lab: Lab, folder: Path, directory: str) -> str:
    """``pyinfra inventory.py deploy.py`` with the models component alone; what it says."""
    model = HUB / NAME
    (folder / "deploy.py").write_text(
        DEPLOY.format(
            name=NAME,
            size=model.stat().st_size,
            sha256=hashlib.sha256(model.read_bytes()).hexdigest(),
            directory=directory,
        )
    )
    (folder / "inventory.py").write_text(
        f"hosts = [({lab.alias!r}, {{'ssh_config_file': {str(lab.ssh_config)!r}, "
        "'ssh_user': 'ops', '_sudo': True})]\n"
    )
    done = subprocess.run(
        [str(Path(sys.executable).parent / "pyinfra"), "-y", "inventory.py", "deploy.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        timeout=500,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-3000:]
    return output


@pytest.mark.parametrize(
    ("place", "owner", "how", "title"),
    [
        ("/usr/share/ollama/.ollama/models/blobs/sha256-SUM", "ollama", "copied", "Ollama's store"),
        ("/root/.cache/llama.cpp/smol.gguf", "root", "linked", "llama.cpp's cache"),
    ],
)
def test_a_model_that_is_there_is_taken_over(
    host: Lab, tmp_path: Path, place: str, owner: str, how: str, title: str
) -> None:
    digest = hashlib.sha256((HUB / NAME).read_bytes()).hexdigest()
    theirs = place.replace("SUM", digest)
    host.run(
        f"install -D -m 644 -o {owner} -g {owner} /mnt/hub/{NAME} {theirs}; "
        f"chown -R {owner}: $(dirname {theirs})"
    )
    before = host.run(f"stat -c '%U %a %Y' {theirs}").stdout
    directory = f"{MODELS_ROOT}/acme/smol/{how}"
    output = converge(host, tmp_path, directory)
    assert f"took {NAME} from {title} ({how}): {theirs}" in output
    ours = f"{directory}/{NAME}"
    assert host.run(f"sha256sum < {ours}").stdout.split()[0] == digest
    assert host.run(f"stat -c '%U %a' {ours}").stdout.split() == ["root", "644"]
    same = host.run(f"test {ours} -ef {theirs} && echo yes || echo no").stdout.strip()
    assert same == ("yes" if how == "linked" else "no")
    assert host.run(f"stat -c '%U %a %Y' {theirs}").stdout == before
    assert "took" not in converge(host, tmp_path, directory)
    host.run(f"rm {theirs}")
