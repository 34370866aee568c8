"""Two converges of one host at once."""

from __future__ import annotations

import re

from fault import Fault, Serving
from fault_bed import Bed

WAITING = r"another converge works here \(\S+@\S+, process \d+, since \S+\): waiting for it"


def both_have_everything_to_do(bed: Bed) -> None:
    bed.sh("systemctl stop llama-server@coder")
    bed.forget_opencode()
    since = bed.now()
    both = [bed.start() for _ in range(2)]
    assert [run.finish() for run in both] == [0, 0], both[0].text + both[1].text
    assert re.search(WAITING, both[0].text + both[1].text)
    assert bed.starts_of("llamaherd-opencode-*", since) == 1
    assert bed.starts_of("llama-server@coder*", since) == 1


def the_holder_is_killed(bed: Bed) -> None:
    bed.sh("systemctl stop llama-server@coder")
    bed.forget_opencode()
    with bed.held("tar", "*package/bin/opencode*") as hold:
        first = bed.start()
        hold.wait()
        second = bed.start()
        second.wait_for("another converge works here (")
        first.kill()
    assert second.finish() == 0, second.text


def the_waiting_one_is_killed(bed: Bed) -> None:
    bed.forget_opencode()
    with bed.held("tar", "*package/bin/opencode*") as hold:
        first = bed.start()
        hold.wait()
        second = bed.start()
        second.wait_for("another converge works here (")
        second.kill()
    assert first.finish() == 0, first.text


FAULTS = (
    Fault(
        "two with the same to do",
        "two at once",
        "two converges start at the same time, with the server down and OpenCode gone",
        "one works and the other says for whom it waits; nothing is done twice",
        both_have_everything_to_do,
        quick=True,
        serving=Serving.DOWN,
    ),
    Fault(
        "the holder killed",
        "two at once",
        "SIGKILL of the converge that holds the host, while another waits for it",
        "the other one goes on at once, and does the rest",
        the_holder_is_killed,
        quick=True,
        serving=Serving.DOWN,
    ),
    Fault(
        "the waiting one killed",
        "two at once",
        "SIGKILL of the converge that waits for another",
        "the one that works never notices",
        the_waiting_one_is_killed,
    ),
)
