"""What docs/drift.md shows is true: commands, fleet file, pipelines and their exit statuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from inventories.fleet import load_fleet
from llamaherd.cli import build_parser
from schemas.validate import load_schema

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs/drift.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
YAML = [body for language, body in BLOCKS if language == "yaml"]


def block(language: str, words: str) -> str:
    """The one block of a language that holds these words."""
    (found,) = [body for name, body in BLOCKS if name == language and words in body]
    return found


def commands() -> list[list[str]]:
    """Every ``llamaherd`` command of the text, as its words."""
    joined = TEXT.replace("\\\n", " ")
    found = re.findall(r"(?:^|[ (/])llamaherd (drift [^`\n)]*)", joined, re.M)
    return [shlex.split(re.split(r" 2>| \|\| ", line)[0]) for line in found]


def test_every_command_is_one_that_the_command_line_takes() -> None:
    shown = commands()
    assert len(shown) >= 8
    for words in shown:
        assert build_parser(("drift",)).parse_args(words).func, words


def test_every_option_that_the_text_names_exists() -> None:
    named = set(re.findall(r"`(--[a-z-]+)", TEXT))
    known = subprocess.run(
        [sys.executable, "-c", "from llamaherd.cli import main; main(['drift', '--help'])"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout
    assert named
    assert all(re.search(rf"{option}\b", known) for option in named)


def test_the_fleet_file_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    path.write_text(block("yaml", "controller: true"))
    assert load_fleet(path).drift["deep_share"] == "1/7"


def test_the_notification_is_what_its_schema_says() -> None:
    message = json.loads(block("json", "more_failures"))
    jsonschema.validate(message, load_schema("drift.notification.schema.json"))


def test_every_link_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (ROOT / "docs" / target).is_file(), target
    for name in re.findall(r"`(schemas/[a-z.]+json)`", TEXT):
        assert (ROOT / name).is_file(), name


def fake(tmp_path: Path, status: int) -> dict[str, str]:
    """An environment in which ``llamaherd`` says a word and exits with that status."""
    program = tmp_path / "llamaherd"
    program.write_text(f"#!/bin/sh\necho checked\nexit {status}\n")
    program.chmod(0o755)
    return {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "FLEET_SSH_KEY": "key",
        "LLAMAHERD_SSH_KEY": str(tmp_path / "key"),
    }


@pytest.mark.parametrize(("status", "job"), [(0, 0), (2, 0), (1, 1), (127, 127)])
def test_on_github_drift_is_a_warning_and_an_error_is_red(
    tmp_path: Path, status: int, job: int
) -> None:
    workflow: dict[Any, Any] = yaml.safe_load(block("yaml", "runs-on"))
    (step,) = [s for s in workflow["jobs"]["drift"]["steps"] if s.get("name") == "Compare"]
    # GitHub runs a step with bash -e.
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]],
        env=fake(tmp_path, status),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == job
    assert ("::warning" in done.stdout) == (status == 2)
    assert not (tmp_path / "key").exists()


def test_on_gitlab_only_drift_may_fail() -> None:
    job = yaml.safe_load(block("yaml", "allow_failure"))["drift"]
    assert job["allow_failure"] == {"exit_codes": 2}
    assert "llamaherd drift" in job["script"][-1]


@pytest.mark.parametrize("status", [0, 1, 2])
def test_cron_mails_all_but_order(tmp_path: Path, status: int) -> None:
    line = block("cron", "MAILTO").splitlines()[-1]
    command = line.split(" ", 5)[5]
    assert "%" not in command, "cron takes it for a line break"
    done = subprocess.run(
        ["sh", "-c", command],
        env=fake(tmp_path, status),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ("" if status == 0 else "checked\n")
