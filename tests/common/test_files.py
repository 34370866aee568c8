"""Files are written by the very commands that hosts get, here in a real shell."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyinfra.api import StringCommand
from pyinfra.api.exceptions import FactProcessError

from deploys.common.files import ManagedFile, diff, is_current, write_command
from facts.files import Files, FileState, parse_file

OWNER, GROUP = "root", "root"


def run(command: StringCommand) -> None:
    stdin = command.connector_arguments["_stdin"]
    subprocess.run(["sh", "-c", command.get_raw_value()], input=stdin, text=True, check=True)


def look(*paths: Path, secrets: tuple[Path, ...] = ()) -> dict[str, FileState]:
    fact = Files()
    command = fact.command([str(p) for p in paths], [str(p) for p in secrets])
    out = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return dict(fact.process(out.stdout.splitlines()))


@pytest.fixture
def file(tmp_path: Path) -> ManagedFile:
    return ManagedFile(str(tmp_path / "sub dir" / "it's.conf"), "a = 1\n", mode="640")


def test_a_file_is_written_with_content_mode_and_parents(file: ManagedFile) -> None:
    run(write_command(file))
    path = Path(file.path)
    assert path.read_text() == "a = 1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [entry.name for entry in path.parent.iterdir()] == ["it's.conf"]
    assert is_current(file, look(path)[file.path])


def test_what_an_earlier_write_left_is_swept_up_and_nothing_else(file: ManagedFile) -> None:
    path = Path(file.path)
    path.parent.mkdir()
    left = path.with_name(f"{path.name}.llamaherd-Ab3dEf9h")
    for name in (left.name, f"{path.name}.original", "other.conf.llamaherd-Ab3dEf9h"):
        (path.parent / name).write_text("a = 0\n")
    run(write_command(file))
    assert sorted(entry.name for entry in path.parent.iterdir()) == [
        "it's.conf",
        "it's.conf.original",
        "other.conf.llamaherd-Ab3dEf9h",
    ]


@settings(max_examples=30)  # each starts shells
@given(content=st.text(st.characters(exclude_categories=["Cs"]), max_size=300))
def test_any_text_arrives_byte_for_byte(
    content: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    wanted = ManagedFile(str(path), content)
    run(write_command(wanted))
    assert path.read_bytes() == content.encode()
    assert is_current(wanted, look(path)[str(path)])


def test_a_link_in_the_place_of_a_file_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(target)
    wanted = ManagedFile(str(link), "ours")
    assert not is_current(wanted, look(link)[str(link)])
    run(write_command(wanted))
    assert not link.is_symlink()
    assert (link.read_text(), target.read_text()) == ("ours", "mine")


def test_content_mode_and_owner_each_make_a_file_differ(file: ManagedFile) -> None:
    run(write_command(file))
    state = look(Path(file.path))[file.path]
    assert is_current(file, state)
    for other in (
        ManagedFile(file.path, "a = 2\n", file.mode),
        ManagedFile(file.path, file.content, "644"),
        ManagedFile(file.path, file.content, file.mode, user="nobody"),
    ):
        assert not is_current(other, state)
    assert not is_current(file, None)


def test_a_secret_is_in_no_command_and_no_diff(tmp_path: Path) -> None:
    secret = ManagedFile(str(tmp_path / "key"), "hunter2-hunter2", "600", secret=True)
    command = write_command(secret)
    assert "hunter2" not in command.get_raw_value() + command.get_masked_value()
    assert "hunter2" not in "\n".join(diff(secret, None))
    run(command)
    state = look(secrets=(Path(secret.path),))[secret.path]
    assert state.content is None
    assert is_current(secret, state)


def test_the_diff_shows_lines_mode_and_owner(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old\nsame\n")
    path.chmod(0o600)
    lines = diff(ManagedFile(str(path), "new\nsame\n", user="nobody"), look(path)[str(path)])
    assert "mode 600 -> 644" in lines
    assert any(line.startswith("owner ") and line.endswith("-> nobody:root") for line in lines)
    assert lines[-3:] == ["-old", "+new", " same"]


def test_absent_paths_are_absent_from_the_answer(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("")
    answer = look(tmp_path / "there", tmp_path / "missing", tmp_path)
    assert {path: state.kind for path, state in answer.items()} == {
        str(tmp_path / "there"): "file",
        str(tmp_path): "directory",
    }
    assert answer[str(tmp_path / "there")].content == b""


@pytest.mark.parametrize("line", ["", "file 644 root", "file 644 root root - !!! /x"])
def test_nonsense_fails_this_host_alone(line: str) -> None:
    with pytest.raises(FactProcessError):
        parse_file(line)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system that is full")
@pytest.mark.parametrize("options", ["size=8k", "nr_inodes=1", "ro"])
def test_a_disk_that_takes_no_more_is_told_in_one_line_and_nothing_half_is_left(
    tmp_path: Path, options: str
) -> None:
    wanted = ManagedFile(f"{tmp_path}/it's.conf", "a" * 40_000)
    command = write_command(wanted)
    script = f"mount -t tmpfs -o {options} tmpfs {tmp_path} || exit 99\n"
    script += f"({command.get_raw_value()})\nstatus=$?\nls -A {tmp_path}\nexit $status"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        input=command.connector_arguments["_stdin"],
        capture_output=True,
        text=True,
        check=False,
    )
    why = {
        "ro": "Read-only file system: make its file system writable",
    }.get(options, "No space left on device: make room there")
    if done.returncode == 99:
        pytest.skip("no mounting here")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"can't write {wanted.path}: {why}, then run again\n"


def test_a_folder_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "theirs").touch()
    command = write_command(ManagedFile(str(tmp_path / "file"), "a"))
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input=command.connector_arguments["_stdin"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"can't write {tmp_path}/file: ")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("lines", [0, 1, 3])
def test_content_of_which_only_a_part_came_never_gets_the_final_name(
    tmp_path: Path, lines: int
) -> None:
    (tmp_path / "unit").write_text("old")
    command = write_command(ManagedFile(str(tmp_path / "unit"), "new\n" * 100))
    sent = command.connector_arguments["_stdin"].splitlines(keepends=True)[:lines]
    done = subprocess.run(
        ["sh", "-c", command.get_raw_value()],
        input="".join(sent),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "the connection broke off" in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("unit", "old")]
