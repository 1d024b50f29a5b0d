"""TCP connections move in the sockets of their programs: every state, option and kind of socket that can."""

import os
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from kernel.transport_hosts import (
    PORT,
    RST,
    End,
    Hosts,
    correspondent,
    exchange,
    fill,
    mobile,
    move,
    plan_for,
    rebuild,
    receive,
    to_network,
)
from swanroam.kernel.sock_diag import SocketProtocol, SocketState
from swanroam.transport import connection, moving, repair
from swanroam.transport.binding import Steering
from swanroam.transport.image import Reason, Refused, SignatureKey
from swanroam.transport.orders import Entry
from swanroam.transport.signature import add_key, decode_keys

pytestmark = pytest.mark.kernel

TCP = socket.IPPROTO_TCP
KINDS = {"ipv4": (4, False), "ipv6": (6, False), "dual-stack": (4, True)}


@pytest.fixture(scope="module")
def both() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.delete()


@pytest.fixture
def hosts(both: Hosts) -> Iterator[Hosts]:
    yield both
    both.forget()


def states(*ends: End) -> tuple[SocketState, ...]:
    return tuple(repair.info(end.held).state for end in ends)


def settle(*ends: End, until: tuple[SocketState, ...]) -> None:
    deadline = time.monotonic() + 5
    while states(*ends) != until:
        assert time.monotonic() < deadline, states(*ends)
        time.sleep(0.001)


@pytest.mark.parametrize("kind", KINDS)
def test_ten_moves_in_a_row_with_data_in_every_queue(hosts: Hosts, kind: str, seed: int) -> None:
    version, dual_stack = KINDS[kind]
    chosen = random.Random(seed)
    client, server = hosts.connect(version, dual_stack=dual_stack)
    segment_size = client.held.getsockopt(TCP, socket.TCP_MAXSEG)
    for network in "bcabcabcab":
        sizes = [chosen.choice((0, 1, chosen.randrange(3000), chosen.randrange(100_000))) for _ in range(2)]
        to_server = fill(client, sizes[0], sender_seed=seed)
        to_client = fill(server, sizes[1], sender_seed=seed + 1)
        to_network(hosts, client, server, network)

        assert (client.addresses.local, client.addresses.remote) == (
            mobile(network, version),
            correspondent(1, version),
        )
        assert server.addresses.remote == mobile(network, version)
        assert client.held.getsockopt(TCP, socket.TCP_MAXSEG) == segment_size
        assert receive(server.sock, len(to_server)) == to_server
        assert receive(client.sock, len(to_client)) == to_client
        exchange(client, server)


def test_a_stream_in_full_flow_both_ways_loses_nothing(hosts: Hosts, seed: int) -> None:
    client, server = hosts.connect()
    chosen = random.Random(seed)
    streams = [chosen.randbytes(3_000_000) for _ in range(2)]
    gates = [threading.Event() for _ in range(4)]
    running = threading.Event()
    running.set()
    got: dict[int, bytearray] = {0: bytearray(), 1: bytearray()}

    # The owners: they do a piece at a time, and stand still while the gate is closed.
    def write(end: End, data: bytes, gate: threading.Event) -> None:
        rest = memoryview(data)
        while rest:
            if not running.is_set():
                gate.set()
                running.wait()
                gate.clear()
            try:
                rest = rest[end.held.send(rest[:20_000], socket.MSG_DONTWAIT) :]
            except BlockingIOError:
                time.sleep(0.0002)
        gate.set()

    def read(end: End, index: int, gate: threading.Event) -> None:
        while len(got[index]) < len(streams[index]):
            if not running.is_set():
                gate.set()
                running.wait()
                gate.clear()
            try:
                part = end.held.recv(30_000, socket.MSG_DONTWAIT)
            except BlockingIOError:
                time.sleep(0.0002)
                continue
            assert part
            got[index] += part
        gate.set()

    threads = [
        threading.Thread(target=write, args=(client, streams[0], gates[0])),
        threading.Thread(target=write, args=(server, streams[1], gates[1])),
        threading.Thread(target=read, args=(server, 0, gates[2])),
        threading.Thread(target=read, args=(client, 1, gates[3])),
    ]
    for thread in threads:
        thread.start()
    for network in "bcabc":
        running.clear()
        for gate in gates:
            assert gate.wait(5)
        to_network(hosts, client, server, network)
        running.set()
        time.sleep(0.005)
    for thread in threads:
        thread.join(20)
    assert [bytes(got[0]), bytes(got[1])] == streams


