"""Two hosts with a router between them, ESP with static keys, and a witness on the router.

    mobile      10.1.1.2 (a), 10.2.2.2 (b), 10.4.4.2 (c)      2001:db8:a::2, …
    correspondent   10.3.3.2 (d), 10.5.5.2 (e)

A host's devices are called net-a, net-b, …. Sockets are made in a host's namespace and used from the test.
"""

import asyncio
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Any, TypeVar

from lab.namespace import Namespace
from lab.waiting import wait_for
from swanroam.kernel.carrier import Carrier, CarrierPlane
from swanroam.kernel.ingress import Admitted
from swanroam.kernel.rtnetlink import RouteSocket

IPAddress = IPv4Address | IPv6Address
T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 0x0003
_PACKET_OUTGOING = 4
_DISCARD = 9
_NETWORKS = {"a": "10.1.1", "b": "10.2.2", "c": "10.4.4", "d": "10.3.3", "e": "10.5.5"}
_KEY = "0x000102030405060708090a0b0c0d0e0f10111213"
_libc = ctypes.CDLL(None, use_errno=True)


def address(version: int, network: str, number: int = 2) -> IPAddress:
    """Host `number`'s address in a network; the router is 1."""
    return ip_address(f"{_NETWORKS[network]}.{number}" if version == 4 else f"2001:db8:{network}::{number}")


