"""Pruning a real host that has been moved on twice: what goes and what stays, read from outside."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from converge_support import FLEET, PROJECT, Site, converged

pytestmark = pytest.mark.lab

SCHEMA = json.loads((PROJECT / "schemas" / "prune.report.schema.json").read_text("utf-8"))
MODELS = "/var/lib/llamaherd/models"
HUB = "hub: {repo: demo/SmolLM2-135M-Instruct-GGUF, quant: Q4_1}"
TARGETS = ("targets: [llama-server]", "targets: [llama-server, llama-gguf-split]")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with converged(FLEET, tmp_path_factory.mktemp("fleet"), "prune") as site:
        yield site


def prune(site: Site, fleet: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status, and the report on the one host."""
    done = site.run("llamaherd", "prune", str(fleet), "--json", *options)
    report = json.loads(done.stdout)
    jsonschema.validate(report, SCHEMA)
    return done.returncode, report["hosts"][0]


def paths(items: list[dict[str, Any]]) -> dict[str, str]:
    return {item["path"]: item["why"] for item in items}


def unused(site: Site, fleet: Path) -> set[str]:
    status, host = prune(site, fleet)
    assert status == 0, host
    return set(paths(host["unused"]))


def other_revision(site: Site) -> tuple[str, str]:
    """The same model from another place, which gives it a folder of its own."""
    file = site.ssh(f"find {MODELS} -name '*.gguf'").rpartition("/")[2]
    url = f"{site.environment['HF_ENDPOINT']}/demo/SmolLM2-135M-Instruct-GGUF/resolve/main/{file}"
    digest = site.ssh(f"sha256sum {MODELS}/*/*/*/{file}").split()[0]
    return HUB, f"url: {url}\n    sha256: {digest}"


@pytest.fixture(scope="module")
def moved_on(site: Site) -> Path:
    """The fleet file after two upgrades: another build and model, then another context."""
    second = site.variant("second", TARGETS, other_revision(site))
    done = site.converge(fleet=second)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return second


def test_what_the_previous_release_uses_stays(site: Site, moved_on: Path) -> None:
    builds = site.ssh("ls -d /opt/llama.cpp/b*").split()
    models = site.ssh(f"find {MODELS} -name '*.gguf'").split()
    status, host = prune(site, moved_on)

    assert (len(builds), len(models)) == (2, 2)
    assert (status, host["state"], host["unused"]) == (0, "in order", [])
    why = paths(host["kept"])
    assert sorted({why[path] for path in (*builds, *models)}) == [
        "the current release of server coder",
        "the previous release of server coder",
    ]


def test_what_no_release_uses_any_more_goes_and_nothing_else(site: Site, moved_on: Path) -> None:
    old = paths(prune(site, moved_on)[1]["kept"])
    gone = {path for path, why in old.items() if why == "the previous release of server coder"}
    stays = set(old) - gone
    third = site.variant(
        "third",
        TARGETS,
        other_revision_again(moved_on),
        ("context: 8192", "context: 8192, parallel: 3"),
    )
    assert site.converge(fleet=third).returncode == 0
    model = next(path for path in gone if path.endswith(".gguf"))
    theirs = f"{model.rpartition('/')[0]}/theirs.gguf"
    site.ssh(
        f"echo mine > {theirs}; mkdir -p /opt/llama.cpp/theirs; echo mine > /opt/llama.cpp/theirs/x"
        "\nmkdir -p /opt/llama.cpp/.work-b1-0000000-000000000000/build"
        "\necho x > /opt/llama.cpp/.work-b1-0000000-000000000000/build/a.o"
    )
    work = "/opt/llama.cpp/.work-b1-0000000-000000000000"
    before = site.ssh(f"du -sB1 {' '.join(gone)} {work} | cut -f 1").split()

    assert len(gone) == 2
    assert unused(site, third) == gone | {work}
    assert site.ssh(f"ls -d {' '.join(gone)}").split()
    text = site.run("llamaherd", "prune", str(third)).stdout
    assert "--yes frees" in text
    assert max(map(len, text.splitlines())) <= 80

    # What a process has open is in use.
    site.ssh(f"systemd-run --quiet --unit=reader tail -f {model}")
    assert unused(site, third) == (gone | {work}) - {model}
    site.ssh("systemctl stop reader")

    # Neither while a job runs, nor while another converge holds the host.
    site.ssh("systemd-run --quiet --unit=llamaherd-pretended sleep 300")
    status, host = prune(site, third, "--yes")
    assert (status, host["state"]) == (1, "refused")
    assert "a job runs there: llamaherd-pretended" in host["error"]
    site.ssh("systemctl stop llamaherd-pretended")
    site.ssh(
        "mkdir -p /run/llamaherd; echo 'ops@laptop, process 7' > /run/llamaherd/converge\n"
        "systemd-run --quiet --unit=holder flock /run/llamaherd/converge.lock sleep 300; sleep 1"
    )
    status, host = prune(site, third, "--yes")
    assert (status, host["state"]) == (1, "refused")
    assert "another converge works here (ops@laptop, process 7)" in host["error"]
    site.ssh("systemctl stop holder")
    assert unused(site, third) == gone | {work}

    status, host = prune(site, third, "--limit", "box", "--yes")
    assert (status, host["state"]) == (0, "pruned")
    assert all(item["removed"] for item in host["unused"])
    assert abs(host["bytes"] - sum(map(int, before))) < 1024**2

    for path in (*gone, work):
        assert site.ssh(f"ls -d {path}") == "", path
    for path in (*stays, theirs, "/opt/llama.cpp/theirs/x"):
        assert site.ssh(f"ls -d {path}") == path
    assert site.ssh(f"cat {theirs}") == "mine"
    assert site.ssh("systemctl is-active llama-server@coder") == "active"
    assert site.run("llamaherd", "verify", str(third)).returncode == 0
    again = site.converge("--json", fleet=third)
    operations = json.loads(again.stdout)["results"]["operations"]
    assert [each["name"] for each in operations if each["success"]] == []
    assert unused(site, third) == set()


def other_revision_again(fleet: Path) -> tuple[str, str]:
    """The model's place as a variant of the first fleet file has it."""
    lines = fleet.read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.strip().startswith("url: http"))
    return HUB, "\n".join([lines[start].strip(), lines[start + 1]])
