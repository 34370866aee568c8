"""The network cut between controller, host and hub."""

from __future__ import annotations

import time

from controller_faults import RATE
from fault import Fault, Serving
from fault_bed import Bed, wait


def short_in_a_download(bed: Bed) -> None:
    bed.forget_model()
    bed.hub.rate = RATE
    run = bed.start()
    wait(lambda: bed.part_bytes() > 5_000_000, "some of the model")
    with bed.cut_off():
        time.sleep(5)
    bed.hub.rate = None
    assert run.finish() == 0, run.text


FAULTS = (
    Fault(
        "shortly, in a download",
        "network cut",
        "the host's cable is pulled for 5 s while a model is half there",
        "the same run goes on and ends well",
        short_in_a_download,
        quick=True,
        serving=Serving.ANSWERS,
    ),
)
