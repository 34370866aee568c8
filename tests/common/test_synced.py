"""What gets its final name is on the disk before: no lab can lose what was never synced."""

from __future__ import annotations

import re

import pytest

from deploys.common.downloads import fetch_functions
from deploys.common.files import ManagedFile, write_command
from deploys.llama_cpp.build import Build, build_script
from deploys.opencode.install import install_job
from inventories.settings import Artifact

BUILD = Build("b1", {}, {"LLAMA_BUILD_NUMBER": "1", "LLAMA_BUILD_COMMIT": "0c1e570"}, ())
OPENCODE = Artifact(name="opencode.tgz", size=1, sha256="0" * 64, url="http://example.com/o")

SCRIPTS = {
    "a file": (write_command(ManagedFile("/a/b", "c")).get_raw_value(), r'mv -fT -- "\$new"'),
    "a download": (fetch_functions(), r'mv -fT -- "\$1" "\$2" && record'),
    "a build": (build_script(BUILD, 1), r'mv -T "\$work/install"'),
    "OpenCode": (install_job("1.0.0", OPENCODE).script, r"mv -T stage"),
}


@pytest.mark.parametrize("what", SCRIPTS)
def test_it_is_synced_before_it_is_renamed(what: str) -> None:
    script, rename = SCRIPTS[what]
    before, *_ = re.split(rename, script)
    assert before != script
    last = "\n".join(before.splitlines()[-3:])
    assert re.search(r"\bsync (-f )?(-- )?\"?[$s]", last), last
