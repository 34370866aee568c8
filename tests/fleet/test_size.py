"""10,000 hosts load; benchmarks/load_fleet.py tells how fast."""

from __future__ import annotations

from pathlib import Path

import pytest

from inventories.fleet import load_fleet
from schemas.problems import ProblemsError

HEAD = """\
version: 1
models: {glm: {hub: {repo: unsloth/GLM-4.7-Flash-GGUF, quant: Q4_K_M}}}
defaults: {cuda: {provider: none}, llama_cpp: {ref: b8146}}
groups:
  coding:
    servers: {coder: {model: MODEL, port: 8888}}
    opencode: {users: [dev]}
hosts:
"""


def big_file(path: Path, model: str) -> Path:
    host = "  gpu-{0:05d}: {{ssh: {{hostname: gpu-{0:05d}.example.com}}, groups: [coding]}}\n"
    hosts = "".join(host.format(number) for number in range(10_000))
    path.write_text(HEAD.replace("MODEL", model) + hosts, "utf-8")
    return path


def test_ten_thousand_hosts_share_what_they_have_in_common(tmp_path: Path) -> None:
    fleet = load_fleet(big_file(tmp_path / "fleet.yaml", "glm"))
    assert len(fleet.groups["coding"]) == 10_000
    first, last = fleet.hosts["gpu-00000"].values, fleet.hosts["gpu-09999"].values
    assert first["servers"]["coder"] == last["servers"]["coder"]


def test_a_mistake_that_ten_thousand_hosts_share_is_one_line(tmp_path: Path) -> None:
    path = big_file(tmp_path / "fleet.yaml", "gml")
    with pytest.raises(ProblemsError) as refused:
        load_fleet(path)
    assert str(refused.value) == (
        f"{path}:6:30: hosts.gpu-00000.servers.coder.model: there is no model gml; "
        "did you mean glm? (and on 9,999 more hosts)"
    )
