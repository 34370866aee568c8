"""The hub answers badly, while a converge brings a model that the host hasn't got."""

from __future__ import annotations

import re
from collections.abc import Callable

import hub
from fault import SAYS, Fault, Serving
from fault_bed import MODELS, Bed, wait

HALF = 49_000_000
"""About half of the model's bytes."""


def answers(bad: hub.Fault) -> Callable[[Bed], None]:
    """The hub goes wrong so, from now on, and the host has no model."""

    def carry_out(bed: Bed) -> None:
        bed.forget_model()
        bed.hub.requests.clear()
        bed.hub.fault = bad

    return carry_out


def well_again(bed: Bed) -> None:
    bed.hub.fault = None


def nothing_kept(bed: Bed) -> None:
    """The hub is well again, and nothing of what it sent lies there."""
    assert bed.sh(f"find {MODELS} -name '*.gguf*'") == "", "something was left"
    well_again(bed)


def asked(times: int) -> Callable[[Bed], None]:
    """The hub is well again; it had been asked so often, and nothing lies there."""

    def mend(bed: Bed) -> None:
        assert len(bed.hub.requests) == times, bed.hub.requests
        nothing_kept(bed)

    return mend


def for_a_while(bad: hub.Fault, until: Callable[[Bed], bool]) -> Callable[[Bed], None]:
    """The hub goes wrong until something was seen: the same run ends well."""

    def carry_out(bed: Bed) -> None:
        answers(bad)(bed)
        run = bed.start()
        wait(lambda: until(bed), "what shows that the hub is broken", 180)
        bed.hub.fault = None
        assert run.finish() == 0, run.text

    return carry_out


def went_on_twice(bed: Bed) -> bool:
    log = bed.sh("cat /var/lib/llamaherd/jobs/model-*/log")
    return len(re.findall(r"curl exited 18, going on at \d+", log)) >= 2


def kept(bed: Bed) -> None:
    """Nearly all has arrived, and the hub is well again."""
    assert bed.part_bytes() > 90_000_000
    assert bed.sh(f"find {MODELS} -name '*.gguf'") == ""
    well_again(bed)


def part_and_no_ranges(bed: Bed) -> None:
    bed.sh(
        f"f=$(ls {MODELS}/*/*/*/*.gguf); head -c 50000000 $f > /root/part; rm -rf {MODELS}/*;"
        "mkdir -p $(dirname $f); mv /root/part $f.part"
    )
    assert bed.part_bytes() == 50_000_000
    bed.hub.fault = hub.Fault.NO_RANGE


FAULTS = (
    Fault(
        "answers 500",
        "hub",
        "every download is answered 500",
        f"{SAYS}the address, its answer, and to run again later; it is asked three times",
        answers(hub.Fault.SERVER_ERROR),
        quick=True,
        serving=Serving.UNTIL_HEALED,
        says=r"failed: http://\S+\.gguf answers 500, three times: .*run again later",
        mend=asked(3),
    ),
    Fault(
        "answers 403",
        "hub",
        "every download is answered 403",
        f"{SAYS}the address, its answer, and to check the token; it is asked three times",
        answers(hub.Fault.FORBIDDEN),
        serving=Serving.UNTIL_HEALED,
        says=r"failed: http://\S+\.gguf answers 403: check the token",
        mend=asked(3),
    ),
    Fault(
        "answers 404",
        "hub",
        "every download is answered 404",
        f"{SAYS}the address, its answer, and to lock again; it is asked three times",
        answers(hub.Fault.NOT_FOUND),
        serving=Serving.UNTIL_HEALED,
        says=r"failed: http://\S+\.gguf answers 404, .*: run llamaherd lock --update",
        mend=asked(3),
    ),
    Fault(
        "redirects in a circle",
        "hub",
        "every download is redirected to itself",
        f"{SAYS}the address, and to check it; three attempts of eleven requests each",
        answers(hub.Fault.REDIRECT_LOOP),
        serving=Serving.UNTIL_HEALED,
        says=r"failed: http://\S+\.gguf redirects in a circle: check the address",
        mend=asked(33),
    ),
    Fault(
        "breaks off for a while",
        "hub",
        "each answer ends after half of what it announced, twice",
        "the same run goes on where it broke off, and ends well",
        for_a_while(hub.Fault.TRUNCATED, went_on_twice),
        quick=True,
        serving=Serving.ANSWERS,
    ),
    Fault(
        "breaks off for good",
        "hub",
        "each answer ends after half of what it announced, always",
        f"{SAYS}the address and how often it was tried; the next converge goes on from there",
        answers(hub.Fault.TRUNCATED),
        serving=Serving.UNTIL_HEALED,
        says=r"failed: gave up on http://\S+\.gguf after 8 attempts .*next run goes on at byte \d+",
        mend=kept,
    ),
    Fault(
        "wrong bytes",
        "hub",
        "every byte of a download is another, of the right number",
        f"{SAYS}the file, both SHA-256 and where to look; nothing of it is kept",
        answers(hub.Fault.WRONG_BYTES),
        quick=True,
        serving=Serving.UNTIL_HEALED,
        says=r"failed: \S+\.gguf: its SHA-256 is [0-9a-f]{64}, the lock file says [0-9a-f]{64}: ",
        mend=nothing_kept,
    ),
    Fault(
        "knows no ranges",
        "hub",
        "half of the model is there, and the hub sends the whole to who asks for the rest",
        "the same run fetches it anew from its first byte",
        part_and_no_ranges,
        serving=Serving.UNTIL_HEALED,
    ),
    Fault(
        "stands still",
        "hub",
        "the hub sends half of the model and then nothing, with the connection open",
        "after a minute the same run asks for the rest, and ends well",
        for_a_while(hub.Fault.STALL, lambda bed: bed.part_bytes() >= HALF),
        serving=Serving.ANSWERS,
    ),
)
