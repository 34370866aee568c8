"""A server's state is read off its unit and its process, never off what we wrote."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pyinfra.api.exceptions import FactProcessError

from facts.servers import LlamaServers, ServersState, parse_servers

RUNNING = """@@llamaherd:account
998
@@llamaherd:units
/etc/systemd/system/llama-server@coder.service
/etc/systemd/system/llama-server@old.service
@@llamaherd:server coder
MainPID=814
NRestarts=2
LoadState=loaded
ActiveState=active
SubState=running
DropInPaths=/etc/systemd/system/llama-server@coder.service.d/memory.conf
UnitFileState=enabled
NeedDaemonReload=no
Executable=/opt/llama.cpp/b1-0c1e570-5f/bin/llama-server (deleted)
Config=0123456789abcdef
KeyCurrent=no
ModelCurrent=no
@@llamaherd:server spare
MainPID=0
NRestarts=0
LoadState=not-found
ActiveState=inactive
SubState=dead
DropInPaths=
UnitFileState=
NeedDaemonReload=no
@@llamaherd:options /opt/llama.cpp/b1-0c1e570-5f
--alias --api-key-file --load-mode
""".splitlines()


def test_a_running_server_tells_what_its_process_really_is() -> None:
    coder = parse_servers(RUNNING).servers["coder"]
    assert (coder.active, coder.sub, coder.enabled, coder.pid) == (
        "active",
        "running",
        "enabled",
        814,
    )
    assert coder.executable.endswith("(deleted)")
    assert (coder.config, coder.key_current, coder.restarts) == ("0123456789abcdef", False, 2)
    assert not coder.model_current
    assert coder.drop_ins == ("/etc/systemd/system/llama-server@coder.service.d/memory.conf",)


def test_a_server_that_never_was_is_not_found() -> None:
    spare = parse_servers(RUNNING).servers["spare"]
    assert (spare.load, spare.pid, spare.config, spare.key_current) == ("not-found", 0, "", True)
    assert spare.model_current


def test_units_of_ours_that_nobody_asked_for_are_told() -> None:
    state = parse_servers(RUNNING)
    assert state.others == ("old",)
    assert state.account
    assert state.options["/opt/llama.cpp/b1-0c1e570-5f"] >= {"--alias", "--load-mode"}


def test_an_empty_host_has_nothing() -> None:
    empty = ["@@llamaherd:account", "@@llamaherd:units"]
    assert parse_servers(empty) == ServersState()


def test_an_answer_that_is_no_answer_fails_this_host_alone() -> None:
    with pytest.raises(FactProcessError, match=r"llama-server@coder\.service"):
        parse_servers(["@@llamaherd:server coder", "Failed to connect to bus"])


@pytest.mark.parametrize("name", ["coder", "it's", "a b", "$(touch x)"])
def test_the_command_is_sound_shell_whatever_the_name(name: str) -> None:
    command = LlamaServers().command([name], [f"/opt/{name}"])
    subprocess.run(["sh", "-n"], input=command, text=True, check=True)


UNIT = ("LoadState=loaded", "ActiveState=active", "SubState=running")
MAPS = """\
7f10-7f11 r-xp 00000000 fd:00 11 /usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06 (deleted)
7f11-7f12 r--p 00000000 fd:00 11 /usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06 (deleted)
7f12-7f13 r-xp 00000000 fd:00 12 /opt/cuda/13.0.2/lib/libcublasLt.so.13 (deleted)
7f13-7f14 r-xp 00000000 fd:00 13 /usr/lib64/libnvidia-ml.so.580.65.06 (deleted)
7f14-7f15 r-xp 00000000 fd:00 14 /usr/lib/x86_64-linux-gnu/libssl.so.3 (deleted)
7f15-7f16 r-xp 00000000 fd:00 15 /usr/lib/x86_64-linux-gnu/libcudart.so.13
7f16-7f17 rw-s 00000000 00:01 16 /memfd:libcuda (deleted)
7f17-7f18 rw-s 00000000 00:01 17 /dev/zero (deleted)
7f18-7f19 r--p 00000000 fd:00 18 /var/lib/llamaherd/models/a/b/c/m.gguf (deleted)
"""


def of_maps(maps: str) -> list[str]:
    """What the host's command makes of a process's maps, which lie in this file."""
    script = shlex.split(LlamaServers().command(names=["coder"]))[2]
    start = script.index("  sed -nE -e")
    lines = script[start : script.index("sort -u", start) + len("sort -u")]
    done = subprocess.run(
        ["sh", "-c", lines], env={"maps": maps}, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def test_of_the_files_that_were_replaced_under_a_process_models_and_nvidias_count(
    tmp_path: Path,
) -> None:
    (tmp_path / "maps").write_text(MAPS)
    found = of_maps(str(tmp_path / "maps"))
    assert found == [
        "ModelCurrent=no",
        "Replaced=/opt/cuda/13.0.2/lib/libcublasLt.so.13",
        "Replaced=/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06",
        "Replaced=/usr/lib64/libnvidia-ml.so.580.65.06",
    ]
    (server,) = parse_servers(["@@llamaherd:server x", *UNIT, *found]).servers.values()
    assert len(server.replaced_libraries) == 3
    assert not server.model_current


def test_a_library_replaced_under_a_real_process_is_seen(tmp_path: Path) -> None:
    """Another library of this machine's stands in for the driver's."""
    library = tmp_path / "libcuda.so.580.65.06"
    own = next(
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "/libm.so" in line or "/libc.so" in line
    )
    shutil.copy(own, library)
    # Loaded on top of itself, the C library would only crash the process: map it, no more.
    program = (
        "import mmap, sys, time; f = open(sys.argv[1], 'rb'); "
        "m = mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ); print(flush=True); time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", program, library], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        assert of_maps(f"/proc/{process.pid}/maps") == []
        shutil.copy(own, tmp_path / "new")
        (tmp_path / "new").replace(library)
        assert of_maps(f"/proc/{process.pid}/maps") == [f"Replaced={library}"]
    finally:
        process.kill()
        process.wait()
