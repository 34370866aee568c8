"""dpkg in somebody else's hands, or left half done; a package of ours is missing."""

from __future__ import annotations

from fault import SAYS, Fault
from fault_bed import Bed, wait

FOLDER = "/run/fault-package"
HOLD = f"{FOLDER}/hold"
MISSING = "dpkg --remove --force-depends ripgrep"

# A real package whose set-up waits for as long as HOLD is there, or fails while FAIL is.
_PACKAGE = f"""set -eu
rm -rf {FOLDER}; mkdir -p {FOLDER}/theirs/DEBIAN; cd {FOLDER}
printf '%s\\n' 'Package: theirs' 'Version: 1' 'Architecture: all' 'Maintainer: a <a@b.example>' \\
  'Description: a package of the admin' > theirs/DEBIAN/control
printf '%s\\n' '#!/bin/sh' '[ ! -e {FOLDER}/fail ] || exit 1' \\
  'while [ -e {HOLD} ]; do /usr/bin/sleep 0.2; done' > theirs/DEBIAN/postinst
chmod 755 theirs/DEBIAN/postinst
dpkg-deb --build theirs theirs.deb
"""
REMOVE = f"rm -rf {FOLDER}; dpkg --purge --force-all theirs; dpkg --configure -a"


def package(bed: Bed) -> None:
    """The admin's package lies ready, and one of ours isn't installed."""
    bed.undo.append(REMOVE)
    bed.sh(f"{_PACKAGE}{MISSING}")


def held(bed: Bed) -> None:
    """A dpkg of the admin's stands in the middle of an installation, and holds its locks."""
    package(bed)
    bed.sh(f"touch {HOLD}; setsid dpkg -i {FOLDER}/theirs.deb < /dev/null > /dev/null 2>&1 &")
    wait(lambda: "half-configured" in state(bed), "a dpkg that sets up")


def state(bed: Bed) -> str:
    return bed.sh("dpkg-query -W -f '${db:Status-Status}' theirs")


def let_go(bed: Bed) -> None:
    bed.sh(f"rm {HOLD}")
    wait(lambda: state(bed) == "installed", "the admin's package")


def locked_shortly(bed: Bed) -> None:
    held(bed)
    run = bed.start()
    bed.wait_for_job("packages-")
    wait(lambda: "waiting for dpkg (" in bed.sh("cat /var/lib/llamaherd/jobs/packages-*/log"), "it")
    let_go(bed)
    assert run.finish() == 0, run.text
    assert bed.sh("command -v rg") == "/usr/bin/rg"


def locked_for_long(bed: Bed) -> None:
    held(bed)
    # The five minutes of waiting go by in some seconds.
    bed.undo.append("rm -f /usr/local/sbin/sleep")
    bed.sh(
        "printf '#!/bin/sh\\nexec /usr/bin/sleep 0.05\\n' > /usr/local/sbin/sleep;"
        "chmod 755 /usr/local/sbin/sleep"
    )


def interrupted(bed: Bed) -> None:
    held(bed)
    bed.sh("kill -9 $(fuser /var/lib/dpkg/lock 2>/dev/null) $(pidof dpkg); true")
    wait(lambda: bed.sh("pidof dpkg") == "", "no dpkg")
    bed.sh(f"rm {HOLD}")
    assert "half-configured" in state(bed)
    assert "dpkg was interrupted" in bed.sh("apt-get install -y ripgrep 2>&1")


def fails(bed: Bed) -> None:
    package(bed)
    bed.sh(f"touch {FOLDER}/fail; dpkg -i {FOLDER}/theirs.deb")
    assert "half-configured" in state(bed)


def purged(bed: Bed) -> None:
    bed.sh("dpkg --purge --force-all theirs")


FAULTS = (
    Fault(
        "locked for a while",
        "packages",
        "another dpkg is in the middle of an installation, and a package of ours is missing",
        "the same run waits for it, and installs",
        locked_shortly,
        quick=True,
    ),
    Fault(
        "locked for long",
        "packages",
        "the same, and it never ends (the five minutes that it is waited for are made short)",
        f"{SAYS}which process holds the lock, since when, and to let it end",
        locked_for_long,
        says=r"failed: dpkg \(\d+\) has held the lock of the host's package manager for 300 s: let",
        mend=let_go,
    ),
    Fault(
        "interrupted",
        "packages",
        "dpkg was killed in the middle of setting up, so that apt refuses everything",
        "a converge finishes what was left, and installs",
        interrupted,
        quick=True,
    ),
    Fault(
        "another's package is broken",
        "packages",
        "a package of the admin's can't be set up, and one of ours is missing",
        f"{SAYS}which package it is, and to mend it with dpkg --configure -a",
        fails,
        says=r"failed: dpkg can't set up what is half installed: theirs: run dpkg --configure -a",
        mend=purged,
    ),
)