@pytest.mark.parametrize("size", [0, 1, 50_000, 4_000_000])
def test_queues_of_any_size_come_along(hosts: Hosts, size: int) -> None:
    buffers = (
        (socket.SOL_SOCKET, repair.SO_SNDBUFFORCE, 4_000_000),
        (socket.SOL_SOCKET, repair.SO_RCVBUFFORCE, 300_000),
    )
    client, server = hosts.connect(options=buffers)
    written = fill(client, size)
    assert len(written) == size
    images = to_network(hosts, client, server, "b")
    lacking = len(images[0].unacknowledged) - images[0].skipped(images[1].receive_next)
    assert lacking + len(images[1].received) == size
    assert connection.take(client.held).buffers == images[0].buffers
    assert connection.take(server.held).buffers == images[1].buffers
    assert receive(server.sock, size) == written
    exchange(client, server, 300_000)


def test_a_full_send_queue_fits_in_again_with_all_its_limits(hosts: Hosts) -> None:
    client, server = hosts.connect(options=((socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000),))
    client.sock.setsockopt(TCP, repair.TCP_NOTSENT_LOWAT, 5000)
    written = fill(client)
    for network in "bc":
        images = to_network(hosts, client, server, network)
        assert connection.take(client.held).buffers == images[0].buffers
    assert receive(server.sock, len(written)) == written
    exchange(client, server)


@pytest.mark.both
@pytest.mark.parametrize(
    ("bind", "moves"),
    [(None, 4), (("0.0.0.0", 6100), 4), ((str(mobile("a")), 0), 4)],
    ids=["not bound", "bound to a port", "bound to the old address"],
)
def test_a_client_bound_in_any_way_but_both_moves_again_and_again(
    hosts: Hosts, bind: tuple[str, int] | None, moves: int
) -> None:
    client, server = hosts.connect(bind=bind)
    for network in "bcab"[:moves]:
        port = client.addresses.local_port
        to_network(hosts, client, server, network)
        assert (client.addresses.local, client.addresses.local_port) == (mobile(network), port)
        exchange(client, server)


@pytest.mark.both
@pytest.mark.parametrize("bind", ["ipv6", "dual-stack"])
def test_an_ipv6_socket_bound_to_the_old_address_moves_again(hosts: Hosts, bind: str) -> None:
    version, dual_stack = KINDS[bind]
    client, server = hosts.connect(version, dual_stack=dual_stack, bind=(str(mobile("a", version)), 0))
    for network in "bca":
        to_network(hosts, client, server, network)
        assert client.addresses.local == mobile(network, version)
        exchange(client, server)


@pytest.mark.both
def test_a_client_bound_to_the_old_address_and_a_port_is_refused_and_put_back(hosts: Hosts) -> None:
    client, server = hosts.connect(bind=(str(mobile("a")), 6101))
    written = fill(client, 5000)
    before = client.addresses
    with hosts.locked():
        numbers = [connection.read_number(end.held) for end in (client, server)]
        image = connection.take(client.held)
        with pytest.raises(Refused) as refused:
            connection.rebuild(client.held, image, client.at(local=mobile("b")), numbers[1])
        connection.rebuild(client.held, image, image.addresses, numbers[1])
    connection.let_go(client.held, image)
    assert refused.value.reason is Reason.BOUND_TO_ADDRESS
    assert client.addresses == before
    assert receive(server.sock, 5000) == written
    exchange(client, server)


@pytest.mark.parametrize(
    ("listen", "stays", "moves"),
    [("0.0.0.0", True, 3), ("10.9.0.1", False, 1), ("10.9.0.1", True, 1)],
    ids=["wildcard", "bound, gone since", "bound, still there"],
)
def test_an_accepted_socket_moves_as_its_listener_allows(hosts: Hosts, listen: str, stays: bool, moves: int) -> None:
    client, server = hosts.connect(listen=listen)
    if stays:
        hosts.listener(hosts.correspondent, listen)
    for number in (2, 1, 2)[:moves]:
        hosts.answer_from(number)
        new = correspondent(number)
        move(hosts, (client, client.at(remote=new)), (server, server.at(local=new)))
        assert (server.addresses.local, server.addresses.local_port) == (new, PORT)
        exchange(client, server)
    if moves == 1:
        with hosts.locked():
            image = connection.take(server.held)
            number = connection.read_number(client.held)
            with pytest.raises(Refused, match="bound it to the old address"):
                connection.rebuild(server.held, image, server.at(local=correspondent(1)), number)
            connection.rebuild(server.held, image, image.addresses, number)
        connection.let_go(server.held, image)
        exchange(client, server)


def test_the_port_of_a_moved_socket_does_not_disturb_its_listener(hosts: Hosts) -> None:
    listener = hosts.listener(hosts.correspondent, "0.0.0.0")
    client = hosts.open_socket(hosts.mobile, socket.AF_INET)
    client.connect((str(correspondent()), PORT))
    server = hosts.end(hosts.correspondent, listener.accept()[0])
    to_network(hosts, hosts.end(hosts.mobile, client), server, "b")
    another = hosts.open_socket(hosts.mobile, socket.AF_INET)
    another.connect((str(correspondent()), PORT))
    accepted = hosts.end(hosts.correspondent, listener.accept()[0])
    exchange(hosts.end(hosts.mobile, another), accepted)


