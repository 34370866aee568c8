"""What the default scenario's hosts are after a converge, read by other means than the deploys'."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import testinfra
import yaml
from testinfra.host import Host

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
EPHEMERAL = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"])
PROJECT = SCENARIO.parents[1]
MODEL_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SERVER = "http://127.0.0.1:8888"


def connect(name: str) -> Host:
    return testinfra.get_host(
        f"ansible://{name}", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]
    )


@pytest.fixture(scope="module")
def llm() -> Host:
    return connect("llm")


@pytest.fixture(scope="module")
def desk() -> Host:
    return connect("desk")


@pytest.fixture(scope="module")
def key() -> str:
    return str(yaml.safe_load((EPHEMERAL / "environment.yml").read_text())["LAB_API_KEY"])


def curl(host: Host, key: str | None, path: str, *more: str) -> tuple[int, str]:
    """Status and body of a request from that host; the key goes by standard input, not by argv."""
    header = f"Authorization: Bearer {key}" if key else "X-Nothing: here"
    arguments = " ".join(more)
    answer = host.run(
        f"printf %s '{header}' | curl -s -m 120 -H @- -w '\\n%{{http_code}}' {arguments} {path}"
    )
    assert answer.rc == 0, answer.stderr
    body, _, status = answer.stdout.rpartition("\n")
    return int(status), body


def test_the_server_is_up_and_will_be_after_a_boot(llm: Host) -> None:
    unit = llm.service("llama-server@coder")
    assert unit.is_running
    assert unit.is_enabled
    assert llm.run("systemctl --failed --plain --quiet").stdout.strip() == ""


def test_the_server_runs_as_its_own_unprivileged_account(llm: Host) -> None:
    pid = llm.check_output("systemctl show --property=MainPID --value llama-server@coder")
    status = llm.file(f"/proc/{pid}/status").content_string
    uids = re.search(r"^Uid:\s+(\d+)\s+(\d+)", status, re.MULTILINE)
    assert uids is not None
    assert llm.check_output("id -un %s", uids[2]) == "llama-server"
    assert re.search(r"^CapEff:\s+0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)


def test_it_listens_where_the_fleet_file_says(llm: Host) -> None:
    assert llm.socket("tcp://0.0.0.0:8888").is_listening


def test_it_serves_the_declared_model_build_and_context(llm: Host, key: str) -> None:
    status, body = curl(llm, key, f"{SERVER}/props")
    assert status == 200
    properties = json.loads(body)
    assert properties["build_info"] == "b1-0c1e570"
    assert properties["total_slots"] == 2
    status, body = curl(llm, key, f"{SERVER}/v1/models")
    assert [model["id"] for model in json.loads(body)["data"]] == ["smollm2"]
    status, body = curl(llm, key, f"{SERVER}/slots")
    assert [slot["n_ctx"] for slot in json.loads(body)] == [8192, 8192]


def test_without_the_key_nothing_but_health_is_answered(llm: Host) -> None:
    assert curl(llm, None, f"{SERVER}/health")[0] == 200
    assert curl(llm, None, f"{SERVER}/v1/models")[0] == 401
    assert curl(llm, "wrong", f"{SERVER}/v1/models")[0] == 401


def test_it_completes_a_prompt_for_the_other_host(desk: Host, key: str) -> None:
    question = json.dumps({"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 8})
    status, body = curl(
        desk,
        key,
        "http://llamaherd-llm:8888/v1/chat/completions",
        "-H 'Content-Type: application/json'",
        f"-d '{question}'",
    )
    assert status == 200, body
    assert json.loads(body)["choices"][0]["message"]["content"].strip()


def test_the_model_is_whole_and_no_partial_download_is_left(llm: Host) -> None:
    models = llm.check_output("find /var/lib/llamaherd -name '*.gguf' -type f").splitlines()
    assert len(models) == 1
    assert llm.file(models[0]).sha256sum == MODEL_SHA256
    leftovers = llm.check_output("find /var/lib/llamaherd /opt -name '*.part*' -o -name '*.tmp'")
    assert leftovers == ""


def test_the_build_is_installed_once_and_not_writable_by_others(llm: Host) -> None:
    builds = llm.check_output("ls /opt/llama.cpp").splitlines()
    assert len(builds) == 1
    writable = llm.check_output("find /opt/llama.cpp /opt/opencode -perm /022 ! -type l")
    assert writable == ""


@pytest.mark.parametrize("what", ["cmdline", "environ"])
def test_no_process_holds_the_key(llm: Host, key: str, what: str) -> None:
    everything = llm.run(f"cat /proc/[0-9]*/{what} | tr '\\0' '\\n'").stdout
    assert "llama-server" in everything or what == "environ"
    assert key not in everything


def test_only_its_owners_can_read_the_key(llm: Host, key: str) -> None:
    llm.check_output("umask 077; printf %%s %s > /run/needle", key)
    holders = llm.run("grep -rlsF -f /run/needle /etc /var /opt /usr/local /home").stdout
    llm.check_output("rm /run/needle")
    assert holders
    for path in holders.splitlines():
        file = llm.file(path)
        # OpenCode needs the key as the user whose configuration it is.
        assert file.mode & 0o077 == 0, path
        assert file.user == ("dev" if path.startswith("/home/dev/") else "root"), path


def test_the_journal_and_the_lock_file_do_not_know_the_key(llm: Host, key: str) -> None:
    assert key not in llm.run("journalctl --no-pager -u 'llama-server@*'").stdout
    assert key not in (SCENARIO / "fleet.lock.yaml").read_text()


def test_the_desk_got_opencode_and_nothing_else(desk: Host) -> None:
    assert not desk.file("/opt/llama.cpp").exists
    assert not desk.file("/var/lib/llamaherd/models").exists
    assert not desk.package("cmake").is_installed
    assert desk.check_output("opencode --version") == "1.18.33"


@pytest.mark.parametrize("name", ["llm", "desk"])
def test_opencode_answers_a_prompt(name: str) -> None:
    host = connect(name)
    answer = host.run(
        "su - dev -c 'timeout 1500 opencode run --format json \"Say hello\" < /dev/null'"
    )
    assert answer.rc == 0, answer.stdout + answer.stderr
    events = [json.loads(line) for line in answer.stdout.splitlines() if line.startswith("{")]
    text = "".join(event["part"]["text"] for event in events if event["type"] == "text")
    assert text.strip()


def test_opencode_offers_our_provider_alone_and_a_user_cannot_change_that(desk: Host) -> None:
    configuration = desk.run("su - dev -c 'opencode debug config < /dev/null'")
    assert configuration.rc == 0, configuration.stderr
    effective = json.loads(configuration.stdout)
    providers = effective["enabled_providers"]
    assert len(providers) == 1
    provider = effective["provider"][providers[0]]
    assert provider["options"]["baseURL"] == "http://llamaherd-llm:8888/v1"
    assert effective["model"] == f"{providers[0]}/smollm2"
    assert effective["share"] == "disabled"
    assert desk.file("/etc/opencode/opencode.json").user == "root"


def test_verify_says_that_all_is_well(key: str) -> None:
    llamaherd = Path(sys.executable).with_name("llamaherd")
    answer = subprocess.run(
        [str(llamaherd), "verify", str(SCENARIO / "fleet.yaml"), "--json"],
        cwd=PROJECT,
        env={**os.environ, "LAB_API_KEY": key},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert key not in answer.stdout + answer.stderr
