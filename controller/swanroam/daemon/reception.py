"""Which datagrams on the control channel are looked at at all: those of a peer, and of each not more than it needs.

Asked before a datagram is taken apart, so that a flood costs its reception and nothing else. A handover with thousands
of connections takes some hundred messages in a few seconds; what is above that is repeated by its sender if it matters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv6Address

from swanroam.daemon.peer import Peer
from swanroam.protocol.bucket import Bucket
from swanroam.protocol.messages import Message

DATAGRAMS = 200.0
"""That one peer may send in a second, in the long run."""
DATAGRAMS_AT_ONCE = 500.0
LOOK_AGAIN = 1.0
"""Seconds between two readings of charon because of a sender that it has not named."""


class Reception:
    """Tells peers by their inner addresses."""

    def __init__(
        self,
        peers: Mapping[IPv6Address, Peer],
        owner: Callable[[IPv6Address], str | None],
        look: Callable[[], None],
        receive: Callable[[Peer, Message], bool],
    ) -> None:
        self._peers = dict(peers)
        self._owner = owner
        self._look = look
        self._receive = receive
        self._buckets = {address: Bucket(DATAGRAMS_AT_ONCE, DATAGRAMS) for address in peers}
        self._looks = Bucket(1, 1 / LOOK_AGAIN)

    def serve(self, peers: Iterable[Peer]) -> None:
        """These are the peers from now on."""
        self._peers = {peer.settings.control_address: peer for peer in peers}
        buckets = self._buckets
        self._buckets = {
            address: buckets.get(address) or Bucket(DATAGRAMS_AT_ONCE, DATAGRAMS) for address in self._peers
        }

    def admit(self, sender: IPv6Address) -> str:
        """Why a datagram from this inner address is dropped; empty when it is not."""
        peer = self._peers.get(sender)
        if peer is None:
            return "unknown_sender"
        now = asyncio.get_running_loop().time()
        if self._owner(sender) != peer.settings.identity:
            # The CHILD_SA may be so new that charon's event is still on its way; the message will be repeated.
            if self._looks.take(now):
                self._look()
            return "unproven_sender"
        return "" if self._buckets[sender].take(now) else "too_many"

    def deliver(self, sender: IPv6Address, message: Message) -> str:
        """Hands on a message of an admitted sender. Why it is dropped; empty when it is not."""
        peer = self._peers[sender]
        peer.log.debug("message_received", message=type(message).__name__, sequence=message.sequence)
        return "" if self._receive(peer, message) else "queue_full"
