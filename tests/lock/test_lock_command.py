"""``llamaherd lock`` from end to end, against real servers."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hub import Hub
from lock_support import (
    FileServer,
    git,
    make_apt_repository,
    make_npm_package,
    run_lock,
    write_fleet,
)

from inventories.fleet import load_fleet
from inventories.lock import Lock, check_lock, lock_path, read_lock

TOKEN = secrets.token_hex(12)
SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


@pytest.fixture
def fleet(hub: Hub, files: FileServer, repository: Path, tmp_path: Path) -> Path:
    """A fleet that needs every kind of pin, and the servers that can answer."""
    make_npm_package(files, "opencode-linux-x64", "1.18.33")
    make_apt_repository(files.root / "repos", "debian12")
    return write_fleet(
        tmp_path,
        f"""
hub: {{endpoint: "{hub.url}"}}
models:
  tiny: {{hub: {{repo: acme/Tiny-GGUF, quant: Q4_0}}}}
hosts:
  one:
    cuda: {{provider: nvidia-repo, version: "13.0", repository: {{url: "{files.url}/repos"}}}}
    llama_cpp: {{repository: "{repository.as_uri()}", ref: main}}
    servers: {{coder: {{model: tiny, port: 8888, context: 32768}}}}
    opencode: {{users: [dev], registry: "{files.url}"}}
