"""Small packets go at once: on a host's connection Nagle's algorithm is off."""

import socket

from paramiko import Transport

from inventories.groups import connection_data
from inventories.settings import HostSettings, SshSettings
from inventories.transport import prompt_transport


def test_a_connection_over_tcp_does_not_wait_for_acknowledgements() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as connection,
    ):
        assert not connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        transport = prompt_transport(connection, gss_kex=False)
        assert isinstance(transport, Transport)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_connection_through_something_else_is_made_all_the_same() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert isinstance(prompt_transport(one), Transport)


def test_every_host_is_reached_so(tmp_path) -> None:
    data = connection_data(HostSettings("gpu-01", SshSettings("gpu-01")), tmp_path)
    assert data["ssh_paramiko_connect_kwargs"] == {"transport_factory": prompt_transport}
