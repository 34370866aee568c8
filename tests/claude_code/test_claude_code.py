"""Claude Code is pointed at a server: what goes into its settings, and what verify makes of it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
from functools import partial
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from deploys.claude_code import refuse, user_files
from deploys.claude_code.config import user_settings
from deploys.common.claude_code import HELPER, environment
from deploys.common.files import is_current
from deploys.common.json_text import JsonTextError
from deploys.common.operations import HostError
from facts.claude_code import ClaudeCode, ClaudeCodeUser
from facts.files import FileState
from facts.live import Answer
from inventories.settings import ClaudeCodeSettings, SecretReference
from llamaherd.verification import claude_code_differences, judge_claude_code

OPEN = ClaudeCodeSettings(("dev",), "gpu/coder", "http://127.0.0.1:8888", "glm", 16384)
KEYED = dataclasses.replace(OPEN, api_key=SecretReference(env="K"))
PATH = "/home/dev/.claude/settings.json"
KEY_PATH = "/home/dev/.claude/llamaherd.key"


def user(text: str | None, key: str | None = None, owner: str = "dev", **more: object) -> object:
    def state(path: str, content: bytes, mode: str) -> FileState:
        import hashlib

        return FileState(
            path, "file", mode, owner, owner, hashlib.sha256(content).hexdigest(), content
        )

    return ClaudeCodeUser(
        "dev",
        "/home/dev",
        True,
        PATH,
        None if text is None else state(PATH, text.encode(), "644"),
        None
        if key is None
        else dataclasses.replace(state(KEY_PATH, f"{key}\n".encode(), "600"), content=None),
        **more,  # type: ignore[arg-type]
    )


def test_a_new_file_points_every_model_at_the_server() -> None:
    document = json.loads(user_settings("", OPEN, PATH))
    assert document == {"env": environment(OPEN)}
    env = document["env"]
    assert env["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8888"
    models = {value for name, value in env.items() if name.endswith("_MODEL")}
    assert models == {"glm"}
    assert env["CLAUDE_CODE_MAX_OUTPUT_TOKENS"] == "16384"
    assert env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert env["ANTHROPIC_AUTH_TOKEN"] == "none"


def test_background_requests_may_go_to_a_smaller_model() -> None:
    env = environment(dataclasses.replace(OPEN, small_model="tiny"))
    assert {name for name, value in env.items() if value == "tiny"} == {
        "ANTHROPIC_DEFAULT_HAIKU_MODEL",
        "ANTHROPIC_SMALL_FAST_MODEL",
    }


def test_a_key_is_read_from_a_file_of_the_user_and_stands_nowhere_else() -> None:
    document = json.loads(user_settings("", KEYED, PATH))
    assert document["apiKeyHelper"] == "cat ~/.claude/llamaherd.key"
    assert "ANTHROPIC_AUTH_TOKEN" not in document["env"]
    files = user_files(KEYED, {"dev": user(None)}, "generated")  # type: ignore[dict-item]
    assert [(f.path, f.mode, f.secret, f.as_user) for f in files] == [
        (KEY_PATH, "600", True, "dev"),
        (PATH, "644", False, "dev"),
    ]
    assert [file.path for file in files if "generated" in file.content] == [KEY_PATH]


def test_the_rest_of_a_users_settings_survives_byte_for_byte() -> None:
    theirs = '{\n    "permissions": {"allow": ["Bash(git *)"]},\n    "env": {"EDITOR": "vi"}\n}\n'
    after = user_settings(theirs, OPEN, PATH)
    assert after.startswith(
        '{\n    "permissions": {"allow": ["Bash(git *)"]},\n    "env": {"EDITOR": "vi", "ANTHROPIC'
    )
    assert user_settings(after, OPEN, PATH) == after


def test_a_server_gets_and_loses_its_key() -> None:
    keyed = user_settings(user_settings("", OPEN, PATH), KEYED, PATH)
    assert json.loads(keyed) == json.loads(user_settings("", KEYED, PATH))
    assert json.loads(user_settings(keyed, OPEN, PATH)) == {"env": environment(OPEN)}
    own = '{"apiKeyHelper": "pass show mine"}'
    assert json.loads(user_settings(own, OPEN, PATH))["apiKeyHelper"] == "pass show mine"


def test_comments_are_refused_since_claude_code_takes_none() -> None:
    with pytest.raises(JsonTextError, match=f"{PATH}:2:3: comments and trailing commas"):
        user_settings("{\n  // mine\n}", OPEN, PATH)


@pytest.mark.parametrize(
    ("users", "message"),
    [
        ({}, "the host has no account dev: .*clients.claude_code.users"),
        ({"dev": user("{broken")}, f"{PATH}:1:2: not JSON"),
        ({"dev": user("{}", owner="root")}, f"{PATH} belongs to root"),
        ({"dev": user(None, closed=(PATH,))}, f"dev may not write {PATH}"),
        (
            {"dev": dataclasses.replace(user("{}"), home_exists=False)},  # type: ignore[type-var]
            "the home /home/dev of dev does not exist",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    users: dict[str, ClaudeCodeUser], message: str
) -> None:
    with pytest.raises(HostError, match=message):
        refuse(OPEN, users)


def test_a_host_in_order_has_nothing_to_do() -> None:
    there = {"dev": user(user_settings("", KEYED, PATH), "generated")}
    files = user_files(KEYED, there, "generated")  # type: ignore[arg-type]
    assert all(is_current(file, state) for file, state in files.items())
    refuse(KEYED, there)  # type: ignore[arg-type]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can look with another's rights")
def test_the_fact_reads_a_real_home_with_its_users_rights() -> None:
    home = Path(subprocess.check_output(["mktemp", "-d", "-p", "/var/tmp"], text=True).strip())
    try:
        (home / ".claude").mkdir()
        for path in (home, home / ".claude"):
            path.chmod(0o755)
        (home / ".claude" / "settings.json").write_text("{}")
        (home / ".claude" / "llamaherd.key").write_text("secret\n")
        (home / "getent").write_text(f"#!/bin/sh\necho nobody:x:1:1::{home}:/bin/sh\n")
        (home / "getent").chmod(0o755)
        done = subprocess.run(
            ["sh", "-c", ClaudeCode().command(["nobody"])],
            env={"PATH": f"{home}:/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True,
            text=True,
            check=True,
        )
        found = ClaudeCode().process(done.stdout.splitlines())["nobody"]
        assert found.settings is not None
        assert found.settings.content == b"{}"
        assert found.key is not None
        assert (found.key.content, len(found.key.sha256)) == (None, 64)
        assert found.closed == (f"{home}/.claude/settings.json", f"{home}/.claude/llamaherd.key")
        assert "secret" not in done.stdout
    finally:
        subprocess.run(["rm", "-rf", str(home)], check=True)


@pytest.mark.parametrize("output", [["@@llamaherd:user x"], ["@@llamaherd:user x", "x:y:z", ""]])
def test_output_that_makes_no_sense_fails_the_host_alone(output: list[str]) -> None:
    with pytest.raises(FactProcessError):
        ClaudeCode().process(output)


judge = partial(judge_claude_code, "desk", KEYED)
MESSAGE = Answer(200, json.dumps({"type": "message", "model": "glm", "content": []}))


def test_verify_says_which_model_answers() -> None:
    good = {"dev": user(user_settings("", KEYED, PATH), "k")}
    (finding,) = judge(good, {"dev": MESSAGE})  # type: ignore[arg-type]
    assert (finding.ok, finding.subject, finding.check) == (True, "user dev", "claude code")
    assert finding.detail == "glm answers"


@pytest.mark.parametrize(
    ("answer", "said", "remedy"),
    [
        (Answer(401, '{"error": {"message": "Invalid"}}'), "answered 401", "converge both hosts"),
        (Answer(0, "", "curl: (7) refused", 7), "curl: (7) refused", "verify gpu/coder itself"),
        (Answer(200, "<html>"), "answers no message", "llama-server"),
        (Answer(200, '{"type": "message", "model": "other"}'), "expected glm", "converge gpu"),
        (None, "was not asked", "run again"),
    ],
)
def test_verify_says_what_is_wrong_with_an_answer(
    answer: Answer | None, said: str, remedy: str
) -> None:
    good = {"dev": user(user_settings("", KEYED, PATH), "k")}
    answers = {} if answer is None else {"dev": answer}
    (finding,) = judge(good, answers)  # type: ignore[arg-type]
    assert not finding.ok
    assert said in finding.detail
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda d: d["env"].update(ANTHROPIC_BASE_URL="https://cloud.example"), "BASE_URL"),
        (lambda d: d.update(apiKeyHelper="cat mine"), "apiKeyHelper"),
        (lambda d: d["env"].update(ANTHROPIC_AUTH_TOKEN="mine"), "take it out by hand"),
        (lambda d: d.pop("env"), "ANTHROPIC_MODEL"),
    ],
)
def test_verify_names_what_in_the_settings_leads_elsewhere(changed: object, named: str) -> None:
    document = json.loads(user_settings("", KEYED, PATH))
    changed(document)  # type: ignore[operator]
    there = user(json.dumps(document), "k")
    (difference,) = claude_code_differences(KEYED, there)  # type: ignore[arg-type]
    assert named in difference
    assert HELPER not in difference
    (finding,) = judge({"dev": there}, {})  # type: ignore[dict-item]
    assert not finding.ok
