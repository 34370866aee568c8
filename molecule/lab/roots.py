"""Base roots of lab hosts: one minimal Debian a suite, made once and kept in the user's cache.

Owns ``$XDG_CACHE_HOME/llamaherd/lab/<suite>-<hash>``. The hash covers the package list and the
set-up script, so that a change of either makes a new root and never alters one in use. A root is
made under a lock and a temporary name and renamed when whole; lab hosts only ever read it, as the
lower layer of an overlay.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUITES = ("bookworm", "trixie")

# What a freshly installed server has, not what our deploys need: those install that themselves.
# ccache is the exception: it lets a repeated lab compile llama.cpp in seconds.
PACKAGES = (
    "systemd",
    "systemd-sysv",
    "dbus",
    "openssh-server",
    "sudo",
    "ca-certificates",
    "iproute2",
    "procps",
    "curl",
    "ccache",
)

# Host keys and machine id belong to a host, not to the root that all of them share.
SETUP = """
set -eu
rm -f "$1"/etc/ssh/ssh_host_* "$1"/etc/machine-id "$1"/var/lib/dbus/machine-id
: > "$1"/etc/machine-id
for user in dev ops; do chroot "$1" useradd --create-home --shell /bin/bash "$user"; done
echo 'ops ALL=(ALL) NOPASSWD: ALL' > "$1"/etc/sudoers.d/ops
chmod 440 "$1"/etc/sudoers.d/ops
systemctl --root="$1" --quiet enable systemd-networkd.service ssh.service
systemctl --root="$1" --quiet mask systemd-networkd-wait-online.service \\
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer
"""

# The machine's own way to its package archives, as far as apt's settings say it.
APT_SETTINGS = ("Acquire::http", "Acquire::https", "Acquire::Check-Valid-Until")


class LabError(Exception):
    """What went wrong with the lab and what would mend it, for a person."""


def cache_directory() -> Path:
    """``$XDG_CACHE_HOME/llamaherd/lab`` (``~/.cache`` by default), made when missing."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = Path(base).expanduser() / "llamaherd" / "lab"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of that name among all labs of this cache; waits for it."""
    with (cache_directory() / f"{name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def root_name(suite: str) -> str:
    """``<suite>-<hash>`` of what the root is made of."""
    recipe = "\n".join((suite, *PACKAGES, SETUP))
    return f"{suite}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}"


def base_root(suite: str) -> Path:
    """The base root of ``suite``, made first when it isn't there (about 40 seconds).

    Raises LabError when the suite isn't one of SUITES or mmdebstrap fails.
    """
    if suite not in SUITES:
        raise LabError(f"no suite {suite!r}: choose one of {', '.join(SUITES)}")
    target = cache_directory() / root_name(suite)
    with locked(target.name):
        if not target.exists():
            _make_root(suite, target)
    return target


def _make_root(suite: str, target: Path) -> None:
    print(f"lab: making the {suite} base root, once", file=sys.stderr, flush=True)
    partial = target.with_name(f"{target.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    command = [
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(PACKAGES)}",
        *(f"--aptopt={line}" for line in apt_settings()),
        f"--customize-hook={SETUP}",
        suite,
        str(partial),
    ]
    # Its own session, so that Ctrl-C reaches us alone and we end it in order.
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate()
        if process.returncode != 0:
            raise LabError(f"mmdebstrap failed:\n{output.strip()[-2000:]}")
        partial.rename(target)
    except BaseException:
        process.terminate()
        process.wait()
        shutil.rmtree(partial, ignore_errors=True)
        raise


def apt_settings() -> list[str]:
    """This machine's apt settings that say how archives are reached, as configuration lines."""
    if shutil.which("apt-config") is None:
        return []
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True)
    return [line for line in dump.stdout.splitlines() if line.startswith(APT_SETTINGS)]
