"""The host powered off and booted again, with the files that it had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from controller_faults import ANOTHER_BUILD, ANOTHER_UNIT, RATE, compiling
from fault import SAYS, Fault, Serving
from fault_bed import MODELS, SERVER, Bed, Held, wait
from server_faults import INTERRUPTED, on_trial, rolling_back, serves_what_served, taken_back

GROUP = "host powered off"


@contextmanager
def power_cut_at(
    bed: Bed, hold: Callable[[], AbstractContextManager[Held]], seconds: float = 120
) -> Iterator[None]:
    """The power goes when a command stands still; the body runs when the host is up again."""
    with hold() as held:
        run = bed.start()
        held.wait(seconds)
        bed.cut_power()
        run.kill()
        held.forget()
        bed.boot()
        yield


def in_packages(bed: Bed) -> None:
    bed.sh("dpkg --remove --force-depends ripgrep ninja-build")
    with power_cut_at(bed, bed.held_dpkg):
        assert "install ok unpacked" in bed.sh("dpkg-query -W -f '${Status}' ninja-build")


def in_a_build(bed: Bed) -> None:
    bed.forget_builds()
    before = bed.sh("ls /opt/llama.cpp")
    run = bed.start()
    compiling(bed)
    bed.cut_power()
    bed.boot()
    assert bed.sh("ls /opt/llama.cpp") == before
    assert run.finish() == 1
    assert "was killed" in run.text.rstrip().splitlines()[-1]


def in_a_download(bed: Bed) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    bed.cut_power()
    run.kill()
    bed.boot()
    assert bed.part_bytes() > 5_000_000
    bed.hub.rate = None


def at_a_files_rename(bed: Bed) -> None:
    bed.forget_model()
    with power_cut_at(bed, lambda: bed.held("mv", "*.gguf.part*")):
        assert bed.sh(f"ls {MODELS}/*/*/*/*.gguf") == "", "a final name before the rename"


def in_a_unit_write(bed: Bed) -> None:
    before = bed.sh(f"sha256sum /etc/systemd/system/{SERVER}")
    with power_cut_at(bed, lambda: bed.held("mv", f"*{SERVER}*")):
        assert bed.sh(f"sha256sum /etc/systemd/system/{SERVER}") == before


def in_a_restart(bed: Bed) -> None:
    with power_cut_at(bed, lambda: bed.held("curl", "*--noproxy*")):
        pass


def on_a_trial(bed: Bed) -> None:
    run = on_trial(bed)
    bed.cut_power()
    run.kill()
    bed.boot()
    serves_what_served(bed)


def on_the_way_back(bed: Bed) -> None:
    """The refused release is stopped, and the old one's unit isn't in its place yet."""
    with rolling_back(bed, "mv", f"*{SERVER}.old*", time=1) as (run, hold):
        bed.cut_power()
        run.kill()
        hold.forget()
        bed.boot()
    serves_what_served(bed)


def in_a_configs_write(bed: Bed) -> None:
    path = "/home/dev/.config/opencode/opencode.json"
    bed.sh(f"runuser -u dev -- sed -i s/8888/8887/ {path}")
    before = bed.sh(f"sha256sum {path}")
    with power_cut_at(bed, lambda: bed.held("mv", f"*{path}*")):
        assert bed.sh(f"sha256sum {path}") == before


def in_opencodes_installation(bed: Bed) -> None:
    bed.forget_opencode()
    with power_cut_at(bed, lambda: bed.held("tar", "*package/bin/opencode*")):
        assert bed.sh("ls /usr/local/bin/opencode") == ""


FAULTS = (
    Fault(
        "in packages",
        GROUP,
        "the host loses its power while packages are unpacked and not yet configured",
        "the next converge lets dpkg finish first, then installs the rest",
        in_packages,
        quick=True,
        serving=Serving.DOWN,
    ),
    Fault(
        "in a build",
        GROUP,
        "the host loses its power while llama.cpp is compiled; the controller goes on",
        "that run says in its last line that the build was killed; the next one builds again",
        in_a_build,
        changes=ANOTHER_BUILD,
        serving=Serving.DOWN,
    ),
    Fault(
        "in a download",
        GROUP,
        "the host loses its power while a model is half there",
        "the next converge goes on with the part that had arrived",
        in_a_download,
        quick=True,
        serving=Serving.DOWN,
    ),
    Fault(
        "at a file's rename",
        GROUP,
        "the host loses its power before a verified model gets its name",
        "no file has the final name; the next converge verifies it again and fetches nothing",
        at_a_files_rename,
        serving=Serving.DOWN,
    ),
    Fault(
        "in OpenCode's install",
        GROUP,
        "the host loses its power while OpenCode is being unpacked",
        "the command isn't there before the whole program is; the next converge installs it",
        in_opencodes_installation,
        serving=Serving.DOWN,
    ),
    Fault(
        "in a unit's write",
        GROUP,
        "the host loses its power before a changed unit is renamed into its place",
        "the old unit serves after the boot; the next converge writes, restarts and sweeps up",
        in_a_unit_write,
        quick=True,
        changes=ANOTHER_UNIT,
        serving=Serving.DOWN,
    ),
    Fault(
        "in a restart",
        GROUP,
        "the host loses its power while the server starts with its new unit",
        "it starts at boot; the next converge finds it as declared, or makes it so",
        in_a_restart,
        changes=ANOTHER_UNIT,
        serving=Serving.DOWN,
    ),
    Fault(
        "on a release's trial",
        GROUP,
        "the host loses its power while a release that doesn't do is on trial",
        f"{SAYS}why it is refused; what served before serves after the boot, and after that",
        on_a_trial,
        serving=Serving.ANSWERS,
        says=INTERRUPTED,
        mend=taken_back,
        puts_back=True,
    ),
    Fault(
        "on the way back",
        GROUP,
        "the host loses its power when a refused release was stopped and the old one isn't back",
        f"{SAYS}why it is refused; what served before serves after the boot, and after that",
        on_the_way_back,
        serving=Serving.ANSWERS,
        says=INTERRUPTED,
        mend=taken_back,
        puts_back=True,
    ),
    Fault(
        "in a config's write",
        GROUP,
        "the host loses its power before a user's opencode.json is renamed into its place",
        "the file is the whole old one; the next converge writes it and sweeps up",
        in_a_configs_write,
        serving=Serving.DOWN,
    ),
)
