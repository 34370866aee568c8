"""llama.cpp's git server goes wrong in the middle of a fetch.

The repository holds the small CMake project of the server cases, which behaves, and some megabytes
that don't compress, so that a fetch has a middle.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from clock_faults import authority
from fault import Fault, Serving
from fault_bed import Bed, wait
from git_server import GitFault, GitServer
from server_faults import BUILD, PROJECT

PINS = "    commit: 0c1e570\n    build_number: 1\n"
BUILDS = "/opt/llama.cpp"


def repository(folder: Path) -> Path:
    """A bare repository ``llama.cpp.git`` of one commit, tagged as a release."""
    work, bare = folder / "git-work", folder / "git" / "llama.cpp.git"
    shutil.rmtree(work, ignore_errors=True)
    shutil.rmtree(bare, ignore_errors=True)
    shutil.copytree(PROJECT, work)
    (work / "data").write_bytes(os.urandom(8 << 20))
    script = f"""set -e
git init --quiet --initial-branch main .
git add .
git -c user.name=lab -c user.email=lab@example.com commit --quiet -m 'A server'
git tag b7
git clone --quiet --bare . {bare}
"""
    subprocess.run(["sh", "-c", script], cwd=work, check=True)
    return bare


def from_git(bed: Bed) -> GitServer:
    """The fleet file takes llama.cpp from a git server; a converge brings it from there."""
    bed.undo.append(
        f"grep -l MISBEHAVIOUR {BUILDS}/*/manifest.json | xargs -r dirname | xargs rm -rf;"
        f"rm -rf {BUILDS}/.*.work"
    )
    bare = repository(bed.folder)
    bundle, certificate = authority(bed)
    before = bed.site.environment.get("GIT_SSL_CAINFO")
    bed.site.environment["GIT_SSL_CAINFO"] = str(bundle)
    bed.lent.callback(_put_back, bed, before)
    server = GitServer(bare.parent, str(bed.hub.server_address[0]), certificate)
    bed.lent.enter_context(server)
    text = bed.site.fleet.read_text()
    (archive,) = BUILD.findall(text)
    source = f"    repository: {server.url}/llama.cpp.git\n    ref: b7\n"
    # A definition that the other project doesn't know marks the builds of this one.
    bed.use(((archive, source), (PINS, "    cmake: {MISBEHAVIOUR: none}\n")))
    return server


def _put_back(bed: Bed, before: str | None) -> None:
    bed.site.environment.pop("GIT_SSL_CAINFO")
    if before is not None:
        bed.site.environment["GIT_SSL_CAINFO"] = before


def breaks_off(bed: Bed) -> None:
    server = from_git(bed)
    before = bed.sh(f"ls {BUILDS}")
    server.fault = GitFault.BREAKS_OFF
    run = bed.start()
    assert run.finish() == 1, run.text
    assert server.broken > 0
    last = run.text.rstrip().splitlines()[-1]
    assert f"check that the host reaches {server.url}/llama.cpp.git" in last, run.text[-2000:]
    assert bed.sh(f"ls {BUILDS}") == before, "half a source has a final name"
    server.fault = None


def stalls(bed: Bed) -> None:
    server = from_git(bed)
    server.fault = GitFault.STALLS
    run = bed.start()
    wait(lambda: server.broken, "half a pack", 120)
    server.fault = None
    assert run.finish() == 0, run.text


FAULTS = (
    Fault(
        "breaks off in a fetch",
        "git",
        "llama.cpp's git server ends each connection after half of the pack",
        "that run says in its last line what to look at; nothing half is built, and the next heals",
        breaks_off,
        serving=Serving.UNTIL_HEALED,
    ),
    Fault(
        "stands still in a fetch",
        "git",
        "llama.cpp's git server sends half of the pack and then nothing, with the connection open",
        "after a minute the same run asks again, and ends well",
        stalls,
        serving=Serving.ANSWERS,
        nothing_left=True,
    ),
)
