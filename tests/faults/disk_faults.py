"""Disks that become full: small file systems laid over the places that a converge writes to."""

from __future__ import annotations

import re

from controller_faults import ANOTHER_UNIT, compiling
from fault import SAYS, Fault, Serving
from fault_bed import MODELS, Bed, Running, wait

SLOWLY = 2_000_000
"""Bytes a second of the hub: the disk must become full before the model is there."""

BUILDS = "/opt/llama.cpp"
JOBS = "/var/lib/llamaherd/jobs"
OPENCODE = "/etc/opencode"
UNITS = "/etc/systemd/system"
ANOTHER_BUILD = (("ccache: true", 'ccache: true\n    cmake: {DISK_FAULT: "1"}'),)


def lay_over(bed: Bed, place: str, size: str) -> None:
    """A file system of its own at ``place``, with what is there; ``size`` as tmpfs takes it."""
    bed.undo.append(f"! mountpoint -q {place} || umount -l {place}")
    done = bed.sh(
        f"set -e; mkdir -p {place} /run/laid-over; mount -t tmpfs -o size={size} tmpfs "
        f"/run/laid-over; cp -a {place}/. /run/laid-over/; mount --bind /run/laid-over {place}; "
        "umount /run/laid-over; echo done"
    )
    assert done == "done", f"no file system at {place}"


def fill(bed: Bed, place: str, extra: int = 0) -> None:
    """Nothing more fits on it, but for so many KiB where something is being written meanwhile."""
    size = f"$(($(df --output=used {place} | tail -n 1) + {extra}))k"
    assert bed.sh(f"mount -o remount,size={size} {place} && echo done") == "done"


def exchange(bed: Bed, place: str) -> None:
    """What lies there goes to the large disk below."""
    done = bed.sh(
        f"set -e; mkdir -p /run/below; mount --bind / /run/below; "
        f"find /run/below{place} -mindepth 1 -delete; cp -a {place}/. /run/below{place}/; "
        f"umount /run/below; umount -l {place} && echo done"
    )
    assert done == "done"


def refused(run: Running, pattern: str) -> None:
    """The run failed, and its last line says so."""
    assert run.finish(600) == 1, run.text
    assert re.search(pattern, run.text.rstrip().splitlines()[-1]), run.text[-2000:]


def in_a_download(bed: Bed) -> None:
    bed.forget_model()
    lay_over(bed, MODELS, "2g")
    bed.hub.rate = SLOWLY
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    fill(bed, MODELS, extra=4096)
    refused(run, r"\.gguf\.part \(\S+ free there\): make room")
    assert bed.sh(f"find {MODELS} -name '*.gguf'") == ""
    bed.hub.rate = None


def in_a_build(bed: Bed) -> None:
    bed.forget_builds()
    lay_over(bed, BUILDS, "2g")
    before = bed.sh(f"ls {BUILDS}")
    run = bed.start()
    compiling(bed)
    fill(bed, BUILDS, extra=4096)
    refused(run, rf"no space left on {BUILDS} \([^)]* free\): make room, then run again")
    assert bed.sh(f"ls {BUILDS}") == before


def at_the_start_of_a_job(bed: Bed) -> None:
    bed.forget_model()
    lay_over(bed, JOBS, "1m")
    bed.sh(f"rm -rf {JOBS}/model-*")
    fill(bed, JOBS)


def in_the_system_configuration(bed: Bed) -> None:
    bed.sh(f"sed -i s/disabled/auto/ {OPENCODE}/opencode.json")
    lay_over(bed, OPENCODE, "1m")
    fill(bed, OPENCODE)


def in_a_unit(bed: Bed) -> None:
    bed.sh(f"sed -i s/RestartSec=5/RestartSec=6/ {UNITS}/llama-server@coder.service")
    lay_over(bed, UNITS, "4m")
    fill(bed, UNITS)


ARGUMENTS = "tr '\\0' ' ' < /proc/$(systemctl show -P MainPID llama-server@coder)/cmdline"


def in_a_release(bed: Bed) -> None:
    bed.notes["arguments"] = bed.sh(ARGUMENTS)
    lay_over(bed, UNITS, "4m")
    fill(bed, UNITS)


def room_for_models(bed: Bed) -> None:
    assert bed.part_bytes() > 5_000_000
    exchange(bed, MODELS)


def room_for_builds(bed: Bed) -> None:
    exchange(bed, BUILDS)


def room_for_jobs(bed: Bed) -> None:
    exchange(bed, JOBS)


def room_for_opencode(bed: Bed) -> None:
    exchange(bed, OPENCODE)


def room_for_units(bed: Bed) -> None:
    exchange(bed, UNITS)


def room_for_release(bed: Bed) -> None:
    assert bed.sh(ARGUMENTS) == bed.notes["arguments"]
    exchange(bed, UNITS)


FAULTS = (
    Fault(
        "in a download",
        "disk full",
        "the models' disk becomes full while a model is half there",
        f"{SAYS}which file, how much is free, and to make room; what has arrived is gone on from",
        in_a_download,
        quick=True,
        serving=Serving.UNTIL_HEALED,
        says=r"make room",
        mend=room_for_models,
    ),
    Fault(
        "in a build",
        "disk full",
        "the builds' disk becomes full while llama.cpp is compiled",
        f"{SAYS}which disk, how much is free, and to make room; the old build serves",
        in_a_build,
        changes=ANOTHER_BUILD,
        serving=Serving.UNTIL_HEALED,
        says=r"make room",
        mend=room_for_builds,
    ),
    Fault(
        "at the start of a job",
        "disk full",
        "nothing fits where jobs keep their script, log and status, and a model is missing",
        f"{SAYS}which folder, and to make room",
        at_the_start_of_a_job,
        serving=Serving.UNTIL_HEALED,
        says=rf"can't write {JOBS}/model-\w+: No space left on device: make room there",
        mend=room_for_jobs,
    ),
    Fault(
        "in OpenCode's configuration",
        "disk full",
        "nothing fits into /etc/opencode, and its file must change",
        f"{SAYS}which file, and to make room; the old file is whole",
        in_the_system_configuration,
        quick=True,
        says=r"can't write /etc/opencode/opencode\.json: No space left on device: make room there",
        mend=room_for_opencode,
    ),
    Fault(
        "in a unit",
        "disk full",
        "nothing fits into /etc/systemd/system, and a server's unit must change",
        f"{SAYS}which disk, and to make room; the old unit is whole and its server serves",
        in_a_unit,
        serving=Serving.ANSWERS,
        says=rf"failed: no space left on {UNITS} \(0 B free\): make room",
        mend=room_for_units,
    ),
    Fault(
        "in a release",
        "disk full",
        "nothing fits into /etc/systemd/system, and a server is declared with another context",
        f"{SAYS}which disk, and to make room; the old release serves, untouched",
        in_a_release,
        changes=ANOTHER_UNIT,
        serving=Serving.UNTIL_HEALED,
        says=rf"failed: no space left on {UNITS} \(0 B free\): make room",
        mend=room_for_release,
    ),
)
