"""A model's file changes on the disk after it was verified."""

from __future__ import annotations

import json
import re

from fault import Fault, Serving
from fault_bed import MODELS, Bed

# One bit in the middle of the file; its size, and where TIME says so its time, stay.
_FLIP = f"""set -e; f=$(ls {MODELS}/*/*/*/*.gguf); touch -r $f /run/flip-time
byte=$(od -An -tu1 -j 50000000 -N 1 $f | tr -d ' ')
printf "\\\\$(printf %o $((byte ^ 1)))" | dd of=$f bs=1 seek=50000000 conv=notrunc status=none
"""
KEEP_TIME = "touch -r /run/flip-time $f\n"


def flipped(bed: Bed, also: str = "") -> None:
    assert bed.sh(f"{_FLIP}{also}echo done") == "done"


def with_another_time(bed: Bed) -> None:
    flipped(bed, "touch $f\n")


def silently(bed: Bed) -> None:
    flipped(bed, KEEP_TIME)
    plain = bed.site.run("llamaherd", "drift", str(bed.fleet))
    assert plain.returncode == 0, "what no stat shows can't be seen without hashing"
    deep = bed.site.run("llamaherd", "drift", "--deep", "--json", str(bed.fleet))
    assert deep.returncode == 2, deep.stdout + deep.stderr
    (finding,) = (f for host in json.loads(deep.stdout)["hosts"] for f in host["findings"])
    assert finding["component"] == "models"
    record = re.match(r"remove (\S+\.json) on the host, then converge", finding["remedy"])
    assert record is not None, finding
    bed.sh(f"rm {record[1]}")


FAULTS = (
    Fault(
        "a flipped bit, and another time",
        "model",
        "one bit of a model's file is flipped by something that writes to it",
        "a converge sees another time, hashes the file, and fetches it again",
        with_another_time,
        quick=True,
        serving=Serving.UNTIL_HEALED,
    ),
    Fault(
        "a flipped bit, silently",
        "model",
        "one bit of a model's file is flipped by the disk: size, time and inode stay",
        "drift --deep finds it and names what to remove; then a converge fetches the file again",
        silently,
        serving=Serving.UNTIL_HEALED,
    ),
)
