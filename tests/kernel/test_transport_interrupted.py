"""Whoever dies at whatever moment: another process that has the socket and the image finishes, or puts it back."""

import os
import pickle
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import pytest

from kernel.transport_hosts import (
    End,
    Hosts,
    another_descriptor,
    correspondent,
    exchange,
    fill,
    mobile,
    plan_for,
    rebuild,
    receive,
)
from swanroam.kernel.sock_diag import SocketState
from swanroam.transport import connection, datagram, repair
from swanroam.transport.binding import Steering, four_tuple
from swanroam.transport.image import SEQUENCE_MASK, FourTuple, Image, SignatureKey, Window

pytestmark = pytest.mark.kernel

TCP = socket.IPPROTO_TCP
T = TypeVar("T")


class DiedError(Exception):
    """Stands for SIGKILL."""


class Mortal(socket.socket):
    """A duplicate of a socket whose user dies at the system call with a given number."""

    def __init__(self, sock: socket.socket, calls: int) -> None:
        super().__init__(fileno=os.dup(sock.fileno()))
        self.left = calls

    def _count(self, call: Callable[..., T], *arguments: Any) -> T:
        if self.left == 0:
            raise DiedError
        self.left -= 1
        return call(*arguments)

    def fileno(self) -> int:  # ioctl, poll, connect(AF_UNSPEC)
        return self._count(super().fileno)

    def setsockopt(self, *arguments: Any) -> None:
        return self._count(super().setsockopt, *arguments)

    def getsockopt(self, *arguments: Any) -> Any:
        return self._count(super().getsockopt, *arguments)

    def getsockname(self) -> Any:
        return self._count(super().getsockname)

    def getpeername(self) -> Any:
        return self._count(super().getpeername)

    def bind(self, *arguments: Any) -> None:
        return self._count(super().bind, *arguments)

    def connect(self, *arguments: Any) -> None:
        return self._count(super().connect, *arguments)

    def send(self, *arguments: Any) -> int:
        return self._count(super().send, *arguments)

    def recv_into(self, *arguments: Any) -> int:
        return self._count(super().recv_into, *arguments)

    def shutdown(self, *arguments: Any) -> None:
        return self._count(super().shutdown, *arguments)


def dies_at(call: int, sock: socket.socket, act: Callable[[socket.socket], object]) -> bool:
    """Run `act` with a descriptor of its own; whether it got as far as that call."""
    with Mortal(sock, call) as mortal:
        try:
            act(mortal)
        except DiedError:
            mortal.left = -1
            return True
        mortal.left = -1
        return False


@pytest.fixture(scope="module")
def both() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.delete()


@pytest.fixture
def hosts(both: Hosts) -> Iterator[Hosts]:
    yield both
    both.forget()


def lasting(image: Image, *, lacking: bytes | None = None) -> Image:
    """What must be the same wherever the connection stands: all but the FIN that the peer sends again.

    `lacking`: what the peer has not received, where the image is older than its number.
    """
    edge = (image.window.receive_update + image.window.receive) & SEQUENCE_MASK
    window = Window(send_update=0, send=0, send_largest=image.window.send_largest, receive=edge, receive_update=0)
    unacknowledged = image.unacknowledged if lacking is None else lacking
    return replace(image, window=window, unacknowledged=unacknowledged, fin_received=False)


def busy_connection(hosts: Hosts, bind: tuple[str, int] | None) -> tuple[End, End]:
    """In the smallest buffers, with options that rebuilding has to set again."""
    small = ((socket.SOL_SOCKET, socket.SO_SNDBUF, 1), (socket.SOL_SOCKET, socket.SO_RCVBUF, 1))
    client, server = hosts.connect(bind=bind, options=small)
    client.sock.setsockopt(TCP, repair.TCP_NOTSENT_LOWAT, 1000)
    client.sock.setsockopt(TCP, socket.TCP_QUICKACK, 0)
    client.sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.sock.sendall(b"unread")
    while repair.unread(client.held) < 6:
        pass
    return client, server


