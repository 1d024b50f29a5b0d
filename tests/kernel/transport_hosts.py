"""Two hosts with TCP and UDP between them, and what the mover does around one socket: locks, numbers, letting go.

    mobile          10.1.0.1 on net-a, 10.2.0.1 on net-b, 10.3.0.1 on net-c       2001:db8:1::1, …
    correspondent   10.9.0.1 and 10.9.0.2 on lo, reached through either    2001:db8:9::1, …

Sockets are made in a host's namespace and used from the test; the mover's own are duplicates of them.
"""

import os
import random
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from kernel.carrier_hosts import inside
from lab.namespace import Namespace
from swanroam.transport import connection
from swanroam.transport.binding import Steering, four_tuple
from swanroam.transport.image import FourTuple, Image

IPAddress = IPv4Address | IPv6Address

NETWORKS = {"a": 1, "b": 2, "c": 3}
PORT = 7000
_ETH_P_ALL = 0x0003
_ETH_P_IP = 0x0800
_ETH_P_IPV6 = 0x86DD
RST = 0x04
SYN = 0x02
TIME_LIMIT = 10.0
"""Seconds after which a socket of the test gives up."""


def mobile(network: str, version: int = 4) -> IPAddress:
    number = NETWORKS[network]
    return ip_address(f"10.{number}.0.1" if version == 4 else f"2001:db8:{number}::1")


