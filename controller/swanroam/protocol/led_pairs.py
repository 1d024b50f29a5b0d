"""Which of two hosts leads the sockets of an address pair to the current one."""

from __future__ import annotations

from swanroam.protocol.binding import Binding
from swanroam.protocol.host_state import Pair, pairs_between


def all_pairs(own: Binding, peer: Binding) -> list[Pair]:
    """Between which there may be sockets."""
    return pairs_between(own.addresses, peer.addresses)


def led_pairs(own: Binding, peer: Binding) -> list[Pair]:
    """The pairs whose sockets this host leads to the current pair; the peer leads those of all others.

    Whose address is old leads. When both are, the host with the lower current address does.
    """
    lower = int(own.current) < int(peer.current)
    pairs = all_pairs(own, peer)
    return [pair for pair in pairs if pair.local != own.current and (pair.remote == peer.current or lower)]