MOVABLE = [None, ("0.0.0.0", 6200), (str(mobile("a")), 0)]
NAMES = ["not bound", "bound to a port", "bound to the old address"]


@pytest.mark.parametrize("back", [False, True], ids=["finished", "undone"])
@pytest.mark.parametrize("bind", MOVABLE, ids=NAMES)
def test_rebuilding_is_completed_from_wherever_it_was_interrupted(
    hosts: Hosts, bind: tuple[str, int] | None, back: bool
) -> None:
    client, server = busy_connection(hosts, bind)
    finish_from_everywhere(hosts, client, server, new="b", end="a" if back else "b")


def test_a_connection_that_cannot_move_is_put_back_from_wherever_that_was_interrupted(hosts: Hosts) -> None:
    client, server = busy_connection(hosts, (str(mobile("a")), 6300))
    finish_from_everywhere(hosts, client, server, new="a", end="a")


@pytest.mark.both
def test_putting_back_against_all_routes_is_completed_as_well(hosts: Hosts) -> None:
    client, server = busy_connection(hosts, ("0.0.0.0", 6200))
    hosts.prefer("c")
    finish_from_everywhere(hosts, client, server, new="a", end="a", steered=False)
    assert client.addresses.local == mobile("a")


@pytest.mark.parametrize("ended", ["writing", "both"])
def test_half_closed_connections_are_completed_as_well(hosts: Hosts, ended: str) -> None:
    client, server = busy_connection(hosts, None)
    if ended == "both":
        server.sock.shutdown(socket.SHUT_WR)
        while repair.info(client.held).state is not SocketState.CLOSE_WAIT:
            pass
    finish_from_everywhere(hosts, client, server, new="b", end="b", shut=socket.SHUT_WR)


def finish_from_everywhere(
    hosts: Hosts, client: End, server: End, *, new: str, end: str, shut: int | None = None, steered: bool = True
) -> None:
    """The worker dies at each system call of a rebuild in network `new`; the keeper rebuilds in network `end`."""
    steering = Steering(interface=hosts.interface(new) if steered else 0)
    target, final = client.at(local=mobile(new)), client.at(local=mobile(end))
    with hosts.locked():
        said = fill(client)
        if shut is not None:
            client.sock.shutdown(shut)
        number = connection.read_number(server.held)
        image, server_image = connection.take(client.held), connection.take(server.held)
        wanted = lasting(image, lacking=image.unacknowledged[image.skipped(number) :])
        call = 0
        while dies_at(call, client.held, lambda sock: connection.rebuild(sock, image, target, number, steering)):
            with another_descriptor(client.sock) as keeper:
                connection.rebuild(keeper, image, final, number, steering)
                now = connection.take(keeper)
                assert lasting(now) == replace(wanted, addresses=final), f"after call {call}"
                assert now.window.send == 0
            call += 1
        assert call > 50
        connection.rebuild(client.held, image, final, number, steering)
        connection.rebuild(server.held, server_image, server.at(remote=final.local), image.receive_next)
    connection.let_go(client.held, image)
    connection.let_go(server.held, server_image)
    assert receive(server.sock, len(said)) == said
    assert receive(client.sock, 6) == b"unread"
    if shut is None:
        exchange(client, server)
    else:
        assert server.sock.recv(1) == b""


def test_a_fresh_socket_is_completed_from_wherever_it_was_interrupted(hosts: Hosts) -> None:
    """The first move of a socket that is not bound is the one that binds it: each call has a connection of its own."""
    steering = Steering(interface=hosts.interface("b"))
    pairs = [hosts.connect() for _ in range(120)]
    moved = []
    died = True
    with hosts.locked():
        for call, (client, server) in enumerate(pairs):
            target = client.at(local=mobile("b"))
            final = client.addresses if call % 2 else target
            said = fill(client, 3000)
            number = connection.read_number(server.held)
            images = connection.take(client.held), connection.take(server.held)
            died = dies_at(call, client.held, partial(_rebuild, images[0], target, number, steering))
            connection.rebuild(client.held, images[0], final, number, steering)
            connection.rebuild(server.held, images[1], server.at(remote=final.local), images[0].receive_next)
            moved.append((client, server, images, said))
            if not died:
                break
    assert not died, f"rebuilding takes more than {len(pairs)} calls"
    for client, server, images, said in moved:
        connection.let_go(client.held, images[0])
        connection.let_go(server.held, images[1])
        assert receive(server.sock, 3000) == said
        exchange(client, server)


