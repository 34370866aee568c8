"""pyinfra's door, opened by the real pyinfra."""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from lock_support import write_fleet
from test_lock_file import locked

from inventories.fleet import load_fleet
from inventories.groups import FleetError, pyinfra_groups
from inventories.lock import Lock, write_lock

REPOSITORY = Path(__file__).resolve().parents[2]
PASSWORD = secrets.token_hex(12)
COMMAND = [str(Path(sys.executable).with_name("pyinfra")), "inventory.py"]

FLEET = """
defaults: {ssh: {user: ops, password: {env: LAB_PASSWORD}, sudo_password: {env: LAB_PASSWORD}}}
groups: {rack_a: {}, rack_b: {}}
hosts:
  one: {groups: [rack_a], ssh: {port: 2222, host_key_checking: accept-new}}
  two: {groups: [rack_a, rack_b], ssh: {user: root}}
"""


def pyinfra(
    fleet: Path | str, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real pyinfra on the repository's inventory.py."""
    return subprocess.run(
        [*COMMAND, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "FLEET": str(fleet), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def fleet(tmp_path: Path) -> Path:
    path = write_fleet(tmp_path, FLEET)
    write_lock(path, Lock())
    return path


def test_groups_hosts_and_their_data_reach_pyinfra(fleet: Path) -> None:
    done = pyinfra(fleet, "debug-inventory", "--json")
    assert done.returncode == 0, done.stderr
    hosts = {host["name"]: host for host in json.loads(done.stdout)}
    assert set(hosts["two"]["groups"]) >= {"rack_a", "rack_b"}
    assert "rack_b" not in hosts["one"]["groups"]
    data = hosts["one"]["data"]
    assert data["fleet"]["name"] == "one"
    assert data["ssh_user"] == "ops"
    assert data["ssh_port"] == 2222
    assert data["ssh_strict_host_key_checking"] == "accept-new"
    assert data["_sudo"] is True
    assert "_sudo" not in hosts["two"]["data"]
    assert not [key for key, value in data.items() if value is None]


@pytest.mark.parametrize("form", [("--debug",), ("--json",)])
def test_printing_the_inventory_shows_no_secret(fleet: Path, form: tuple[str, ...]) -> None:
    done = pyinfra(fleet, "debug-inventory", *form, LAB_PASSWORD=PASSWORD)
    assert done.returncode == 0
    assert PASSWORD not in done.stdout + done.stderr
    assert "********" in done.stdout + done.stderr


def test_a_connection_gets_the_secret_itself(fleet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", PASSWORD)
    groups = pyinfra_groups(fleet)
    data = dict(groups["all"])["one"]
    assert data["ssh_password"] == PASSWORD
    # pyinfra itself would put sudo's into a command's arguments.
    assert data["_sudo_password"] != PASSWORD
    assert PASSWORD not in repr(groups)


def test_a_missing_secret_stops_before_any_host(fleet: Path) -> None:
    done = pyinfra(fleet, "exec", "--", "true")
    assert done.returncode == 1
    assert f"{fleet}:" in done.stderr
    assert "LAB_PASSWORD: it is not set" in done.stderr
    assert "Connecting" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hosts: {}", "fleet.yaml:2:"),
        ("hosts: {one: {servers: {coder: {model: absent, port: 1}}}}", "absent"),
        ("hosts: {one: {cuda: {provider: none}, llama_cpp: {ref: b8146}}}", "run: llamaherd lock"),
        ("hosts: {one: {}", "fleet.yaml:"),
    ],
)
def test_a_fleet_that_cannot_be_deployed_is_one_message(
    tmp_path: Path, text: str, message: str
) -> None:
    path = write_fleet(tmp_path, text)
    write_lock(path, Lock())
    with pytest.raises(FleetError) as caught:
        pyinfra_groups(path)
    assert message in str(caught.value)


def test_a_fleet_file_that_does_not_exist_is_never_a_green_run(tmp_path: Path) -> None:
    done = pyinfra(tmp_path / "absent.yaml", "exec", "--", "true")
    assert done.returncode == 1
    assert "there is no fleet file" in done.stderr
    assert "groups.py" not in done.stderr


def test_a_fleet_without_a_lock_names_the_command(tmp_path: Path) -> None:
    path = write_fleet(tmp_path, FLEET)
    with pytest.raises(FleetError, match=f"run: llamaherd lock {path}"):
        pyinfra_groups(path)


def test_a_mistyped_limit_is_refused_with_the_hosts_there_are(fleet: Path) -> None:
    done = pyinfra(fleet, "--limit", "oen", "exec", "--", "true", LAB_PASSWORD=PASSWORD)
    assert done.returncode == 1
    assert "--limit oen" in done.stderr
    assert "one, two" in done.stderr


@pytest.mark.parametrize("limit", ["rack_b", "t*"])
def test_a_limit_with_a_match_is_fine(fleet: Path, limit: str) -> None:
    assert pyinfra(fleet, "--limit", limit, "debug-inventory").returncode == 0


def test_an_interrupted_run_exits_130_and_says_what_goes_on(tmp_path: Path) -> None:
    """A host that accepts the connection and then says nothing holds the run."""
    with socket.create_server(("127.0.0.1", 0)) as host:
        port = host.getsockname()[1]
        ssh = f"{{hostname: 127.0.0.1, port: {port}}}"
        path = write_fleet(tmp_path, f"hosts: {{slow: {{ssh: {ssh}}}}}")
        write_lock(path, Lock())
        with subprocess.Popen(
            [*COMMAND, "exec", "--", "true"],
            cwd=REPOSITORY,
            env={**os.environ, "FLEET": str(path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as run:
            host.settimeout(30)
            connection, _ = host.accept()
            with connection:
                run.send_signal(signal.SIGINT)
                output, _ = run.communicate(timeout=30)
    assert run.returncode == 130
    assert "the next run attaches to them" in output
    assert "Traceback" not in output


def test_the_example_fleet_resolves_for_every_host(tmp_path: Path) -> None:
    path = tmp_path / "example.yaml"
    path.write_text((REPOSITORY / "inventories" / "example.yaml").read_text())
    write_lock(path, locked(path))
    hosts = dict(pyinfra_groups(path)["all"])
    assert set(hosts) == set(load_fleet(path).hosts)
    client = hosts["workshop"]["fleet"]["opencode"]["providers"][0]
    assert client["base_url"] == "http://192.168.10.13:8888/v1"


def test_a_run_that_reaches_no_host_ends_with_the_summary(tmp_path: Path) -> None:
    addresses = {"gpu-01": "127.0.0.1", "gpu-02": "127.0.0.2"}
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, and nobody listens there
        port = held.getsockname()[1]
        hosts = (
            f"  {name}: {{ssh: {{hostname: {address}, port: {port}, user: ops}}}}\n"
            for name, address in addresses.items()
        )
        path = write_fleet(tmp_path, "hosts:\n" + "".join(hosts))
        write_lock(path, Lock())
        done = pyinfra(path, "deploy.py", "-y")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3:] == [
        "--> 2 hosts failed:",
        *(
            f"    {name}: connect: could not connect to ops@{address} (the reason is above); "
            f"does ssh ops@{address} work?"
            for name, address in addresses.items()
        ),
    ]
