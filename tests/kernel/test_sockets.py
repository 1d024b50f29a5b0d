"""Sockets as the running kernel lists them."""

import dataclasses
import os
import socket
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path

import pytest

from kernel.fresh_namespace import in_fresh_namespace, ip, until_local
from swanroam.kernel import sock_diag
from swanroam.kernel.sock_diag import Condition
from swanroam.kernel.sockets import (
    IPAddress,
    SocketDiagError,
    SocketEnds,
    SocketGone,
    SocketInUse,
    SocketProtocol,
    SocketState,
    automatic_ports,
    destroy,
    sockets_on,
)

pytestmark = pytest.mark.kernel

A = ip_address("192.0.2.1")
B = ip_address("192.0.2.2")
A6 = ip_address("2001:db8::1")
B6 = ip_address("2001:db8::2")


async def two_addresses() -> None:
    """Give the namespace A, B, A6 and B6."""
    ip(
        "address add 192.0.2.1/32 dev lo",
        "address add 192.0.2.2/32 dev lo",
        "address add 2001:db8::1/128 dev lo nodad",
        "address add 2001:db8::2/128 dev lo nodad",
    )
    await until_local(A, B, A6, B6)


class Sockets(ExitStack):
    """Opens sockets, and closes them at the end."""

    def tcp_pair(self, local: str, remote: str, port: int = 7000) -> tuple[socket.socket, socket.socket]:
        """A connection from `local` to `remote`: the connecting and the accepted end; the listener is closed."""
        family = socket.AF_INET6 if ":" in remote else socket.AF_INET
        with socket.create_server((remote, port), family=family) as listener:
            client = self.enter_context(socket.create_connection((remote, port), source_address=(local, 0)))
            server = self.enter_context(listener.accept()[0])
        return client, server

    def udp(self, local: str, port: int, remote: tuple[str, int] | None = None) -> socket.socket:
        family = socket.AF_INET6 if ":" in local else socket.AF_INET
        sock = self.enter_context(socket.socket(family, socket.SOCK_DGRAM))
        sock.bind((local, port))
        if remote:
            sock.connect(remote)
        return sock


