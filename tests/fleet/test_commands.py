"""`llamaherd validate` and `llamaherd show`, as they are called."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fleet_support import EXAMPLES, ROOT

from llamaherd.cli import main
from schemas.validate import load_schema

EXAMPLE = str(EXAMPLES[0])
BAD = str(Path(__file__).parent / "bad/port_twice.yaml")


def document(capsys: pytest.CaptureFixture[str], schema: str) -> Any:
    """What was printed, checked against its schema."""
    printed = json.loads(capsys.readouterr().out)
    jsonschema.validate(printed, load_schema(f"{schema}.report.schema.json"))
    return printed


def test_a_valid_file_is_one_line_and_status_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", EXAMPLE]) == 0
    assert capsys.readouterr().out == (
        f"{EXAMPLE}: valid: 4 hosts, 1 model, 3 servers, 4 hosts with OpenCode\n"
    )


def test_a_bad_file_is_status_1_with_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", BAD]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[0].startswith(f"{BAD}:")
    assert captured.err.splitlines()[-1] == f"{BAD}: 1 problem"


def test_validate_prints_json_either_way(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", EXAMPLE, "--json"]) == 0
    assert document(capsys, "validate")["counts"]["servers"] == 3
    assert main(["validate", BAD, "--json"]) == 1
    assert document(capsys, "validate")["problems"][0]["path"].endswith("chat.port")


@pytest.mark.parametrize("command", [["validate"], ["show", "gpu-01"]])
def test_a_missing_file_is_one_line_and_status_1(
    command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "nope.yaml"]) == 1
    captured = capsys.readouterr()
    assert captured.err == "there is no fleet file nope.yaml: name another one\n"
    assert main([*command, "nope.yaml", "--json"]) == 1
    assert document(capsys, "error")["ok"] is False


def test_fleet_is_read_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEET", EXAMPLE)
    assert main(["validate"]) == 0
    assert EXAMPLE in capsys.readouterr().out


def test_show_prints_value_and_origin_within_80_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "rtx5090-01", EXAMPLE, "--origin"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(len(line) <= 80 for line in lines[1:])
    context = next(line.split() for line in lines if "context" in line)
    assert context[:2] == ["servers.coder.context", "65536"]
    name, number = context[2].split(":")
    assert name == "example.yaml"
    assert "65536" in EXAMPLES[0].read_text("utf-8").splitlines()[int(number) - 1]
    assert next(line.split() for line in lines if "jinja" in line)[2] == "(default)"


def test_show_prints_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "rtx5090-01", EXAMPLE, "--json"]) == 0
    settings = {tuple(s["path"]): s for s in document(capsys, "show")["settings"]}
    assert settings["servers", "coder", "api_key", "env"]["value"] == "OFFICE_API_KEY"
    assert settings["servers", "coder", "jinja"]["origin"] is None


def test_show_never_resolves_a_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    key = secrets.token_hex(16)
    monkeypatch.setenv("OFFICE_API_KEY", key)
    assert main(["show", "rtx5090-01", EXAMPLE]) == 0
    assert key not in capsys.readouterr().out


def test_an_unknown_host_is_one_line_with_a_suggestion(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["show", "rtx5090-1", EXAMPLE]) == 1
    expected = f"{EXAMPLE} has no host rtx5090-1; did you mean rtx5090-01?\n"
    assert capsys.readouterr().err == expected


@pytest.mark.parametrize("form", ["{}", "{{env: {}}}", "{{command: {}}}", "{{evn: {}}}"])
def test_a_secret_in_the_open_is_refused_without_repeating_it(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = f"0{secrets.token_hex(16)}"
    fleet = tmp_path / "fleet.yaml"
    value = form.format(secret)
    fleet.write_text(f"version: 1\nhosts:\n  gpu-01: {{ssh: {{password: {value}}}}}\n", "utf-8")
    assert main(["validate", str(fleet)]) == 1
    assert secret not in capsys.readouterr().err


@pytest.mark.parametrize("usage", [[], ["frobnicate"], ["show"], ["validate", "a", "b"]])
def test_wrong_usage_is_status_1(usage: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(usage)
    assert stopped.value.code == 1
    assert "usage:" in capsys.readouterr().err


def test_a_mistyped_command_is_answered_with_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["valdate"])
    assert "there is no command valdate; did you mean validate?" in capsys.readouterr().err


def test_a_list_of_boxes_that_is_not_there_is_said_in_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["onboard", "--list", "/nowhere/boxes"]) == 1
    said = capsys.readouterr().err
    assert said == "--list /nowhere/boxes: No such file or directory; one target a line\n"


def test_a_reader_that_goes_away_gets_no_traceback() -> None:
    command = [sys.executable, "-m", "llamaherd.cli", "show", "rtx5090-01", EXAMPLE]
    code = "import sys; from llamaherd.cli import main; sys.exit(main())"
    command[1:3] = ["-c", code]
    read, write = os.pipe()
    # Not os.close: gevent's, which other tests bring, may put it off until its loop runs.
    os.fdopen(read, "rb").close()
    with os.fdopen(write, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, cwd=ROOT, check=False)
    assert done.returncode == 1
    assert done.stderr == b""