def test_both_ends_move_at_once(hosts: Hosts) -> None:
    client, server = hosts.connect()
    hosts.answer_from(2)
    new, new_peer = mobile("c"), correspondent(2)
    move(
        hosts,
        (client, client.at(new, new_peer), Steering(interface=hosts.interface("c"))),
        (server, server.at(new_peer, new)),
    )
    assert (client.addresses.local, client.addresses.remote) == (new, new_peer)
    exchange(client, server, 100_000)


ESTABLISHED, FIN_WAIT1, FIN_WAIT2 = SocketState.ESTABLISHED, SocketState.FIN_WAIT1, SocketState.FIN_WAIT2
CLOSE_WAIT, LAST_ACK, CLOSING = SocketState.CLOSE_WAIT, SocketState.LAST_ACK, SocketState.CLOSING


@pytest.mark.parametrize("reader_has_seen_the_end", [False, True])
@pytest.mark.parametrize("closer", [0, 1])
def test_half_closed_connections_move(hosts: Hosts, closer: int, reader_has_seen_the_end: bool) -> None:
    ends = hosts.connect()
    one, other = ends[closer], ends[1 - closer]
    one.sock.sendall(b"last words")
    one.sock.shutdown(socket.SHUT_WR)
    settle(one, other, until=(FIN_WAIT2, CLOSE_WAIT))
    if reader_has_seen_the_end:
        assert receive(other.sock, 10) == b"last words"
        assert other.sock.recv(1) == b""
    for network in "bc":
        to_network(hosts, *ends, network)
        settle(one, other, until=(FIN_WAIT2, CLOSE_WAIT))
    if not reader_has_seen_the_end:
        assert receive(other.sock, 10) == b"last words"
    assert other.sock.recv(1) == b""
    other.sock.sendall(b"answer")
    assert receive(one.sock, 6) == b"answer"
    other.sock.shutdown(socket.SHUT_WR)
    assert one.sock.recv(1) == b""


@pytest.mark.both
@pytest.mark.parametrize("state", [FIN_WAIT1, LAST_ACK, CLOSING])
def test_connections_move_with_a_fin_in_flight(hosts: Hosts, state: SocketState) -> None:
    ends = client, server = hosts.connect()
    before = hosts.resets()
    if state is LAST_ACK:
        server.sock.shutdown(socket.SHUT_WR)
        settle(client, until=(CLOSE_WAIT,))
    with hosts.locked(hosts.correspondent):
        said = fill(client, 5000)
        client.sock.shutdown(socket.SHUT_WR)
        if state is CLOSING:
            server.sock.shutdown(socket.SHUT_WR)
        settle(client, until=(state,))
        with hosts.locked(hosts.mobile):
            images = rebuild(*plan_for(hosts, client, server, "b"))
        assert images[0].fin_sent
    for end, image in zip(ends, images, strict=True):
        connection.let_go(end.held, image)
    assert receive(server.sock, 5000) == said
    assert server.sock.recv(1) == b""
    if state is FIN_WAIT1:
        server.sock.sendall(b"answer")
        assert receive(client.sock, 6) == b"answer"
        server.sock.shutdown(socket.SHUT_WR)
    assert client.sock.recv(1) == b""
    assert hosts.resets() == before


def test_shutdown_of_reading_comes_along(hosts: Hosts) -> None:
    client, server = hosts.connect()
    client.sock.shutdown(socket.SHUT_RD)
    for network in "bc":
        images = to_network(hosts, client, server, network)
        assert images[0].reading_ended
        assert not images[1].reading_ended
        assert client.sock.recv(1) == b""
    client.sock.sendall(b"one way")
    assert receive(server.sock, 7) == b"one way"


def learnt(sock: socket.socket) -> dict[str, int]:
    """struct tcp_info, octets 8 to 84: what the connection knows of its path."""
    names = ("rtt", "rttvar", "snd_ssthresh", "snd_cwnd")
    return dict(zip(names, struct.unpack_from("=4I", sock.getsockopt(TCP, socket.TCP_INFO, 84), 68), strict=True))