def correspondent(number: int = 1, version: int = 4) -> IPAddress:
    return ip_address(f"10.9.0.{number}" if version == 4 else f"2001:db8:9::{number}")


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP segment as it came in."""

    source: IPAddress
    destination: IPAddress
    flags: int
    sequence: int
    size: int


@dataclass
class End:
    """One end of a connection: the program's socket, and the mover's descriptor of it."""

    host: Namespace
    sock: socket.socket
    held: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        self.sock.settimeout(TIME_LIMIT)
        self.held = another_descriptor(self.sock)

    @property
    def addresses(self) -> FourTuple:
        return four_tuple(self.held)

    def at(self, local: IPAddress | None = None, remote: IPAddress | None = None) -> FourTuple:
        now = self.addresses
        return FourTuple(local or now.local, now.local_port, remote or now.remote, now.remote_port)


def another_descriptor(sock: socket.socket) -> socket.socket:
    """As the mover has it: without Python's time limit, which is no matter of the kernel's."""
    return socket.socket(fileno=os.dup(sock.fileno()))


class Hosts:
    def __init__(self) -> None:
        quiet: dict[str, int | str] = {
            f"net/{name}": 0
            for which in ("all", "default")
            for name in (f"ipv4/conf/{which}/rp_filter", f"ipv6/conf/{which}/accept_dad")
        }
        self.mobile = Namespace("mobile", quiet)
        self.correspondent = Namespace("correspondent", quiet)
        self._opened: list[socket.socket] = []
        left: list[str] = []
        right = [f"addr add {correspondent(number)}/32 dev lo" for number in (1, 2)]
        right += [f"addr add {correspondent(number, 6)}/128 dev lo nodad" for number in (1, 2)]
        for name, number in NETWORKS.items():
            left += [
                f"link add net-{name} type veth peer name net-{name} netns {self.correspondent.holder_pid}",
                f"addr add 10.{number}.0.1/24 dev net-{name}",
                f"addr add 2001:db8:{number}::1/64 dev net-{name} nodad",
                f"link set net-{name} up",
            ]
            right += [
                f"addr add 10.{number}.0.254/24 dev net-{name}",
                f"addr add 2001:db8:{number}::fe/64 dev net-{name} nodad",
                f"link set net-{name} up",
            ]
        self.mobile.ip(*left)
        self.correspondent.ip(*right)
        left.clear()
        for name, number in NETWORKS.items():
            left += [f"route add default via 10.{number}.0.254 dev net-{name} metric {number}"]
            left += [f"route add default via 2001:db8:{number}::fe dev net-{name} metric {number}"]
        self.mobile.ip(*left)
        self.answer_from(1)

    def answer_from(self, number: int) -> None:
        """The correspondent's source address where it isn't bound to one."""
        lines: list[str] = []
        for name, network in NETWORKS.items():
            lines += [
                f"route replace 10.{network}.0.1/32 dev net-{name} src {correspondent(number)}",
                f"route replace 2001:db8:{network}::1/128 dev net-{name} src {correspondent(number, 6)}",
            ]
        self.correspondent.ip(*lines)

    def prefer(self, network: str) -> None:
        """The mobile host's connections that aren't bound to an address go through this network."""
        number = NETWORKS[network]
        self.mobile.ip(
            f"route replace 10.9.0.0/24 via 10.{number}.0.254 dev net-{network}",
            f"route replace 2001:db8:9::/64 via 2001:db8:{number}::fe dev net-{network}",
        )

    @contextmanager
    def cut_off(self, by: str) -> Iterator[None]:
        """The mobile host has no `route` to the correspondent; or it has, and a `policy` stops what goes there."""
        tails = {"10.9.0.0/24": "10.0.0.0/8", "2001:db8:9::/64": "2001:db8::/32"}
        if by == "policy":
            begin = [f"xfrm policy add src {own} dst {to} dir out action block priority 2" for to, own in tails.items()]
            end = [f"xfrm policy delete src {own} dst {to} dir out" for to, own in tails.items()]
        else:
            begin = [f"route replace unreachable {to}" for to in tails]
            end = []  # `forget` replaces them
        self.mobile.ip(*begin)
        try:
            yield
        finally:
            if end:
                self.mobile.ip(*end)

    def interface(self, network: str) -> int:
        return inside(self.mobile, lambda: socket.if_nametoindex(f"net-{network}"))

    def open_socket(
        self, host: Namespace, family: int, kind: int = socket.SOCK_STREAM, protocol: int = 0
    ) -> socket.socket:
        made = inside(host, lambda: socket.socket(family, kind, protocol))
        made.settimeout(TIME_LIMIT)
        self._opened.append(made)
        return made

    def listener(
        self, host: Namespace, address: str, port: int = PORT, *, options: Sequence[tuple[int, int, int]] = ()
    ) -> socket.socket:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        made = self.open_socket(host, family)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        for option in options:
            made.setsockopt(*option)
        made.bind((address, port))
        made.listen()
        return made

    def connect(
        self,
        version: int = 4,
        *,
        bind: tuple[str, int] | None = None,
        listen: str | None = None,
        dual_stack: bool = False,
        options: Sequence[tuple[int, int, int]] = (),
        remote: IPAddress | None = None,
    ) -> tuple[End, End]:
        """A connection from the mobile host's network a; the connecting end and the accepted one.

        `bind`: what the client binds. `listen`: what the server does, by default every address.
        `dual_stack`: IPv6 sockets with IPv4 addresses. `options` of both, from the start.
        """
        family = socket.AF_INET6 if version == 6 or dual_stack else socket.AF_INET
        remote = remote or correspondent(1, version)
        mapped = "::ffff:" if dual_stack and version == 4 else ""
        wildcard = "::" if family == socket.AF_INET6 else "0.0.0.0"
        with self.listener(self.correspondent, listen or wildcard, options=options) as listener:
            client = self.open_socket(self.mobile, family)
            for option in options:
                client.setsockopt(*option)
            if bind:
                client.bind((f"{mapped}{bind[0]}", bind[1]))
            client.connect((f"{mapped}{remote}", PORT))
            server, _ = listener.accept()
        return self.end(self.mobile, client), self.end(self.correspondent, server)

    def end(self, host: Namespace, sock: socket.socket) -> End:
        made = End(host, sock)
        self._opened += [sock, made.held]
        return made

    @contextmanager
    def locked(self, *which: Namespace) -> Iterator[None]:
        """Nothing of TCP or UDP comes in at these hosts, by default at either."""
        which = which or (self.mobile, self.correspondent)
        self._lock(which, "add", " action block priority 1")
        try:
            yield
        finally:
            self._lock(which, "delete", "")

    def _lock(self, which: Sequence[Namespace], change: str, tail: str) -> None:
        lines = [
            f"xfrm policy {change} src {wildcard} dst {wildcard} proto {protocol} dir in{tail}"
            for wildcard in ("0.0.0.0/0", "::/0")
            for protocol in ("tcp", "udp")
        ]
        for host in which:
            host.ip(*lines)

    def counter(self, host: Namespace, group: str, name: str) -> int:
        """Of /proc/net/snmp, for example Tcp OutRsts."""
        text = inside(host, lambda: Path("/proc/thread-self/net/snmp").read_text(encoding="ascii"))
        names, values = (line.split() for line in text.splitlines() if line.startswith(f"{group}:"))
        return int(values[names.index(name)])

    def resets(self) -> int:
        return sum(self.counter(host, "Tcp", "OutRsts") for host in (self.mobile, self.correspondent))

    def capture(self, host: Namespace) -> "Capture":
        return Capture(self.socket_raw(host))

    def socket_raw(self, host: Namespace) -> socket.socket:
        made = inside(host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self._opened.append(made)
        return made

    def forget(self) -> None:
        """Close every socket and let routes be as at first."""
        for opened in self._opened:
            if opened.fileno() >= 0 and opened.type == socket.SOCK_STREAM:
                # With a reset, so that no port is left waiting for the next test.
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            opened.close()
        self._opened.clear()
        self.prefer("a")
        self.answer_from(1)

    def delete(self) -> None:
        for opened in self._opened:
            opened.close()
        self.mobile.delete()
        self.correspondent.delete()


class Capture:
    """What has gone through a host's devices since the last look."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        sock.setblocking(False)

    def segments(self) -> list[Segment]:
        """TCP segments that came in."""
        found: list[Segment] = []
        while True:
            try:
                packet, (_device, protocol, kind, *_rest) = self._sock.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            if kind != socket.PACKET_OUTGOING and protocol in (_ETH_P_IP, _ETH_P_IPV6):
                segment = _segment(packet, protocol)
                if segment:
                    found.append(segment)


