"""A new release of a server that doesn't do: another build of llama.cpp, which misbehaves.

The build is real: a small CMake project in the place of llama.cpp's archive, compiled on the host,
whose llama-server goes wrong in one chosen way.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fault import SAYS, Fault, Serving
from fault_bed import SERVER, Bed, Held, Running, wait

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


def program(bed: Bed) -> str:
    """What the server's process runs; empty when it has none."""
    return bed.sh(f"readlink /proc/$(systemctl show -P MainPID {SERVER})/exe")


def on_trial(bed: Bed) -> Running:
    """A converge whose release is on trial, and will never be ready."""
    released("never-ready")(bed)
    old = program(bed)
    run = bed.start()
    wait(lambda: program(bed) not in ("", old) or run.process.poll() is not None, "it", 120, 0.02)
    assert run.process.poll() is None, run.text
    bed.notes["old program"] = old
    return run


@contextmanager
def rolling_back(bed: Bed, command: str, pattern: str, time: int) -> Iterator[tuple[Running, Held]]:
    """The release was refused, and what brings the old one back stands still at a command.

    + command, pattern, time: as of ``Bed.held``
    """
    with bed.held(command, pattern, time=time) as hold:
        run = on_trial(bed)
        hold.wait()
        assert bed.sh(f"systemctl show -P ActiveState {SERVER}") in ("inactive", "failed")
        yield run, hold


def serves_what_served(bed: Bed) -> None:
    """The program that answered before the trial answers, without anybody's doing."""
    health = "curl -s http://127.0.0.1:8888/health"
    wait(lambda: bed.sh(health) == '{"status":"ok"}', "an answer", 60)
    assert program(bed) == bed.notes["old program"]


def trial_killed(bed: Bed) -> None:
    run = on_trial(bed)
    run.kill()
    bed.sh("systemctl kill --signal=KILL 'llamaherd-server-coder*'")
    wait(lambda: not bed.job(""), "the end of the jobs")


def rollback_killed(bed: Bed) -> None:
    # The first restart brought the refused one.
    with rolling_back(bed, "systemctl", f"*restart*{SERVER}*", time=2) as (run, hold):
        run.kill()
        hold.kill_all()


def taken_back(bed: Bed) -> None:
    """The fleet file is what it was; the old build has been serving again."""
    exe = bed.sh("readlink /proc/$(systemctl show -P MainPID llama-server@coder)/exe")
    assert bed.sh(f"{exe} --help | wc -l") != "2", "the new build serves"
    said = bed.sh("cat $(ls -t /var/lib/llamaherd/jobs/server-coder-*/message | head -n 1)")
    match = re.search(SERVES_AGAIN, said)
    assert match is not None, said
    print(f"interruption: {match[1]} s")
    bed.use(())


INTERRUPTED = rf"llama-server@coder\.service did not answer within 10 s.*{SERVES_AGAIN}"


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
    Fault(
        "killed on trial",
        "server",
        "SIGKILL of the controller and of its job, while a release that doesn't do is on trial",
        f"{SAYS}why it is refused; the old release serves again by itself, and for how long not",
        trial_killed,
        quick=True,
        serving=Serving.DOWN,
        says=INTERRUPTED,
        mend=taken_back,
        puts_back=True,
    ),
    Fault(
        "killed on the way back",
        "server",
        "SIGKILL of both, when a refused release was stopped and the old one not yet started",
        f"{SAYS}why it is refused; the old release serves again by itself, and for how long not",
        rollback_killed,
        serving=Serving.DOWN,
        says=INTERRUPTED,
        mend=taken_back,
        puts_back=True,
    ),
)