def test_what_was_learnt_of_the_old_path_is_forgotten(hosts: Hosts) -> None:
    client, server = hosts.connect()
    fresh = learnt(client.held)
    exchange(client, server, 2_000_000)
    grown = learnt(client.held)
    assert grown["snd_cwnd"] > fresh["snd_cwnd"]
    with hosts.locked():
        rebuild(*plan_for(hosts, client, server, "b"))
        new = learnt(client.held)
    assert new["snd_cwnd"] <= fresh["snd_cwnd"]
    assert new["snd_ssthresh"] >= fresh["snd_ssthresh"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tcp_window_scaling", 0),
        ("tcp_sack", 0),
        pytest.param("tcp_timestamps", 0, marks=pytest.mark.both),
        ("tcp_ecn", 1),
    ],
)
def test_what_the_ends_have_agreed_on_comes_along(hosts: Hosts, name: str, value: int) -> None:
    def sysctl(number: int) -> None:
        for host in (hosts.mobile, hosts.correspondent):
            host.run(["sh", "-c", f"echo {number} > /proc/sys/net/ipv4/{name}"])

    sysctl(value)
    client, server = hosts.connect()
    sysctl({"tcp_ecn": 2}.get(name, 1))
    agreed = [connection.take(end.held) for end in (client, server)]
    explicit_congestion = client.held.getsockopt(TCP, socket.TCP_INFO, 8)[5] & 8
    for network in "bc":
        to_network(hosts, client, server, network)
        for end, image in zip((client, server), agreed, strict=True):
            now = connection.take(end.held)
            assert (now.selective_acks, now.timestamps) == (image.selective_acks, image.timestamps)
            assert (now.send_scale, now.receive_scale) == (image.send_scale, image.receive_scale)
            assert now.segment_limit == image.segment_limit
        assert client.held.getsockopt(TCP, socket.TCP_INFO, 8)[5] & 8 == explicit_congestion
        exchange(client, server, 500_000)
    assert bool(explicit_congestion) == (name == "tcp_ecn")
    assert agreed[0].selective_acks == (name != "tcp_sack")
    assert agreed[0].timestamps == (name != "tcp_timestamps")
    assert bool(agreed[0].send_scale) == (name != "tcp_window_scaling")


CHOSEN = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.SOL_SOCKET, socket.SO_PRIORITY, 3),
    (socket.SOL_SOCKET, socket.SO_MARK, 77),
    (socket.SOL_SOCKET, socket.SO_RCVLOWAT, 5),
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    (socket.SOL_SOCKET, socket.SO_OOBINLINE, 1),
    (socket.SOL_SOCKET, 47, 1_000_000_000),  # SO_MAX_PACING_RATE
    (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
    (socket.IPPROTO_IP, socket.IP_TTL, 33),
    (socket.IPPROTO_IP, repair.IP_LOCAL_PORT_RANGE, 20_000 | 30_000 << 16),
    (TCP, socket.TCP_NODELAY, 1),
    (TCP, socket.TCP_KEEPIDLE, 123),
    (TCP, socket.TCP_KEEPINTVL, 12),
    (TCP, socket.TCP_KEEPCNT, 4),
    (TCP, socket.TCP_SYNCNT, 3),
    (TCP, socket.TCP_LINGER2, 17),
    (TCP, socket.TCP_USER_TIMEOUT, 54_321),
    (TCP, repair.TCP_NOTSENT_LOWAT, 9000),
    (TCP, socket.TCP_QUICKACK, 0),
    (TCP, socket.TCP_WINDOW_CLAMP, 20_000),
    (TCP, 36, 1),  # TCP_INQ
    (TCP, 44, 60_000),  # TCP_RTO_MAX_MS
    (TCP, 45, 150_000),  # TCP_RTO_MIN_US
    (TCP, 46, 30_000),  # TCP_DELACK_MAX_US
)
"""Options with other values than the kernel's own."""

NEWER = (44, 45, 46, repair.IP_LOCAL_PORT_RANGE)
"""Of these those that Linux 6.1 need not have."""


@pytest.mark.both
def test_every_option_of_the_program_is_as_it_was(hosts: Hosts) -> None:
    client, server = hosts.connect()
    known = []
    for level, option, value in CHOSEN:
        if option in NEWER and repair.optional(client.sock, level, option) is None:
            continue
        client.sock.setsockopt(level, option, value)
        known.append((level, option))
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 7))
    client.sock.setsockopt(TCP, socket.TCP_CONGESTION, b"reno")

    def options() -> dict[tuple[int, int], bytes]:
        wanted = [*known, (socket.SOL_SOCKET, socket.SO_LINGER), (TCP, socket.TCP_CONGESTION)]
        wanted += [(socket.SOL_SOCKET, which) for which in (socket.SO_SNDBUF, socket.SO_RCVBUF, repair.SO_BUF_LOCK)]
        return {(level, option): client.sock.getsockopt(level, option, 16) for level, option in wanted}

    before = options()
    for network in "bc":
        to_network(hosts, client, server, network)
        assert options() == before
    exchange(client, server)