def inside(host: Namespace, call: Callable[[], T]) -> T:
    """What `call` returns in a thread that is in the host's network namespace."""
    outcome: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            descriptor = os.open(f"/run/netns/{host.netns}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return outcome[0]


def on(host: Namespace, action: Callable[[RouteSocket], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns, run with a route socket in the host's namespace."""

    async def run() -> T:
        async with RouteSocket() as netlink:
            return await asyncio.wait_for(action(netlink), 60)

    return inside(host, lambda: asyncio.run(run()))


def family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


@dataclass
class Witness:
    """What the router has forwarded, as lines: outermost header first."""

    packets: socket.socket
    seen: list[str] = field(default_factory=list)

    def forget(self) -> None:
        self.lines()
        self.seen.clear()

    def lines(self) -> list[str]:
        """Everything since the last `forget`, except IPv6's own housekeeping."""
        while True:
            try:
                packet, (_, ethertype, kind, *_) = self.packets.recvfrom(65535)
            except BlockingIOError:
                return self.seen
            if kind == _PACKET_OUTGOING and ethertype in (0x0800, 0x86DD):
                line = describe(packet)
                if not any(own in line for own in ("fe80::", ">ff02::", "icmp6")):
                    self.seen.append(line)

    def settle(self, source: Namespace, destination: IPAddress) -> list[str]:
        """What was seen before a datagram that `source` sends now; nothing that was sent before it is missing."""
        with inside(source, lambda: socket.socket(family(destination.version), socket.SOCK_DGRAM)) as last:
            last.sendto(b"last", (str(destination), _DISCARD))
        arrived = f">{destination} udp"
        wait_for(lambda: any(arrived in line for line in self.lines()), 20, "the last datagram is seen")
        number = next(number for number, line in enumerate(self.seen) if arrived in line)
        before = self.seen[:number]
        self.seen.clear()
        return before

    def between(self, *ends: IPAddress) -> set[str]:
        """Kinds of packets whose outermost addresses are these two, in either direction."""
        pairs = {f"{ends[0]}>{ends[1]}", f"{ends[1]}>{ends[0]}"}
        return {line.split(" ", 1)[1] for line in self.lines() if line.split(" ", 1)[0] in pairs}


@contextmanager
def witness(router: Namespace) -> Iterator[Witness]:
    """Sees every packet that this namespace sends while the block runs."""
    kind = socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)
    with inside(router, lambda: socket.socket(*kind)) as packets:
        packets.setblocking(False)
        packets.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE
        yield Witness(packets)


def describe(packet: bytes) -> str:
    """For example "10.2.2.2>10.3.3.2 ipip 10.1.1.2>10.3.3.2 esp"."""
    if packet[0] >> 4 == 4:
        protocol, source, destination = packet[9], ip_address(packet[12:16]), ip_address(packet[16:20])
        payload = packet[(packet[0] & 15) * 4 :]
        fragment = struct.unpack(">H", packet[6:8])[0] & 0x3FFF
    else:
        protocol, source, destination = packet[6], ip_address(packet[8:24]), ip_address(packet[24:40])
        payload, fragment = packet[40:], 0
        if protocol == 44:
            protocol, fragment, payload = payload[0], 1, payload[8:]
    name = {1: "icmp", 4: "ipip", 6: "tcp", 17: "udp", 41: "ipip", 50: "esp", 58: "icmp6"}.get(protocol, str(protocol))
    what = f"{source}>{destination} {name}"
    if fragment:
        return f"{what} fragment"
    return f"{what} {describe(payload)}" if name == "ipip" else what


class Hosts:
    """Everything that the tests of the carrier need. Addresses of both families are there from the beginning."""

    def __init__(self) -> None:
        self._spi = 0x1000
        self._sockets: list[socket.socket] = []
        self._namespaces: list[Namespace] = []
        try:
            self.mobile, self.correspondent, self.router = map(self._namespace, ("mobile", "correspondent", "router"))
            self._build()
        except BaseException:
            self.delete()
            raise

    def _namespace(self, name: str) -> Namespace:
        self._namespaces.append(Namespace(name))
        return self._namespaces[-1]

    def _build(self) -> None:
        for host in (self.mobile, self.correspondent, self.router):
            # /proc/sys is the one of the writer's network namespace, so the namespace's own shell has to write.
            host.sysctl(
                net__ipv6__conf__all__accept_dad=0,
                net__ipv6__conf__default__accept_dad=0,
                net__ipv4__conf__all__rp_filter=0,
                net__ipv4__conf__default__rp_filter=0,
            )
        self.router.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        router: list[str] = []
        for host, networks in ((self.mobile, "abc"), (self.correspondent, "de")):
            lines: list[str] = []
            for network in networks:
                lines += [
                    f"link add net-{network} type veth peer name net-{network} netns {self.router.holder_pid}",
                    f"link set net-{network} up",
                ]
                router += [
                    f"link set net-{network} up",
                    f"addr add {address(4, network, 1)}/24 dev net-{network}",
                    f"addr add {address(6, network, 1)}/64 dev net-{network} nodad",
                ]
            host.ip(*lines)
        self.router.ip(*router)
        self.arrive(self.mobile, "a")
        self.arrive(self.correspondent, "d")

    def open_socket(self, host: Namespace, *arguments: int) -> socket.socket:
        """A socket of the host; closed at the latest by delete. Its time limit makes a lost packet fail the test."""
        made = inside(host, lambda: socket.socket(*arguments))
        made.settimeout(20)
        self._sockets.append(made)
        return made

    def arrive(self, host: Namespace, network: str) -> None:
        """The host gets addresses in a network, and its default routes lead there."""
        host.ip(
            f"addr add {address(4, network)}/24 dev net-{network}",
            f"addr add {address(6, network)}/64 dev net-{network} nodad",
            f"route replace default via {address(4, network, 1)} dev net-{network}",
            f"route replace default via {address(6, network, 1)} dev net-{network}",
        )

    def leave(self, host: Namespace, network: str) -> None:
        """The host loses its addresses in a network, all at once."""
        host.ip(
            f"addr del {address(4, network)}/24 dev net-{network}",
            f"addr del {address(6, network)}/64 dev net-{network}",
        )

    def protect(self, local: IPAddress, remote: IPAddress) -> None:
        """ESP in transport mode between an address of the mobile host and one of the correspondent, on both."""
        bits = local.max_prefixlen
        lines: dict[str, list[str]] = {"mobile": [], "correspondent": []}
        for source, destination in ((local, remote), (remote, local)):
            self._spi += 1
            for name, own in (("mobile", local), ("correspondent", remote)):
                lines[name] += [
                    f"xfrm state add src {source} dst {destination} proto esp spi {self._spi:#x} mode transport "
                    f"reqid 1 aead rfc4106(gcm(aes)) {_KEY} 128",
                    f"xfrm policy add src {source}/{bits} dst {destination}/{bits} "
                    f"dir {'out' if source == own else 'in'} priority 1000 tmpl proto esp mode transport reqid 1",
                ]
        self.mobile.ip(*lines["mobile"])
        self.correspondent.ip(*lines["correspondent"])

    def give_away(self, network: str) -> Namespace:
        """Another host that has the mobile host's addresses in a network, somewhere else behind the router."""
        other = self._namespace("other")
        other.sysctl(net__ipv6__conf__all__accept_dad=0, net__ipv6__conf__default__accept_dad=0)
        owned, gateways = [address(version, network) for version in (4, 6)], ("10.9.9.1", "2001:db8:9::1")
        other.ip(
            f"link add net-o type veth peer name net-o netns {self.router.holder_pid}",
            "link set net-o up",
            *(f"addr add {own}/{own.max_prefixlen} dev net-o{' nodad' if own.version == 6 else ''}" for own in owned),
            *(f"route add default via {gateway} dev net-o onlink" for gateway in gateways),
        )
        self.router.ip(
            "link set net-o up",
            *(f"addr add {gateway} dev net-o{' nodad' if ':' in gateway else ''}" for gateway in gateways),
            *(f"route add {own} dev net-o" for own in owned),
        )
        return other

    def witness(self) -> AbstractContextManager[Witness]:
        """Sees every packet that the router sends while the block runs."""
        return witness(self.router)

    def connect(self, local: IPAddress, remote: IPAddress, port: int = 7) -> tuple[socket.socket, socket.socket]:
        """A TCP connection from the mobile host's `local`; the mobile host's end and the correspondent's."""
        number = family(local.version)
        with self.open_socket(self.correspondent, number, socket.SOCK_STREAM) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(remote), port))
            listener.listen()
            client = self.open_socket(self.mobile, number, socket.SOCK_STREAM)
            client.bind((str(local), 0))
            client.connect((str(remote), port))
            server, _ = listener.accept()
        server.settimeout(20)
        self._sockets.append(server)
        return client, server

    def delete(self) -> None:
        for opened in self._sockets:
            opened.close()
        for host in self._namespaces:
            host.delete()


