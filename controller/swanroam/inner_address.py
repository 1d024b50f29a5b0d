"""The stable inner address of a host on the secured control channel, derived from its IKE identity.

Both hosts compute it for themselves and for their peers, so nothing has to be assigned or exchanged. It is a
name, not a proof: who may send from it is decided by IKE, which negotiates a CHILD_SA for it.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv6Address, IPv6Network

HASH_BITS = 80
"""Bits of the identity's hash that go into an address: what a /48 (RFC 4193 §3.1) leaves free. With as few as
the 64 bits that a /64 leaves, 10 000 hosts collide with a probability under 10^-11 (birthday bound)."""

SHORTEST_PREFIX = 8
LONGEST_PREFIX = 64


def inner_address(identity: str, prefix: IPv6Network) -> IPv6Address:
    """Address of the host with this IKE identity inside `prefix`.

    The low bits are the first bits of SHA-256 over the identity in UTF-8, exactly as it is written and as charon
    reports it: at most 80, fewer where the prefix is longer than /48. Bits between a prefix shorter than /48 and
    the hash are zero.

    Raises ValueError for an empty identity or a prefix length outside 8..64.
    """
    if not identity:
        raise ValueError("an inner address needs an IKE identity; the one given is empty")
    if not SHORTEST_PREFIX <= prefix.prefixlen <= LONGEST_PREFIX:
        raise ValueError(
            f"inner addresses need a prefix of /{SHORTEST_PREFIX} to /{LONGEST_PREFIX}, not {prefix}: "
            "write one like fd53:7761:6e72::/48"
        )
    bits = min(HASH_BITS, prefix.max_prefixlen - prefix.prefixlen)
    digest = hashlib.sha256(identity.encode("utf-8")).digest()
    suffix = int.from_bytes(digest, "big") >> (8 * len(digest) - bits)
    return IPv6Address(int(prefix.network_address) | suffix)