def test_a_connection_bound_to_the_device_of_the_new_address_stays_bound_to_it(hosts: Hosts) -> None:
    hosts.prefer("b")
    client = hosts.open_socket(hosts.mobile, socket.AF_INET)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"net-a")
    listener = hosts.listener(hosts.correspondent, "0.0.0.0")
    client.connect((str(correspondent()), PORT))
    end, server = hosts.end(hosts.mobile, client), hosts.end(hosts.correspondent, listener.accept()[0])
    with pytest.raises(Refused, match="bound to another network device"):
        connection.inspect(end.held, interface=hosts.interface("b"))
    connection.inspect(end.held, interface=hosts.interface("a"))
    hosts.mobile.ip("addr add 10.1.0.7/24 dev net-a")
    hosts.mobile.ip("route replace 10.9.0.0/24 via 10.1.0.254 dev net-a src 10.1.0.7")
    hosts.correspondent.ip("route replace 10.1.0.7/32 dev net-a src 10.9.0.1")
    new = ip_address("10.1.0.7")
    try:
        move(hosts, (end, end.at(local=new)), (server, server.at(remote=new)))
        assert client.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"net-a"
        exchange(end, server)
    finally:
        hosts.mobile.ip("addr del 10.1.0.7/24 dev net-a")


PROMPT = 0.15
"""Seconds. The shortest timer of TCP is 0.2 s, the first after connecting one to three. The best of several counts, for
the machine may be busy."""


def test_nothing_leaves_before_let_go_and_then_all_at_once(hosts: Hosts) -> None:
    client, server = hosts.connect()
    exchange(client, server)
    took = []
    for network in "bca":
        new = mobile(network)
        with hosts.locked():
            said = [fill(end, 7000, sender_seed=index) for index, end in enumerate((client, server))]
            captures = [hosts.capture(host) for host in (hosts.correspondent, hosts.mobile)]
            images = rebuild(*plan_for(hosts, client, server, network))
            rebuilt = time.monotonic()
        quiet = [
            [each for each in capture.segments() if new in (each.source, each.destination)] for capture in captures
        ]
        # The kernel's own probe comes after the shortest timer at the earliest.
        late = time.monotonic() - rebuilt > PROMPT
        assert late or quiet == [[], []]

        started = time.monotonic()
        for end, image in zip((client, server), images, strict=True):
            connection.let_go(end.held, image)
        assert receive(server.sock, 7000) == said[0]
        assert receive(client.sock, 7000) == said[1]
        took.append(time.monotonic() - started)
        for capture in captures:
            segments = [each for each in capture.segments() if new in (each.source, each.destination)]
            assert not [segment for segment in segments if segment.flags & RST]
            assert late or sum(segment.size for segment in segments) == 7000
    assert min(took) < PROMPT


def test_a_corked_segment_stays_corked_and_full_ones_go(hosts: Hosts) -> None:
    client, server = hosts.connect()
    client.sock.setsockopt(TCP, socket.TCP_CORK, 1)
    took = []
    for network in "bca":
        with hosts.locked():
            said = fill(client, 10_000)
            images = rebuild(*plan_for(hosts, client, server, network))
        for end, image in zip((client, server), images, strict=True):
            connection.let_go(end.held, image)
        started = time.monotonic()
        first = receive(server.sock, 10_000 // 1448 * 1448)
        took.append(time.monotonic() - started)
        with pytest.raises(BlockingIOError):
            server.held.recv(1, socket.MSG_DONTWAIT)
        assert client.sock.getsockopt(TCP, socket.TCP_CORK) == 1
        assert first + receive(server.sock, 10_000 - len(first)) == said
    assert min(took) < PROMPT


def test_a_window_smaller_than_a_segment_is_used_at_once(hosts: Hosts) -> None:
    small = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 1),)
    client, server = hosts.connect(options=small)
    took = []
    for network in "bca":
        with hosts.locked():
            said = fill(client, 2000)
            images = rebuild(*plan_for(hosts, client, server, network))
        assert 0 < images[0].window.send < images[0].segment_limit
        started = time.monotonic()
        for end, image in zip((client, server), images, strict=True):
            connection.let_go(end.held, image)
        assert receive(server.sock, 2000) == said
        took.append(time.monotonic() - started)
    assert min(took) < PROMPT


def test_a_closed_window_stays_closed_until_the_reader_reads(hosts: Hosts) -> None:
    small = ((socket.SOL_SOCKET, socket.SO_RCVBUF, 8000),)
    client, server = hosts.connect(options=small)
    written = fill(client)
    settled = time.monotonic() + 0.05
    while time.monotonic() < settled or repair.unread(server.held) == 0:
        time.sleep(0.005)
    for network in "bca":
        to_network(hosts, client, server, network)
        # What was offered is not exceeded: everything that arrives finds room.
        assert hosts.counter(hosts.correspondent, "Tcp", "InErrs") == 0
    assert receive(server.sock, len(written)) == written
    exchange(client, server)