def exchange(client: socket.socket, server: socket.socket, size: int = 1) -> None:
    """Octets in both directions; fails when they do not arrive within the sockets' time limit."""
    for sender, receiver in ((client, server), (server, client)):
        data = os.urandom(size)
        thread = threading.Thread(target=sender.sendall, args=(data,))
        thread.start()
        received = b""
        while len(received) < size:
            part = receiver.recv(size - len(received))
            assert part, "the connection was closed"
            received += part
        thread.join()
        assert received == data


def carry(
    host: Namespace,
    pairs: list[tuple[IPAddress, IPAddress]],
    outer: tuple[IPAddress, IPAddress],
    *,
    held: tuple[IPAddress, ...] = (),
    narrowed: tuple[IPAddress, ...] = (),
) -> None:
    """The host's whole carrier state: these pairs travel between `outer`, and come in as well."""
    carriers = [
        Carrier(local=local, remote=remote, outer_local=outer[0], outer_remote=outer[1]) for local, remote in pairs
    ]
    admitted = [Admitted(remote, local) for local, remote in pairs]
    on(host, lambda netlink: CarrierPlane(netlink).apply(held, carriers, admitted, narrowed))


def xfrm_counter(host: Namespace, name: str) -> int:
    """A counter of /proc/net/xfrm_stat, for example XfrmInNoStates."""
    text = inside(host, lambda: Path("/proc/thread-self/net/xfrm_stat").read_text(encoding="ascii"))
    return {line.split()[0]: int(line.split()[1]) for line in text.splitlines()}[name]
