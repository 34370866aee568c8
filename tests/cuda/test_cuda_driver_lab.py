"""A managed driver on two real hosts: real apt, real reboots, one after the other.

The packages are dummies of the vendor's names. What the kernel would do at boot, load the module of
the installed version, a unit of the dummy package does: it notes that version below ``/run``, and
the dummy ``nvidia-smi`` answers with what is noted.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from cuda_dummies import Dummy, Repository

from inventories.pinning.cuda_repository import pin_driver
from inventories.pinning.web import World
from inventories.settings import DriverSettings, to_data

pytestmark = pytest.mark.lab

LAB = str(Path(__file__).resolve().parents[2] / "molecule" / "lab")
LOADED = "/run/loaded-driver"
SMI = f"""#!/bin/sh
installed=@VERSION@
[ -e {LOADED} ] || {{ echo "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA \\
driver"; exit 9; }}
[ "$(cat {LOADED})" = "$installed" ] || {{
  echo "Failed to initialize NVML: Driver/library version mismatch"; exit 18; }}
echo "$installed"
"""
UNIT = f"""[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c 'echo @VERSION@ > {LOADED}'
"""
INVENTORY = "lab = {hosts!r}\n"
DEPLOY = """
import json
from pathlib import Path
from deploys.common.summary import summarise_failures
from deploys.driver import driver
from inventories.settings import DriverSettings, from_data

summarise_failures()
driver(from_data(DriverSettings, json.loads(Path({settings!r}).read_text(encoding="utf-8"))))
"""


def driver_packages(version: str) -> list[Dummy]:
    """A driver of that version: metapackage, program, module, and the unit that stands for it."""
    files = {
        "/usr/bin/nvidia-smi": SMI.replace("@VERSION@", version),
        "/usr/lib/systemd/system/loaded-driver.service": UNIT.replace("@VERSION@", version),
        # A drop-in enables it: these packages hold no links.
        "/usr/lib/systemd/system/multi-user.target.d/loaded-driver.conf": (
            "[Unit]\nWants=loaded-driver.service\n"
        ),
    }
    return [
        Dummy("nvidia-open", f"{version}-1", depends=f"nvidia-driver (= {version}-1)"),
        Dummy(
            "nvidia-driver",
            f"{version}-1",
            depends=f"nvidia-kernel-open-dkms (= {version}-1)",
            files=files,
        ),
        Dummy("nvidia-kernel-open-dkms", f"{version}-1"),
    ]


@pytest.fixture(scope="module")
def hosts() -> Iterator[list[Any]]:
    """Two hosts of this module's own, with what stands for the running kernel's headers."""
    if LAB not in sys.path:
        sys.path.insert(0, LAB)
    from lab import lab_host

    with ExitStack() as stack:
        found = [stack.enter_context(lab_host(f"drv{n}-{secrets.token_hex(2)}")) for n in (1, 2)]
        for host in found:
            host.run('mkdir -p "/lib/modules/$(uname -r)/build"')
        yield found


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The vendor's repository with two branches of the driver."""
    made = Repository(tmp_path_factory.mktemp("repository"))
    made.add([*driver_packages("580.95.05"), *driver_packages("610.10.01")])
    return made


@pytest.fixture(scope="module")
def base(repository: Repository, hosts: list[Any]) -> Iterator[str]:
    """Where the hosts reach the repository: this machine's address on the first one's network."""
    with repository.serve(hosts[0].gateway) as address:
        yield address


def settings_of(base: str, folder: Path, reboot: str) -> DriverSettings:
    """What the lock says, by its own code."""
    request = {"branch": 580, "modules": "open", "url": base, "distributions": ["debian12"]}
    pin = pin_driver(request, World(folder))
    return DriverSettings(580, pin.version, pin.repositories, reboot=reboot)  # type: ignore[arg-type]


def converge(hosts: list[Any], folder: Path, settings: DriverSettings) -> tuple[int, Any, str]:
    """One run of pyinfra's own command line over the hosts, in parallel."""
    data, inventory, deploy = (folder / name for name in ("data.json", "hosts.py", "deploy.py"))
    data.write_text(json.dumps(to_data(settings)), encoding="utf-8")
    entries = [(h.alias, {"ssh_config_file": str(h.ssh_config), "ssh_user": "root"}) for h in hosts]
    inventory.write_text(INVENTORY.format(hosts=entries))
    deploy.write_text(DEPLOY.format(settings=str(data)))
    done = subprocess.run(
        [sys.executable, "-m", "pyinfra", "--json", "-y", str(inventory), str(deploy)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    document = json.loads(done.stdout) if done.stdout.startswith("{") else {}
    operations = (document.get("results") or {}).get("operations", [])
    return done.returncode, [h for o in operations for h in o["success"]], done.stderr


class Watch:
    """Asks every host's SSH port from outside, until stopped: who was down when."""

    def __init__(self, hosts: list[Any]) -> None:
        self.hosts, self.down, self._end = hosts, [], threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.is_set():
            self.down.append(tuple(not self._answers(host) for host in self.hosts))
            time.sleep(0.1)

    @staticmethod
    def _answers(host: Any) -> bool:
        try:
            with socket.create_connection((host.address, 22), 0.3) as probe:
                probe.settimeout(1)
                return bool(probe.recv(4))
        except OSError:
            return False


def boot_ids(hosts: list[Any]) -> list[str]:
    return [host.run("cat /proc/sys/kernel/random/boot_id").stdout for host in hosts]


def test_a_driver_is_installed_and_pinned_and_waits_for_a_reboot_that_isnt_allowed(
    hosts: list[Any], base: str, tmp_path: Path
) -> None:
    before = boot_ids(hosts)
    status, _, output = converge(hosts, tmp_path, settings_of(base, tmp_path, "never"))
    assert status != 0
    assert output.count("reboot needed: driver 580.95.05 is installed and doesn't run") >= 2
    assert "reboot the host, or set driver.reboot to allowed" in output
    assert boot_ids(hosts) == before
    for host in hosts:
        assert "580.95.05-1" in host.run("dpkg-query -W nvidia-open nvidia-driver").stdout
        assert "blacklist nouveau" in host.run("cat /etc/modprobe.d/llamaherd-nouveau.conf").stdout
        host.run("apt-get -q update && apt-get -y -q dist-upgrade")
        assert "610" not in host.run("dpkg-query -W nvidia-open nvidia-driver").stdout


def test_hosts_are_rebooted_one_after_the_other_and_waited_for(
    hosts: list[Any], base: str, tmp_path: Path
) -> None:
    before = boot_ids(hosts)
    with Watch(hosts) as watch:
        status, changed, output = converge(hosts, tmp_path, settings_of(base, tmp_path, "allowed"))
    assert status == 0, output
    assert sorted(changed) == sorted(host.alias for host in hosts)
    assert all(old != new for old, new in zip(before, boot_ids(hosts), strict=True))
    assert [host.run("nvidia-smi").stdout for host in hosts] == ["580.95.05\n"] * 2
    # Seen from outside: each was down for a while, and never both.
    assert [any(seen) for seen in zip(*watch.down, strict=True)] == [True, True]
    assert (True, True) not in watch.down


def test_a_second_run_changes_nothing_and_reboots_nobody(
    hosts: list[Any], base: str, tmp_path: Path
) -> None:
    before = boot_ids(hosts)
    status, changed, output = converge(hosts, tmp_path, settings_of(base, tmp_path, "allowed"))
    assert status == 0, output
    assert changed == []
    assert boot_ids(hosts) == before


def test_a_driver_that_doesnt_run_after_its_reboot_gets_no_second_one(
    hosts: list[Any], base: str, tmp_path: Path
) -> None:
    host = hosts[0]
    host.run(f"rm {LOADED}")
    before = boot_ids(hosts)
    status, _, output = converge([host], tmp_path, settings_of(base, tmp_path, "allowed"))
    assert status != 0
    assert "the host was rebooted since and it still doesn't run: see dkms status" in output
    assert boot_ids(hosts) == before
