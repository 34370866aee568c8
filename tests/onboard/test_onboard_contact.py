"""Targets as ssh resolves them, passwords and keys before anything goes over the line."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from onboard_support import TARGET

from llamaherd.arguments import CommandError
from llamaherd.cli import main
from llamaherd.onboard.first_contact import (
    Wishes,
    check_wishes,
    password_of,
    public_key,
    steps_of,
    sudo_line,
)
from llamaherd.onboard.probe import connection
from llamaherd.onboard.target import resolve_target

CONFIG = """\
Host gpu
  HostName 192.0.2.7
  User herder
  Port 2200
  UserKnownHostsFile {folder}/known
  ProxyJump jump.example.org
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


@pytest.mark.parametrize(
    ("given", "user", "hostname", "port", "alias"),
    [
        ("gpu", "herder", "192.0.2.7", 2200, "gpu"),
        ("ops@gpu:2201", "ops", "192.0.2.7", 2201, "gpu"),
        ("ops@10.0.0.17", "ops", "10.0.0.17", 22, ""),
        ("ops@[2001:db8::7]:2222", "ops", "2001:db8::7", 2222, ""),
    ],
)
def test_a_target_is_what_ssh_makes_of_it(
    config: Path, given: str, user: str, hostname: str, port: int, alias: str
) -> None:
    target = resolve_target(given, config_file=config)
    assert (target.user, target.hostname, target.port, target.alias) == (
        user,
        hostname,
        port,
        alias,
    )
    assert target.proxy == ("jump.example.org" if alias else "")


@pytest.mark.parametrize("given", ["", "-oProxyCommand=x", "a b", "ops@", "host:port", "a@b@c"])
def test_what_is_no_target_is_refused_before_ssh_sees_it(given: str) -> None:
    with pytest.raises(CommandError, match="is no target"):
        resolve_target(given)


def test_a_password_is_used_without_any_key() -> None:
    word = secrets.token_urlsafe(8)
    data = connection(replace(TARGET, key="/k"), word)
    assert (data["ssh_password"], "ssh_key" in data, data["ssh_look_for_keys"]) == (
        word,
        False,
        False,
    )
    assert data["ssh_strict_host_key_checking"] == "yes"


def test_a_password_is_never_given_on_the_command_line(tmp_path: Path) -> None:
    word = secrets.token_urlsafe(8)
    with pytest.raises(CommandError, match="not the password") as error:
        password_of(word, tmp_path)
    assert word not in str(error.value)
    with pytest.raises(CommandError, match="no terminal"):
        password_of("prompt", tmp_path)
    with pytest.raises(CommandError, match="NOT_SET_HERE"):
        password_of("env:NOT_SET_HERE", tmp_path)
    (tmp_path / "word").write_text(word + "\n")
    assert password_of("file:word", tmp_path) == word
    assert password_of("command:cat word", tmp_path) == word
    with pytest.raises(CommandError, match="--password"):
        password_of("command:cat 'word", tmp_path)


def test_a_public_key_is_found_or_derived(tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "me", "-f", str(key)], check=True
    )
    target = replace(TARGET, key=str(key))
    found = public_key(target)
    assert found.split()[2] == "me"
    Path(f"{key}.pub").unlink()
    assert public_key(target).split()[:2] == found.split()[:2]
    key.write_text("damaged")
    with pytest.raises(CommandError, match="ssh-keygen -t ed25519"):
        public_key(target)


@pytest.mark.parametrize("name", ["", "root", "Me", "a.b", "x" * 33, "-a", "a b"])
def test_names_that_sudo_would_not_take(name: str) -> None:
    wishes = Wishes(create_user=name)
    if not name:
        check_wishes(wishes)
        return
    with pytest.raises(CommandError, match="--create-user"):
        check_wishes(wishes)


def test_each_step_is_said_with_its_undo() -> None:
    key = f"ssh-ed25519 {'A' * 60} me@here"
    steps = steps_of(TARGET, Wishes(True, "herder"), key)
    assert ["me@here" in step.what for step in steps] == [True, True]
    assert "A" * 60 in steps[0].undo
    assert sudo_line("herder") == "herder ALL=(root) NOPASSWD: ALL"
    assert sudo_line("herder") in steps[1].what
    assert "userdel --remove herder" in steps[1].undo
    assert not any(step.done for step in steps)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["onboard"], "name a box"),
        (["onboard", "10.0.0.1", "--converge"], "--converge goes with --write"),
        (["onboard", "10.0.0.1", "--write", "--json"], "add --yes"),
        (["onboard", "10.0.0.1", "--fleet", "nowhere.yaml"], "no fleet file nowhere.yaml"),
        (["onboard", "--list", "nowhere.txt"], "one target a line"),
        (["onboard", "10.0.0.1", "--key", "nowhere"], "there is no file nowhere"),
        (["onboard", "10.0.0.1", "--create-user", "root"], "root is there already"),
    ],
)
def test_wrong_usage_is_one_line_and_exits_1(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_an_interrupt_ends_it_cleanly_while_a_box_says_nothing(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("llamaherd")), "onboard"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        silent.settimeout(60)
        running = subprocess.Popen(
            [*command, f"ops@127.0.0.1:{port}"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # A shell's background jobs ignore SIGINT, and their children with them.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )
        connection, _ = silent.accept()
        with connection:
            running.send_signal(signal.SIGINT)
            out, err = running.communicate(timeout=60)
    assert (running.returncode, out, err) == (130, "", "interrupted\n")


def test_something_that_is_no_sshd_is_told_without_a_traceback(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        running = subprocess.Popen(
            [
                str(Path(sys.executable).with_name("llamaherd")),
                "onboard",
                f"ops@127.0.0.1:{server.getsockname()[1]}",
            ],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        server.settimeout(60)
        connection, _ = server.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 50)
        out, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (1, "")
    assert "can't be reached" in out