def inode_of(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.mark.parametrize(("local", "remote"), [(A, B), (A6, B6)])
def test_connection_is_found_by_either_address_or_both(local: IPAddress, remote: IPAddress) -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            client, server = opened.tcp_pair(str(local), str(remote))
            port = client.getsockname()[1]
            ours = SocketInUse(
                SocketProtocol.TCP,
                SocketState.ESTABLISHED,
                client.family,
                local,
                port,
                remote,
                7000,
                interface=0,
                inode=inode_of(client),
                uid=0,
            )
            theirs = SocketInUse(
                SocketProtocol.TCP,
                SocketState.ESTABLISHED,
                client.family,
                remote,
                7000,
                local,
                port,
                interface=0,
                inode=inode_of(server),
                uid=0,
            )
            assert await sockets_on(local) == (ours,)
            assert await sockets_on(remote=remote) == (ours,)
            assert await sockets_on(local, remote) == (ours,)
            assert await sockets_on(remote, local) == (theirs,)
            assert await sockets_on(local, local) == ()
            assert set(await sockets_on()) == {ours, theirs}
            assert ours.connected
            assert not ours.listening
            assert not ours.lingering

    in_fresh_namespace(run)


def test_ipv4_connection_of_an_ipv6_socket_is_found_by_its_ipv4_address() -> None:
    async def run() -> None:
        await two_addresses()
        with ExitStack() as stack:
            listener = stack.enter_context(
                socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
            )
            client = stack.enter_context(socket.create_connection(("192.0.2.2", 7000), source_address=("192.0.2.1", 0)))
            server = stack.enter_context(listener.accept()[0])
            (found,) = await sockets_on(B, A)
            assert (found.family, found.local, found.local_port) == (socket.AF_INET6, B, 7000)
            assert (found.remote, found.inode) == (A, inode_of(server))
            (found,) = await sockets_on(A)
            assert (found.family, found.inode) == (socket.AF_INET, inode_of(client))

    in_fresh_namespace(run)


def test_listener_on_the_address_is_found_and_flagged_one_on_all_addresses_is_not_found() -> None:
    async def run() -> None:
        await two_addresses()
        with (
            socket.create_server(("192.0.2.1", 7000)) as named,
            socket.create_server(("0.0.0.0", 7001)),
            socket.create_server(("::", 7002), family=socket.AF_INET6, dualstack_ipv6=True),
        ):
            (found,) = await sockets_on(A)
            assert found.listening
            assert not found.connected
            assert (found.local_port, found.inode) == (7000, inode_of(named))
            assert {entry.local_port for entry in await sockets_on() if entry.listening} == {7000, 7001, 7002}
            assert [entry.local_port for entry in await sockets_on(ip_address("0.0.0.0"))] == [7001]

    in_fresh_namespace(run)


def test_udp_sockets_are_found_connected_or_not() -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            opened.udp("192.0.2.1", 5000)
            opened.udp("192.0.2.1", 5001, ("192.0.2.2", 9))
            opened.udp("::ffff:192.0.2.1", 5002)
            opened.udp("0.0.0.0", 5003)
            opened.udp("2001:db8::1", 5004, ("2001:db8::2", 9))

            found = await sockets_on(A)
            assert [(entry.protocol, entry.local_port, entry.state, entry.connected) for entry in found] == [
                (SocketProtocol.UDP, 5000, SocketState.CLOSE, False),
                (SocketProtocol.UDP, 5001, SocketState.ESTABLISHED, True),
                (SocketProtocol.UDP, 5002, SocketState.CLOSE, False),
            ]
            assert [entry.local_port for entry in await sockets_on(A6)] == [5004]
            assert [entry.local_port for entry in await sockets_on(remote=B6)] == [5004]

    in_fresh_namespace(run)


def test_unbound_udp_socket_that_is_connected_uses_the_address_that_the_kernel_gave_it() -> None:
    async def run() -> None:
        await two_addresses()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect(("192.0.2.2", 9))
            local = ip_address(sock.getsockname()[0])
            assert [entry.inode for entry in await sockets_on(local)] == [inode_of(sock)]

    in_fresh_namespace(run)


def test_finished_connection_is_flagged_as_lingering() -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            client, server = opened.tcp_pair("192.0.2.1", "192.0.2.2")
            client.close()
            assert server.recv(1) == b""
            server.close()
        found = await sockets_on(A)
        assert [(entry.state, entry.lingering, entry.inode) for entry in found] == [(SocketState.TIME_WAIT, True, 0)]

    in_fresh_namespace(run)


def test_half_closed_connection_that_still_has_an_owner_is_in_use() -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            client, server = opened.tcp_pair("192.0.2.1", "192.0.2.2")
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
            # What comes back acknowledges the end
            server.send(b"x")
            assert client.recv(1) == b"x"
            (found,) = await sockets_on(A)
            assert found.state is SocketState.FIN_WAIT2
            assert not found.lingering

            # Closed: the kernel keeps it for a while, nobody can use it any more
            client.close()
            (found,) = await sockets_on(A)
            assert found.lingering

    in_fresh_namespace(run)


def test_connection_that_is_being_made_is_found() -> None:
    async def run() -> None:
        await two_addresses()
        ip(
            "link add name net-a type veth peer name net-z",
            "link set net-a up",
            "link set net-z up",
            "route add 198.51.100.0/24 dev net-a src 192.0.2.1",
        )
        with socket.socket() as sock:
            sock.setblocking(False)
            sock.bind(("192.0.2.1", 0))
            assert sock.connect_ex(("198.51.100.9", 80)) != 0
            (found,) = await sockets_on(A)
            assert found.state is SocketState.SYN_SENT
            assert found.remote == ip_address("198.51.100.9")

    in_fresh_namespace(run)


def test_thousands_of_sockets_do_not_hide_the_one() -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            for port in range(10000, 10700):
                opened.udp("192.0.2.2", port)
            wanted = opened.udp("192.0.2.1", 5000)
            assert [entry.inode for entry in await sockets_on(A)] == [inode_of(wanted)]
            assert len(await sockets_on(B)) == 700
            assert len(await sockets_on()) == 701

    in_fresh_namespace(run)


def test_queues_and_ends_of_a_connection_are_told() -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            client, server = opened.tcp_pair("192.0.2.1", "192.0.2.2")
            (found,) = await sockets_on(A)
            assert (found.receive_queue, found.send_queue, found.ends) == (0, 0, SocketEnds(0))
            server.send(b"five.")
            client.shutdown(socket.SHUT_WR)
            assert server.recv(1) == b""
            (found,) = await sockets_on(A)
            assert (found.receive_queue, found.ends) == (5, SocketEnds.SENT)
            (found,) = await sockets_on(B)
            assert found.ends is SocketEnds.RECEIVED
            assert found.upper_protocol == ""

    in_fresh_namespace(run)


def test_ports_that_were_asked_for_are_told_from_automatic_ones() -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            automatic, accepted = opened.tcp_pair("192.0.2.1", "192.0.2.2")
            asked_for = opened.enter_context(socket.socket())
            asked_for.bind(("192.0.2.1", 4444))
            listener = opened.enter_context(socket.create_server(("192.0.2.2", 7001)))
            asked_for.connect(("192.0.2.2", 7001))
            cookies = {entry.inode: entry.cookie for entry in await sockets_on()}
            assert len(set(cookies.values())) == len(cookies)
            found = await automatic_ports()
            assert {inode_of(automatic), inode_of(accepted)} <= {i for i, cookie in cookies.items() if cookie in found}
            assert cookies[inode_of(asked_for)] not in found
            assert cookies[inode_of(listener)] not in found
            assert await automatic_ports(A, B) == {cookies[inode_of(automatic)]}

    in_fresh_namespace(run)


@pytest.mark.parametrize("remote", [B, B6], ids=["ipv4", "ipv6"])
def test_a_connection_is_ended_with_a_reset_and_only_the_one_that_was_listed(remote: IPAddress) -> None:
    async def run() -> None:
        await two_addresses()
        with Sockets() as opened:
            client, server = opened.tcp_pair(str(A if remote is B else A6), str(remote))
            (found,) = await sockets_on(A if remote is B else A6)
            with pytest.raises(SocketGone, match=r"there is no socket TCP 192.0.2|2001:db8"):
                await destroy(dataclasses.replace(found, cookie=b"\1" * 8))
            await destroy(found)
            with pytest.raises(ConnectionAbortedError):
                client.recv(1)
            with pytest.raises(ConnectionResetError):
                server.recv(1)
            with pytest.raises(SocketGone):
                await destroy(found)

    in_fresh_namespace(run)


def test_ipv4_connection_of_an_ipv6_socket_can_be_ended() -> None:
    async def run() -> None:
        await two_addresses()
        with ExitStack() as stack:
            listener = stack.enter_context(
                socket.create_server(("::", 7000), family=socket.AF_INET6, dualstack_ipv6=True)
            )
            client = stack.enter_context(socket.create_connection(("192.0.2.2", 7000), source_address=("192.0.2.1", 0)))
            server = stack.enter_context(listener.accept()[0])
            (found,) = await sockets_on(B, A)
            await destroy(found)
            with pytest.raises(ConnectionAbortedError):
                server.recv(1)
            with pytest.raises(ConnectionResetError):
                client.recv(1)

    in_fresh_namespace(run)


def test_reading_leaves_no_descriptor_behind() -> None:
    async def run() -> None:
        before = len(list(Path("/proc/self/fd").iterdir()))
        await sockets_on()
        await sockets_on(A)
        assert len(list(Path("/proc/self/fd").iterdir())) == before

    in_fresh_namespace(run)


def test_kernel_without_the_module_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        def request(family: int, protocol: SocketProtocol, condition: Condition) -> bytes:
            packed = real(family, protocol, condition)
            return packed[:1] + bytes([253]) + packed[2:]  # RFC 3692: a protocol that no kernel has

        real = sock_diag.list_request
        monkeypatch.setattr(sock_diag, "list_request", request)
        with pytest.raises(SocketDiagError, match=r"refuses to list its sockets: .*; load them with 'modprobe"):
            await sockets_on()

    in_fresh_namespace(run)