def _segment(packet: bytes, protocol: int) -> Segment | None:
    if protocol == _ETH_P_IP:
        size, number = 4 * (packet[0] & 15), packet[9]
        length = int.from_bytes(packet[2:4], "big") - size
        addresses = (ip_address(packet[12:16]), ip_address(packet[16:20]))
    else:
        size, number = 40, packet[6]
        length = int.from_bytes(packet[4:6], "big")
        addresses = (ip_address(packet[8:24]), ip_address(packet[24:40]))
    if number != socket.IPPROTO_TCP:
        return None
    _source, _destination, sequence, _ack, offset, flags = struct.unpack_from("!HHIIBB", packet, size)
    return Segment(*addresses, flags=flags, sequence=sequence, size=length - 4 * (offset >> 4))


Part = tuple[End, FourTuple] | tuple[End, FourTuple, Steering]
"""Where an end goes, and how it is steered there."""


def rebuild(*plan: Part) -> list[Image]:
    """Both ends of a connection, under lock, as the two hosts' movers do it: everything but letting go."""
    numbers = [connection.read_number(end.held) for end, *_ in plan]
    images = [connection.take(end.held) for end, *_ in plan]
    for (end, target, *steering), image, number in zip(plan, images, reversed(numbers), strict=True):
        connection.rebuild(end.held, image, target, number, *steering)
    return images


def move(hosts: Hosts, *plan: Part) -> list[Image]:
    """Both ends of a connection to where the plan says. No reset is sent."""
    before = hosts.resets()
    with hosts.locked():
        images = rebuild(*plan)
    for (end, *_), image in zip(plan, images, strict=True):
        connection.let_go(end.held, image)
    assert hosts.resets() == before
    return images


def plan_for(hosts: Hosts, client: End, server: End, network: str) -> tuple[Part, Part]:
    """The mobile host's end goes to another network, steered by the interface."""
    new = mobile(network, client.addresses.local.version)
    return (
        (client, client.at(local=new), Steering(interface=hosts.interface(network))),
        (server, server.at(remote=new)),
    )


def to_network(hosts: Hosts, client: End, server: End, network: str) -> list[Image]:
    return move(hosts, *plan_for(hosts, client, server, network))


def receive(sock: socket.socket, size: int) -> bytes:
    """Exactly so much; fails when the connection ends before."""
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, f"ended after {len(data)} of {size} octets"
        data += part
    return bytes(data)


def exchange(one: End, other: End, size: int = 1000) -> None:
    """Random octets both ways, compared."""
    for sender, receiver in ((one, other), (other, one)):
        data = os.urandom(size)
        thread = threading.Thread(target=sender.sock.sendall, args=(data,))
        thread.start()
        assert receive(receiver.sock, size) == data
        thread.join()


def fill(end: End, size: int = 1 << 30, *, sender_seed: int = 0) -> bytes:
    """Write without waiting for anybody: so much, or as much as the kernel takes. Tells what was written."""
    source = random.Random(sender_seed)
    written = bytearray()
    while len(written) < size:
        part = source.randbytes(min(65536, size - len(written)))
        try:
            written += part[: end.held.send(part, socket.MSG_DONTWAIT)]
        except BlockingIOError:
            break
    return bytes(written)
