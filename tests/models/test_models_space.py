"""Room for models: on the file systems that they go to, with what is there already."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from deploys.common.operations import HostError
from deploys.models import require_space
from facts.models import ModelFile, ModelFiles, parse_model_file
from inventories.settings import Artifact, ModelSettings

GIB = 1024**3
FILES = (
    Artifact("a.gguf", 10 * GIB, "a" * 64, url="http://x/a"),
    Artifact("b.gguf", 4 * GIB, "b" * 64, url="http://x/b"),
)
MODEL = ModelSettings("m", "M", "/models/m", FILES)


def states(free: int, **changes: int | str | None) -> dict[str, ModelFile]:
    """Both files missing on one file system; ``changes`` are of the first one."""
    first = {"size": None, "partial": 0, "verified": "", "mount": "/models", "free": free}
    return {
        "/models/m/a.gguf": ModelFile("/models/m/a.gguf", **(first | changes)),  # type: ignore[arg-type]
        "/models/m/b.gguf": ModelFile("/models/m/b.gguf", None, 0, "", "/models", free),
    }


def test_all_files_of_all_models_count_and_a_gibibyte_stays_free() -> None:
    require_space([MODEL], states(15 * GIB))
    with pytest.raises(HostError, match=r"need 14\.0 GiB more and 1\.0 GiB to spare, /models has"):
        require_space([MODEL], states(15 * GIB - 1))


def test_what_has_arrived_is_not_needed_again() -> None:
    require_space([MODEL], states(6 * GIB, partial=9 * GIB))
    require_space([MODEL], states(6 * GIB, size=9 * GIB))


def test_a_verified_file_needs_nothing() -> None:
    require_space([MODEL], states(5 * GIB, size=10 * GIB, verified="a" * 64))
    both = states(0, size=10 * GIB, verified="a" * 64)
    both["/models/m/b.gguf"] = ModelFile("/models/m/b.gguf", 4 * GIB, 0, "b" * 64)
    require_space([MODEL], both)


def test_each_file_system_has_to_hold_its_own_files() -> None:
    apart = states(11 * GIB) | {
        "/models/m/b.gguf": ModelFile("/models/m/b.gguf", None, 0, "", "/big", 4 * GIB)
    }
    with pytest.raises(HostError, match=r"^models need 4\.0 GiB more .*, /big has 4\.0 GiB: make"):
        require_space([MODEL], apart)


def look(path: Path) -> ModelFile:
    done = subprocess.run(
        ["sh", "-c", ModelFiles().command([str(path)])], capture_output=True, text=True, check=True
    )
    return ModelFiles().process(done.stdout.splitlines())[str(path)]


def test_the_fact_asks_the_file_system_that_the_file_will_lie_on(tmp_path: Path) -> None:
    state = look(Path("/dev/shm/none/there/yet.gguf"))
    assert state.mount == "/dev/shm"
    assert 0 < state.free <= shutil.disk_usage("/dev/shm").total
    assert look(tmp_path / "with a space" / "m.gguf").free > 0


def test_nothing_is_asked_for_a_file_in_order(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF")
    stat = path.stat()
    (tmp_path / ".verified").mkdir()
    record = f'{{"sha256": "{"a" * 64}", "stat": "4 {int(stat.st_mtime)} {stat.st_ino}"}}'
    (tmp_path / ".verified/m.gguf.json").write_text(record + "\n")
    state = look(path)
    assert (state.verified, state.mount, state.free) == ("a" * 64, "", 0)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("/m/a.gguf\t\t0\t  1048576 /srv/my models\t", (None, 0, "", "/srv/my models", 1048576)),
        ("/m/a.gguf\t5 1 2\t7\t12 /\tgarbage", (5, 7, "", "/", 12)),
        (
            '/m/a.gguf\t5 1 2\t0\t\t{"sha256": "ff", "stat": "5 1 2"}',
            (5, 0, "ff", "", 0),
        ),
    ],
)
def test_lines_of_hosts_become_values(line: str, expected: tuple[object, ...]) -> None:
    state = parse_model_file(line)
    assert (state.size, state.partial, state.verified, state.mount, state.free) == expected
