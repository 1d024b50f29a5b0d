"""How a connection comes by a source address that no route would choose for it.

The source is chosen on the way to the first hop. With a source route whose first hop is the wanted address itself, the
kernel looks up the way to an address of its own, and the source of that is this address. No packet has ever carried
such a source route: in repair mode connecting sends nothing, and `binding.restore` removes it right afterwards.

Source: tcp_v4_connect() in net/ipv4/tcp_ipv4.c, tcp_v6_connect() in net/ipv6/tcp_ipv6.c, fl6_update_dst() in
net/ipv6/exthdrs.c.
"""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address

from swanroam.kernel.sock_diag import IPAddress

IP_OPTIONS = 4
IPV6_RTHDR = 57
_LARGEST = 255
_LOOSE_SOURCE_ROUTE = bytes([131, 7, 4])  # RFC 791: option, its length, pointer to the first hop
_ROUTING_HEADERS = (
    bytes([0, 2, 4, 0, 0, 0, 0, 0]),  # RFC 8754: segment routing, one segment, which is the last
    bytes([0, 2, 2, 1, 0, 0, 0, 0]),  # RFC 6275: type 2, which kernels with MIP6 have
)


def lead(sock: socket.socket, address: IPAddress) -> None:
    """Let connect() of a TCP socket take this address of the host as its source.

    Raises OSError: the kernel has no routing header that would do (IPv6 without CONFIG_IPV6_SEG6_LWTUNNEL and MIP6).
    """
    if isinstance(address, IPv4Address):
        sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, _LOOSE_SOURCE_ROUTE + address.packed)
        return
    for header in _ROUTING_HEADERS:
        try:
            sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, header + address.packed)
        except OSError as error:
            if error.errno != errno.EINVAL or header is _ROUTING_HEADERS[-1]:
                raise
        else:
            return


def found(sock: socket.socket) -> tuple[bytes, bytes]:
    """The socket's IPv4 options and IPv6 routing header: its program's own, or ours; mostly empty."""
    header = b""
    if sock.family == socket.AF_INET6:
        header = sock.getsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, _LARGEST)
    return sock.getsockopt(socket.IPPROTO_IP, IP_OPTIONS, _LARGEST), header


def restore(sock: socket.socket, wanted: tuple[bytes, bytes]) -> None:
    options, header = found(sock)
    if options != wanted[0]:
        sock.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, wanted[0])
    if header != wanted[1]:
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_RTHDR, wanted[1])
