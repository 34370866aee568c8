"""The host powered off and booted again, with the files that it had."""

from __future__ import annotations

from controller_faults import RATE
from fault import Fault, Serving
from fault_bed import Bed, wait


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


FAULTS = (
    Fault(
        "in a download",
        "host powered off",
        "the host loses its power while a model is half there",
        "the next converge goes on with the part that had arrived",
        in_a_download,
        quick=True,
        serving=Serving.DOWN,
    ),
)