@pytest.mark.both
def test_when_everyone_dies_after_rebuilding_the_kernel_sends_by_itself(hosts: Hosts) -> None:
    client, server = hosts.connect()
    exchange(client, server)
    with hosts.locked():
        said = fill(client, 20_000)
        client.sock.shutdown(socket.SHUT_WR)
        rebuild(*plan_for(hosts, client, server, "b"))
    client.held.close()
    server.held.close()
    assert receive(server.sock, 20_000) == said
    assert server.sock.recv(1) == b""


def test_epoll_sees_what_is_there_and_no_error(hosts: Hosts) -> None:
    client, server = hosts.connect()
    with select.epoll() as edge, select.epoll() as level:
        server.sock.sendall(b"unread")
        receive_ready = select.poll()
        receive_ready.register(client.sock, select.POLLIN)
        assert receive_ready.poll(5000)
        edge.register(client.sock, select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET)
        level.register(client.sock, select.EPOLLIN | select.EPOLLRDHUP)
        assert edge.poll(0) == [(client.sock.fileno(), select.EPOLLIN)]
        to_network(hosts, client, server, "b")
        assert level.poll(0) == [(client.sock.fileno(), select.EPOLLIN)]
        assert all(events == select.EPOLLIN for _fd, events in edge.poll(0))
    assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert receive(client.sock, 6) == b"unread"


@pytest.mark.parametrize("kind", KINDS)
def test_a_signed_connection_gets_its_key_for_the_new_address(hosts: Hosts, kind: str) -> None:
    version, dual_stack = KINDS[kind]
    family = socket.AF_INET if kind == "ipv4" else socket.AF_INET6
    listener = hosts.listener(hosts.correspondent, "0.0.0.0" if family == socket.AF_INET else "::")
    client = hosts.open_socket(hosts.mobile, family)
    keys = {
        client: SignatureKey(correspondent(1, version), 32 if version == 4 else 128, b"secret"),
        listener: SignatureKey(mobile("a", version), 32 if version == 4 else 128, b"secret"),
    }
    for sock, key in keys.items():
        add_key(sock, family, key)
    client.connect((f"{'::ffff:' if dual_stack else ''}{correspondent(1, version)}", PORT))
    ends = hosts.end(hosts.mobile, client), hosts.end(hosts.correspondent, listener.accept()[0])
    exchange(*ends)
    new = mobile("b", version)
    targets = ends[0].at(local=new), ends[1].at(remote=new)
    with hosts.locked():
        numbers = [connection.read_number(end.held) for end in ends]
        images = [connection.take(ends[0].held, [keys[client]]), connection.take(ends[1].held, [keys[listener]])]
        steering = Steering(interface=hosts.interface("b"))
        for end, image, target, number in zip(ends, images, targets, reversed(numbers), strict=True):
            connection.rebuild(end.held, image, target, number, steering if target.local == new else None)
    for end, image in zip(ends, images, strict=True):
        connection.let_go(end.held, image)
    assert "secret" not in repr(images)
    exchange(*ends, 100_000)


def test_keys_are_read_as_inet_diag_tells_them() -> None:
    payload = struct.pack("=BBH16s80s", socket.AF_INET, 24, 3, bytes([192, 0, 2, 0]), b"abc")
    payload += struct.pack("=BBH16s80s", socket.AF_INET6, 128, 80, ip_address("2001:db8::1").packed, b"k" * 80)
    first, second = decode_keys(payload)
    assert (first, second) == (
        SignatureKey(ip_address("192.0.2.0"), 24, b"abc"),
        SignatureKey(ip_address("2001:db8::1"), 128, b"k" * 80),
    )
    assert first.covers(ip_address("192.0.2.77"))
    assert not first.covers(ip_address("192.0.3.77"))
    assert not first.covers(ip_address("2001:db8::1"))


def refusal(sock: socket.socket, rqueue: int | None = None) -> Reason:
    with pytest.raises(Refused) as refused:
        connection.inspect(sock, rqueue)
    return refused.value.reason


def test_an_ordinary_connection_is_not_refused(hosts: Hosts) -> None:
    client, server = hosts.connect()
    server.sock.sendall(b"12345")
    client.sock.recv(1)
    connection.inspect(client.held, 4)
    connection.inspect(client.held, 4, interface=hosts.interface("b"))
    server.sock.shutdown(socket.SHUT_WR)
    settle(client, until=(CLOSE_WAIT,))
    connection.inspect(client.held, 5)
    connection.inspect(server.held)


def test_sockets_that_are_no_connection_are_refused(hosts: Hosts) -> None:
    listener = hosts.listener(hosts.correspondent, "0.0.0.0")
    closed = hosts.open_socket(hosts.mobile, socket.AF_INET)
    connecting = hosts.open_socket(hosts.mobile, socket.AF_INET)
    connecting.setblocking(False)
    with hosts.locked():
        connecting.connect_ex((str(correspondent()), PORT))
        assert [refusal(sock) for sock in (listener, closed, connecting)] == [Reason.STATE] * 3


