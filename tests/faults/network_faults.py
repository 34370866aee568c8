"""The network cut between controller, host and hub; SSH connections lost."""

from __future__ import annotations

import re
import time

from controller_faults import ANOTHER_BUILD, RATE, compiling
from fault import Fault, Serving
from fault_bed import Bed, wait

GROUP = "network cut"
SHORT = 5
LONG = 80
"""Seconds: longer than it takes a controller to give up a connection that says nothing."""

USER_CONFIG = "/home/dev/.config/opencode/opencode.json"


def in_a_download(bed: Bed, seconds: float) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    since = bed.now()
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    with bed.cut_off():
        time.sleep(seconds)
    bed.hub.rate = None
    assert run.finish() == 0, run.text
    assert bed.starts_of("llamaherd-model-*", since) == 1
    # Its claim of before the cut is its own, and nobody else's to wait for.
    assert "another converge" not in run.text


def from_the_hub(bed: Bed) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    with bed.dropped(f"ip saddr {bed.site.lab.address} tcp dport {bed.hub.server_port}"):
        time.sleep(LONG)
    bed.hub.rate = None
    assert run.finish() == 0, run.text


def in_a_build(bed: Bed, seconds: float) -> None:
    bed.forget_builds()
    since = bed.now()
    run = bed.start()
    compiling(bed)
    with bed.cut_off():
        time.sleep(seconds)
    assert run.finish(600) == 0, run.text
    assert bed.starts_of("llamaherd-llama.cpp-build-*", since) == 1


def for_good_in_a_build(bed: Bed) -> None:
    bed.forget_builds()
    since = bed.now()
    run = bed.start()
    compiling(bed)
    with bed.cut_off():
        run.kill()
        time.sleep(SHORT)
    second = bed.start()
    assert second.finish(600) == 0, second.text
    assert bed.starts_of("llamaherd-llama.cpp-build-*", since) == 1


def in_a_plain_operation(bed: Bed) -> None:
    bed.sh(f"runuser -u dev -- sed -i s/8888/8887/ {USER_CONFIG}")
    with bed.held("mv", f"*{USER_CONFIG}*") as hold:
        run = bed.start()
        hold.wait()
        with bed.cut_off():
            time.sleep(SHORT)
    assert run.finish() == 0, run.text


def session_killed_in_a_job(bed: Bed) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    since = bed.now()
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    bed.kill_sessions()
    bed.hub.rate = None
    assert run.finish() == 0, run.text
    assert bed.starts_of("llamaherd-model-*", since) == 1


def session_killed_in_an_operation(bed: Bed) -> None:
    bed.sh(f"runuser -u dev -- sed -i s/8888/8887/ {USER_CONFIG}")
    with bed.held("mv", f"*{USER_CONFIG}*") as hold:
        run = bed.start()
        hold.wait()
        bed.kill_sessions()
    assert run.finish() == 1
    last = run.text.rstrip().splitlines()[-1]
    assert re.search("box: OpenCode.*: lost the connection: run again$", last), run.text


def controller_vanished(bed: Bed) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    ports = bed.ports_of(run)
    with bed.dropped(f"ip daddr {bed.site.lab.address} tcp sport {ports}", hook="output"):
        run.kill()
        bed.hub.rate = None
        wait(lambda: not bed.job("model-"), "the end of the job")
        bed.sh("rm -f /etc/opencode/opencode.json")
        second = bed.start()
        second.wait_for("another converge works here (")
        assert second.finish() == 0, second.text


FAULTS = (
    Fault(
        "shortly, in a download",
        GROUP,
        "the host's cable is pulled for 5 s while a model is half there",
        "the same run goes on and ends well",
        lambda bed: in_a_download(bed, SHORT),
        quick=True,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "long, in a download",
        GROUP,
        "the host's cable is pulled for 80 s while a model is half there",
        "the same run connects again, takes its claim over, finds its job and ends well",
        lambda bed: in_a_download(bed, LONG),
        serving=Serving.ANSWERS,
    ),
    Fault(
        "from the hub",
        GROUP,
        "the hub, and nothing else, can't be reached for 80 s in the middle of a model",
        "the job tries again where it was; the same run ends well",
        from_the_hub,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "shortly, in a build",
        GROUP,
        "the host's cable is pulled for 5 s while llama.cpp is compiled",
        "the same run goes on and ends well",
        lambda bed: in_a_build(bed, SHORT),
        changes=ANOTHER_BUILD,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "for good, in a build",
        GROUP,
        "the cable is pulled while llama.cpp is compiled, and the controller never comes back",
        "the build goes on without anybody; the next run attaches to it",
        for_good_in_a_build,
        changes=ANOTHER_BUILD,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "in a plain operation",
        GROUP,
        "the host's cable is pulled for 5 s while a user's opencode.json is written",
        "the same run goes on and ends well",
        in_a_plain_operation,
        quick=True,
    ),
    Fault(
        "session lost in a job",
        GROUP,
        "sshd's processes of the run are killed while a model is half there",
        "the same run connects again, finds its job and ends well",
        session_killed_in_a_job,
        quick=True,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "session lost in a write",
        GROUP,
        "sshd's processes of the run are killed while a user's opencode.json is written",
        "that run says in its last line to run again; the next converge heals",
        session_killed_in_an_operation,
    ),
    Fault(
        "controller vanished",
        GROUP,
        "the controller is gone without a word, and the host can't know: its claim stays",
        "the next run says who holds the host, and goes on when the holder is silent for 120 s",
        controller_vanished,
        serving=Serving.ANSWERS,
    ),
)