""",
    )


def lock_of(fleet: Path) -> Lock:
    lock = read_lock(fleet)
    assert lock is not None
    return lock


def report(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """The one JSON document on standard output, valid by its schema."""
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    jsonschema.validate(document, json.loads((SCHEMAS / "lock.report.schema.json").read_text()))
    return document


def statuses(document: dict[str, Any]) -> dict[str, str]:
    return {pin["name"]: pin["status"] for pin in document["pins"]}


def test_everything_is_pinned_and_the_lock_is_current(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_lock(fleet, "--json") == 0
    document = report(capsys)
    assert (document["ok"], document["written"]) == (True, True)
    assert statuses(document) == {
        "tiny": "new",
        "main": "new",
        "1.18.33": "new",
        "nvidia-repo-13.0": "new",
    }
    assert check_lock(load_fleet(fleet), lock_of(fleet)) == []


def test_locking_again_changes_nothing_and_asks_nothing(
    fleet: Path, hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    run_lock(fleet)
    text, asked = lock_path(fleet).read_bytes(), len(hub.requests)
    capsys.readouterr()
    assert run_lock(fleet, "--json") == 0
    document = report(capsys)
    assert not document["written"]
    assert set(statuses(document).values()) == {"kept"}
    assert lock_path(fleet).read_bytes() == text
    assert len(hub.requests) == asked


def test_updating_everything_where_nothing_moved_changes_nothing(fleet: Path) -> None:
    run_lock(fleet)
    text = lock_path(fleet).read_bytes()
    assert run_lock(fleet, "--update", "all") == 0
    assert lock_path(fleet).read_bytes() == text


def test_a_pin_stays_until_it_is_updated(
    fleet: Path, repository: Path, hub_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_lock(fleet)
    before = lock_of(fleet)
    (hub_root / "acme/Tiny-GGUF/Tiny-Q4_0.gguf").write_bytes(b"GGUF" + bytes(3000))
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "six")
    run_lock(fleet)
    assert lock_of(fleet) == before
    capsys.readouterr()
    assert run_lock(fleet, "--update", "main", "--json") == 0
    assert statuses(report(capsys))["main"] == "moved"
    assert lock_of(fleet).llama_cpp["main"].build_number == 6
    assert lock_of(fleet).models == before.models
    run_lock(fleet, "--update", "tiny")
    assert lock_of(fleet).models["tiny"].files[0].size == 3004


def test_a_stale_pin_is_moved_and_an_unused_one_dropped(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_lock(fleet)
    fleet.write_text(fleet.read_text().replace("Q4_0", "Q8_0").replace("ref: main", "ref: b4"))
    capsys.readouterr()
    assert run_lock(fleet, "--check", "--json") == 1
    document = report(capsys)
    assert not document["ok"]
    assert len(document["problems"]) == 2
    assert run_lock(fleet, "--json") == 0
    found = statuses(report(capsys))
    assert (found["tiny"], found["b4"], found["main"]) == ("moved", "new", "dropped")
    assert run_lock(fleet, "--check") == 0


def test_every_failure_is_reported_and_nothing_is_written(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_lock(fleet)
    before = lock_path(fleet).read_bytes()
    text = fleet.read_text().replace("quant: Q4_0", "quant: Q4_9").replace("ref: main", "ref: man")
    fleet.write_text(text)
    capsys.readouterr()
    assert run_lock(fleet) == 1
    complaint = capsys.readouterr().err
    assert "has no quant Q4_9" in complaint
    assert "has no tag or branch man; did you mean main?" in complaint
    assert f"{fleet}:" in complaint
    assert "Nothing was written" in complaint
    assert lock_path(fleet).read_bytes() == before


def test_a_build_too_old_for_its_model_is_not_locked(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = fleet.read_text()
    fleet.write_text(text.replace("tiny: {", "tiny: {llama_cpp_build: 6, "))
    assert run_lock(fleet) == 1
    complaint = capsys.readouterr().err
    assert "hosts.one.llama_cpp.ref: build 5 is too old for the model tiny" in complaint
    assert "Nothing was written" in complaint
    assert not lock_path(fleet).exists()
    fleet.write_text(text.replace("tiny: {", "tiny: {llama_cpp_build: 5, "))
    assert run_lock(fleet) == 0
    assert run_lock("--check", fleet) == 0


def test_a_pin_that_cannot_be_updated_stays(fleet: Path, hub_root: Path) -> None:
    run_lock(fleet)
    before = lock_path(fleet).read_bytes()
    (hub_root / "acme/Tiny-GGUF/Tiny-Q4_0.gguf").unlink()
    assert run_lock(fleet, "--update", "all") == 1
    assert lock_path(fleet).read_bytes() == before


def test_an_unknown_name_to_update_is_refused_with_the_nearest(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_lock(fleet, "--update", "tyny") == 1
    assert "did you mean tiny?" in capsys.readouterr().err
    assert not lock_path(fleet).exists()


@pytest.mark.parametrize("name", ["opencode", "13.0", "cuda.nvidia-repo-13.0", "models", "1.18.33"])
def test_a_pin_goes_by_several_names(fleet: Path, name: str) -> None:
    assert run_lock(fleet, "--update", name) == 0


def test_a_lock_edited_into_nonsense_is_left_alone(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_lock(fleet)
    broken = lock_path(fleet).read_text().replace("build_number: 5", "build_number: five")
    lock_path(fleet).write_text(broken)
    capsys.readouterr()
    assert run_lock(fleet) == 1
    assert f"{lock_path(fleet)}:" in capsys.readouterr().err
    assert lock_path(fleet).read_text() == broken


def test_a_broken_fleet_is_reported_as_json_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_fleet(tmp_path, "hosts: {one: {cuda: {provider: nvidya}}}")
    assert run_lock(path, "--json") == 1
    assert report(capsys)["problems"][0]["line"] == 2


def test_the_table_fits_80_columns(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_lock(fleet)
    captured = capsys.readouterr()
    lines = [line for line in captured.out.splitlines() if not line.startswith(str(fleet.parent))]
    assert [line.split()[0] for line in lines] == [
        "KIND",
        "models",
        "llama_cpp",
        "opencode",
        "cuda",
    ]
    assert all(len(line) <= 80 for line in lines)
    assert captured.err == ""  # no progress where nobody watches


def test_the_hub_token_is_found_where_the_fleet_says_and_never_written(
    hub_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Hub(hub_root, token=TOKEN) as hub:
        fleet = write_fleet(
            tmp_path,
            f"""
hub: {{endpoint: "{hub.url}", token: {{env: LAB_HUB_TOKEN}}}}
models: {{tiny: {{hub: {{repo: acme/Tiny-GGUF, quant: Q4_0}}}}}}
hosts: {{one: {{}}}}
""",
        )
        assert run_lock(fleet) == 1
        monkeypatch.setenv("LAB_HUB_TOKEN", TOKEN)
        assert run_lock(fleet) == 0
    assert TOKEN not in lock_path(fleet).read_text()
