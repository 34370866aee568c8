"""What gets its final name is on the disk before: no lab can lose what was never synced."""

from __future__ import annotations

import re

import pytest

from deploys.common.downloads import fetch_functions
from deploys.common.files import ManagedFile, write_command
from deploys.cuda.shell import PUT_FUNCTION
from deploys.drift_timer import program
from deploys.driver.install import script as driver_script
from deploys.driver.reboot import note_command
from deploys.llama_cpp.build import Build, build_script
from deploys.opencode.install import install_job
from facts.cuda import CudaState
from facts.driver import NOTE
from inventories.settings import AptPackage, Artifact, CudaRepository, DriverSettings

BUILD = Build("b1", {}, {"LLAMA_BUILD_NUMBER": "1", "LLAMA_BUILD_COMMIT": "0c1e570"}, ())
OPENCODE = Artifact(name="opencode.tgz", size=1, sha256="0" * 64, url="http://example.com/o")
KEY = Artifact("key.asc", 1, "0" * 64, url="http://example.com/key")
REPOSITORY = CudaRepository(
    "debian12", "http://example.com/", KEY, (AptPackage("nvidia-open", "580.95.05-1", "0" * 64),)
)
DRIVER = driver_script(
    DriverSettings(580, "580.95.05", (REPOSITORY,)), REPOSITORY, CudaState(), False
)

SCRIPTS = {
    "a file": (write_command(ManagedFile("/a/b", "c")).get_raw_value(), r'mv -fT -- "\$new"'),
    "a download": (fetch_functions(), r'mv -fT -- "\$1" "\$2" && record'),
    "a build": (build_script(BUILD, 1), r'mv -T "\$work/install"'),
    "OpenCode": (install_job("1.0.0", OPENCODE).script, r"mv -T stage"),
    "a repository's key and files": (PUT_FUNCTION, r'mv -fT -- "\$1\.new"'),
    "a driver's note": (DRIVER, rf"mv -fT {NOTE}"),
    "the note of a reboot": (note_command("580", "b").get_raw_value(), r'mv -fT -- "\$new"'),
    "the drift check's program": (program.install_job("0" * 16).script, r"touch /opt/llamaherd"),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_it_is_synced_before_it_is_renamed(what: str) -> None:
    script, rename = SCRIPTS[what]
    before, *_ = re.split(rename, script)
    assert before != script
    last = "\n".join(before.splitlines()[-3:])
    assert re.search(r"\bsync (-f )?(-- )?\"?[$s/]", last), last