def _rebuild(image: Image, target: FourTuple, number: int, steering: Steering, sock: socket.socket) -> None:
    connection.rebuild(sock, image, target, number, steering)


@pytest.mark.parametrize("phase", [connection.read_number, connection.take], ids=["number", "take"])
def test_reading_leaves_the_connection_running_wherever_it_is_interrupted(
    hosts: Hosts, phase: Callable[[socket.socket], object]
) -> None:
    client, server = busy_connection(hosts, None)
    reuse_address = client.held.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    with hosts.locked():
        said = fill(client)
        before = connection.take(client.held)
        call = 0
        while dies_at(call, client.held, phase):
            with another_descriptor(client.sock) as keeper:
                connection.clear_repair(keeper, reuse_address)
                assert connection.take(keeper) == before
            call += 1
        assert call > 5
    assert receive(server.sock, len(said)) == said
    assert receive(client.sock, 6) == b"unread"
    exchange(client, server)


def test_an_image_can_be_handed_to_another_process_and_shows_no_data(hosts: Hosts) -> None:
    client, _server = busy_connection(hosts, None)
    with hosts.locked():
        said = fill(client)
        image = connection.take(client.held, [SignatureKey(correspondent(), 32, b"a key")])
    assert pickle.loads(pickle.dumps(image)) == image
    assert (image.received, image.unacknowledged[-5:]) == (b"unread", said[-5:])
    assert "unread" not in repr(image)
    assert "a key" not in repr(image)


def test_letting_go_is_completed_from_wherever_it_was_interrupted(hosts: Hosts) -> None:
    client, server = hosts.connect()
    call, died = 0, True
    while died:
        with hosts.locked():
            said = fill(client, 3000)
            images = rebuild(*plan_for(hosts, client, server, "bc"[call % 2]))
        died = dies_at(call, client.held, partial(_let_go, images[0]))
        connection.let_go(client.held, images[0])
        connection.let_go(server.held, images[1])
        assert receive(server.sock, len(said)) == said
        exchange(client, server)
        assert client.sock.getsockopt(TCP, socket.TCP_NODELAY) == 0
        call += 1
    assert call > 8


def _let_go(image: Image, sock: socket.socket) -> None:
    connection.let_go(sock, image)


@pytest.mark.parametrize("back", [False, True], ids=["finished", "undone"])
@pytest.mark.parametrize("bind", MOVABLE, ids=NAMES)
def test_a_datagram_socket_is_completed_from_wherever_it_was_interrupted(
    hosts: Hosts, bind: tuple[str, int] | None, back: bool
) -> None:
    server = hosts.open_socket(hosts.correspondent, socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((str(correspondent()), 6400))
    client = hosts.open_socket(hosts.mobile, socket.AF_INET, socket.SOCK_DGRAM)
    if bind:
        client.bind(bind)
    client.connect((str(correspondent()), 6400))
    client.send(b"hello")
    server.recv(10)
    server.sendto(b"queued", client.getsockname())
    steering = Steering(interface=hosts.interface("b"))
    with another_descriptor(client) as held:
        image = datagram.take(held)
        target = replace(image.addresses, local=mobile("b"))
        final = image.addresses if back else target
        call = 0
        while dies_at(call, held, lambda sock: datagram.rebuild(sock, image, target, steering)):
            datagram.rebuild(held, image, final, steering)
            assert replace(datagram.take(held), addresses=image.addresses) == image
            assert four_tuple(held) == final
            datagram.rebuild(held, image, image.addresses)
            call += 1
        assert call > 10
        datagram.rebuild(held, image, final, steering)
    client.send(b"on we go")
    assert server.recvfrom(20) == (b"on we go", client.getsockname())
    assert client.recv(20) == b"queued"
