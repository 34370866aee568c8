"""A new release of a server that doesn't do: another build of llama.cpp, which misbehaves.

The build is real: a small CMake project in the place of llama.cpp's archive, compiled on the host,
whose llama-server goes wrong in one chosen way.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from fault import SAYS, Fault, Serving
from fault_bed import Bed

PROJECT = Path(__file__).with_name("misbehaving_server")
BUILD = re.compile(r"    archive:\n(?: {6}\S.*\n){3}")
SERVES_AGAIN = r"; release [0-9a-f]+ serves again after (\d+\.\d) s of interruption"


def released(misbehaviour: str) -> Callable[[Bed], None]:
    """The fleet file names a build that goes wrong so; it has ten seconds to become ready."""

    def carry_out(bed: Bed) -> None:
        bed.undo.append(
            "grep -l MISBEHAVIOUR /opt/llama.cpp/*/manifest.json | xargs -r dirname | xargs rm -rf"
        )
        archive = bed.folder / "misbehaving.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(PROJECT, "project")
        text = bed.site.fleet.read_text()
        (old,) = BUILD.findall(text)
        sha256 = hashlib.sha256(archive.read_bytes()).hexdigest()
        new = (
            f"    archive:\n      path: {archive}\n      sha256: {sha256}\n"
            f"      subdirectory: project\n    cmake: {{MISBEHAVIOUR: {misbehaviour}}}\n"
        )
        bed.use(((old, new), ("port: 8888, ", "port: 8888, ready_timeout: 10, ")))

    return carry_out


def taken_back(bed: Bed) -> None:
    """The fleet file is what it was; the old build has been serving again."""
    exe = bed.sh("readlink /proc/$(systemctl show -P MainPID llama-server@coder)/exe")
    assert bed.sh(f"{exe} --help | wc -l") != "2", "the new build serves"
    said = bed.sh("cat $(ls -t /var/lib/llamaherd/jobs/server-coder-*/message | head -n 1)")
    match = re.search(SERVES_AGAIN, said)
    assert match is not None, said
    print(f"interruption: {match[1]} s")
    bed.use(())


def fault(name: str, misbehaviour: str, breaks: str, says: str, *, quick: bool = False) -> Fault:
    """A case: the release is refused, and the one before it serves again by itself."""
    return Fault(
        name,
        "server",
        breaks,
        f"{SAYS}why it is refused; the old release serves again by itself, and for how long not",
        released(misbehaviour),
        quick=quick,
        serving=Serving.UNTIL_HEALED,
        says=rf"llama-server@coder\.service {says}.*{SERVES_AGAIN}",
        mend=taken_back,
    )


FAULTS = (
    fault(
        "never ready",
        "never-ready",
        "a new build's server says for ever that it is loading",
        "did not answer within 10 s",
    ),
    fault(
        "answers rubbish",
        "rubbish",
        "a new build's server answers everything with status 200 and rubbish",
        "did not answer within 10 s",
    ),
    fault(
        "completes rubbish",
        "rubbish-completion",
        "a new build's server is healthy, lists its model, and completes with rubbish",
        "answers, and not as declared: a completion has no token",
        quick=True,
    ),
    fault(
        "crashes after 5 s",
        "crash",
        "a new build's server answers as declared, and aborts after five seconds",
        "ended soon after it answered",
    ),
)