def test_multipath_tcp_is_refused(hosts: Hosts) -> None:
    try:
        sock = hosts.open_socket(hosts.mobile, socket.AF_INET, socket.SOCK_STREAM, 262)
    except OSError:
        pytest.skip("this kernel has no Multipath TCP")
    assert refusal(sock) is Reason.MULTIPATH


def test_a_connection_in_repair_mode_is_refused(hosts: Hosts) -> None:
    client, _server = hosts.connect()
    repair.enter(client.held)
    assert refusal(client.held) is Reason.REPAIR
    connection.clear_repair(client.held, 0)
    connection.inspect(client.held)


@pytest.mark.both
def test_urgent_data_is_refused(hosts: Hosts) -> None:
    client, server = hosts.connect()
    server.sock.send(b"abc", socket.MSG_OOB)
    poller = select.poll()
    poller.register(client.sock, select.POLLPRI)
    assert poller.poll(5000)
    assert refusal(client.held) is Reason.URGENT_DATA
    assert client.sock.recv(1, socket.MSG_OOB) == b"c"
    # Read, but still in the queue, where only inet_diag counts it.
    server.sock.sendall(b"def")
    poller.modify(client.sock, select.POLLIN)
    assert poller.poll(5000)
    assert refusal(client.held, 6) is Reason.URGENT_DATA


@pytest.mark.both
def test_a_peek_offset_is_refused_where_the_kernel_has_it(hosts: Hosts) -> None:
    client, _server = hosts.connect()
    try:
        client.sock.setsockopt(socket.SOL_SOCKET, repair.SO_PEEK_OFF, 0)
    except OSError:  # TCP has none before Linux 6.9
        connection.inspect(client.held)
    else:
        assert refusal(client.held) is Reason.PEEK_OFFSET


def test_a_wrong_source_is_refused_and_binds_nothing(hosts: Hosts) -> None:
    client, server = hosts.connect()
    said = fill(client, 3000)
    with hosts.locked():
        image = connection.take(client.held)
        number = connection.read_number(server.held)
        for _ in range(2):
            with pytest.raises(Refused, match="another source address") as refused:
                connection.rebuild(client.held, image, client.at(local=mobile("b")), number)
            assert refused.value.reason is Reason.SOURCE
            connection.rebuild(client.held, image, image.addresses, number)
    connection.let_go(client.held, image)
    assert receive(server.sock, 3000) == said
    to_network(hosts, client, server, "b")
    to_network(hosts, client, server, "c")
    exchange(client, server)


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.both if kind == "ipv6" else ()) for kind in KINDS]
)
def test_a_socket_that_moved_before_is_put_back_against_all_routes(hosts: Hosts, kind: str) -> None:
    version, dual_stack = KINDS[kind]
    client, server = hosts.connect(version, dual_stack=dual_stack)
    to_network(hosts, client, server, "b")
    said = fill(client, 50_000)
    hosts.prefer("c")
    with hosts.locked():
        image, number = connection.take(client.held), connection.read_number(server.held)
        with pytest.raises(Refused, match="another source address"):
            connection.rebuild(client.held, image, client.at(local=mobile("a", version)), number)
        connection.rebuild(client.held, image, image.addresses, number)
        assert connection.take(client.held).settings == image.settings
    capture = hosts.capture(hosts.correspondent)
    connection.let_go(client.held, image)
    assert client.addresses.local == mobile("b", version)
    assert receive(server.sock, len(said)) == said
    exchange(client, server)
    assert {segment.source for segment in capture.segments()} == {mobile("b", version)}
    to_network(hosts, client, server, "a")
    exchange(client, server)


