"""How a socket comes by its local address without losing the ability to move again.

The kernel remembers whether a program (or we) bound a socket to an address, to a port, or to both, and never forgets
it (sk_userlocks). A disconnected socket shows it: getsockname() tells the address that it is bound to (its port there
may be one that it no longer has), and bind() fails with EINVAL when it is bound to a port.

    bound to   who                                          then
    nothing    never bound; accepted by a wildcard          bind to any:port, the route chooses the source
    a port     bound to a port, or moved once before        just connect, the route chooses the source
    an address bound to an address; accepted by a           bind to the new address alone, the port comes from a range
               listener that is                             of one; where that fails to both, for good
    both       bound to both                                can stay where it is, cannot move

Source: __inet_bind() in net/ipv4/af_inet.c, __inet_hash_connect() and inet_bhash2_reset_saddr() in
net/ipv4/inet_hashtables.c, __udp_disconnect() in net/ipv4/udp.c.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from swanroam.kernel.sock_diag import IPAddress
from swanroam.transport import bypass, detour, repair
from swanroam.transport.image import FourTuple, Reason, Refused, Settings

_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EPERM, errno.EINVAL)
"""What connect() says where a routing rule or table has nothing, or something else than a route."""

_TAKEN = (errno.EADDRINUSE, errno.EADDRNOTAVAIL)
_LOOPBACK = 1  # LOOPBACK_IFINDEX in include/net/net_namespace.h, of every network namespace


@dataclass(frozen=True, slots=True)
class Steering:
    """How the kernel is brought to choose the new address where routes alone choose another; 0 for not at all."""

    interface: int = 0
    """Index of the device that has the new address, to which the socket is bound while it connects."""
    mark: int = 0
    """SO_MARK while it connects, for a routing rule that leads to a route with the new address as its source."""


@dataclass(slots=True)
class Placing:
    """One socket on its way to a four-tuple."""

    sock: socket.socket
    target: FourTuple
    settings: Settings
    steering: Steering
    connect: Callable[[], None]
    """Connects it to the remote address; called more than once."""
    take_detour: Callable[[], None]
    """Makes the next `connect` take the local address as its source, whatever the routes say."""
    _without_route: bool = False

    def place(self, *, whatever_it_takes: bool) -> None:
        """Bind and connect a disconnected socket.

        `whatever_it_takes`: for putting a socket back. Where neither routes nor steering lead to the address, the
        source is forced, which is done with `Steering.interface` as well: then it is known where the address belongs.
        Where no route leads to the peer at all, or a policy forbids it, the socket is connected all the same.

        Raises Refused (BOUND_TO_ADDRESS, NO_ADDRESS, PORT_TAKEN, SOURCE, ROUTE) and OSError. The socket can then be
        placed again, here or elsewhere, once it has been disconnected.
        """
        try:
            self._place(forced=whatever_it_takes or bool(self.steering.interface))
        except Refused as refused:
            if not whatever_it_takes or refused.reason not in (Reason.SOURCE, Reason.ROUTE):
                raise
            self._start_again()
            self._without_route = True
            self._place(forced=True)

    def _place(self, *, forced: bool) -> None:
        address, _stale_port = local_name(self.sock)
        if not address.is_unspecified:
            self._at_address(address)
        elif self._bind_without_port(_any(self.sock.family)):
            self._unbound(forced=forced)
        else:
            self._steer(forced=forced)
        restore(self.sock, self.settings)
        port = local_name(self.sock)[1]
        if port != self.target.local_port:
            raise Refused(Reason.BOUND_TO_ADDRESS, f"to port {port}, not {self.target.local_port}")

    def _unbound(self, *, forced: bool) -> None:
        try:
            self._steer(forced=forced)
        except Refused as refused:
            if not forced or refused.reason not in (Reason.SOURCE, Reason.ROUTE):
                raise
            # Even the way to it has another source: it is a secondary address (fib_add_ifaddr()). Bind to it, then.
            self._start_again()
            self._at_address(self.target.local)
            return
        # Only what is known to lead to the right address is worth being bound to a port for good.
        self._start_again()
        self._bind(_any(self.sock.family), self.target.local_port)
        self._steer(forced=forced)

    def _at_address(self, address: IPAddress) -> None:
        if self._bind_without_port(self.target.local):
            self._connect_from_address()
        elif address == self.target.local:
            self._connect()
        else:
            raise Refused(Reason.BOUND_TO_ADDRESS, str(address))

    def _connect_from_address(self) -> None:
        """Bound to the address alone; if the kernel can't be brought to choose the port like that, to both.

        It takes the port from a range of one, but not when that is outside the host's own range (ip_local_port_range
        in ip(7)), as servers' ports are, nor when the port has another socket that was bound to it, such as the
        listener that accepted this one.
        """
        port = self.target.local_port
        if self.settings.port_range is not None:
            repair.set_unsigned(self.sock, socket.IPPROTO_IP, repair.IP_LOCAL_PORT_RANGE, port | port << 16)
            try:
                self._connect()
            except Refused as refused:
                if refused.reason is not Reason.PORT_TAKEN:
                    raise
            else:
                if local_name(self.sock)[1] == port:
                    return
            self._start_again()
        self._bind(self.target.local, port)
        self._connect()

    def _bind_without_port(self, address: IPAddress) -> bool:
        """Whether the socket could be bound to this address alone: it could not if it is bound to a port.

        Binding to the unspecified address in this way leaves nothing behind.
        """
        self.sock.setsockopt(socket.IPPROTO_IP, repair.IP_BIND_ADDRESS_NO_PORT, 1)
        try:
            self._bind(address, 0)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return False
            raise
        return True

    def _steer(self, *, forced: bool) -> None:
        """Connect so that the kernel chooses the wanted source: by its routes alone, by steering, by force."""
        ways: list[Callable[[], None]] = []
        if not self._without_route:
            ways.append(self._go_straight)
            if self.steering != Steering():
                ways.append(self._go_steered)
        if forced:
            ways.append(self.take_detour)
        failure: Refused | None = None
        for way in ways:
            if failure:
                self._start_again()
            try:
                way()
                self._connect()
            except Refused as refused:
                failure = failure or refused
                continue
            return
        assert failure is not None
        raise failure

    def _go_straight(self) -> None:
        """No option is set."""

    def _go_steered(self) -> None:
        if self.steering.interface:
            self.sock.setsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX, self.steering.interface)
        if self.steering.mark:
            repair.set_unsigned(self.sock, socket.SOL_SOCKET, socket.SO_MARK, self.steering.mark)

    def _do_without_route(self) -> None:
        """Let a socket that has its source connect by way of the loopback device, which needs no route to the peer.

        IPv4 takes the peer to be on the link of the device that the socket is bound to, and policies do not count for
        that device (disable_xfrm in ip-sysctl.rst); IPv6 looks for the way to the first hop, this address, and needs
        a policy that allows it. Nothing is sent, and `restore` makes the socket forget the way. Source:
        ip_route_output_key_hash_rcu() in net/ipv4/route.c, ip6_datagram_dst_update() in net/ipv6/datagram.c.
        """
        if self.target.local.version == 6:
            bypass.put_on(self.sock, self.target, self.settings.mark)
        if local_name(self.sock)[0] != self.target.local:
            return
        if self.target.local.version == 4:
            self.sock.setsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX, _LOOPBACK)
        else:
            with suppress(OSError):  # a kernel that has no routing header for it needs the route
                detour.lead(self.sock, self.target.local)

    def _connect(self) -> None:
        if self._without_route:
            self._do_without_route()
        try:
            self.connect()
        except OSError as error:
            if error.errno in _NO_ROUTE:
                raise Refused(Reason.ROUTE, f"{self.target}: {error.strerror}") from error
            if error.errno in _TAKEN:
                raise Refused(Reason.PORT_TAKEN, f"{self.target}: {error.strerror}") from error
            raise
        address, _port = local_name(self.sock)
        if address != self.target.local:
            raise Refused(Reason.SOURCE, f"{address}, not {self.target.local}, to {self.target.remote}")

    def _bind(self, address: IPAddress, port: int) -> None:
        try:
            self.sock.bind(socket_address(self.sock.family, address, port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise Refused(Reason.NO_ADDRESS, str(address)) from error
            if error.errno == errno.EADDRINUSE:
                raise Refused(Reason.PORT_TAKEN, f"{address} port {port}") from error
            raise

    def _start_again(self) -> None:
        repair.disconnect(self.sock)
        restore(self.sock, self.settings)


def settings(sock: socket.socket) -> Settings:
    return Settings(
        reuse_address=sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
        device=sock.getsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX),
        mark=repair.unsigned(sock, socket.SOL_SOCKET, socket.SO_MARK),
        bind_address_no_port=sock.getsockopt(socket.IPPROTO_IP, repair.IP_BIND_ADDRESS_NO_PORT),
        port_range=repair.optional(sock, socket.IPPROTO_IP, repair.IP_LOCAL_PORT_RANGE),
        source_routes=detour.found(sock),
    )


def restore(sock: socket.socket, wanted: Settings) -> None:
    """Undo what placing has changed, except SO_REUSEADDR, which repair mode needs otherwise.

    Setting a device on a socket that has one takes CAP_NET_RAW.
    """
    detour.restore(sock, wanted.source_routes)
    found = settings(sock)
    bypass.take_off(sock, found.mark, wanted.mark)
    if found.device != wanted.device:
        sock.setsockopt(socket.SOL_SOCKET, repair.SO_BINDTOIFINDEX, wanted.device)
    if found.mark != wanted.mark:
        repair.set_unsigned(sock, socket.SOL_SOCKET, socket.SO_MARK, wanted.mark)
    if found.bind_address_no_port != wanted.bind_address_no_port:
        sock.setsockopt(socket.IPPROTO_IP, repair.IP_BIND_ADDRESS_NO_PORT, wanted.bind_address_no_port)
    if wanted.port_range is not None and found.port_range != wanted.port_range:
        repair.set_unsigned(sock, socket.IPPROTO_IP, repair.IP_LOCAL_PORT_RANGE, wanted.port_range)


def local_name(sock: socket.socket) -> tuple[IPAddress, int]:
    return _plain(sock.getsockname())


def four_tuple(sock: socket.socket) -> FourTuple:
    """Raises OSError (ENOTCONN) when it isn't connected."""
    return FourTuple(*local_name(sock), *_plain(sock.getpeername()))


def socket_address(family: int, address: IPAddress, port: int) -> tuple[str, int]:
    """As bind() and connect() of a socket of this family take it."""
    if family == socket.AF_INET6 and address.version == 4:
        return f"::ffff:{address}", port
    return str(address), port


def _any(family: int) -> IPAddress:
    return IPv4Address(0) if family == socket.AF_INET else IPv6Address(0)


def _plain(name: tuple[str, int] | tuple[str, int, int, int]) -> tuple[IPAddress, int]:
    host, port = name[0], name[1]
    if ":" not in host:
        return IPv4Address(host), port
    address = IPv6Address(host)
    return address.ipv4_mapped or address, port
