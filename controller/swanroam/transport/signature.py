"""TCP-MD5 keys (RFC 2385): a key belongs to the peer's address, so a peer that moves needs it again for its new one.

Source: struct tcp_md5sig (linux/tcp.h), struct tcp_diag_md5sig and INET_DIAG_MD5SIG (linux/inet_diag.h).
"""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address

from swanroam.kernel.sock_diag import IPAddress
from swanroam.transport.image import SignatureKey

INET_DIAG_MD5SIG = 18
"""The attribute of inet_diag's answer, given to CAP_NET_ADMIN, whose payload `decode_keys` takes."""

_TCP_MD5SIG_EXT = 32
_FLAG_PREFIX = 1
_KEY_SIZE = 80
_KEY = struct.Struct("=128sBBHi80s")  # address, flags, prefix length, key length, interface, key
_DIAG_KEY = struct.Struct("=BBH16s80s")  # family, prefix length, key length, address, key


def decode_keys(payload: bytes) -> tuple[SignatureKey, ...]:
    """The keys of a socket. Entries of families that are not IP are left out."""
    keys = []
    for family, prefix_length, length, packed, key in _DIAG_KEY.iter_unpack(payload):
        address: IPAddress
        if family == socket.AF_INET:
            address = IPv4Address(packed[:4])
        elif family == socket.AF_INET6:
            address = IPv6Address(packed)
        else:
            continue
        keys.append(SignatureKey(address, prefix_length, key[:length]))
    return tuple(keys)


def add_key(sock: socket.socket, family: int, key: SignatureKey) -> None:
    """Sign and check packets of the key's addresses with it. `family`: of the socket. Raises OSError."""
    if family == socket.AF_INET:
        address = struct.pack("=H2s4s", socket.AF_INET, b"", key.address.packed)
        prefix_length = key.prefix_length
    else:
        mapped = key.address.version == 4
        packed = IPv6Address(f"::ffff:{key.address}").packed if mapped else key.address.packed
        address = struct.pack("=H2sI16sI", socket.AF_INET6, b"", 0, packed, 0)
        # For mapped addresses the kernel counts the IPv4 part only (tcp_v6_parse_md5_keys, net/ipv6/tcp_ipv6.c).
        prefix_length = key.prefix_length
    raw = _KEY.pack(address, _FLAG_PREFIX, prefix_length, len(key.key), 0, key.key.ljust(_KEY_SIZE, b"\0"))
    sock.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG_EXT, raw)
