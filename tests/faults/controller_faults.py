"""The controller killed: SIGKILL, at the boundaries of stages and in the middle of them.

What is watched is the host, or what the controller has printed; never our own state. A window
too short to be hit is held open by a command of the host that stands still (``Bed.held``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from converge_support import changed
from fault import Fault, Serving
from fault_bed import MODELS, SERVER, Bed, wait

GROUP = "controller killed"
RATE = 12_000_000
"""Bytes a second of the hub: the model takes about 8 s, so that there is a middle."""

ANOTHER_BUILD = (("ccache: true", 'ccache: true\n    cmake: {FAULT: "1"}'),)
"""Another build of the same sources: nearly all of it comes out of ccache."""

ANOTHER_UNIT = (("context: 8192", "context: 8192, metrics: true"),)
"""The same server with another argument: another unit, and so another release."""


# --- at the boundaries ---------------------------------------------------------------------


def packages_to_do(bed: Bed) -> None:
    bed.sh("dpkg --remove --force-depends ripgrep")


def server_to_do(bed: Bed) -> None:
    """Somebody wrote into the unit: it is written anew, and its process started anew."""
    bed.sh(f"echo '# mine' >> /etc/systemd/system/{SERVER}")


def opencode_to_do(bed: Bed) -> None:
    bed.sh("rm -f /etc/opencode/opencode.json /usr/local/bin/opencode")


def claude_code_to_do(bed: Bed) -> None:
    bed.sh("rm -f /home/dev/.claude/settings.json")


def at_boundary(stages: Sequence[Callable[[Bed], None]], following: str, bed: Bed) -> None:
    """Killed when the stage before ``following`` is done and the latter begins."""
    for to_do in stages:
        to_do(bed)
    run = bed.start()
    run.wait_for(following)
    run.kill()
    quiet(bed)


def before_the_models(bed: Bed) -> None:
    """As :func:`at_boundary`, with a build just made that nothing uses yet."""
    bed.forget_builds()
    bed.forget_model()
    run = bed.start()
    run.wait_for("Starting operation: Models")
    run.kill()
    quiet(bed)


def quiet(bed: Bed) -> None:
    """Whatever went on by itself is over, so that the next run meets what was left."""
    wait(lambda: not bed.job(""), "no job", 300)


# --- in the middle -------------------------------------------------------------------------


def in_packages(bed: Bed) -> None:
    bed.sh("dpkg --remove --force-depends ripgrep ninja-build")
    since = bed.now()
    with bed.held_dpkg() as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        assert "install ok unpacked" in bed.sh("dpkg-query -W -f '${Status}' ninja-build")
        second = bed.start()
        second.wait_for("Install the distribution's packages")
    assert second.finish() == 0, second.text
    assert bed.starts_of("llamaherd-packages-*", since) == 1


def in_a_build(bed: Bed) -> None:
    bed.forget_builds()
    since = bed.now()
    run = bed.start()
    compiling(bed)
    run.kill()
    assert bed.job("llama.cpp-build-"), "the job went with its controller"
    second = bed.start()
    assert second.finish(600) == 0, second.text
    assert bed.starts_of("llamaherd-llama.cpp-build-*", since) == 1


def compiling(bed: Bed) -> None:
    """Until some steps of a build are done."""
    log = "/var/lib/llamaherd/jobs/llama.cpp-build-*/log"
    bed.wait_for_job("llama.cpp-build-")
    wait(lambda: bed.sh(f"grep -c '^\\[[2-9][0-9]/' {log}") not in ("", "0"), "20 steps", 300)


def in_a_download(bed: Bed) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    since = bed.now()
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    run.kill()
    had = bed.part_bytes()
    assert bed.job("model-"), "the job went with its controller"
    wait(lambda: bed.part_bytes() > had + 5_000_000, "the job goes on by itself")
    second = bed.start()
    assert second.finish() == 0, second.text
    assert bed.starts_of("llamaherd-model-*", since) == 1


def at_a_files_rename(bed: Bed) -> None:
    bed.forget_model()
    with bed.held("mv", "*.gguf.part*") as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        assert bed.sh(f"ls {MODELS}/*/*/*/*.gguf") == "", "a final name before the rename"
        hold.kill_all()


def at_a_builds_rename(bed: Bed) -> None:
    bed.forget_builds()
    before = bed.sh("ls /opt/llama.cpp")
    with bed.held("mv", "*/install*") as hold:
        run = bed.start()
        hold.wait(400)
        run.kill()
        assert bed.sh("ls /opt/llama.cpp") == before, "a final name before the rename"
        hold.kill_all()


def in_a_unit_write(bed: Bed) -> None:
    with bed.held("mv", f"*{SERVER}*") as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        hold.kill_all()


def before_a_restart(bed: Bed) -> None:
    before = bed.process()
    with bed.held("systemctl", f"*restart*{SERVER}*") as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        hold.kill_all()
        assert bed.process() == before


def at_a_restart(bed: Bed) -> None:
    before = bed.process()
    with bed.held("systemctl", f"*restart*{SERVER}*") as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        assert bed.process() == before
    quiet(bed)
    assert bed.process() != before
    dry = bed.converge("--json")
    assert changed(dry) == [], "the job did not do it all"


def in_a_restart(bed: Bed) -> None:
    with bed.held("curl", "*--noproxy*") as hold:
        run = bed.start()
        hold.wait()
        assert bed.sh(f"systemctl show -P ActiveState {SERVER}") == "activating"
        run.kill()
    quiet(bed)


def in_opencodes_installation(bed: Bed) -> None:
    bed.forget_opencode()
    since = bed.now()
    with bed.held("tar", "*package/bin/opencode*") as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        assert bed.sh("ls /usr/local/bin/opencode") == ""
        second = bed.start()
        second.wait_for("Install and configure OpenCode")
    assert second.finish() == 0, second.text
    assert bed.starts_of("llamaherd-opencode-*", since) == 1


def in_a_configs_write(bed: Bed) -> None:
    path = "/home/dev/.config/opencode/opencode.json"
    bed.sh(f"runuser -u dev -- sed -i s/8888/8887/ {path}")
    before = bed.sh(f"sha256sum {path}")
    with bed.held("mv", f"*{path}*") as hold:
        run = bed.start()
        hold.wait()
        run.kill()
        hold.kill_all()
        assert bed.sh(f"sha256sum {path}") == before


def _boundary(
    name: str,
    following: str,
    *stages: Callable[[Bed], None],
    quick: bool = False,
    serving: Serving = Serving.SAME,
) -> Fault:
    before, _, after = name.partition(" to ")
    return Fault(
        name,
        GROUP,
        f"SIGKILL between {before} and {after}, with something to do in both",
        "the next converge does the rest",
        partial(at_boundary, stages, following),
        quick=quick,
        serving=serving,
    )


FAULTS = (
    _boundary(
        "preflight to packages",
        "Starting operation: Packages",
        packages_to_do,
    ),
    _boundary(
        "packages to build",
        "Starting operation: llama.cpp",
        packages_to_do,
        Bed.forget_model,
        quick=True,
        serving=Serving.UNTIL_HEALED,
    ),
    Fault(
        "build to models",
        GROUP,
        "SIGKILL when another build has just been made, with a model to fetch",
        "the old build serves on; the next converge fetches, and restarts into the new one",
        before_the_models,
        changes=ANOTHER_BUILD,
        serving=Serving.UNTIL_HEALED,
    ),
    _boundary(
        "models to servers",
        "Starting operation: llama-server",
        Bed.forget_model,
        server_to_do,
        serving=Serving.ANSWERS,
    ),
    _boundary(
        "servers to OpenCode",
        "Starting operation: OpenCode",
        server_to_do,
        opencode_to_do,
        quick=True,
        serving=Serving.ANSWERS,
    ),
    _boundary(
        "OpenCode to Claude Code",
        "Starting operation: Claude Code",
        opencode_to_do,
        claude_code_to_do,
    ),
    Fault(
        "Claude Code to the end",
        GROUP,
        "SIGKILL when everything is done and only the results are to be told",
        "nothing is left to do",
        partial(at_boundary, [claude_code_to_do], "--> Results"),
        nothing_left=True,
    ),
    Fault(
        "in packages",
        GROUP,
        "SIGKILL while packages are unpacked and not yet configured",
        "the job goes on; the next run attaches to it, and apt ran once",
        in_packages,
        quick=True,
        nothing_left=True,
    ),
    Fault(
        "in a build",
        GROUP,
        "SIGKILL while llama.cpp is compiled",
        "the job goes on; the next run attaches to it, and the old build serves until then",
        in_a_build,
        changes=ANOTHER_BUILD,
        serving=Serving.ANSWERS,
        nothing_left=True,
    ),
    Fault(
        "in a download",
        GROUP,
        "SIGKILL while a model is half there",
        "the job goes on; the next run attaches to it and fetches nothing again",
        in_a_download,
        quick=True,
        serving=Serving.ANSWERS,
        nothing_left=True,
    ),
    Fault(
        "at a file's rename",
        GROUP,
        "SIGKILL of the controller and of its job, before a model gets its name",
        "no file has the final name; the next converge verifies what is there and fetches nothing",
        at_a_files_rename,
        serving=Serving.UNTIL_HEALED,
    ),
    Fault(
        "at a build's rename",
        GROUP,
        "SIGKILL of the controller and of its job, before a build gets its name",
        "no folder has the final name; the next converge builds again, mostly from ccache",
        at_a_builds_rename,
        changes=ANOTHER_BUILD,
        serving=Serving.UNTIL_HEALED,
    ),
    Fault(
        "in a unit's write",
        GROUP,
        "SIGKILL of the controller and of its job, before a changed unit gets its name",
        "the unit is the whole old one; the next converge writes it and restarts",
        in_a_unit_write,
        changes=ANOTHER_UNIT,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "at a restart",
        GROUP,
        "SIGKILL of the controller when its job is about to restart the server",
        "the job restarts it, asks it and keeps it; the next converge finds nothing to do",
        at_a_restart,
        quick=True,
        changes=ANOTHER_UNIT,
        serving=Serving.ANSWERS,
        nothing_left=True,
    ),
    Fault(
        "before a restart",
        GROUP,
        "SIGKILL of the controller and of its job, between a unit's write and the restart",
        "the old process serves on; the next converge sees that it is old, and restarts it",
        before_a_restart,
        quick=True,
        changes=ANOTHER_UNIT,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "in a restart",
        GROUP,
        "SIGKILL while the server starts with its new unit",
        "the start goes on without the controller; the next converge finds it well",
        in_a_restart,
        changes=ANOTHER_UNIT,
        serving=Serving.DOWN,
        nothing_left=True,
    ),
    Fault(
        "in OpenCode's install",
        GROUP,
        "SIGKILL while OpenCode is being unpacked",
        "the job goes on; the next run attaches to it, and nothing is fetched twice",
        in_opencodes_installation,
        nothing_left=True,
    ),
    Fault(
        "in a config's write",
        GROUP,
        "SIGKILL of the controller, and of what writes a user's opencode.json",
        "the file is the whole old one; the next converge writes it",
        in_a_configs_write,
    ),
)