@pytest.mark.parametrize("by", ["route", "policy"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bound", ["not", "port", "address"])
def test_a_connection_is_put_back_though_nothing_can_be_sent_from_there(
    hosts: Hosts, kind: str, bound: str, by: str
) -> None:
    version, dual_stack = KINDS[kind]
    any_address = "::" if version == 6 else "0.0.0.0"
    bind = {"not": None, "port": (any_address, 6504), "address": (str(mobile("a", version)), 0)}[bound]
    client, server = hosts.connect(version, dual_stack=dual_stack, bind=bind)
    said = fill(client, 50_000)
    with hosts.locked():
        image, number = connection.take(client.held), connection.read_number(server.held)
        with hosts.cut_off(by):
            with pytest.raises(Refused):
                connection.rebuild(client.held, image, client.at(local=mobile("b", version)), number)
            connection.rebuild(client.held, image, image.addresses, number)
            assert connection.take(client.held).settings == image.settings
        hosts.prefer("a")
    connection.let_go(client.held, image)
    assert client.addresses.local == mobile("a", version)
    assert receive(server.sock, len(said)) == said
    exchange(client, server)


@pytest.mark.parametrize("kind", KINDS)
def test_the_new_address_may_be_any_of_those_that_its_interface_has(hosts: Hosts, kind: str) -> None:
    version, dual_stack = KINDS[kind]
    second = "10.2.0.2" if version == 4 else "2001:db8:2::2"
    hosts.mobile.ip(f"addr add {second}/{24 if version == 4 else 64} dev net-b{'' if version == 4 else ' nodad'}")
    hosts.correspondent.ip(f"route replace {second} dev net-b src {correspondent(1, version)}")
    try:
        client, server = hosts.connect(version, dual_stack=dual_stack)
        size = client.held.getsockopt(TCP, socket.TCP_MAXSEG)
        new = ip_address(second)
        for _ in range(2):
            move(
                hosts,
                (client, client.at(local=new), Steering(interface=hosts.interface("b"))),
                (server, server.at(remote=new)),
            )
            exchange(client, server, 300_000)
            assert client.addresses.local == new
            assert client.held.getsockopt(TCP, socket.TCP_MAXSEG) == size
            to_network(hosts, client, server, "a")
            exchange(client, server)
    finally:
        hosts.mobile.ip(f"addr del {second}/{24 if version == 4 else 64} dev net-b")


def test_a_routing_mark_steers_where_no_interface_does(hosts: Hosts) -> None:
    rule = "rule add fwmark 0x99 lookup 77"
    route = "route add default via 10.2.0.254 dev net-b src 10.2.0.1 table 77"
    hosts.mobile.ip(route, rule)
    try:
        client, server = hosts.connect()
        new = mobile("b")
        move(hosts, (client, client.at(local=new), Steering(mark=0x99)), (server, server.at(remote=new)))
        assert client.addresses.local == new
        assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0
        exchange(client, server)
    finally:
        hosts.mobile.ip(rule.replace("add", "del"), route.replace("add", "del"))


def test_a_peer_that_claims_what_was_never_sent_is_refused_before_anything_is_touched(hosts: Hosts) -> None:
    client, server = hosts.connect()
    exchange(client, server)
    image = connection.take(client.held)
    for wrong in (-1, 1, 1 << 30):
        with pytest.raises(Refused, match="disagree"):
            connection.rebuild(client.held, image, image.addresses, (image.write_next + wrong) % (1 << 32))
    assert states(client) == (ESTABLISHED,)
    exchange(client, server)


def test_sequence_numbers_may_wrap(hosts: Hosts) -> None:
    client, server = hosts.connect()
    # Both ends agree on numbers shortly before the end of the number space, as if 4 GB had passed.
    ends = (client, server)
    starts = (0xFFFFFF00, 0xFFFFFE00)
    with hosts.locked():
        for end, own, other in ((client, *starts), (server, *reversed(starts))):
            image = connection.take(end.held)
            repair.enter(end.held)
            addresses = end.addresses
            repair.disconnect(end.held)
            end.held.bind(("0.0.0.0", addresses.local_port))
            repair.set_sequence(end.held, repair.SEND_QUEUE, own)
            repair.set_sequence(end.held, repair.RECEIVE_QUEUE, other)
            end.held.connect((str(addresses.remote), addresses.remote_port))
            repair.set_agreed(
                end.held,
                segment_limit=image.segment_limit,
                selective_acks=True,
                timestamps=True,
                send_scale=image.send_scale,
                receive_scale=image.receive_scale,
            )
            repair.leave(end.held, 0)
    for end in ends:
        repair.enter(end.held)
        repair.leave(end.held, 0, probe=True)
    said = os.urandom(600)
    client.sock.sendall(said[:200])
    assert receive(server.sock, 100) == said[:100]
    with hosts.locked():
        client.sock.sendall(said[200:])
        image = connection.take(client.held)
        assert image.send_unacknowledged > image.write_next
    images = to_network(hosts, client, server, "b")
    assert len(images[1].received) + len(images[0].unacknowledged) >= 500
    assert receive(server.sock, 500) == said[100:]
    exchange(client, server)


def test_a_connection_that_is_given_up_leaves_its_program_an_ordinary_closed_socket(hosts: Hosts) -> None:
    client, _ = hosts.connect()
    reuse_address = client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    now = client.addresses
    entry = Entry(SocketProtocol.TCP, now.local, now.local_port, now.remote, now.remote_port, mobile("b"), now.remote)
    with hosts.locked():
        image = connection.take(client.held)
        repair.enter(client.held)
        client.held.setsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX, 1)
        moving.abandon(entry, client.held, image, reuse_address)
    assert client.sock.getsockopt(TCP, repair.TCP_REPAIR) == 0
    assert client.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == reuse_address
    assert client.sock.getsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX) == 0
    with pytest.raises(ConnectionAbortedError):
        client.sock.recv(1)
