"""A bare box becomes a verified server and an answering OpenCode by one command."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from converge_support import DEFAULTS, MODELS

pytestmark = pytest.mark.lab

PROJECT = Path(__file__).resolve().parents[2]
FLEET = (
    MODELS
    + DEFAULTS
    + """\
groups:
  # Every box of the lab.
  lab:
    servers:
      coder: {{model: smollm2, port: 8888, context: 8192, api_key: {{env: TEST_API_KEY}}}}
    opencode: {{users: [dev]}}

hosts:
"""
)


def test_a_bare_box_serves_and_opencode_answers_after_one_command(tmp_path: Path) -> None:
    lab_folder = str(PROJECT / "molecule" / "lab")
    if lab_folder not in sys.path:
        sys.path.insert(0, lab_folder)
    from lab import lab_host, serve_hub

    fleet = tmp_path / "fleet.yaml"
    text = FLEET.format(project=PROJECT)
    fleet.write_text(text)
    with lab_host(f"onboard-{secrets.token_hex(3)}") as lab:
        key = f"test-{secrets.token_hex(16)}"
        secrets_given = {"HF_ENDPOINT": serve_hub(lab), "TEST_API_KEY": key}
        words = ["onboard", f"ops@{lab.alias}", "--fleet", str(fleet), "--no-bandwidth"]
        words += ["--ssh-config", str(lab.ssh_config), "--write", "--converge", "--yes", "--json"]
        done = subprocess.run(
            [str(Path(sys.executable).with_name("llamaherd")), *words],
            env=os.environ | secrets_given,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
        assert key not in done.stdout + done.stderr
        assert json.loads(done.stdout)["ok"] is True
        assert fleet.read_text().startswith(text), "what was there before is there no more"
        said = subprocess.run(
            [*lab.ssh(), "su - dev -c 'timeout 1500 opencode run --format json \"Say hello\"'"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert said.returncode == 0, said.stderr
        kinds = {json.loads(line)["type"] for line in said.stdout.splitlines() if line[:1] == "{"}
        assert "text" in kinds, said.stdout[-1000:]
