"""Clients on a real host: Claude Code's settings lead to the real server, and nothing leaves."""

from __future__ import annotations

import json
import re
import secrets
import shlex
import subprocess
from collections.abc import Iterator

import pytest
from converge_support import Site, changed

pytestmark = pytest.mark.lab

CLAUDE = "/home/dev/.claude/settings.json"


def test_a_message_sent_by_what_the_settings_say_is_answered(site: Site) -> None:
    """As Claude Code does it: ``env`` for address and model, ``apiKeyHelper`` run by a shell."""
    settings = json.loads(site.ssh(f"cat {CLAUDE}"))
    env = settings["env"]
    body = json.dumps(
        {
            "model": env["ANTHROPIC_MODEL"],
            "max_tokens": 8,
            "messages": [{"role": "user", "content": "Say hi"}],
        }
    )
    command = (
        f"key=$(sh -c {shlex.quote(settings['apiKeyHelper'])}); "
        'printf \'header = "x-api-key: %s"\' "$key" | curl --silent --config - '
        "--header 'anthropic-version: 2023-06-01' --header 'Content-Type: application/json' "
        f"--data-raw {shlex.quote(body)} {env['ANTHROPIC_BASE_URL']}/v1/messages"
    )
    answer = json.loads(site.ssh(f"runuser -u dev -- sh -c {shlex.quote(command)}"))
    assert answer["type"] == "message", answer
    assert answer["model"] == "smollm2"
    assert answer["content"][0]["text"].strip()
    without = command.replace("key=$(", "key=wrong; : $(")
    refused = json.loads(site.ssh(f"runuser -u dev -- sh -c {shlex.quote(without)}"))
    assert refused["error"]["code"] == 401 or "auth" in json.dumps(refused)


def test_verify_has_a_line_for_claude_code(site: Site) -> None:
    result = site.run("llamaherd", "verify", str(site.fleet), "--json")
    checks = json.loads(result.stdout)["hosts"][0]["checks"]
    (line,) = [check for check in checks if check["check"] == "claude code"]
    assert (line["ok"], line["subject"], line["detail"]) == (True, "user dev", "smollm2 answers")


def test_drift_sees_an_edit_and_a_converge_mends_it_and_keeps_the_users_own(site: Site) -> None:
    settings = json.loads(site.ssh(f"cat {CLAUDE}"))
    settings["env"]["ANTHROPIC_BASE_URL"] = "http://127.0.0.1:1"
    settings["theirs"] = [1, 2]
    site.ssh(f"printf %s {shlex.quote(json.dumps(settings))} > {CLAUDE}")
    drifted = site.run("llamaherd", "drift", str(site.fleet), "--json")
    assert drifted.returncode == 2, drifted.stdout + drifted.stderr
    findings = [f for host in json.loads(drifted.stdout)["hosts"] for f in host["findings"]]
    assert [(f["component"], f["subject"]) for f in findings] == [("claude_code", CLAUDE)]
    assert changed(site.converge("--json")) == ["Claude Code | Point Claude Code at box/coder"]
    after = json.loads(site.ssh(f"cat {CLAUDE}"))
    assert after["theirs"] == [1, 2]
    assert after["env"]["ANTHROPIC_BASE_URL"] == "http://127.0.0.1:8888"
    assert site.ssh(f"stat -c %U {CLAUDE}") == "dev"


def test_comments_of_a_user_survive_a_converge_that_opencode_itself_checks(site: Site) -> None:
    path = "/home/dev/.config/opencode/opencode.json"
    before = site.ssh(f"cat {path}")
    mine = before.replace("{\n", '{\n  // mine\n  "username": "me", // too\n', 1)
    site.ssh(f"printf '%s\\n' {shlex.quote(mine.replace('8192', '4096'))} > {path}")
    result = site.converge("-v")
    assert result.returncode == 0, result.stdout + result.stderr
    assert site.ssh(f"cat {path}") == mine
    broken = mine.replace('"username": "me"', '"username": {"not": "text"}')
    site.ssh(f"printf '%s\\n' {shlex.quote(broken.replace('8192', '4096'))} > {path}")
    result = site.converge()
    text = result.stdout + result.stderr
    assert result.returncode == 1
    assert "OpenCode does not take dev's configuration" in text
    assert "username" in text
    assert site.ssh(f"cat {path}") == broken.replace("8192", "4096")
    site.ssh(f"printf '%s\\n' {shlex.quote(mine)} > {path}")
    assert changed(site.converge("--json")) == []


class Wall:
    """Counts, and drops, what the host sends to any machine but this one."""

    def __init__(self, site: Site) -> None:
        self.table = f"llamaherd_{secrets.token_hex(4)}"
        self._nft(f"add table inet {self.table}")
        chain = "{ type filter hook forward priority -10 ; }"
        self._nft(f"add chain inet {self.table} out {chain}")
        self._nft(f"add rule inet {self.table} out ip saddr {site.lab.address} counter drop")

    def packets(self) -> int:
        found = re.search(r"packets (\d+)", self._nft(f"list chain inet {self.table} out"))
        assert found
        return int(found[1])

    def remove(self) -> None:
        self._nft(f"delete table inet {self.table}")

    def _nft(self, command: str) -> str:
        done = subprocess.run(["nft", command], capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def wall(site: Site) -> Iterator[Wall]:
    wall = Wall(site)
    yield wall
    wall.remove()


def test_opencode_sends_nothing_to_anybody_but_the_server(site: Site, wall: Wall) -> None:
    answer = site.ssh("su - dev -c 'timeout 1500 opencode run --format json hello < /dev/null'")
    assert any('"type":"text"' in line for line in answer.splitlines()), answer
    assert wall.packets() == 0
    # What the wall would have seen: a packet to an address that is nobody's.
    site.ssh("timeout 2 bash -c '< /dev/tcp/192.0.2.1/9'")
    assert wall.packets() > 0
