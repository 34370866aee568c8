"""What the Debian 13 hosts are after a converge, read by other means than the deploys'."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import testinfra
import yaml
from testinfra.host import Host

SCENARIO = Path(os.environ["MOLECULE_SCENARIO_DIRECTORY"])
ENVIRONMENT = Path(os.environ["MOLECULE_EPHEMERAL_DIRECTORY"]) / "environment.yml"
SECRETS = {
    name: value
    for name, value in yaml.safe_load(ENVIRONMENT.read_text()).items()
    if name.startswith("LAB_")
}
SERVERS = {"quick": (8888, "LAB_QUICK_KEY", 2, 8192), "single": (8889, "LAB_SINGLE_KEY", 1, 8192)}


def connect(name: str) -> Host:
    return testinfra.get_host(
        f"ansible://{name}", ansible_inventory=os.environ["MOLECULE_INVENTORY_FILE"]
    )


@pytest.fixture(scope="module")
def twin() -> Host:
    return connect("twin")


@pytest.fixture(scope="module")
def laptop() -> Host:
    return connect("laptop")


def curl(host: Host, key: str, address: str, *more: str) -> tuple[int, Any]:
    """Status and answer of a request from that host; the key goes by standard input."""
    answer = host.run(
        f"printf 'Authorization: Bearer %s' '{key}' | "
        f"curl -s -m 120 -H @- -w '\\n%{{http_code}}' {' '.join(more)} {address}"
    )
    assert answer.rc == 0, answer.stderr
    body, _, status = answer.stdout.rpartition("\n")
    return int(status), json.loads(body)


@pytest.mark.parametrize("name", ["twin", "laptop"])
def test_it_is_debian_13_and_no_unit_failed(name: str) -> None:
    host = connect(name)
    assert host.system_info.codename == "trixie"
    assert host.run("systemctl --failed --plain --quiet").stdout.strip() == ""


@pytest.mark.parametrize("name", SERVERS)
def test_each_server_serves_what_it_declares(twin: Host, name: str) -> None:
    port, key, slots, context = SERVERS[name]
    assert twin.service(f"llama-server@{name}").is_running
    assert twin.service(f"llama-server@{name}").is_enabled
    status, properties = curl(twin, SECRETS[key], f"http://127.0.0.1:{port}/props")
    assert status == 200
    assert properties["build_info"] == "b1-0c1e570"
    assert properties["total_slots"] == slots
    status, found = curl(twin, SECRETS[key], f"http://127.0.0.1:{port}/slots")
    assert [slot["n_ctx"] for slot in found] == [context] * slots


def test_they_are_two_processes_of_one_build_and_one_model_file(twin: Host) -> None:
    pids = {
        twin.check_output(f"systemctl show --property=MainPID --value llama-server@{name}")
        for name in SERVERS
    }
    assert len(pids) == 2
    assert len({twin.check_output(f"readlink /proc/{pid}/exe") for pid in pids}) == 1
    assert twin.check_output("ls /opt/llama.cpp | wc -l") == "1"
    assert twin.check_output("find /var/lib/llamaherd -name '*.gguf' | wc -l") == "1"


def test_what_one_server_says_of_itself_the_other_does_not(twin: Host) -> None:
    commands = [
        twin.check_output(
            "tr '\\0' ' ' < /proc/$(systemctl show --property=MainPID --value "
            f"llama-server@{name})/cmdline"
        )
        for name in SERVERS
    ]
    assert "--threads 1 " in commands[1]
    assert "--threads 1 " not in commands[0]
    assert "--temp 0.2" in commands[0]
    assert "--temp 0.2" not in commands[1]


def test_the_key_of_one_server_opens_the_other_to_nobody(laptop: Host) -> None:
    for port, key, _, _ in SERVERS.values():
        for other, secret in SECRETS.items():
            status, _ = curl(laptop, secret, f"http://llamaherd-twin:{port}/v1/models")
            assert status == (200 if other == key else 401), other


@pytest.mark.parametrize("name", SERVERS)
def test_each_completes_a_prompt_for_the_client(laptop: Host, name: str) -> None:
    port, key, _, _ = SERVERS[name]
    question = json.dumps({"messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 8})
    status, answer = curl(
        laptop,
        SECRETS[key],
        f"http://llamaherd-twin:{port}/v1/chat/completions",
        "-H 'Content-Type: application/json'",
        f"-d '{question}'",
    )
    assert status == 200, answer
    assert answer["choices"][0]["message"]["content"].strip()


def test_the_client_offers_both_and_starts_with_the_default(laptop: Host) -> None:
    shown = laptop.run("su - dev -c 'opencode debug config < /dev/null'")
    assert shown.rc == 0, shown.stderr
    effective = json.loads(shown.stdout)
    assert sorted(effective["enabled_providers"]) == ["quick", "single"]
    assert effective["model"] == "quick/smollm2"
    for name, (port, _, _, context) in SERVERS.items():
        provider = effective["provider"][name]
        assert provider["options"]["baseURL"] == f"http://llamaherd-twin:{port}/v1"
        assert provider["models"]["smollm2"]["limit"]["context"] == context


def test_the_client_got_opencode_and_nothing_else(laptop: Host) -> None:
    assert laptop.check_output("opencode --version") == "1.18.33"
    assert not laptop.file("/opt/llama.cpp").exists
    assert not laptop.file("/var/lib/llamaherd/models").exists
    assert laptop.run("systemctl list-units --all --plain --quiet 'llama-server@*'").stdout == ""
    assert not laptop.package("cmake").is_installed


def test_they_were_reached_as_the_account_that_the_fleet_names(twin: Host, laptop: Host) -> None:
    assert "Accepted publickey for herder" in twin.check_output("journalctl --unit=ssh --no-pager")
    logins = laptop.check_output("journalctl --unit=ssh --no-pager")
    assert "Accepted password for herder" in logins
    assert "Accepted publickey for herder" not in logins
    for host in (twin, laptop):
        assert "herder : " in host.check_output("journalctl --no-pager _COMM=sudo")
        # Without its password that account gets nothing: it was given each time.
        assert host.run("su - herder -c 'sudo -n true'").rc != 0


@pytest.mark.parametrize("name", ["twin", "laptop"])
def test_no_secret_is_in_a_process_or_a_log(name: str) -> None:
    host = connect(name)
    seen = host.run("cat /proc/[0-9]*/cmdline /proc/[0-9]*/environ | tr '\\0' '\\n'").stdout
    seen += host.run("journalctl --no-pager").stdout
    assert "herder" in seen
    for secret, value in SECRETS.items():
        assert value not in seen, secret


@pytest.mark.parametrize("name", ["twin", "laptop"])
def test_the_account_s_password_is_in_no_file(name: str) -> None:
    host = connect(name)
    password = SECRETS[f"LAB_{name.upper()}_PASSWORD"]
    host.check_output("umask 077; printf %%s %s > /run/needle", password)
    holders = host.run("grep -rlsF -f /run/needle /etc /var /opt /usr/local /home /root /tmp")
    host.check_output("rm /run/needle")
    assert holders.stdout == ""


def test_the_lock_file_knows_no_secret() -> None:
    lock = (SCENARIO / "fleet.lock.yaml").read_text()
    assert "smollm2" in lock
    assert not [name for name, value in SECRETS.items() if value in lock]


def test_verify_says_that_all_is_well() -> None:
    llamaherd = Path(sys.executable).with_name("llamaherd")
    answer = subprocess.run(
        [str(llamaherd), "verify", str(SCENARIO / "fleet.yaml"), "--json"],
        cwd=SCENARIO.parents[1],
        env={**os.environ, **SECRETS},
        capture_output=True,
        text=True,
        check=False,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert not [name for name, value in SECRETS.items() if value in answer.stdout + answer.stderr]
