"""Small packets go at once, and sudo's password goes by standard input."""

import os
import socket
import subprocess
from pathlib import Path

import pytest
from paramiko import Transport
from pyinfra.api import StringCommand
from pyinfra.connectors.util import make_unix_command

from inventories.groups import connection_data
from inventories.secrets import Secret
from inventories.settings import HostSettings, SecretReference, SshSettings
from inventories.transport import (
    ON_STANDARD_INPUT,
    SILENCE,
    prompt_transport,
    sudo_transport,
    takes_password,
)


def test_a_connection_over_tcp_does_not_wait_for_acknowledgements() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        assert not connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport = prompt_transport(connection, gss_kex=False)
        assert isinstance(transport, Transport)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_host_that_is_gone_is_noticed() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        prompt_transport(connection, gss_kex=False)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        asked = ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
        idle, pause, times = (
            connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in asked
        )
        assert idle + pause * times == SILENCE
        timeout = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        assert timeout == SILENCE * 1000


def test_a_connection_through_something_else_is_made_all_the_same() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert isinstance(prompt_transport(one), Transport)


def test_every_host_is_reached_so(tmp_path) -> None:
    data = connection_data(HostSettings("gpu-01", SshSettings("gpu-01")), tmp_path)
    assert data["ssh_paramiko_connect_kwargs"] == {"transport_factory": prompt_transport}


def sudo_command(command: str, password: str = ON_STANDARD_INPUT) -> str:
    """What pyinfra sends to a host for a command with sudo's password."""
    made = make_unix_command(
        StringCommand(command),
        _sudo=True,
        _sudo_password=password,
        _sudo_askpass_path="/tmp/pyinfra-sudo-askpass-abc",
    )
    return made.get_raw_value()


@pytest.mark.parametrize("word", ["plain", " a b ", "back\\", "$(id) `id` 'x\" %s", "pässwörd"])
def test_sudo_gets_its_password_and_the_command_its_own_input(tmp_path: Path, word: str) -> None:
    sudo = tmp_path / "sudo"
    sudo.write_text('#!/bin/sh\nprintf "%s|%s|" "$PYINFRA_SUDO_PASSWORD" "$*"\ncat\n')
    sudo.chmod(0o755)
    command = takes_password(sudo_command("cat >/dev/null"))
    assert command is not None
    done = subprocess.run(
        ["sh", "-c", command],
        input=f"{word}\nfirst\nsecond\n".encode(),
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        check=True,
    )
    expected = f"{word}|-H -A -k sh -c cat >/dev/null|first\nsecond\n"
    assert done.stdout.decode() == expected, done.stderr


def test_a_command_without_sudos_password_stays_as_it_is() -> None:
    assert takes_password("sh -c 'uname -a'") is None
    assert takes_password(f"sh -c 'echo PYINFRA_SUDO_PASSWORD={ON_STANDARD_INPUT} '") is None


class Channel:
    """What paramiko opens: notes what it is asked."""

    def __init__(self) -> None:
        self.sent: list[str | bytes] = []

    def exec_command(self, command: str) -> None:
        self.sent.append(command)

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)


def test_the_password_is_in_no_command(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    channels: list[Channel] = []

    def open_session(*_: object, **__: object) -> Channel:
        channels.append(Channel())
        return channels[-1]

    monkeypatch.setattr(Transport, "open_session", open_session)
    with one, other:
        transport = sudo_transport(Secret("w0rd"))(one)
        transport.open_session(timeout=1).exec_command(sudo_command("true"))
        transport.open_session().exec_command("uname")
    first, second = (channel.sent for channel in channels)
    assert first == [takes_password(sudo_command("true")), b"w0rd\n"]
    assert "w0rd" not in str(first[0])
    assert second == ["uname"]


def test_a_host_whose_sudo_asks_is_reached_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORD", "w0rd")
    ssh = SshSettings("gpu-01", user="ops", sudo_password=SecretReference(env="WORD"))
    data = connection_data(HostSettings("gpu-01", ssh), tmp_path)
    assert data["_sudo_password"] == ON_STANDARD_INPUT
    assert data["ssh_paramiko_connect_kwargs"]["transport_factory"] is not prompt_transport
    assert "w0rd" not in repr(data)
