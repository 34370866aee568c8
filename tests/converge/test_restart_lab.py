"""A library of the driver replaced under a running server: told, and mended by a restart.

A lab host has no GPU: a stand-in for the driver's library is preloaded by an administrator's
drop-in, which is also left alone.
"""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.lab

UNIT = "llama-server@coder.service"
LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"
LAY_DOWN = f"""
set -eu
echo 'int stand_in;' | gcc -shared -o {LIBRARY}.new -x c -
mv -fT {LIBRARY}.new {LIBRARY}
"""
PRELOAD = f"""
mkdir -p /etc/systemd/system/{UNIT}.d
printf '[Service]\\nEnvironment=LD_PRELOAD={LIBRARY}\\n' > /etc/systemd/system/{UNIT}.d/driver.conf
systemctl daemon-reload
systemctl restart {UNIT}
"""


def mapped(site) -> str:
    pid = site.ssh(f"systemctl show -P MainPID {UNIT}")
    return site.ssh(f"grep -o '{LIBRARY}.*' /proc/{pid}/maps | sort -u")


def test_a_driver_library_replaced_under_a_process_is_told_and_mended_by_a_restart(site) -> None:
    site.ssh(LAY_DOWN + PRELOAD)
    assert mapped(site) == LIBRARY
    assert site.run("llamaherd", "drift", str(site.fleet)).returncode == 0
    before = site.ssh(f"systemctl show -P MainPID {UNIT}")

    site.ssh(LAY_DOWN)
    assert mapped(site) == f"{LIBRARY} (deleted)"
    seen = site.run("llamaherd", "drift", str(site.fleet), "--json")
    (finding,) = json.loads(seen.stdout)["hosts"][0]["findings"]
    done = site.converge()

    assert (finding["plane"], finding["subject"]) == ("running", UNIT)
    assert finding["summary"].startswith(f"its process runs with {LIBRARY} of before an upgrade")
    assert done.returncode == 0, done.stdout + done.stderr
    assert site.ssh(f"systemctl show -P MainPID {UNIT}") != before
    assert mapped(site) == LIBRARY
    assert "LD_PRELOAD" in site.ssh(f"cat /etc/systemd/system/{UNIT}.d/driver.conf")
    again = site.converge("--json")
    assert [op for op in json.loads(again.stdout)["results"]["operations"] if op["success"]] == []
    site.ssh(f"rm -r /etc/systemd/system/{UNIT}.d; systemctl daemon-reload")
    assert site.converge().returncode == 0
